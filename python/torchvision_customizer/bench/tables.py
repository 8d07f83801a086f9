"""Results as tables, and the verdict on what was asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .results import ModelResult, OpResult, Run, Timed
from .suite import (
    COMPILED,
    EACH_SHAPE,
    EAGER,
    FLOOR,
    FUSED,
    HEADLINE,
    IDENTITY,
    INFERENCE,
    LIBRARY_MODELS,
    LIMIT,
    ONE_THREAD,
    SCALING,
    SHIPPED_BOUNDS,
    SHIPPED_PATCHES,
    SUITE,
    UNPATCHED,
    VARIANTS,
    Bounds,
    Entry,
)
from .timing import Spread, spread

_VERDICTS = "What is asked"

_PAIRS = "Times are medians over rounds; ratios are medians of pairs of the same round, with their quartiles. "
_NOTES = {
    "ops": _PAIRS
    + "`floor` moves the bytes once: `x.clone()`, or `x + residual`; for the backward `grad + x` (of what reads no x "
    "`grad.clone()`), and with a ReLU `grad.clone()` and `x + residual`. `limit` is C++ that makes the op's memory "
    "accesses and nothing else of it, on the same threads: what pools reads each sample again, CBAM twice again. `eager` "
    "is the block in plain PyTorch; `compile` and `torchscript` (frozen) are made of it; `timm` is timm's module with the "
    "same weights. Backward is `torch.autograd.grad` of a forward that ran before, with gradients for all inputs and "
    "weights; training is both as one call. `saved` is what autograd keeps for the backward, each storage once and "
    "without parameters, `peak` the most that a step has allocated at once. `drop_path` drops no sample here. `MB` is the "
    "least that must be moved, every input read once and every output written once; what lies in a cache moves faster "
    "than the copy that `of copy` compares with. `error` is the largest difference of `fused` from float64, as a share of "
    "the largest value. A warm cache is the same input again and again; a cold one rotates among inputs of twice the "
    "last-level cache together.",
    "patched": _PAIRS
    + "`unpatched` is torchvision's model, `eager` the patched one with its blocks in plain PyTorch, `compile` that one "
    "under `torch.compile`, `fused` the patched one after `fuse`, `torchscript` that one scripted and frozen, which folds "
    "norms into convolutions and is faster for that alone. `difference` is the largest difference of logits from `eager`, "
    "as a share of the largest. Every run has the same input.",
    "library": _PAIRS
    + "`eager` is the library's model as it is, `fused` the same after `fuse`, `inference` after `fuse(inference=True)`, "
    "which folds norms too, `identity` the library's with nothing in place of its attention. `attention left` is what is "
    "left of the time that attention costs: (fused − identity) / (eager − identity). Weights are random, norms calibrated "
    "on a batch. `places` are the blocks and tails that `fuse` changed. One process for each model.",
    "exported": _PAIRS
    + "`eager` is the model in plain PyTorch, `fused` the same after `fuse`; the others are files, in this process and on as "
    "many threads. `torchscript` is the fused model, `torchscript, plain` the one in plain PyTorch, both frozen after loading, "
    "which folds norms into convolutions. `aoti` keeps the fused ops, `aoti, references` has Inductor's own code in their "
    "place, `onnx` (in onnxruntime) has them decomposed, `onnx, translated` as ONNX operators of their own. `difference` is "
    "the largest difference of logits from the first variant, as a share of the largest. Every run has the same images.",
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
    groups: dict[tuple[str, str, str, str], list[OpResult]] = {}
    for result in results:
        groups.setdefault((result.case.entry, result.case.direction, result.case.cache, result.axis), []).append(result)
    return [
        _op_table(f"{e}, {d}, {c} cache" + (f", by {axis}" if axis else ""), group, copy_gb_s)
        for (e, d, c, axis), group in groups.items()
    ]


def _op_table(title: str, results: Sequence[OpResult], copy_gb_s: float) -> Table:
    variants = [v for v in VARIANTS if any(v in result.seconds for result in results)]
    ratios = [(FUSED, v) if v == FLOOR else (v, FUSED) for v in variants if v not in (FUSED, LIMIT)]
    ratios = ratios if FUSED in variants else []
    columns = ["shape", "type", "layout", *(f"{v}, µs" for v in variants), *(f"{above} / {below}" for above, below in ratios)]
    if ratios:
        columns += ["of limit"] if LIMIT in variants else []
        columns += ["MB", "GB/s", "of copy", "error"]
    with_memory = any(EAGER in result.memory and FUSED in result.memory for result in results)
    if with_memory:
        columns += ["saved MB", "of eager's", "peak MB", "of eager's "]
    rows = []
    for result in results:
        row = [_size(result), result.case.dtype, result.case.layout]
        row += [_microseconds(result.median(v)) if v in result.seconds else "" for v in variants]
        row += [_ratio(result, above, below) for above, below in ratios]
        if ratios:
            speed = result.bandwidth()
            if LIMIT in variants:
                row.append(f"{result.ratio(LIMIT, FUSED).median:.0%}" if LIMIT in result.seconds else "")
            row += [f"{result.bytes / 1e6:.2f}", f"{speed:.1f}", f"{speed / copy_gb_s:.0%}", f"{result.errors[FUSED]:.0e}"]
        if with_memory:
            row += _memory_cells(result)
        rows.append(tuple(row))
    return Table(title, tuple(columns), tuple(rows), left=("shape", "type", "layout"))


def _size(result: OpResult) -> str:
    return "×".join(map(str, (result.case.batch, *result.case.shape)))


def _ratio(result: Timed, above: str, below: str) -> str:
    return str(result.ratio(above, below)) if above in result.seconds and below in result.seconds else ""


def _memory_cells(result: Timed) -> list[str]:
    if EAGER not in result.memory or FUSED not in result.memory:
        return [""] * 4
    fused, eager = result.memory[FUSED], result.memory[EAGER]
    cells = []
    for ours, theirs in ((fused.saved, eager.saved), (fused.peak, eager.peak)):
        cells += [f"{ours / 1e6:.2f}", f"{ours / theirs:.2f}" if theirs else ""]
    return cells


def absence_table(results: Iterable[OpResult]) -> Table | None:
    """Which variants were not measured, where, and why."""
    found: dict[tuple[str, str], list[OpResult]] = {}
    for result in results:
        for variant, reason in result.absent.items():
            found.setdefault((variant, reason), []).append(result)
    if not found:
        return None
    rows = []
    for (variant, reason), group in found.items():
        entries = dict.fromkeys(f"{r.case.entry} {r.case.direction}" for r in group)
        cases = "1 case" if len(group) == 1 else f"{len(group)} cases"
        rows.append((variant, reason, f"{cases}: {', '.join(entries)}"))
    columns = ("variant", "not measured because", "of")
    return Table("Left out", columns, tuple(rows), left=columns)


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}" if seconds < 1e-3 else f"{seconds * 1e6:.0f}"


def model_table(results: Sequence[ModelResult]) -> Table:
    """A row for each variant of each comparison of a patched model with the unpatched one."""
    columns = ("model", "variant", "ms", "images/s", "times unpatched", "difference")
    rows = [
        (str(result.case), *_model_cells(result, variant), _against(result, variant, UNPATCHED), _difference(result, variant))
        for result in results
        for variant in result.seconds
    ]
    return _with_memory(Table("Models", columns, tuple(rows), left=("model", "variant")), results)


def library_table(results: Sequence[ModelResult]) -> Table:
    """A row for each variant of each comparison of a library's model with itself, fused."""
    columns = ("model", "variant", "ms", "images/s", "times as fast as eager", "attention left", "places", "difference")
    rows = []
    for result in results:
        for variant in result.seconds:
            left = str(attention_left(result)) if variant == FUSED and IDENTITY in result.seconds else ""
            faster = "" if variant == EAGER else str(result.ratio(EAGER, variant))
            places = str(result.fused_places) if variant == FUSED else ""
            cells = (str(result.case), *_model_cells(result, variant), faster, left, places)
            rows.append((*cells, _difference(result, variant)))
    return _with_memory(Table("Models of libraries", columns, tuple(rows), left=("model", "variant")), results)


