"""``tvc inspect``: what patches change, and what they cost."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from ._model import build_model, model_options
from ._output import console, json_option, print_json, print_table

if TYPE_CHECKING:
    from ..hybrid import BuildReport, HybridModel


@click.command(help="Show what patches change in a model, and what they cost in parameters and FLOPs.")
@model_options
@json_option
def inspect(backbone: str, patch: tuple[str, ...], weights: str | None, num_classes: int | None, as_json: bool) -> None:
    model = build_model(backbone, patch, weights, num_classes)
    report = model.report
    stages = _stages(model, report)
    if as_json:
        print_json(_values(report, stages))
        return
    _print_tree(report)
    size = "×".join(map(str, report.input_shape))
    print_table(
        f"Parameters in millions; FLOPs in billions, for one sample of {size}",
        ("part", "parameters before", "after", "FLOPs before", "after"),
        [
            (
                stage["part"],
                f"{stage['parameters'][0] / 1e6:.3f}",
                f"{stage['parameters'][1] / 1e6:.3f}",
                f"{stage['flops'][0] / 1e9:.3f}",
                f"{stage['flops'][1] / 1e9:.3f}",
            )
            for stage in stages
        ],
        right=("parameters before", "FLOPs before", "after"),
    )
    click.echo(f"Weights: {report.weights or 'random'}")


def _stages(model: HybridModel, report: BuildReport) -> list[dict[str, Any]]:
    """Parameters and FLOPs, before and after, of each child of the model that has any, and of the whole."""
    from ..hybrid.report import Costs

    costs = Costs(model, report.edits, report.head, report.input_shape)
    parts = [(name, costs.of(name)) for name, _ in model.named_children()] + [("total", costs.of())]
    return [
        {
            "part": name,
            "parameters": [cost.parameters_before, cost.parameters_after],
            "flops": [cost.flops_before, cost.flops_after],
        }
        for name, cost in parts
        if name == "total" or cost.parameters_before or cost.parameters_after
    ]


def _print_tree(report: BuildReport) -> None:
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


def _values(report: BuildReport, stages: list[dict[str, Any]]) -> dict[str, Any]:
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
        "parts": stages,
    }
