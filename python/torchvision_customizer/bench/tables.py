"""Results as tables, and the verdict on what was asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .results import ModelResult, OpResult, Run
from .suite import COMPILED, EACH_SHAPE, EAGER, FLOOR, FUSED, HEADLINE, SUITE, UNPATCHED, VARIANTS, Bounds, Entry
from .timing import spread

_VERDICTS = "What is asked"

_PAIRS = "Times are medians over rounds; ratios are medians of pairs of the same round, with their quartiles. "
_NOTES = {
    "ops": _PAIRS
    + "`floor` moves the bytes once: `x.clone()`, or `x + residual`; for the backward `grad + x`, and with a ReLU "
    "`grad.clone()` and `x + residual`. `eager` is the block in plain PyTorch; `compile` and `torchscript` (frozen) are made "
    "of it. Backward is `torch.autograd.grad` of a forward that ran before, with gradients for all inputs and weights. `MB` is "
    "the least that must be moved, every input read once and every output written once; what lies in a cache moves faster "
    "than the copy that `of copy` compares with. `error` is the largest difference of `fused` from float64, as a share of the "
    "largest value. A warm cache is the same input again and again; a cold one rotates among inputs of twice the last-level "
    "cache together.",
    "models": _PAIRS
    + "`unpatched` is torchvision's model, `eager` the patched one with its blocks in plain PyTorch, `compile` that one under "
    "`torch.compile`, `fused` the patched one after `fuse`, `torchscript` that one scripted and frozen, "
    "which folds norms into convolutions and is faster for that alone. `difference` is the largest difference of logits from "
    "`eager`, as a share of the largest. Every run has the same input.",
}


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
        rule = tuple(":--" if column in self.left else "--:" for column in self.columns)
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows)]
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n"


def op_tables(results: Sequence[OpResult], copy_gb_s: float) -> list[Table]:
    """A table for each op, direction and state of the caches, with a row for each case. Ratios have their quartiles.

    Args:
        results: what was measured.
        copy_gb_s: the copy bandwidth of the machine.
    """
    groups: dict[tuple[str, str, str], list[OpResult]] = {}
    for result in results:
        groups.setdefault((result.case.entry, result.case.direction, result.case.cache), []).append(result)
    return [_op_table(f"{e}, {d}, {c} cache", group, copy_gb_s) for (e, d, c), group in groups.items()]


def _op_table(title: str, results: Sequence[OpResult], copy_gb_s: float) -> Table:
    variants = [v for v in VARIANTS if all(v in result.seconds for result in results)]
    ratios = [(FUSED, v) if v == FLOOR else (v, FUSED) for v in variants if v != FUSED] if FUSED in variants else []
    columns = ["shape", "type", "layout", *(f"{v}, µs" for v in variants), *(f"{above} / {below}" for above, below in ratios)]
    if ratios:
        columns += ["MB", "GB/s", "of copy", "error"]
    rows = []
    for result in results:
        c = result.case
        row = ["×".join(map(str, (c.batch, *c.shape))), c.dtype, c.layout]
        row += [_microseconds(result.median(v)) for v in variants]
        row += [str(result.ratio(above, below)) for above, below in ratios]
        if ratios:
            speed = result.bandwidth()
            row += [f"{result.bytes / 1e6:.2f}", f"{speed:.1f}", f"{speed / copy_gb_s:.0%}", f"{result.errors[FUSED]:.0e}"]
        rows.append(tuple(row))
    return Table(title, tuple(columns), tuple(rows), left=("shape", "type", "layout"))


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}" if seconds < 1e-3 else f"{seconds * 1e6:.0f}"


def model_table(results: Sequence[ModelResult]) -> Table:
    """A row for each variant of each comparison."""
    rows = []
    for result in results:
        for variant in result.seconds:
            against = variant != UNPATCHED and UNPATCHED in result.seconds
            rows.append(
                (
                    str(result.case),
                    variant,
                    f"{result.median(variant) * 1e3:.2f}",
                    f"{result.images_per_second(variant):.1f}",
                    str(result.ratio(variant, UNPATCHED)) if against else "",
                    f"{result.differences[variant]:.0e}" if variant in result.differences else "",
                )
            )
    columns = ("model", "variant", "ms", "images/s", "times unpatched", "difference")
    return Table("Models", columns, tuple(rows), left=("model", "variant"))


def op_verdicts(results: Iterable[OpResult]) -> list[Verdict]:
    """What the suite's bounds say of a run. What was not measured is not judged."""
    groups: dict[tuple[str, str, str, str], list[OpResult]] = {}
    for result in results:
        c = result.case
        groups.setdefault((c.entry, c.direction, c.dtype, c.cache), []).append(result)
    found: list[Verdict | None] = []
    for (name, direction, dtype, cache), group in groups.items():
        bounds = _bounds(SUITE[name], direction)
        subject = f"{name} {direction} {dtype}, {cache} cache"
        if bounds.floor is not None:
            found.append(_judge(subject, group, FUSED, FLOOR, at_most=bounds.floor))
        if dtype in bounds.eager:
            found.append(_judge(subject, group, EAGER, FUSED, at_least=bounds.eager[dtype]))
        found.append(_judge(subject, group, COMPILED, FUSED, at_least=bounds.compiled))
        found += [_judge_each(subject, group, variant, least) for variant, least in EACH_SHAPE.items()]
    return [verdict for verdict in found if verdict is not None]


