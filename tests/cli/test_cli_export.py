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
