"""``tvc benchmark``: whole models and single ops, against the same in plain PyTorch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._model import build_model
from ._output import json_option, print_json, print_table

if TYPE_CHECKING:
    from ..bench.results import Run

# Repeated here, and compared by a test: the tables they stand in import torch, which `tvc --help` must not.
DTYPES = ("fp32", "bf16", "fp16")
CACHES = ("warm", "cold")
BACKBONE, PATCH = "resnet50", ("layer*=inject:se",)


F = Callable[[click.Context, click.Parameter, str | None], tuple[Any, ...]]


def _list_of(item: click.ParamType[Any]) -> F:
    """A callback that reads values with commas between them; without the option it gives none."""

    def read(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[Any, ...]:
        return () if text is None else tuple(item.convert(part.strip(), parameter, ctx) for part in text.split(","))

    return read


def _shapes(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[tuple[int, int, int], ...]:
    shapes = []
    for part in () if text is None else text.split(","):
        sizes = part.strip().split("x")
        if len(sizes) != 3 or not all(size.isdigit() and int(size) for size in sizes):
            raise click.BadParameter(f"a shape is CHANNELSxHEIGHTxWIDTH, as in 256x56x56, got '{part}'")
        channels, height, width = map(int, sizes)
        shapes.append((channels, height, width))
    return tuple(shapes)


def _entries(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    from ..bench.suite import SUITE
    from ..errors import nearest

    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in SUITE:
            raise click.BadParameter(f"must be one of {', '.join(SUITE)}, got '{name}'{nearest(name, SUITE)}")
    return names


@click.command(
    short_help="Time patched models and fused ops against plain PyTorch.",
    help="Time a patched, fused model (--fused, which is the default) or single ops (--ops) against the same in plain PyTorch, "
    "torch.compile and TorchScript, alternating in one run. Numbers are compared before anything is timed.",
)
@click.option("--fused", is_flag=True, help="Compare whole models.")
@click.option("--ops", is_flag=True, help="Run the op suite.")
@click.option(
    "--results",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Run all of the op suite, and ResNet-50 in inference and training; write tables and plots into FOLDER/MACHINE.",
)
@click.option("--backbone", default=BACKBONE, show_default=True, metavar="NAME", help="The model; see list-backbones.")
@click.option("--patch", multiple=True, default=PATCH, show_default=True, metavar="TARGET=OP:BLOCK", help="Repeatable.")
@click.option("--input-size", type=click.IntRange(min=1), default=224, show_default=True, help="Height and width of images.")
@click.option("--op", "entries", metavar="OP,...", callback=_entries, help="For --ops: which of the suite. [default: all]")
@click.option(
    "--shape", "shapes", metavar="CxHxW,...", callback=_shapes, help="For --ops: which shapes. [default: those of ResNet-50]"
)
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
    help="Batch sizes. [default: 1,8; for --ops 1,8,32]",
)
@click.option(
    "--dtype",
    "dtypes",
    metavar=f"{'|'.join(DTYPES)},...",
    callback=_list_of(click.Choice(DTYPES)),
    help="Types of weights and inputs. [default: fp32; for --ops fp32,bf16]",
)
@click.option("--channels-last/--nchw", default=None, help="Memory layout. [default: NCHW; for --ops both]")
@click.option("--training", is_flag=True, help="Time training steps; for --ops the backward.")
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
    results: Path | None,
    backbone: str,
    patch: tuple[str, ...],
    input_size: int,
    entries: tuple[str, ...],
    shapes: tuple[tuple[int, int, int], ...],
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
    if fused + ops + (results is not None) > 1:
        raise click.UsageError("--fused, --ops and --results are different runs; name one of them")
    from dataclasses import replace

    from ..bench import plot, runs, tables
    from ..bench.suite import QUICK_SELECTION, Selection

    effort = runs.Effort(rounds=rounds, quick=quick, compiled=compiled and not quick, device=device, threads=threads)
    with _progress() as progress:
        if results is not None:
            found = runs.run_all(results, build_model(BACKBONE, PATCH), effort, progress)
        elif ops:
            selection = QUICK_SELECTION if quick else Selection()
            layouts = selection.layouts if channels_last is None else (("channels_last",) if channels_last else ("nchw",))
            selection = replace(
                selection,
                entries=entries,
                directions=("backward",) if training else ("forward",),
                shapes=shapes or selection.shapes,
                batches=batches or selection.batches,
                dtypes=dtypes or selection.dtypes,
                layouts=layouts,
                caches=caches or selection.caches,
            )
            found = [runs.run_ops(selection, effort, progress)]
        else:
            from ..bench.results import ModelCase

            layout = "channels_last" if channels_last else "nchw"
            cases = [
                ModelCase(backbone, patch, batch, dtype, layout, training, input_size)
                for dtype in dtypes or ("fp32",)
                for batch in batches or (1, 8)
            ]
            found = [runs.run_models(build_model(backbone, patch), cases, effort, progress)]
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
