"""``tvc inspect``: what a model is made of, what patches change in it, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._block import show_block
from ._complete import complete_blocks, complete_models_and_blocks
from ._exported import show_exported
from ._model import Named, as_hybrid, is_folder, model_options, open_model
from ._output import console, html_option, json_option, print_json, print_table

if TYPE_CHECKING:
    from ..hybrid import BuildReport, HybridModel
    from ..hybrid.outline import ModuleOutline


@click.command(
    help="Show what a model is made of, what patches change in it, and what they cost in parameters and FLOPs; or what a block "
    "takes and gives. NAME is a torchvision classifier, a folder that torchvision_customizer.save has written, a file that "
    "export has written, or a block."
)
@click.argument("model", required=False, metavar="[NAME]", shell_complete=complete_models_and_blocks)
@click.option("--block", metavar="NAME", shell_complete=complete_blocks, help="A block, in place of NAME; see list-blocks.")
@model_options
@click.option("--tree", is_flag=True, help="Print all modules as a tree, and where in its blocks a patch can go.")
@click.option("--depth", type=click.IntRange(min=1), default=3, show_default=True, help="Levels of modules in the tree.")
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the model into a picture: png, svg, pdf.",
)
@html_option
@click.option("--time", is_flag=True, help="Time each module, too, on this machine, for the page of --html.")
@json_option
def inspect(
    model: str | None,
    named: Named,
    block: str | None,
    tree: bool,
    depth: int,
    plot: Path | None,
    html: Path | None,
    time: bool,
    as_json: bool,
) -> None:
    given = [name for name in (model, named.recipe, named.backbone, block) if name is not None]
    if len(given) != 1:
        got = " and ".join(f"'{name}'" for name in given) or "none"
        raise click.UsageError(f"expected one of NAME, --recipe, --backbone and --block, got {got}")
    if time and html is None:
        raise click.UsageError("--time is for the page of --html, and there is none")
    is_file = model is not None and Path(model).is_file()
    if model is not None and not is_file and not is_folder(model):
        backbone, block = _kind_of(model)
        named = dataclasses.replace(named, backbone=backbone)
    if is_file or block is not None:
        others = {"--tree": tree, "--plot": plot, "--html": html}
        wrong = next(iter([*named.given(), *(option for option, value in others.items() if value)]), None)
        if wrong is not None:
            raise click.UsageError(f"{wrong} is for a model, and {model or block} is {'a file' if is_file else 'a block'}")
    if is_file:
        assert model is not None
        show_exported(model, as_json)
        return
    if block is not None:
        try:
            show_block(block, as_json)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--block") from error
        return
    source, made = _make(model, named)
    report = made.report
    parts = _parts(made, report)
    if plot is not None:
        from ..hybrid.picture import draw

        draw(made, plot)
    if html is not None:
        from ..pages import model_page

        model_page(made, html, time=time)
    if as_json:
        print_json(_values(made, report, parts) | ({"tree": _outline(made, depth).to_dict()} if tree else {}))
        return
    if tree:
        _print_modules(_outline(made, depth), report)
    else:
        _print_changes(report)
    size = "×".join(map(str, report.input_shape))
    print_table(
        f"Parameters in millions; FLOPs in billions, for one sample of {size}",
        ("part", "parameters before", "after", "FLOPs before", "after"),
        [
            (
                part["part"],
                f"{part['parameters'][0] / 1e6:.3f}",
                f"{part['parameters'][1] / 1e6:.3f}",
                f"{part['flops'][0] / 1e9:.3f}",
                f"{part['flops'][1] / 1e9:.3f}",
            )
            for part in parts
        ],
        right=("parameters before", "FLOPs before", "after"),
    )
    click.echo(f"Weights: {report.weights or (f'those of {source}' if is_folder(source) else 'random')}")
    if plot is not None:
        click.echo(f"Picture: {plot}")
    if html is not None:
        click.echo(f"Page: {html}")


def _make(model: str | None, named: Named) -> tuple[str, HybridModel]:
    """What the model is named by, and the model."""
    name = named.backbone or named.recipe
    if name is not None:
        made, read = named.build(random_weights=True)
        return name, as_hybrid(made, None if read is None else read.input_shape)
    assert model is not None
    wrong = next((option for option in named.given() if option != "--patch"), None)
    if wrong is not None:
        raise click.UsageError(f"{wrong} is for a backbone or recipe; the folder {model} has weights and a head of its own")
    return model, as_hybrid(open_model(model, named.patch), None)


def _kind_of(name: str) -> tuple[str | None, str | None]:
    """A name as that of a backbone or of a block; of both as that of the backbone, which is said."""
    from .. import registry
    from ..errors import nearest
    from ..hybrid.backbones import list_backbones

    backbones, blocks = list_backbones(), registry.names()
    if name.lower() in backbones:
        if name in blocks:
            click.echo(f"{name} is a backbone and a block; this is the backbone, and --block {name} shows the block.", err=True)
        return name, None
    if name in blocks:
        return None, name
    hint = nearest(name, [*backbones, *blocks]) or " (tvc list-backbones and tvc list-blocks show them)"
    raise click.BadParameter(f"'{name}' is no backbone, no block and no saved folder{hint}", param_hint="NAME")


def _outline(model: HybridModel, depth: int) -> ModuleOutline:
    from ..hybrid.outline import outline

    return outline(model, depth)


def _parts(model: HybridModel, report: BuildReport) -> list[dict[str, Any]]:
    """Parameters and FLOPs, before and after, of each child of the model that has any, and of the whole."""
    from torch import nn

    from ..hybrid.report import Costs

    costs = Costs(model, report.edits, report.head, report.input_shape)
    names: list[str] = []
    for name, child in model.named_children():
        # A list of modules is never run itself.
        names += [f"{name}.{index}" for index in range(len(child))] if isinstance(child, nn.ModuleList) else [name]
    parts = [(name, costs.of(name)) for name in names] + [("total", costs.of())]
    return [
        {
            "part": name,
            "parameters": [cost.parameters_before, cost.parameters_after],
            "flops": [cost.flops_before, cost.flops_after],
        }
        for name, cost in parts
        if name == "total" or cost.parameters_before or cost.parameters_after
    ]


def _print_changes(report: BuildReport) -> None:
    from rich.text import Text
    from rich.tree import Tree

    changed = len(report.edits) + (report.head is not None)
    tree = Tree(Text(f"{report.backbone}: {'nothing is changed' if not changed else f'{len(report.edits)} new modules'}"))
    branches: dict[str, Tree] = {}
    for edit in report.edits:
        stage = edit.child_path.split(".")[0]
        if stage not in branches:
            branches[stage] = tree.add(Text(stage))
        branches[stage].add(Text(str(edit).removeprefix(f"{stage}.")))
    if report.head is not None:
        tree.add(Text(str(report.head)))
    console().print(tree)


def _print_modules(root: ModuleOutline, report: BuildReport) -> None:
    rows = list(_rows(root, "", ""))
    print_table(
        f"{report.backbone}; + is new; FLOPs in millions",
        ("module", "class", "output", "parameters", "FLOPs"),
        rows,
        right=("parameters", "FLOPs"),
    )
    blocks: dict[tuple[str, str], list[str]] = {}
    for block in _walk(root):
        if block.places:
            blocks.setdefault((block.class_name, _compact(block.places)), []).append(block.path)
    if blocks:
        print_table(
            "Where inject can put a block, by its option at; auto is the end of each stage",
            ("class", "blocks", "at"),
            [(name, " ".join(paths), places) for (name, places), paths in blocks.items()],
        )


def _rows(module: ModuleOutline, indent: str, branch: str) -> Iterator[tuple[str, ...]]:
    mark = "+ " if module.new else ""
    yield (
        f"{indent}{branch}{mark}{module.name or 'model'}",
        module.class_name,
        "-" if module.shape is None else "×".join(map(str, module.shape)),
        f"{module.parameters:,}" if module.parameters else "",
        f"{module.flops / 1e6:,.3f}" if module.flops else "",
    )
    below = indent + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
    for child in module.children:
        yield from _rows(child, below, "└─ " if child is module.children[-1] else "├─ ")


def _walk(module: ModuleOutline) -> Iterator[ModuleOutline]:
    yield module
    for child in module.children:
        yield from _walk(child)


def _compact(places: tuple[str, ...]) -> str:
    """``before:`` and ``after:`` once, with the children behind them."""
    sides: dict[str, list[str]] = {}
    for place in places:
        side, _, child = place.partition(":")
        if child:
            sides.setdefault(child, []).append(side)
    children: dict[str, list[str]] = {}
    for child, of in sides.items():
        children.setdefault("|".join(of), []).append(child)
    plain = [place for place in places if ":" not in place]
    return ", ".join([*plain, *(f"{side}: {' '.join(names)}" for side, names in children.items())])


def _values(model: HybridModel, report: BuildReport, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "backbone": report.backbone,
        "input_shape": list(report.input_shape),
        "edits": [
            {
                "path": edit.path,
                "child_path": edit.child_path,
                "place": edit.place,
                "block": edit.block,
                "params": dict(edit.params),
                "parameters": edit.parameters,
            }
            for edit in report.edits
        ],
        "head": None if report.head is None else dataclasses.asdict(report.head),
        "weights": None if report.weights is None else dataclasses.asdict(report.weights),
        "parts": parts,
        "stages": [dataclasses.asdict(stage) for stage in model.stage_info],
    }
