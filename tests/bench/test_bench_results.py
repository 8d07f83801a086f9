"""Verdicts on numbers whose answer is known; result files, and their pictures."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from torchvision_customizer.bench import plot, results, runs, tables
from torchvision_customizer.bench.memory import Memory
from torchvision_customizer.bench.results import ModelCase, ModelResult, OpResult, Run
from torchvision_customizer.bench.suite import HEADLINE, SUITE, Case, Selection
from torchvision_customizer.bench.sweep import AXES, Sweep, value_of

MACHINE = {
    "date": "2026-01-01 00:00 UTC",
    "device": "Test CPU",
    "threads": "2",
    "torch": "2.13.0",
    "ops": "native, avx2",
    "copy_gb_s": "10.0",
}
SELECTION = Selection(shapes=((32, 4, 4), (64, 2, 2)), batches=(1, 8))


def op_result(case: Case, fused: float = 0.45, eager: float = 60.0, compiled: float = 20.0, saved: int = 300) -> OpResult:
    micro = {"floor": 1.0, "limit": 0.55, "eager": eager, "compile": compiled, "torchscript": eager, "fused": fused}
    seconds = {name: [value * 1e-6 * (1 + 0.01 * i) for i in range(5)] for name, value in micro.items()}
    errors = {name: 1e-7 for name in micro if name not in ("floor", "limit")}
    return OpResult(
        case=case,
        bytes=10_000,
        sets=1,
        seconds=seconds,
        errors=errors,
        absent={"timm": "not installed"},
        memory={"eager": Memory(1000, 3000), "fused": Memory(saved, 2000)} if case.direction == "training" else {},
        other_load=0.01,
    )


def model_result(training: bool = False, fused: float = 0.99, layout: str = HEADLINE.layout) -> ModelResult:
    case = ModelCase(HEADLINE.backbone, HEADLINE.patches, 8, "fp32", layout, training, 224)
    times = {"unpatched": 1.0, "eager": 1.1, "compile": 0.95, "fused": fused}
    seconds = {name: [value * 0.1 * (1 + 0.01 * i) for i in range(5)] for name, value in times.items()}
    return ModelResult(case=case, fused_places=16, seconds=seconds, differences={"fused": 1e-6}, other_load=0.02)


def library_result(fused: float = 0.78, inference: float = 0.7, batch: int = 8) -> ModelResult:
    case = ModelCase("seresnet50", (), batch, "bf16", "channels_last", False, 224)
    times = {"eager": 1.0, "fused": fused, "inference": inference, "identity": 0.74}
    seconds = {name: [value * 0.1] * 5 for name, value in times.items()}
    return ModelResult(case=case, fused_places=32, seconds=seconds, differences={"fused": 1e-2}, other_load=0.02)


@pytest.fixture
def run() -> Run:
    found = tuple(op_result(case) for case in SELECTION.cases())
    return Run(MACHINE, {"rounds": 5, "block": "5 ms"}, found, (model_result(), model_result(training=True)))


def test_ratios_and_bandwidth_of_a_result() -> None:
    result = op_result(next(SELECTION.cases()), fused=2.0)
    assert result.ratio("fused", "floor").median == pytest.approx(2.0)
    assert result.median("floor") == pytest.approx(1.02e-6)
    assert result.bandwidth() == pytest.approx(10_000 / 2.04e-6 / 1e9)
    assert model_result().images_per_second("unpatched") == pytest.approx(8 / 0.102)


def test_all_is_held_where_all_is_well(run: Run) -> None:
    found = tables.verdicts(run)
    assert all(verdict.held for verdict in found)
    # What is asked as a median, and two rules for each shape, for each type. And two models.
    asked = [b for e in SUITE.values() for b in (e.bounds, e.backward_bounds)]
    medians = sum((b.floor is not None) + (b.compiled is not None) + bool(b.eager) for b in asked)
    assert len(found) == 2 * (medians + 2 * len(asked)) + 2


@pytest.mark.parametrize(
    ("numbers", "missed"),
    [
        ({"fused": 1.3}, "fused / floor"),
        ({"eager": 0.7}, "eager / fused ≥ 1.8, median"),
        ({"compiled": 0.8}, "compile / fused ≥ 2, median"),
        ({"eager": 0.4}, "eager / fused ≥ 1, each shape"),
        ({"compiled": 0.4}, "compile / fused ≥ 0.95, each shape"),
    ],
)
def test_a_bound_that_is_missed_is_named_with_its_number(numbers: dict[str, float], missed: str) -> None:
    case = Case("squeeze_excite", "forward", (32, 4, 4), 1, "fp32", "nchw")
    found = [verdict for verdict in tables.op_verdicts([op_result(case, **numbers)]) if not verdict.held]
    assert any(verdict.asked.startswith(missed) for verdict in found), found


def test_one_bad_shape_is_found_among_good_ones() -> None:
    good = [op_result(case) for case in SELECTION.cases() if case.dtype == "fp32" and case.direction == "forward"]
    bad = op_result(replace(good[0].case, batch=77), eager=0.2)
    missed = [verdict for verdict in tables.op_verdicts([*good, bad]) if not verdict.held]
    assert [verdict.asked for verdict in missed] == ["eager / fused ≥ 1, each shape"]
    assert missed[0].found == "worst 0.44 at 77×32×4×4 nchw; 1 of 9 below"


def test_the_headline_judges_its_own_model_only() -> None:
    assert [v.held for v in tables.model_verdicts([model_result(fused=1.01), model_result(True, fused=1.04)])] == [False, True]
    assert tables.model_verdicts([model_result(layout="nchw")]) == []


def test_a_library_model_is_judged_by_its_speed_and_by_what_is_left_of_its_attention() -> None:
    assert tables.attention_left(library_result()).median == pytest.approx(0.04 / 0.26)
    assert [verdict.held for verdict in tables.library_verdicts([library_result()])] == [True, True, True]
    slow = tables.library_verdicts([library_result(fused=0.9, inference=0.85)])
    assert [verdict.held for verdict in slow] == [False, False, False]
    assert slow[-1].found == "0.62 [0.62, 0.62], of 26% of the time"
    assert tables.library_verdicts([library_result(batch=1)]) == []


def test_a_missed_floor_says_how_near_the_limit_is() -> None:
    case = Case("squeeze_excite", "forward", (32, 4, 4), 1, "fp32", "nchw")
    (missed,) = (v for v in tables.op_verdicts([op_result(case, fused=1.3)]) if v.asked.startswith("fused / floor"))
    assert missed.found.endswith("; at 42% of the limit, which is 0.55 of the floor")


def test_saved_bytes_are_judged_at_every_shape() -> None:
    case = Case("gem_pool", "training", (32, 4, 4), 1, "fp32", "nchw")
    good, bad = op_result(case), op_result(replace(case, batch=5), saved=401)
    judged = {v.asked: v for v in tables.op_verdicts([good, bad])}["saved bytes ≤ 0.4 of eager's, each shape"]
    assert not judged.held
    assert judged.found == "at most 0.401, at 5×32×4×4 nchw"
    (table,) = tables.op_tables([good], 10.0)
    assert table.rows[0][-4:] == ("0.00", "0.30", "0.00", "0.67")


def test_a_sweep_goes_along_three_axes_and_is_not_judged() -> None:
    points = list(Sweep("eca", dtype="bf16").cases())
    for axis, values in AXES.items():
        assert tuple(value_of(axis, case) for a, case in points if a == axis) == values
    assert len(list(Sweep("eca").cases(quick=True))) == 6
    assert tables.op_verdicts([replace(op_result(case), axis=axis) for axis, case in points]) == []
    with pytest.raises(ValueError, match="'ecca'"):
        Sweep("ecca")


def test_files_hold_what_was_measured(run: Run, tmp_path: Path) -> None:
    files = runs.save(run, tmp_path / "a" / "machine", "ops", "A title")
    assert sorted(path.name for path in files) == ["ops.csv", "ops.json", "ops.md", "ops.png"]
    assert results.read(tmp_path / "a" / "machine" / "ops.json") == run
    rows = list(csv.DictReader(io.StringIO(results.to_csv(run))))
    assert len(rows) == sum(len(result.seconds) for result in (*run.ops, *run.models))
    assert float(rows[0]["median_us"]) == pytest.approx(1.02)
    page = (tmp_path / "a" / "machine" / "ops.md").read_text()
    assert page.startswith("# A title")
    assert "| held |" in page and "![A title](ops.png)" in page and "Test CPU" in page


def test_a_file_of_another_version_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="schema 0, this version reads 2"):
        results.from_json({**results.to_json(run), "schema": 0})
    json.dumps(results.to_json(run))


def test_a_disturbed_run_says_so(run: Run) -> None:
    assert not run.is_disturbed
    busy = replace(run, ops=tuple(replace(result, other_load=0.4) for result in run.ops))
    assert busy.is_disturbed
    assert "TOO MUCH" in tables.markdown(busy, "t", "p.png")


@pytest.mark.parametrize("part", ["ops", "models", "library", "sweep"])
def test_a_plot_is_a_picture(run: Run, part: str, tmp_path: Path) -> None:
    sweep = tuple(replace(op_result(case), axis=axis) for axis, case in Sweep("eca").cases())
    shown = {
        "ops": replace(run, models=()),
        "models": replace(run, ops=()),
        "library": replace(run, ops=(), models=(library_result(),)),
        "sweep": replace(run, ops=sweep, models=()),
    }[part]
    plot.draw(shown, tmp_path / "plot.png", "A title")
    data = (tmp_path / "plot.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 10_000


def test_nothing_cannot_be_drawn(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        plot.draw(replace(run, ops=(), models=()), tmp_path / "plot.png", "A title")
