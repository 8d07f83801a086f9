"""Whole runs: the cases of the op suite, or a model in several configurations, and the files they are kept in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from . import exported, machine, plot, tables
from .exported import ExportedFile
from .library import run_in_own_process
from .models import SETTINGS as MODEL_SETTINGS
from .models import run_model
from .networks import NETWORKS
from .op_suite import run_case
from .results import ModelCase, ModelResult, OpResult, Run, write
from .suite import (
    COMPILED,
    HEADLINE,
    LIBRARY_MODELS,
    LIBRARY_VARIANTS,
    MODEL_VARIANTS,
    QUICK_SELECTION,
    SHIPPED_PATCHES,
    SUITE,
    VARIANTS,
    Selection,
)
from .sweep import Sweep
from .timing import QUICK, USUAL, Settings, steady

Progress = Callable[[str], None]


def _quiet(_: str) -> None:
    pass


@dataclass(frozen=True)
class Effort:
    """How much is measured, and where.

    Attributes:
        rounds: rounds of a comparison, or None for what is usual.
        quick: short blocks and few rounds.
        compiled: whether ``torch.compile`` is among the variants; it takes minutes.
        device: ``cpu`` or ``cuda``.
        threads: how many, or None for torch's default.
    """

    rounds: int | None = None
    quick: bool = False
    compiled: bool = True
    device: str = "cpu"
    threads: int | None = None

    def settings(self, usual: Settings) -> Settings:
        settings = QUICK if self.quick else usual
        return settings if self.rounds is None else replace(settings, rounds=self.rounds, max_seconds=float("inf"))

    def variants(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if self.compiled or name != COMPILED)


USUAL_EFFORT = Effort()


def run_ops(selection: Selection, effort: Effort = USUAL_EFFORT, progress: Progress = _quiet) -> Run:
    """Run cases of the op suite.

    Args:
        selection: which cases.
        effort: how much is measured.
        progress: told what is measured next.

    Raises:
        WrongNumbersError: a variant's numbers are wrong.
    """
    settings, variants = effort.settings(USUAL), effort.variants(VARIANTS)
    cases = list(selection.cases())
    results: list[OpResult] = []
    with steady(effort.threads):
        found = machine.describe(effort.device)
        for number, case in enumerate(cases, start=1):
            progress(f"{number}/{len(cases)} {case}")
            results.append(run_case(case, settings, variants, effort.device))
    return Run(found, _settings(settings), ops=tuple(results))


def run_models(model: nn.Module, cases: Sequence[ModelCase], effort: Effort = USUAL_EFFORT, progress: Progress = _quiet) -> Run:
    """Run one patched model in several configurations.

    Args:
        model: patched, not fused; left as it is.
        cases: which configurations.
        effort: how much is measured.
        progress: told what is measured next.

    Raises:
        DifferentOutputError: a variant gives other outputs than plain PyTorch.
    """
    settings, variants = effort.settings(MODEL_SETTINGS), effort.variants(MODEL_VARIANTS)
    results: list[ModelResult] = []
    with steady(effort.threads):
        found = machine.describe(effort.device)
        for number, case in enumerate(cases, start=1):
            progress(f"{number}/{len(cases)} {case}")
            results.append(run_model(model, case, settings, variants, effort.device))
    return Run(found, _settings(settings), models=tuple(results))


def run_library(cases: Sequence[ModelCase], effort: Effort = USUAL_EFFORT, progress: Progress = _quiet) -> Run:
    """Run models of libraries against themselves after ``fuse``, each model in a process of its own.

    Args:
        cases: ``backbone`` is a name in ``suite.LIBRARY_MODELS``.
        effort: how much is measured.
        progress: told what is measured next.

    Raises:
        DifferentOutputError: a fused model gives other outputs than the library's.
    """
    settings = effort.settings(MODEL_SETTINGS)
    names = list(dict.fromkeys(case.backbone for case in cases))
    results: list[ModelResult] = []
    with steady(effort.threads):
        found = machine.describe(effort.device)
    for number, name in enumerate(names, start=1):
        own = [case for case in cases if case.backbone == name]
        progress(f"{number}/{len(names)} {name}: {len(own)} configurations")
        results += run_in_own_process(own, settings, LIBRARY_VARIANTS, effort.device, effort.threads)
    return Run(found, _settings(settings), models=tuple(results))


def run_files(
    files: Sequence[ExportedFile],
    cases: Sequence[ModelCase],
    model: nn.Module | None = None,
    effort: Effort = USUAL_EFFORT,
    progress: Progress = _quiet,
) -> Run:
    """Run exported files side by side, and the model they were made from, where it is given.

    Args:
        files: which.
        cases: in which batches.
        model: not fused; left as it is.
        effort: how much is measured.
        progress: told what is measured next.

    Raises:
        ValueError: a file does not take a case.
        DifferentOutputError: a file gives other outputs than the model, or than the first file.
    """
    settings = effort.settings(MODEL_SETTINGS)
    results: list[ModelResult] = []
    with steady(effort.threads):
        found = machine.describe(effort.device)
        for number, case in enumerate(cases, start=1):
            progress(f"{number}/{len(cases)} {case}")
            results.append(exported.run_files(files, case, settings, model))
    return Run(found, _settings(settings), models=tuple(results))


def run_shipped(
    model: nn.Module, cases: Sequence[ModelCase], effort: Effort = USUAL_EFFORT, progress: Progress = _quiet
) -> Run:
    """Export one model in every format, and run the files next to it. What is patched gets random gates.

    Args:
        model: patched, not fused; left as it is.
        cases: which types, layouts and batches.
        effort: how much is measured; without ``compiled`` there are no files of AOTInductor, which take minutes.
        progress: told what is made or measured next.

    Raises:
        DifferentOutputError: a file gives other outputs than the model in plain PyTorch.
        RuntimeError: a format cannot be had of the model.
    """
    settings = effort.settings(MODEL_SETTINGS)
    results: list[ModelResult] = []
    forms: dict[tuple[str, str], list[ModelCase]] = {}
    for case in cases:
        forms.setdefault((case.dtype, case.layout), []).append(case)
    with steady(effort.threads):
        found = machine.describe(effort.device)
        for (dtype, layout), group in forms.items():
            with tempfile.TemporaryDirectory(prefix="tvc-benchmark-") as folder:
                progress(f"exporting {group[0].backbone}, {dtype}, {layout}")
                prepared = exported.trained(model, group[0])
                files = exported.export_all(prepared, Path(folder), group[0], exported.shipped_variants(dtype, effort.compiled))
                for case in group:
                    progress(str(case))
                    results.append(exported.run_shipped(prepared, files, case, settings))
    return Run(found, _settings(settings), models=tuple(results))


def run_sweep(sweep: Sweep, effort: Effort = USUAL_EFFORT, progress: Progress = _quiet) -> Run:
    """Run one op over batch, channels and resolution.

    Args:
        sweep: which op, and how.
        effort: how much is measured.
        progress: told what is measured next.
    """
    settings, variants = effort.settings(USUAL), effort.variants(VARIANTS)
    points = list(sweep.cases(effort.quick))
    results: list[OpResult] = []
    with steady(effort.threads):
        found = machine.describe(effort.device)
        for number, (axis, case) in enumerate(points, start=1):
            progress(f"{number}/{len(points)} {case}")
            results.append(replace(run_case(case, settings, variants, effort.device), axis=axis))
    return Run(found, _settings(settings), ops=tuple(results))


#: What ``run_all`` makes, in this order.
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


def run_all(
    root: Path,
    model: Callable[[tuple[str, ...]], nn.Module],
    effort: Effort = USUAL_EFFORT,
    progress: Progress = _quiet,
    parts: Sequence[str] = PARTS,
) -> list[Run]:
    """The set that ``benchmarks/results`` keeps for a machine: ops, a sweep, the headline's model, and libraries' models.

    Args:
        root: the files go into a folder of the machine's kind in it.
        model: makes the headline's model with patches.
        effort: how much is measured.
        progress: told what is measured next.
        parts: which, of ``PARTS``.
    """
    folder = root / machine.machine_kind(effort.device)
    usual = QUICK_SELECTION if effort.quick else Selection()
    # Which variant wins is settled on ResNet-50's shapes with a warm cache; compiling for all others takes hours.
    uncompiled = replace(effort, compiled=False)
    networks = replace(usual, directions=("forward",), networks=tuple(n for n in NETWORKS if n != "resnet50"), batches=(1, 8))
    networks = replace(networks, layouts=("channels_last",), batches=usual.batches or networks.batches)
    training = replace(usual, directions=("training",), batches=usual.batches or (8,), layouts=("channels_last",))

    def ops(selection: Selection, effort: Effort = effort) -> Callable[[], Run]:
        return lambda: run_ops(selection, effort, progress)

    runs: dict[str, Callable[[], Run]] = {
        "ops": ops(replace(usual, directions=("forward",))),
        "ops-backward": ops(replace(usual, directions=("backward",))),
        "ops-training": ops(training, uncompiled),
        "ops-networks": ops(networks, uncompiled),
        "ops-cold": ops(replace(usual, directions=("forward",), caches=("cold",)), uncompiled),
        "sweep": lambda: merged([run_sweep(Sweep(name), uncompiled, progress) for name in SUITE]),
        "model": lambda: run_models(model(HEADLINE.patches), headline_cases(training=False), effort, progress),
        "model-training": lambda: run_models(model(HEADLINE.patches), headline_cases(training=True), effort, progress),
        "library": lambda: run_library(library_cases(training=False), effort, progress),
        "library-training": lambda: run_library(library_cases(training=True), effort, progress),
        "exported": lambda: merged([run_shipped(model(p), shipped_cases(p), effort, progress) for p in SHIPPED_PATCHES]),
    }
    found = []
    for name in parts:
        run = runs[name]()
        save(run, folder, name, title(run))  # at once: what follows takes long, and may be interrupted
        found.append(run)
    return found


def library_cases(
    training: bool, names: Sequence[str] = (), batches: Sequence[int] = (), dtypes: Sequence[str] = ("fp32", "bf16")
) -> list[ModelCase]:
    """The configurations that are asked of libraries' models. A training step is timed at the larger batch only."""
    return [
        ModelCase(name, (), batch, dtype, HEADLINE.layout, training, 224)
        for name in names or LIBRARY_MODELS
        for dtype in dtypes
        for batch in batches or (HEADLINE.batches[-1:] if training else HEADLINE.batches)
    ]


def headline_cases(training: bool) -> list[ModelCase]:
    """The configurations that the headline speaks of. A training step is timed at the larger batch only."""
    h = HEADLINE
    return [
        ModelCase(h.backbone, h.patches, batch, dtype, h.layout, training, 224)
        for dtype in h.dtypes
        for batch in (h.batches[-1:] if training else h.batches)
    ]


def shipped_cases(patches: tuple[str, ...]) -> list[ModelCase]:
    """The configurations that are asked of what ships: those of the headline, in float32."""
    h = HEADLINE
    return [ModelCase(h.backbone, patches, batch, "fp32", h.layout, False, 224, exported=True) for batch in h.batches]


def merged(found: Sequence[Run]) -> Run:
    """Several runs on one machine as one, to be printed."""
    ops = tuple(result for run in found for result in run.ops)
    models = tuple(result for run in found for result in run.models)
    return replace(found[0], ops=ops, models=models)


def title(run: Run) -> str:
    """What a run is about, in a few words."""
    if not run.models:
        if any(result.axis for result in run.ops):
            return "How the time of fused ops grows"
        return "Fused ops, in times of moving the bytes once"
    case = run.models[0].case
    if run.exported:
        return "What ships: files of every format and the model they were made from"
    what = "training step" if case.training else "inference"
    if run.library:
        return f"Models of libraries after fuse, in times of the same as they are, {what}, {case.layout}"
    blocks = run.models[0].fused_places
    return f"{case.backbone} with {blocks} fused blocks against the unpatched model, {what}, {case.layout}"


def _settings(settings: Settings) -> dict[str, Any]:
    return {"rounds": settings.rounds, "block": f"{settings.block_seconds * 1e3:g} ms"}


def save(run: Run, folder: Path, name: str, title: str) -> list[Path]:
    """Write a run as JSON, CSV, Markdown and a plot."""
    picture = folder / f"{name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    plot.draw(run, picture, title)
    return [*write(run, folder, name, tables.markdown(run, title, picture.name)), picture]
