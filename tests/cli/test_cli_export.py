"""tvc export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from torchvision_customizer import ops
from torchvision_customizer.cli import main

MODEL = ["--backbone", "resnet18", "--num-classes", "10", "--input-size", "64"]
SE = ["--patch", "layer*=inject:se"]
native = pytest.mark.skipif(
    not ops.native_status().cpu_loaded, reason=f"a file with tvc ops needs libtvc_ops: {ops.native_status().cpu_reason}"
)


def export(*args: str) -> Result:
    return CliRunner().invoke(main, ["export", *args])


@native
def test_patched_and_fused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    result = export(*MODEL, *SE, "--output", str(path))
    assert result.exit_code == 0, result.stderr
    assert path.exists()
    assert "fused 8 tails" in result.stdout
    assert "agrees with eager in a fresh process" in result.stdout
    assert str(ops.native_status().library_path) in result.stdout.replace("\n", "")
    assert "Error" not in result.stderr and "deprecated" not in result.stderr


@native
def test_json(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    result = export(*MODEL, *SE, "--no-fuse", "--no-verify", "--output", str(path), "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["path"] == str(path) and report["bytes"] == path.stat().st_size
    assert report["fused"] is None and report["verification"] is None
    assert report["ops"] == ["tvc::squeeze_excite"]
    shown = CliRunner().invoke(main, ["inspect", str(path)])
    assert shown.exit_code == 0, shown.stderr
    assert f'torch.ops.load_library("{ops.native_status().library_path}")' in shown.stdout.replace("\n", "")


def test_unpatched_needs_only_torch(tmp_path: Path) -> None:
    result = export(*MODEL, "--output", str(tmp_path / "model.pt"), "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["libraries"] == [] and report["verification"]["passed"]
    assert [c["input_shape"] for c in report["verification"]["comparisons"]] == [[n, 3, 64, 64] for n in (1, 2, 5)] * 2


@pytest.mark.skipif(ops.native_status().cpu_loaded, reason="the native library is loaded")
def test_ops_without_the_library(tmp_path: Path) -> None:
    result = export(*MODEL, *SE, "--output", str(tmp_path / "model.pt"))
    assert result.exit_code == 1
    assert "libtvc_ops" in result.stderr
    assert not list(tmp_path.iterdir())


def test_no_folder(tmp_path: Path) -> None:
    result = export(*MODEL, "--output", str(tmp_path / "nowhere" / "model.pt"))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"Error: export: there is no folder {tmp_path / 'nowhere'}"
    assert "Warning: the weights are random" in result.stderr


def test_unknown_format(tmp_path: Path) -> None:
    result = export(*MODEL, "--output", str(tmp_path / "model.pt"), "--format", "onx")
    assert result.exit_code == 2
    assert "Invalid value for '--format': must be one of torchscript, pt2, " in result.stderr


def test_wrong_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that computes something else is not kept, and the message has the numbers."""
    import torch
    from torch import Tensor, nn

    from torchvision_customizer.deploy import torchscript

    script = torch.jit.script

    class Shifted(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x) + 0.1

    monkeypatch.setattr(torchscript.torch.jit, "script", lambda model: script(Shifted(model)))
    result = export(*MODEL, "--output", str(tmp_path / "model.pt"))
    assert result.exit_code == 1
    assert "model.pt differs from eager" in result.stderr and "largest difference 0.1" in result.stderr
    assert not list(tmp_path.iterdir())


def test_portable_with_all_options(tmp_path: Path) -> None:
    path, classes = tmp_path / "model.pt2", tmp_path / "classes.txt"
    classes.write_text("\n".join(f"class {number}" for number in range(10)) + "\n")
    options = ["--format", "pt2", "--portable", "--batch-size", "2", "--dtype", "bf16", "--channels-last", "--fold-norms"]
    images = ["--mean", "0.4,0.5,0.6", "--std", "0.2,0.2,0.2", "--resize", "72", "--classes", str(classes)]
    result = export(*MODEL, *SE, *options, *images, "--output", str(path), "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["libraries"] == [] and report["ops"] == []
    assert [(c["inputs"], c["input_shape"]) for c in report["verification"]["comparisons"]] == [
        ("noise", [2, 3, 64, 64]),
        ("photographs", [2, 3, 64, 64]),
    ]
    shown = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--json"]).stdout)
    assert shown["input_shape"] == [2, 3, 64, 64] and shown["input_dtype"] == "bfloat16" and shown["channels_last"]
    assert shown["preprocessing"]["crop"] == 64 and shown["preprocessing"]["resize"] == 72
    assert shown["preprocessing"]["mean"] == [0.4, 0.5, 0.6] and shown["classes"][9] == "class 9"
    as_text = CliRunner().invoke(main, ["inspect", str(path)])
    assert as_text.exit_code == 0 and "2×3×64×64, bfloat16, channels last" in as_text.stdout


def test_saved_folder_and_what_its_recipe_says(tmp_path: Path) -> None:
    """A saved model knows the section ``export`` of its recipe; what the command line says goes first."""
    from torchvision_customizer import Recipe, build_recipe, save

    recipe = {
        "input_shape": [1, 28, 28],
        "stem": {"type": "simple", "channels": 8},
        "stages": [{"pattern": "conv+se", "channels": 8, "blocks": 1}],
        "head": {"type": "linear", "num_classes": 2},
        "export": {
            "format": "onnx",
            "opset": 18,
            "fused": False,
            "dtype": "bf16",
            "verify": False,
            "mean": [0.1],
            "std": [0.3],
        },
    }
    save(build_recipe(Recipe.from_dict(recipe)), tmp_path / "saved")
    path = tmp_path / "model.pt2"
    result = export("--model", str(tmp_path / "saved"), "--output", str(path), "--format", "pt2", "--dtype", "fp32", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["format"] == "pt2" and report["ops"] == [] and report["verification"] is None
    shown = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--json"]).stdout)
    assert shown["input_dtype"] == "float32" and shown["preprocessing"]["mean"] == [0.1]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--model", "saved", *MODEL[:2]], "--backbone says how a model is built, and --model saved is one that was saved"),
        ([*MODEL, "--mean", "a,b"], "expected numbers with commas between them, got 'a,b'"),
        ([*MODEL, "--mean", "0.5,0.5,0.5"], "--mean and --std are both needed"),
        ([*MODEL, "--mean", "0.5", "--no-preprocessing"], "--no-preprocessing contradicts"),
        ([*MODEL, "--dtype", "fp8"], "'fp8' is not one of"),
    ],
)
def test_wrong_usage(options: list[str], message: str, tmp_path: Path) -> None:
    result = export(*options, "--output", str(tmp_path / "model.pt"))
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_option_of_another_format(tmp_path: Path) -> None:
    result = export(*MODEL, "--opset", "18", "--output", str(tmp_path / "model.pt"))
    assert result.exit_code == 1
    assert "opset is not an option of torchscript" in result.stderr


def test_inspect_of_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"PK damaged")
    result = CliRunner().invoke(main, ["inspect", str(path)])
    assert result.exit_code == 1 and "is no exported model, or a damaged one" in result.stderr
