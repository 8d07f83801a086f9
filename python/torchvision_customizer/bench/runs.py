"""Whole runs: the cases of the op suite, or a model in several configurations, and the files they are kept in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from . import machine, plot, tables
from .models import SETTINGS as MODEL_SETTINGS
from .models import run_model
from .op_suite import run_case
from .results import ModelCase, ModelResult, OpResult, Run, write
from .suite import COMPILED, HEADLINE, MODEL_VARIANTS, QUICK_SELECTION, VARIANTS, Selection
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


def run_all(root: Path, model: nn.Module, effort: Effort = USUAL_EFFORT, progress: Progress = _quiet) -> list[Run]:
    """The set that ``benchmarks/results`` keeps for a machine: the op suite, caches warm and cold, and the headline's model.

    Args:
        root: the files go into a folder of the machine's kind in it.
        model: the headline's model, patched.
        effort: how much is measured.
        progress: told what is measured next.
    """
    folder = root / machine.machine_kind(effort.device)
    usual = QUICK_SELECTION if effort.quick else Selection()
    # Which variant wins is settled with a warm cache; with a cold one the way to the floor is what is left to know.
    cold = replace(usual, directions=("forward",), caches=("cold",))
    parts: list[tuple[str, Callable[[], Run]]] = [
        ("ops", lambda: run_ops(usual, effort, progress)),
        ("ops-cold", lambda: run_ops(cold, replace(effort, compiled=False), progress)),
        ("model", lambda: run_models(model, headline_cases(training=False), effort, progress)),
        ("model-training", lambda: run_models(model, headline_cases(training=True), effort, progress)),
    ]
    found = []
    for name, run_part in parts:
        run = run_part()
        save(run, folder, name, title(run))  # at once: what follows takes long, and may be interrupted
        found.append(run)
    return found


def headline_cases(training: bool) -> list[ModelCase]:
    """The configurations that the headline speaks of. A training step is timed at the larger batch only."""
    h = HEADLINE
    return [
        ModelCase(h.backbone, h.patches, batch, dtype, h.layout, training, 224)
        for dtype in h.dtypes
        for batch in (h.batches[-1:] if training else h.batches)
    ]


def merged(found: Sequence[Run]) -> Run:
    """Several runs on one machine as one, to be printed."""
    ops = tuple(result for run in found for result in run.ops)
    models = tuple(result for run in found for result in run.models)
    return replace(found[0], ops=ops, models=models)


def title(run: Run) -> str:
    """What a run is about, in a few words."""
    if not run.models:
        return "Fused ops, in times of moving the bytes once"
    case = run.models[0].case
    what = "training step" if case.training else "inference"
    blocks = run.models[0].fused_tails
    return f"{case.backbone} with {blocks} fused blocks against the unpatched model, {what}, {case.layout}"


def _settings(settings: Settings) -> dict[str, Any]:
    return {"rounds": settings.rounds, "block": f"{settings.block_seconds * 1e3:g} ms"}


def save(run: Run, folder: Path, name: str, title: str) -> list[Path]:
    """Write a run as JSON, CSV, Markdown and a plot."""
    picture = folder / f"{name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    plot.draw(run, picture, title)
    return [*write(run, folder, name, tables.markdown(run, title, picture.name)), picture]
