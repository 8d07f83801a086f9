"""Results as tables, and the verdict on what was asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .results import ModelResult, OpResult, Run
from .suite import EACH_SHAPE, HEADLINE, SUITE, Bounds, Entry
from .timing import spread


VERDICTS = "What is asked"


@dataclass(frozen=True)
class Verdict:
    """One thing that is asked, and what was found.

    Attributes:
        subject: the op, direction and type, or the model.
        asked: in words, with the bound.
        found: the number, and where it was found.
        held: whether the bound holds.
    """

    subject: str
    asked: str
    found: str
    held: bool


@dataclass(frozen=True)
class Table:
    """A table; ``left`` are the columns that are set flush left."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[str, ...] = ()

    def markdown(self) -> str:
        rule = [":--" if column in self.left else "--:" for column in self.columns]
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, tuple(rule), *self.rows)]
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n"


def op_table(results: Sequence[OpResult], copy_gb_s: float) -> Table:
    """A row for each case. Ratios are medians of pairs with their quartiles."""
    present = {variant for result in results for variant in result.seconds}
    variants = [v for v in ("floor", "eager", "compile", "torchscript", "fused") if v in present]
    against = [v for v in ("floor", "eager", "compile", "torchscript") if v in present and "fused" in present]
    columns = ["op", "direction", "shape", "batch", "type", "layout", "cache", *(f"{v}, µs" for v in variants)]
    columns += ["fused / floor" if v == "floor" else f"{v} / fused" for v in against]
    columns += ["MB", "GB/s", "of copy", "error"]
    rows = []
    for result in results:
        c = result.case
        row = [c.entry, c.direction, "×".join(map(str, c.shape)), str(c.batch), c.dtype, c.layout, c.cache]
        row += [_microseconds(result.median(v)) if v in result.seconds else "" for v in variants]
        for v in against:
            pair = ("fused", v) if v == "floor" else (v, "fused")
            row.append(str(result.ratio(*pair)) if v in result.seconds else "")
        speed = result.bandwidth() if "fused" in result.seconds else 0.0
        row += [f"{result.bytes / 1e6:.2f}", f"{speed:.1f}", f"{speed / copy_gb_s:.0%}", f"{result.errors.get('fused', 0):.1e}"]
        rows.append(tuple(row))
    left = ("op", "direction", "shape", "type", "layout", "cache")
    return Table("Each case", tuple(columns), tuple(rows), left)


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}" if seconds < 1e-3 else f"{seconds * 1e6:.0f}"


def verdicts(results: Iterable[OpResult]) -> list[Verdict]:
    """What the suite's bounds say of a run. What was not measured is not judged."""
    groups: dict[tuple[str, str, str, str], list[OpResult]] = {}
    for result in results:
        c = result.case
        groups.setdefault((c.entry, c.direction, c.dtype, c.cache), []).append(result)
    found = []
    for (name, direction, dtype, cache), group in groups.items():
        bounds = _bounds(SUITE[name], direction)
        subject = f"{name} {direction} {dtype} {cache}"
        if bounds.floor is not None:
            found.append(_judge(subject, group, "fused", "floor", at_most=bounds.floor))
        if dtype in bounds.eager:
            found.append(_judge(subject, group, "eager", "fused", at_least=bounds.eager[dtype]))
        found.append(_judge(subject, group, "compile", "fused", at_least=bounds.compiled))
        found += [_judge_each(subject, group, variant, least) for variant, least in EACH_SHAPE.items()]
    return [verdict for verdict in found if verdict is not None]


def _bounds(entry: Entry, direction: str) -> Bounds:
    return entry.bounds if direction == "forward" else entry.backward_bounds


def _ratios(group: Iterable[OpResult], above: str, below: str) -> list[tuple[float, OpResult]]:
    return [
        (result.ratio(above, below).median, result)
        for result in group
        if above in result.seconds and below in result.seconds
    ]


def _judge(
    subject: str,
    group: Sequence[OpResult],
    above: str,
    below: str,
    at_most: float = float("inf"),
    at_least: float = 0.0,
) -> Verdict | None:
    ratios = [ratio for ratio, _ in _ratios(group, above, below)]
    if not ratios:
        return None
    median = spread(ratios).median
    bound = f"≤ {at_most:g}" if at_most != float("inf") else f"≥ {at_least:g}"
    return Verdict(
        subject,
        f"{above} / {below} {bound}, median over shapes",
        f"{median:.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} cases)",
        at_least <= median <= at_most,
    )


