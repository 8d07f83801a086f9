"""tvc diff."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import torchvision_customizer as tvc
from torchvision_customizer.cli import main

SE = ["--patch", "layer4=inject:se"]


def diff(*args: str) -> Result:
    return CliRunner().invoke(main, ["diff", *args])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "saved"
    return tvc.save(tvc.HybridBuilder().from_torchvision("resnet18", weights=None), folder)


def test_random_weights_are_no_difference() -> None:
    result = diff("resnet18", "resnet18")
    assert (result.exit_code, result.stdout) == (0, "ResNet: no difference, 11,689,512 parameters\n"), result.stderr


def test_what_a_patch_does() -> None:
    result = diff("resnet18", "resnet18", *SE)
    assert result.exit_code == 0, result.stderr
    assert "+ layer4.1.se: SEBlock(" in result.stdout
    assert "layer4: 8,393,728 -> 8,460,352 (+66,624)" in result.stdout


def test_tree() -> None:
    result = diff("resnet18", "resnet34", "--tree")
    assert result.exit_code == 0, result.stderr
    assert "└── + 2: BasicBlock, 73,984 parameters" in result.stdout


def test_json() -> None:
    values = json.loads(diff("resnet18", "resnet18", *SE, "--json").stdout)
    assert not values["equal"] and not values["values_compared"]
    assert {module["mark"] for module in values["modules"]} == {"+"}


def test_folders(saved: Path, tmp_path: Path) -> None:
    """Of two folders the values are compared; of a folder and a name they are not."""
    model = tvc.load(saved)
    with torch.no_grad():
        model.get_parameter("fc.bias").add_(1)
    other = tvc.save(model, tmp_path / "other")
    result = diff(str(saved), str(other))
    assert result.exit_code == 0, result.stderr
    assert "~ fc.bias: parameter float32 [1000], 1,000 values differ, by up to 1" in result.stdout
    values = json.loads(diff(str(saved), str(other), *SE, "--json").stdout)
    assert values["values_compared"] and {module["mark"] for module in values["modules"]} == {"+"}
    assert "no difference" in diff(str(saved), "resnet18").stdout


@pytest.mark.parametrize(
    "args, code, message",
    [
        (["resnet18"], 2, "Missing argument 'B'"),
        (["resnte18", "resnet18"], 2, "Invalid value for A: unknown backbone 'resnte18', did you mean 'resnet18'?"),
        (["resnet18", "resnte18"], 2, "Invalid value for B: unknown backbone 'resnte18', did you mean 'resnet18'?"),
        (
            ["resnet18", "resnet18", "--patch", "layer4=inject:see"],
            2,
            "--patch 1: inject: unknown block 'see', did you mean 'se'",
        ),
        (["resnet18", "./nowhere"], 1, "Error: nowhere is not a saved model: it has no recipe.yaml"),
    ],
)
def test_errors(args: list[str], code: int, message: str) -> None:
    result = diff(*args)
    assert result.exit_code == code
    assert message in result.stderr
