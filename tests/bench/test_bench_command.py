"""``tvc benchmark`` end to end, on small things."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from torchvision_customizer.bench import results, runs
from torchvision_customizer.bench.results import ModelCase
from torchvision_customizer.bench.suite import Case, Selection
from torchvision_customizer.cli import main

OPS = ("benchmark", "--ops", "--quick", "--rounds", "2", "--shape", "32x5x5", "--batch", "2")
MODEL = ("benchmark", "--quick", "--rounds", "2", "--backbone", "resnet18", "--input-size", "64", "--batch", "2")


def tvc(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_ops_are_measured_printed_and_drawn(tmp_path: Path) -> None:
    result = tvc(*OPS, "--op", "squeeze_excite", "--dtype", "fp32,bf16", "--plot", str(tmp_path / "ops.png"))
    assert result.exit_code == 0, result.output
    assert "squeeze_excite, forward, warm cache" in result.output
    assert result.output.count("2×32×5×5") >= 2
    assert (tmp_path / "ops.png").stat().st_size > 10_000


def test_json_holds_every_sample() -> None:
    result = tvc(*OPS, "--json", "--training", "--op", "eca,cbam", "--dtype", "fp32", "--nchw", "--cache", "warm")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    run = results.from_json(values)
    assert [r.case for r in run.ops] == [
        Case(name, direction, (32, 5, 5), 2, "fp32", "nchw")
        for name in ("eca", "cbam")
        for direction in ("backward", "training")
    ]
    assert all(r.memory["fused"].saved > 0 for r in run.ops if r.case.direction == "training")
    assert all(len(samples) == 2 for r in run.ops for samples in r.seconds.values())
    assert {verdict["held"] for verdict in values["verdicts"]} <= {True, False}


@pytest.mark.parametrize("training", [False, True])
def test_a_model_is_compared_with_the_unpatched_one(training: bool) -> None:
    result = tvc(*MODEL, "--json", *(["--training"] if training else ["--channels-last"]))
    assert result.exit_code == 0, result.output
    (found,) = results.from_json(json.loads(result.stdout)).models
    assert found.fused_places == 8
    variants = {"unpatched", "eager", "fused"}
    assert set(found.seconds) == variants | (set() if training else {"inference", "torchscript"})
    assert set(found.differences) == set(found.seconds) - {"unpatched", "eager"}
    assert 0 <= found.differences["fused"] < 1e-3
    assert set(found.memory) == ({"unpatched", "eager", "fused"} if training else set())


def test_a_library_model_is_compared_with_itself(tmp_path: Path) -> None:
    options = ("--quick", "--rounds", "2", "--input-size", "64", "--batch", "2", "--dtype", "fp32")
    result = tvc("benchmark", "--models", *options, "--model", "mobilenet_v3_large", "--json")
    assert result.exit_code == 0, result.output
    (found,) = results.from_json(json.loads(result.stdout)).library
    assert set(found.seconds) == {"eager", "fused", "inference", "identity"}
    assert set(found.differences) == {"fused", "inference"}
    assert found.fused_places >= 8


@pytest.mark.full
def test_a_sweep_is_printed_by_axis(tmp_path: Path) -> None:
    result = tvc("benchmark", "--sweep", "--quick", "--rounds", "2", "--op", "eca", "--plot", str(tmp_path / "sweep.png"))
    assert result.exit_code == 0, result.output
    assert all(f"eca, forward, warm cache, by {axis}" in result.output for axis in ("batch", "channels", "resolution"))
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_check_fails_where_less_was_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision_customizer.bench.tables.EACH_SHAPE", {"eager": 1e9})
    assert tvc(*OPS, "--op", "squeeze_excite", "--dtype", "fp32", "--check").exit_code == 1


@pytest.mark.full
def test_the_whole_set_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = Selection(("eca",), shapes=((32, 5, 5),), batches=(2,), dtypes=("fp32",), layouts=("channels_last",))
    monkeypatch.setattr(runs, "QUICK_SELECTION", small)
    cases = [
        ModelCase("resnet18", ("layer4=inject:se",), 2, "fp32", "channels_last", training, 64) for training in (False, True)
    ]
    monkeypatch.setattr(runs, "headline_cases", lambda training: [cases[training]])
    monkeypatch.setattr("torchvision_customizer.cli.benchmark.BACKBONE", "resnet18")
    monkeypatch.setattr("torchvision_customizer.bench.op_suite.last_level_cache", lambda device: 100_000)
    parts = [part for part in runs.PARTS if part not in ("sweep", "exported") and not part.startswith("library")]  # alone
    result = tvc("benchmark", "--results", str(tmp_path), "--quick", "--rounds", "2", "--part", ",".join(parts))
    assert result.exit_code == 0, result.output
    (machine,) = tmp_path.iterdir()
    names = {f"{name}.{kind}" for name in parts for kind in ("json", "csv", "md", "png")}
    assert {path.name for path in machine.iterdir()} == names
    assert {r.case.direction for r in results.read(machine / "ops-training.json").ops} == {"training"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ops", "--op", "squeeze_exite"), "got 'squeeze_exite', did you mean 'squeeze_excite'?"),
        (("--ops", "--shape", "256"), "CHANNELSxLENGTH for tokens, got '256'"),
        (("--ops", "--network", "resnet"), "got 'resnet', did you mean 'resnet50'?"),
        (("--models", "--model", "resnet50"), "must be one of efficientnet_b0"),
        (("--ops", "--fused"), "name one of them"),
        (("--dtype", "fp8"), "fp8"),
        (("--batch", "0"), "0"),
        (("--patch", "layr4=inject:se"), "layer4"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    result = tvc("benchmark", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
