"""The version stands in pyproject.toml, and everything else asks for it."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import torchvision_customizer as tvc
from torchvision_customizer import cli

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SOURCES = {".py", ".cpp", ".cu", ".cuh", ".h", ".cmake", ".in", ".json", ".md", ".toml", ".txt", ".yaml"}


def test_it_stands_nowhere_else() -> None:
    release = re.match(r"\d+\.\d+\.\d+", VERSION)
    assert release is not None
    written = re.compile(rf"(?<![\d.]){re.escape(release[0])}(?![\d])")
    assert written.search((ROOT / "pyproject.toml").read_text())
    files = [ROOT / name for name in ("README.md", "CMakeLists.txt", "Makefile")]
    for folder in ("python", "csrc", "recipes", "examples", "tests", "benchmarks"):
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in SOURCES and "results" not in path.parts]
    assert len(files) > 100
    assert [str(path.relative_to(ROOT)) for path in files if written.search(path.read_text())] == []


def test_who_asks_gets_it(tmp_path: Path) -> None:
    assert version("torchvision-customizer") == VERSION  # where this fails, install anew: pyproject.toml has changed
    assert tvc.__version__ == VERSION
    assert CliRunner().invoke(cli.main, ["--version"]).output == f"{VERSION}\n"
    report = json.loads(CliRunner().invoke(cli.main, ["doctor", "--json"]).output)
    assert report["versions"]["torchvision-customizer"] == VERSION
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1)).eval()
    tvc.export(model, tmp_path / "model.pt", example_input=torch.randn(1, 3, 8, 8), verify=False)
    extra = {"torchvision_customizer.json": ""}
    torch.jit.load(str(tmp_path / "model.pt"), _extra_files=extra)
    assert json.loads(extra["torchvision_customizer.json"])["torchvision_customizer"] == VERSION


def test_the_libraries_were_built_from_it() -> None:
    status = tvc.ops.native_status()
    if not status.cpu_loaded:
        pytest.skip(f"no native library: {status.cpu_reason}")
    assert status.build["version"] == VERSION