def exported_table(results: Sequence[ModelResult]) -> Table:
    """A row for each variant of each comparison of what ships, in times of the first of them and of the fused model."""
    columns = ("model", "variant", "ms", "images/s", "times as fast as the first", "as fused", "difference")
    rows = []
    for result in results:
        first = next(iter(result.seconds))
        for variant in result.seconds:
            faster = "" if variant == first else str(result.ratio(first, variant))
            than_fused = "" if variant == FUSED else _ratio(result, FUSED, variant)
            cells = (str(result.case), *_model_cells(result, variant), faster, than_fused)
            rows.append((*cells, _difference(result, variant)))
    return Table("What ships", columns, tuple(rows), left=("model", "variant"))


def _model_cells(result: ModelResult, variant: str) -> tuple[str, str, str]:
    return variant, f"{result.median(variant) * 1e3:.2f}", f"{result.images_per_second(variant):.1f}"


def _against(result: ModelResult, variant: str, other: str) -> str:
    return "" if variant == other else _ratio(result, variant, other)


def _difference(result: ModelResult, variant: str) -> str:
    return f"{result.differences[variant]:.0e}" if variant in result.differences else ""


def _with_memory(table: Table, results: Sequence[ModelResult]) -> Table:
    """The same with what a training step holds, where that was measured."""
    memory = [result.memory.get(variant) for result in results for variant in result.seconds]
    if not any(memory):
        return table
    cells = [("", "") if m is None else (f"{m.saved / 1e6:.1f}", f"{m.peak / 1e6:.1f}") for m in memory]
    rows = tuple((*row, *more) for row, more in zip(table.rows, cells, strict=True))
    return replace(table, columns=(*table.columns, "saved MB", "peak MB"), rows=rows)


