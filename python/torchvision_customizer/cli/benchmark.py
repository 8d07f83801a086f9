"""``tvc benchmark``: whole models and single ops, against the same in plain PyTorch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._complete import complete_backbones
from ._model import as_hybrid, build_model, changes_option, named_model, recipe_option
from ._output import json_option, print_json, print_table

if TYPE_CHECKING:
    from ..bench.results import Run

# Repeated here, and compared by a test: the tables they stand in import torch, which `tvc --help` must not.
DTYPES = ("fp32", "bf16", "fp16")
CACHES = ("warm", "cold")
PARTS = (
    "ops",
    "ops-backward",
    "ops-training",
    "ops-networks",
    "ops-cold",
    "sweep",
    "model",
    "model-training",
    "library",
    "library-training",
)
BACKBONE, PATCH = "resnet50", ("layer*=inject:se",)


F = Callable[[click.Context, click.Parameter, str | None], tuple[Any, ...]]


def _list_of(item: click.ParamType[Any]) -> F:
    """A callback that reads values with commas between them; without the option it gives none."""

    def read(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[Any, ...]:
        return () if text is None else tuple(item.convert(part.strip(), parameter, ctx) for part in text.split(","))

    return read


def _shapes(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[tuple[int, ...], ...]:
    shapes = []
    for part in () if text is None else text.split(","):
        sizes = part.strip().split("x")
        if len(sizes) not in (2, 3) or not all(size.isdigit() and int(size) for size in sizes):
            raise click.BadParameter(
                f"a shape is CHANNELSxHEIGHTxWIDTH, as in 256x56x56, or CHANNELSxLENGTH for tokens, got '{part}'"
            )
        shapes.append(tuple(map(int, sizes)))
    return tuple(shapes)


def _names(table: str) -> F:
    """A callback that reads names in a table of ``bench.suite``."""

    def read(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
        if text is None:
            return ()
        from ..bench import suite
        from ..errors import nearest

        known = getattr(suite, table)
        names = tuple(part.strip() for part in text.split(","))
        for name in names:
            if name not in known:
                raise click.BadParameter(f"must be one of {', '.join(known)}, got '{name}'{nearest(name, known)}")
        return names

    return read


@click.command(
    short_help="Time patched models and fused ops against plain PyTorch.",
    help="Time a patched, fused model (--fused, which is the default) or single ops (--ops) against the same in plain PyTorch, "
    "torch.compile, TorchScript and timm, or models of torchvision and timm before and after fuse (--models), alternating in "
    "one run. Numbers are compared before anything is timed. --ops by itself takes about a quarter of an hour on two cores, "
    "with --no-compile five minutes, with --quick one.",
)
@click.option("--fused", is_flag=True, help="Compare whole models.")
@click.option("--ops", is_flag=True, help="Run the op suite.")
@click.option("--models", "library", is_flag=True, help="Compare models of torchvision and timm with themselves after fuse.")
@click.option("--sweep", is_flag=True, help="Show how an op's time grows with batch, channels and resolution.")
@click.option(
    "--results",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Run the op suite over all networks, a sweep, ResNet-50 and libraries' models in inference and training; write tables "
    "and plots into FOLDER/MACHINE. Takes hours; see --part.",
)
@click.option(
    "--part",
    "parts",
    metavar="|".join(PARTS) + ",...",
    callback=_list_of(click.Choice(PARTS)),
    help="For --results: which parts. [default: all]",
)
@recipe_option
@changes_option
@click.option(
    "--backbone",
    metavar="NAME",
    shell_complete=complete_backbones,
    help=f"The model; see list-backbones. [default: {BACKBONE}]",
)
@click.option("--patch", multiple=True, metavar="TARGET=OP:BLOCK", help=f"Repeatable. [default, without a recipe: {PATCH[0]}]")
@click.option("--input-size", type=click.IntRange(min=1), help="Height and width of images. [default: the recipe's, else 224]")
@click.option(
    "--model", "names", metavar="NAME,...", callback=_names("LIBRARY_MODELS"), help="For --models: which. [default: all six]"
)
@click.option(
    "--op",
    "entries",
    metavar="OP,...",
    callback=_names("SUITE"),
    help="For --ops and --sweep: which of the suite. [default: all]",
)
@click.option(
    "--network",
    "networks",
    metavar="NAME,...",
    callback=_names("NETWORKS"),
    help="For --ops: whose activations. [default: resnet50]",
)
@click.option("--shape", "shapes", metavar="CxHxW|CxL,...", callback=_shapes, help="For --ops: shapes in place of a network's.")
@click.option(
    "--cache",
    "caches",
    metavar=f"{'|'.join(CACHES)},...",
    callback=_list_of(click.Choice(CACHES)),
    help="For --ops: state of the caches. [default: warm]",
)
@click.option(
    "--batch",
    "--batch-size",
    "batches",
    metavar="N,...",
    callback=_list_of(click.IntRange(min=1)),
    help="Batch sizes. [default: 1,8; for --ops 8]",
)
@click.option(
    "--dtype",
    "dtypes",
    metavar=f"{'|'.join(DTYPES)},...",
    callback=_list_of(click.Choice(DTYPES)),
    help="Types of weights and inputs. [default: fp32; for --ops and --models fp32,bf16]",
)
@click.option(
    "--channels-last/--nchw",
    default=None,
    help="Memory layout. [default: NCHW; --ops: both; --models, --sweep: channels_last]",
)
@click.option(
    "--training",
    is_flag=True,
    help="Time training steps, with the memory they hold; for --ops the backward, and forward and backward as one.",
)
@click.option("--device", type=click.Choice(("cpu", "cuda")), default="cpu", show_default=True, help="Where to run.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch. [default: as torch chooses]")
@click.option("--rounds", type=click.IntRange(min=2), help="Rounds of a comparison. [default: 15; for models 21]")
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=True,
    show_default=True,
    help="Compare with torch.compile, which takes seconds for an op and minutes for a model.",
)
@click.option("--quick", is_flag=True, help="Few rounds and shapes, and no torch.compile.")
@click.option("--check", is_flag=True, help="Exit with 1 where less was reached than is asked for.")
@click.option("--plot", "picture", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Draw a PNG file.")
@json_option
@click.pass_context
def benchmark(
    ctx: click.Context,
    fused: bool,
    ops: bool,
    library: bool,
    sweep: bool,
    results: Path | None,
    parts: tuple[str, ...],
    recipe: str | None,
    changes: tuple[str, ...],
    backbone: str | None,
    patch: tuple[str, ...],
    input_size: int | None,
    names: tuple[str, ...],
    entries: tuple[str, ...],
    networks: tuple[str, ...],
    shapes: tuple[tuple[int, ...], ...],
    caches: tuple[str, ...],
    batches: tuple[int, ...],
    dtypes: tuple[str, ...],
    channels_last: bool | None,
    training: bool,
    device: str,
    threads: int | None,
    rounds: int | None,
    compiled: bool,
    quick: bool,
    check: bool,
    picture: Path | None,
    as_json: bool,
) -> None:
    if fused + ops + library + sweep + (results is not None) > 1:
        raise click.UsageError("--fused, --ops, --models, --sweep and --results are different runs; name one of them")
    from dataclasses import replace

    from ..bench import plot, runs, tables
    from ..bench.suite import QUICK_SELECTION, SUITE, USUAL_SELECTION
    from ..bench.sweep import Sweep

    effort = runs.Effort(rounds=rounds, quick=quick, compiled=compiled and not quick, device=device, threads=threads)
    layout = "channels_last" if channels_last else "nchw"
    with _progress() as progress:
        if results is not None:
            found = runs.run_all(results, lambda: build_model(BACKBONE, PATCH), effort, progress, parts or runs.PARTS)
        elif ops:
            selection = QUICK_SELECTION if quick and not networks else USUAL_SELECTION
            selection = replace(
                selection,
                entries=entries,
                directions=("backward", "training") if training else ("forward",),
                networks=networks or selection.networks,
                shapes=shapes or selection.shapes,
                batches=batches or selection.batches,
                dtypes=dtypes or selection.dtypes,
                layouts=selection.layouts if channels_last is None else (layout,),
                caches=caches or selection.caches,
            )
            found = [runs.run_ops(selection, effort, progress)]
        elif sweep:
            if quick and not entries:
                entries = tuple(SUITE)[:1]
            sweeps = [
                Sweep(
                    entry, "training" if training else "forward", dtype, "nchw" if channels_last is False else "channels_last"
                )
                for entry in entries or SUITE
                for dtype in dtypes or ("fp32",)
            ]
            found = [runs.run_sweep(one, effort, progress) for one in sweeps]
        elif library:
            cases = runs.library_cases(training, names, batches or ((8,) if quick else ()), dtypes or ("fp32", "bf16"))
            cases = [
                replace(case, layout="nchw" if channels_last is False else case.layout, input_size=input_size or 224)
                for case in cases
            ]
            found = [runs.run_library(cases, effort, progress)]
        else:
            from ..bench.results import ModelCase

            patch = patch or (PATCH if recipe is None else ())
            backbone = backbone or (BACKBONE if recipe is None else None)
            model, read = named_model(recipe, changes, backbone, patch, random_weights=True)
            channels, size, _ = (3, 224, 224) if read is None else read.input_shape
            if channels != 3:
                raise click.UsageError(f"models of images with 3 channels can be timed, and {recipe} has {channels}")
            label = recipe or backbone or ""
            # Without patches, a case is one of --models.
            named = patch if recipe is None else ("as in the recipe", *patch)
            cases = [
                ModelCase(label, named, batch, dtype, layout, training, input_size or size)
                for dtype in dtypes or ("fp32",)
                for batch in batches or (1, 8)
            ]
            model = as_hybrid(model, None if read is None else read.input_shape)
            found = [runs.run_models(model, cases, effort, progress)]
    run = runs.merged(found)
    if picture is not None:
        plot.draw(run, picture, runs.title(run))
    verdicts = tables.verdicts(run)
    _print(run, as_json)
    ctx.exit(1 if check and not all(verdict.held for verdict in verdicts) else 0)


def _print(run: Run, as_json: bool) -> None:
    from dataclasses import asdict

    from ..bench import tables
    from ..bench.results import to_json

    if as_json:
        print_json({**to_json(run), "verdicts": [asdict(verdict) for verdict in tables.verdicts(run)]})
        return
    for table in tables.tables(run):
        print_table(table.title, table.columns, table.rows, right=[c for c in table.columns if c not in table.left])
    machine = run.machine
    click.echo(f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}, ops: {machine['ops']}")
    if run.is_disturbed:
        click.echo(f"Warning: other work took {run.other_load:.0%} of all processors; the figures say little.", err=True)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is measured, on one line of a terminal; a pipe hears nothing."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update
