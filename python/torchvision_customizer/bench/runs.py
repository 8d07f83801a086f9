"""Whole runs: the cases of the op suite, or a model in several configurations, and the files they are kept in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from . import machine, plot, tables
from .models import MODEL_VARIANTS, run_model
from .op_suite import VARIANTS, run_case
from .results import ModelCase, ModelResult, OpResult, Run, write
from .suite import Selection
from .timing import OtherLoad, Settings, steady

Progress = Callable[[str], None]
#: Of all processors; with more than this at work elsewhere, figures say little.
BUSY = 0.05


def run_ops(
    selection: Selection,
    settings: Settings = Settings(),
    variants: Collection[str] = VARIANTS,
    device: str = "cpu",
    threads: int | None = None,
    progress: Progress = lambda text: None,
) -> Run:
    """Run the selected cases of the op suite.

    Args:
        selection: which cases.
        settings: how long.
        variants: which variants, of ``op_suite.VARIANTS``.
        device: ``cpu`` or ``cuda``.
        threads: how many threads, or None for torch's default.
        progress: told what is measured next.

    Raises:
        WrongNumbersError: a variant's numbers are wrong; nothing is timed then.
    """
    cases = list(selection.cases())
    results: list[OpResult] = []
    with steady(threads), OtherLoad() as load:
        found = machine.describe(device)
        for number, case in enumerate(cases, start=1):
            progress(f"{number}/{len(cases)} {case}")
            results.append(run_case(case, settings, variants, device))
    return Run(found, _settings(settings, load), ops=tuple(results))


def run_models(
    model: nn.Module,
    cases: Iterable[ModelCase],
    settings: Settings,
    variants: Collection[str] = MODEL_VARIANTS,
    device: str = "cpu",
    threads: int | None = None,
    progress: Progress = lambda text: None,
) -> Run:
    """Run one patched model in several configurations; arguments as for :func:`run_ops`."""
    cases = list(cases)
    results: list[ModelResult] = []
    with steady(threads), OtherLoad() as load:
        found = machine.describe(device)
        for number, case in enumerate(cases, start=1):
            progress(f"{number}/{len(cases)} {case}")
            results.append(run_model(model, case, settings, variants, device))
    return Run(found, _settings(settings, load), models=tuple(results))


def _settings(settings: Settings, load: OtherLoad) -> dict[str, Any]:
    return {
        "rounds": settings.rounds,
        "block": f"{settings.block_seconds * 1e3:g} ms",
        "other load": f"{load.share:.1%} of all processors",
        "other_load": load.share,
    }


def is_disturbed(run: Run) -> bool:
    """Whether so much else was at work that the figures say little."""
    return float(run.settings["other_load"]) > BUSY


def save(run: Run, folder: Path, name: str, title: str) -> list[Path]:
    """Write a run as JSON, CSV, Markdown and a plot."""
    picture = folder / f"{name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    plot.draw(run, picture, title)
    return [*write(run, folder, name, tables.markdown(run, title, picture.name)), picture]