def attention_left(result: ModelResult) -> Spread:
    """What is left of the time that attention costs, as a share: (fused − identity) / (eager − identity), paired."""
    rounds = zip(result.seconds[FUSED], result.seconds[EAGER], result.seconds[IDENTITY], strict=True)
    shares = [(fused - identity) / (eager - identity) for fused, eager, identity in rounds if eager != identity]
    return spread(shares or [float("nan")])


def op_verdicts(results: Iterable[OpResult]) -> list[Verdict]:
    """What the suite's bounds say of a run. What was not measured is not judged, nor a sweep, whose shapes no network has."""
    groups: dict[tuple[str, str, str, str], list[OpResult]] = {}
    for result in (result for result in results if not result.axis):
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
        if bounds.compiled is not None:
            found.append(_judge(subject, group, COMPILED, FUSED, at_least=bounds.compiled))
        found.append(_judge(subject, group, ONE_THREAD, FUSED, at_least=SCALING))
        found += [_judge_each(subject, group, variant, least) for variant, least in EACH_SHAPE.items()]
        if bounds.saved is not None:
            found.append(_judge_saved(subject, group, bounds.saved))
    return [verdict for verdict in found if verdict is not None]


def _bounds(entry: Entry, direction: str) -> Bounds:
    return {"forward": entry.bounds, "backward": entry.backward_bounds, "training": entry.training_bounds}[direction]


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
    held = at_least <= median <= at_most
    return Verdict(
        subject,
        f"{above} / {below} {bound}, median over shapes",
        f"{median:.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} cases)" + ("" if held else _at_the_limit(group)),
        held,
    )


def _at_the_limit(group: Sequence[OpResult]) -> str:
    """How near the limit the fused op comes that misses a bound, and what the limit itself takes."""
    shares = [ratio for ratio, _ in _ratios(group, LIMIT, FUSED)]
    floors = [ratio for ratio, _ in _ratios(group, LIMIT, FLOOR)]
    if not shares or not floors:
        return ""
    return f"; at {spread(shares).median:.0%} of the limit, which is {spread(floors).median:.2f} of the floor"


