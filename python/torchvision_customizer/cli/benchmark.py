"""``tvc benchmark``: whole models and single ops, against the same in plain PyTorch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._complete import complete_backbones
from ._model import as_hybrid, build_model, changes_option, is_folder, named_model, open_model, recipe_option
from ._output import json_option, print_json, print_table

if TYPE_CHECKING:
    from ..bench.results import Run
    from ..bench.runs import Effort

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
    "exported",
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
    "torch.compile, TorchScript and timm; models of torchvision and timm before and after fuse (--models); or exported files "
    "(--exported), alternating in one run. Numbers are compared before anything is timed. --ops by itself takes a quarter "
    "of an hour on two cores, with --no-compile five minutes, with --quick one.",
)
@click.option("--fused", is_flag=True, help="Compare whole models.")
@click.option("--ops", is_flag=True, help="Run the op suite.")
@click.option("--models", "library", is_flag=True, help="Compare models of torchvision and timm with themselves after fuse.")
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--exported",
    is_flag=True,
    help="Compare exported FILEs, on the same images, with one another, and with the model they were made from where "
    "--backbone (also a saved folder) or --recipe names it. Without FILE, write the model in every format and compare those.",
)
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
@click.option("--weights", help="For --exported: the model's, as a name of torchvision's, DEFAULT or a file. [default: random]")
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
    files: tuple[Path, ...],
    exported: bool,
    sweep: bool,
    results: Path | None,
    parts: tuple[str, ...],
    recipe: str | None,
    changes: tuple[str, ...],
    backbone: str | None,
    weights: str | None,
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
    if fused + ops + library + exported + sweep + (results is not None) > 1:
        raise click.UsageError(
            "--fused, --ops, --models, --exported, --sweep and --results are different runs; name one of them"
        )
    if not exported and (files or weights is not None):
        raise click.UsageError(f"{files[0] if files else '--weights'} is for --exported, and that is not asked for")
    if exported and (training or device != "cpu"):
        raise click.UsageError("exported files are timed in inference on the CPU, and without --training and --device cuda")
    from dataclasses import replace

    from ..bench import plot, runs, tables
    from ..bench.suite import QUICK_SELECTION, SUITE, USUAL_SELECTION
    from ..bench.sweep import Sweep

    effort = runs.Effort(rounds=rounds, quick=quick, compiled=compiled and not quick, device=device, threads=threads)
    layout = "channels_last" if channels_last else "nchw"
    with _progress() as progress:
        if results is not None:
            found = runs.run_all(results, lambda patches: build_model(BACKBONE, patches), effort, progress, parts or runs.PARTS)
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
        elif exported:
            model_named = (recipe, changes, backbone, patch, weights)
            found = [_run_exported(files, model_named, batches, dtypes, channels_last, input_size, effort, progress)]
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


def _run_exported(
    paths: Sequence[Path],
    named: tuple[str | None, tuple[str, ...], str | None, tuple[str, ...], str | None],
    batches: tuple[int, ...],
    dtypes: tuple[str, ...],
    channels_last: bool | None,
    input_size: int | None,
    effort: Effort,
    progress: Callable[[str], None],
) -> Run:
    """Files and the model that ``named`` names, as the arguments of ``named_model``; or a model's files, made for it."""
    from dataclasses import replace

    from ..bench import runs
    from ..bench.exported import ExportedFile, files_case
    from ..bench.results import ModelCase

    recipe, changes, backbone, patch, weights = named
    files = [ExportedFile.open(path) for path in paths]
    if not files and backbone is None and recipe is None:
        backbone, patch = BACKBONE, patch or PATCH
    is_named = backbone is not None or recipe is not None
    if not is_named and (patch or weights is not None or changes):
        raise click.UsageError("--patch, --weights and --set say how a model is built; name it with --backbone or --recipe")
    read = None
    if is_named and backbone is not None and recipe is None and is_folder(backbone):
        if weights is not None:
            raise click.UsageError(f"--weights are for a backbone or a recipe, and {backbone} is a saved folder, with its own")
        model = open_model(backbone, patch, hint="--backbone")
    elif is_named:
        model, read = named_model(recipe, changes, backbone, patch, weights)
    else:
        model = None
    label, layout = recipe or backbone or "exported files", "channels_last" if channels_last else "nchw"
    patches = patch if recipe is None else ("as in the recipe", *patch)
    if not files:
        assert model is not None
        size = input_size or (224 if read is None else read.input_shape[1])
        forms = [(dtype, batch) for dtype in dtypes or ("fp32",) for batch in batches or (1, 8)]
        cases = [ModelCase(label, patches, batch, dtype, layout, False, size, exported=True) for dtype, batch in forms]
        return runs.run_shipped(model, cases, effort, progress)
    case = files_case(files, label, patches)
    case = replace(
        case,
        dtype=dtypes[0] if dtypes else case.dtype,
        layout=case.layout if channels_last is None else layout,
        input_size=input_size or case.input_size,
    )
    fixed = [file.batch for file in files if file.batch is not None][:1]
    return runs.run_files(files, [replace(case, batch=n) for n in batches or fixed or (1, 8)], model, effort, progress)


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