def _bounds(entry: Entry, direction: str) -> Bounds:
    return entry.bounds if direction == "forward" else entry.backward_bounds


def _ratios(group: Iterable[OpResult], above: str, below: str) -> list[tuple[float, OpResult]]:
    measured = (result for result in group if above in result.seconds and below in result.seconds)
    return [(result.ratio(above, below).median, result) for result in measured]


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
    bound = f"≥ {at_least:g}" if at_least else f"≤ {at_most:g}"
    return Verdict(
        subject,
        f"{above} / {below} {bound}, median over shapes",
        f"{median:.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} cases)",
        at_least <= median <= at_most,
    )


def _judge_each(subject: str, group: Sequence[OpResult], variant: str, least: float) -> Verdict | None:
    ratios = _ratios(group, variant, FUSED)
    if not ratios:
        return None
    worst, result = min(ratios, key=lambda pair: pair[0])
    c = result.case
    missed = sum(ratio < least for ratio, _ in ratios)
    where = f"{'×'.join(map(str, (c.batch, *c.shape)))} {c.layout}"
    return Verdict(
        subject,
        f"{variant} / {FUSED} ≥ {least:g}, each shape",
        f"worst {worst:.2f} at {where}" + (f"; {missed} of {len(ratios)} below" if missed else ""),
        missed == 0,
    )


def model_verdicts(results: Iterable[ModelResult]) -> list[Verdict]:
    """What is asked of the headline's model; others are not judged."""
    found = []
    for result in results:
        c = result.case
        if (c.backbone, c.patches, c.layout) != (HEADLINE.backbone, HEADLINE.patches, HEADLINE.layout):
            continue
        if FUSED in result.seconds and UNPATCHED in result.seconds:
            bound = HEADLINE.training if c.training else HEADLINE.inference
            ratio = result.ratio(FUSED, UNPATCHED)
            found.append(Verdict(str(c), f"{FUSED} / {UNPATCHED} ≤ {bound:g}", str(ratio), ratio.median <= bound))
    return found


def verdicts(run: Run) -> list[Verdict]:
    """Everything that is asked, of what a run has measured."""
    return [*op_verdicts(run.ops), *model_verdicts(run.models)]


def verdict_table(found: Iterable[Verdict]) -> Table:
    """What was asked, what was found, and whether it holds."""
    columns = ("what", "asked", "found", "held?")
    rows = tuple((v.subject, v.asked, v.found, "held" if v.held else "MISSED") for v in found)
    return Table(_VERDICTS, columns, rows, left=columns)


def tables(run: Run) -> list[Table]:
    """The tables of a run, verdicts last."""
    shown = op_tables(run.ops, float(run.machine["copy_gb_s"]))
    if run.models:
        shown.append(model_table(run.models))
    judged = verdicts(run)
    if judged:
        shown.append(verdict_table(judged))
    return shown


def markdown(run: Run, title: str, picture: str) -> str:
    """A page of a run: verdicts, picture, machine, and every number.

    Args:
        run: what was measured.
        title: the heading.
        picture: address of the plot.
    """
    facts = {name: str(value) for name, value in {**run.machine, **run.settings}.items() if "_" not in name}
    facts["other work meanwhile"] = f"{run.other_load:.1%} of all processors" + (", TOO MUCH" if run.is_disturbed else "")
    machine = Table("Measured on", ("what", "found"), tuple(facts.items()), ("what", "found"))
    *numbers, last = tables(run)
    parts = [f"# {title}\n"]
    if last.title == _VERDICTS:
        parts.append(last.markdown())
    else:
        numbers.append(last)
    parts += [f"![{title}]({picture})\n", machine.markdown()]
    parts += [note + "\n" for kind, note in _NOTES.items() if getattr(run, kind)]
    return "\n".join([*parts, *(table.markdown() for table in numbers)])