def _judge_each(subject: str, group: Sequence[OpResult], variant: str, least: float) -> Verdict | None:
    ratios = _ratios(group, variant, "fused")
    if not ratios:
        return None
    worst, result = min(ratios, key=lambda pair: pair[0])
    c = result.case
    missed = sum(ratio < least for ratio, _ in ratios)
    where = f"{c.batch}×{'×'.join(map(str, c.shape))} {c.layout}"
    return Verdict(
        subject,
        f"{variant} / fused ≥ {least:g}, each shape",
        f"worst {worst:.2f} at {where}" + (f"; {missed} of {len(ratios)} below" if missed else ""),
        missed == 0,
    )


def verdict_table(found: Iterable[Verdict]) -> Table:
    """What was asked, what was found, and whether it holds."""
    rows = tuple((v.subject, v.asked, v.found, "held" if v.held else "MISSED") for v in found)
    return Table(VERDICTS, ("what", "asked", "found", ""), rows, left=("what", "asked", "found", ""))


def model_table(results: Sequence[ModelResult]) -> Table:
    """A row for each variant of each comparison."""
    rows = []
    for result in results:
        for variant in result.seconds:
            ratio = str(result.ratio(variant, "unpatched")) if "unpatched" in result.seconds and variant != "unpatched" else ""
            difference = f"{result.differences[variant]:.1e}" if variant in result.differences else ""
            rows.append(
                (
                    str(result.case),
                    variant,
                    f"{result.median(variant) * 1e3:.2f}",
                    f"{result.images_per_second(variant):.1f}",
                    ratio,
                    difference,
                )
            )
    columns = ("model", "variant", "ms", "images/s", "times unpatched", "difference")
    return Table("Each model", columns, tuple(rows), left=("model", "variant"))


def model_verdicts(results: Iterable[ModelResult]) -> list[Verdict]:
    """What is asked of the headline's model; others are not judged."""
    found = []
    for result in results:
        c = result.case
        if (c.backbone, c.patches, c.layout) != (HEADLINE.backbone, HEADLINE.patches, HEADLINE.layout):
            continue
        if "fused" not in result.seconds or "unpatched" not in result.seconds:
            continue
        bound = HEADLINE.training if c.training else HEADLINE.inference
        ratio = result.ratio("fused", "unpatched")
        found.append(Verdict(str(c), f"fused / unpatched ≤ {bound:g}", str(ratio), ratio.median <= bound))
    return found


def all_verdicts(run: Run) -> list[Verdict]:
    """Everything that is asked, of what a run has measured."""
    return [*verdicts(run.ops), *model_verdicts(run.models)]


def tables(run: Run) -> list[Table]:
    """The tables of a run, verdicts last."""
    shown = []
    if run.ops:
        shown.append(op_table(run.ops, float(run.machine["copy_gb_s"])))
    if run.models:
        shown.append(model_table(run.models))
    judged = all_verdicts(run)
    if judged:
        shown.append(verdict_table(judged))
    return shown


NOTES = {
    "ops": (
        "Times are medians over rounds; ratios are medians of pairs measured in the same round, with their quartiles. `floor` moves the "
        "bytes once: `x.clone()`, or `x + residual`; for the backward `grad + x`, and with a ReLU `grad.clone()` and `x + residual`. "
        "`eager` is the block in plain PyTorch, `compile` and `torchscript` (frozen) are made of it. Backward is `torch.autograd.grad` of a "
        "forward that ran before, with gradients for all inputs and weights. `MB` is the least that must be moved (every input read once, "
        "every output written once); what lies in the caches moves faster than the copy that `of copy` compares with. `error` is the "
        "largest difference of `fused` from float64, as a share of the largest value. Cache: `warm` uses the same input again and "
        "again; `cold` rotates among inputs of twice the last-level cache together."
    ),
    "models": (
        "Times are medians over rounds; ratios are medians of pairs measured in the same round, with their quartiles. `unpatched` is "
        "torchvision's model, `eager` the patched one with its blocks in plain PyTorch, `compile` that one under `torch.compile`, `fused` "
        "the patched one after `fuse`, `torchscript` that one scripted and frozen. `difference` is the largest difference of logits "
        "from `eager`, as a share of the largest. The input is the same for every run."
    ),
}


def markdown(run: Run, title: str, plot: str | None = None) -> str:
    """A page of a run: verdicts, plot, machine, and every number."""
    parts = [f"# {title}\n"]
    judged = all_verdicts(run)
    if judged:
        parts.append(verdict_table(judged).markdown())
    if plot is not None:
        parts.append(f"![{title}]({plot})\n")
    rows = tuple((key, value) for key, value in {**run.machine, **run.settings}.items() if key not in ("copy_gb_s", "other_load"))
    parts.append(Table("Measured", ("what", "found"), tuple((k, str(v)) for k, v in rows), ("what", "found")).markdown())
    parts += [note + "\n" for kind, note in NOTES.items() if getattr(run, kind)]
    parts += [table.markdown() for table in tables(run) if table.title != VERDICTS]
    return "\n".join(parts)