def _judge_saved(subject: str, group: Sequence[OpResult], at_most: float) -> Verdict | None:
    measured = [result for result in group if EAGER in result.memory and FUSED in result.memory]
    if not measured:
        return None
    worst = max(measured, key=lambda result: result.memory[FUSED].saved / result.memory[EAGER].saved)
    share = worst.memory[FUSED].saved / worst.memory[EAGER].saved
    found = f"at most {share:.3f}, at {_size(worst)} {worst.case.layout}"
    return Verdict(subject, f"saved bytes ≤ {at_most:g} of eager's, each shape", found, share <= at_most)


def _judge_each(subject: str, group: Sequence[OpResult], variant: str, least: float) -> Verdict | None:
    ratios = _ratios(group, variant, FUSED)
    if not ratios:
        return None
    worst, result = min(ratios, key=lambda pair: pair[0])
    c = result.case
    missed = sum(ratio < least for ratio, _ in ratios)
    where = f"{_size(result)} {c.layout}"
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
        bound = HEADLINE.training if c.training else HEADLINE.inference
        for variant in (FUSED, INFERENCE):
            if variant in result.seconds and UNPATCHED in result.seconds:
                ratio = result.ratio(variant, UNPATCHED)
                found.append(Verdict(str(c), f"{variant} / {UNPATCHED} ≤ {bound:g}", str(ratio), ratio.median <= bound))
    return found


def library_verdicts(results: Iterable[ModelResult]) -> list[Verdict]:
    """What is asked of libraries' models in inference, at the batch it is asked at."""
    found = []
    for result in results:
        c = result.case
        bounds = LIBRARY_MODELS[c.backbone]
        if c.training or c.batch != bounds.batch:
            continue
        for variant, least in ((FUSED, bounds.fused.get(c.dtype)), (INFERENCE, bounds.inference.get(c.dtype))):
            if least is not None and variant in result.seconds:
                ratio = result.ratio(EAGER, variant)
                found.append(Verdict(str(c), f"{EAGER} / {variant} ≥ {least:g}", str(ratio), ratio.median >= least))
        if {EAGER, FUSED, IDENTITY} <= result.seconds.keys():
            left, cost = attention_left(result), 1 - result.ratio(IDENTITY, EAGER).median
            asked = f"at most {bounds.left:g} is left of what attention costs"
            found.append(Verdict(str(c), asked, f"{left}, of {cost:.0%} of the time", left.median <= bounds.left))
    return found


def exported_verdicts(results: Iterable[ModelResult]) -> list[Verdict]:
    """What is asked of what ships, of the headline's model with the patches it is asked of."""
    found = []
    for result in results:
        if result.case.backbone != HEADLINE.backbone or result.case.patches not in SHIPPED_PATCHES:
            continue
        for above, below, least in SHIPPED_BOUNDS:
            if above in result.seconds and below in result.seconds:
                ratio = result.ratio(above, below)
                found.append(Verdict(str(result.case), f"{above} / {below} ≥ {least:g}", str(ratio), ratio.median >= least))
    return found


def verdicts(run: Run) -> list[Verdict]:
    """Everything that is asked, of what a run has measured."""
    of_models = (*model_verdicts(run.patched), *library_verdicts(run.library), *exported_verdicts(run.exported))
    return [*op_verdicts(run.ops), *of_models]


def verdict_table(found: Iterable[Verdict]) -> Table:
    """What was asked, what was found, and whether it holds."""
    columns = ("what", "asked", "found", "held?")
    rows = tuple((v.subject, v.asked, v.found, "held" if v.held else "MISSED") for v in found)
    return Table(_VERDICTS, columns, rows, left=columns)


def tables(run: Run) -> list[Table]:
    """The tables of a run, verdicts last."""
    shown = op_tables(run.ops, float(run.machine["copy_gb_s"]))
    if run.patched:
        shown.append(model_table(run.patched))
    if run.library:
        shown.append(library_table(run.library))
    if run.exported:
        shown.append(exported_table(run.exported))
    left_out = absence_table(run.ops)
    if left_out is not None:
        shown.append(left_out)
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
