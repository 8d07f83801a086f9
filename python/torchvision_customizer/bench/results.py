"""What a run found, and its files: JSON with every sample, CSV for a spreadsheet, Markdown to read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .memory import Memory
from .suite import FUSED, Case
from .timing import Spread, paired_ratio, spread

SCHEMA = 2
#: Of all processors; with more than this at work elsewhere, figures say little.
BUSY = 0.05
Seconds = Mapping[str, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What was timed, in pairs.

    Attributes:
        seconds: for each variant its seconds a call, one figure a round.
        other_load: how busy other work kept the processors meanwhile, as a share of all of them.
        memory: for each variant what a training step holds, where that was measured.
    """

    seconds: Seconds
    other_load: float
    memory: Mapping[str, Memory] = field(default_factory=dict)

    def median(self, variant: str) -> float:
        return spread(self.seconds[variant]).median

    def ratio(self, above: str, below: str) -> Spread:
        """The time of ``above`` in times of ``below``: median and quartiles of pairs of the same round."""
        return paired_ratio(self.seconds[above], self.seconds[below])


@dataclass(frozen=True, kw_only=True)
class OpResult(Timed):
    """A case of the op suite.

    Attributes:
        case: what was measured.
        bytes: the least that must be moved.
        sets: how many sets of activations calls rotated among; 1 is a warm cache.
        errors: for each variant its largest difference from float64, as a share of the largest value.
        absent: why a variant was not measured.
        axis: in a sweep what grows: ``batch``, ``channels`` or ``resolution``.
    """

    case: Case
    bytes: int
    sets: int
    errors: Mapping[str, float]
    absent: Mapping[str, str] = field(default_factory=dict)
    axis: str = ""

    def bandwidth(self, variant: str = FUSED) -> float:
        """GB/s, of the least that must be moved."""
        return self.bytes / self.median(variant) / 1e9


@dataclass(frozen=True)
class ModelCase:
    """One comparison of whole models.

    Without patches it is a library's model, before and after ``fuse``; ``exported``, it is files of a model, in any case.
    """

    backbone: str
    patches: tuple[str, ...]
    batch: int
    dtype: str
    layout: str
    training: bool
    input_size: int
    exported: bool = False

    def __str__(self) -> str:
        mode = "training step" if self.training else "inference"
        name = " ".join((self.backbone, *self.patches)) if self.exported else f"{self.backbone} {mode}"
        return f"{name}, batch {self.batch}, {self.dtype}, {self.layout}"


@dataclass(frozen=True, kw_only=True)
class ModelResult(Timed):
    """A comparison of whole models.

    Attributes:
        case: what was measured.
        fused_places: how many blocks, or tails of residual blocks, ``fuse`` has changed.
        differences: of each variant the largest difference of logits from plain PyTorch, as a share of the largest.
    """

    case: ModelCase
    fused_places: int
    differences: Mapping[str, float]

    def images_per_second(self, variant: str) -> float:
        return self.case.batch / self.median(variant)


@dataclass(frozen=True)
class Run:
    """All of one run: the machine, and what was found on it. It has results of ops, or of models, or both."""

    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    ops: tuple[OpResult, ...] = ()
    models: tuple[ModelResult, ...] = ()
    schema: int = SCHEMA

    @property
    def patched(self) -> tuple[ModelResult, ...]:
        """Comparisons of patched models with the unpatched ones."""
        return tuple(result for result in self.models if result.case.patches and not result.case.exported)

    @property
    def library(self) -> tuple[ModelResult, ...]:
        """Comparisons of libraries' models with themselves, fused."""
        return tuple(result for result in self.models if not result.case.patches and not result.case.exported)

    @property
    def exported(self) -> tuple[ModelResult, ...]:
        """Comparisons of exported files with the model they were made from, or with one another."""
        return tuple(result for result in self.models if result.case.exported)

    @property
    def other_load(self) -> float:
        """How busy other work kept the processors, as a share of all of them: the mean over the results."""
        results: list[Timed] = [*self.ops, *self.models]
        loads = [result.other_load for result in results]
        return sum(loads) / len(loads) if loads else 0.0

    @property
    def is_disturbed(self) -> bool:
        """Whether so much else was at work that the figures say little."""
        return self.other_load > BUSY


def to_json(run: Run) -> dict[str, Any]:
    """A run as plain values."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(run)))
    return values


def from_json(values: Mapping[str, Any]) -> Run:
    """The run that :func:`to_json` was given.

    Raises:
        ValueError: it was written by another version of this package.
    """
    if values.get("schema") != SCHEMA:
        raise ValueError(f"benchmark results of schema {values.get('schema')}, this version reads {SCHEMA}")
    ops = []
    for result in values["ops"]:
        case = result["case"]
        case = Case(**{**case, "shape": tuple(case["shape"])})
        ops.append(OpResult(**{**result, "case": case, "memory": _memory(result)}))
    models = []
    for result in values["models"]:
        case = result["case"]
        case = ModelCase(**{**case, "patches": tuple(case["patches"])})
        models.append(ModelResult(**{**result, "case": case, "memory": _memory(result)}))
    return Run(values["machine"], values["settings"], tuple(ops), tuple(models))


def _memory(result: Mapping[str, Any]) -> dict[str, Memory]:
    return {variant: Memory(**memory) for variant, memory in result["memory"].items()}


def to_csv(run: Run) -> str:
    """One line for each variant of each case."""
    text = io.StringIO()
    columns = ["what", "mode", "shape", "batch", "dtype", "layout", "cache", "variant", "median_us", "low_us", "high_us"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "bytes", "error", "saved_bytes", "peak_bytes"])
    for op in run.ops:
        c = op.case
        place = [c.entry, c.direction, "x".join(map(str, c.shape)), c.batch, c.dtype, c.layout, c.cache]
        _csv_rows(writer, place, op, op.errors, op.bytes)
    for model in run.models:
        m = model.case
        mode, size = "training" if m.training else "exported" if m.exported else "inference", f"3x{m.input_size}x{m.input_size}"
        place = [f"{m.backbone} {' '.join(m.patches)}".strip(), mode, size, m.batch, m.dtype, m.layout, ""]
        _csv_rows(writer, place, model, model.differences, "")
    return text.getvalue()


def _csv_rows(writer: Any, place: list[Any], result: Timed, errors: Mapping[str, float], size: int | str) -> None:
    for variant, samples in result.seconds.items():
        s = spread(samples)
        times = [f"{value * 1e6:.2f}" for value in (s.median, s.low, s.high)]
        error = f"{errors[variant]:.2e}" if variant in errors else ""
        memory = [result.memory[variant].saved, result.memory[variant].peak] if variant in result.memory else ["", ""]
        writer.writerow([*place, variant, *times, size, error, *memory])


def read(path: Path) -> Run:
    """Read the JSON file of a run."""
    return from_json(json.loads(path.read_text(encoding="utf-8")))


def write(run: Run, folder: Path, name: str, markdown: str) -> list[Path]:
    """Write ``name.json``, ``.csv`` and ``.md`` into a folder, which is made where it is not there.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {".json": json.dumps(to_json(run), indent=1) + "\n", ".csv": to_csv(run), ".md": markdown}
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{name}{suffix}"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths
