"""The source distribution: all that a build needs and nothing that a build left behind, and a wheel from it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT = {".so", ".o", ".pyc"}


def build(kind: str, source: Path, target: Path, **environment: str) -> Path:
    """What scikit-build-core makes of ``source``; ``pip`` calls the same."""
    code = f"import sys; from scikit_build_core.build import {kind}; print({kind}(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(target)]
    full = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    done = subprocess.run(command, cwd=source, env=full, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("build_sdist", ROOT, place)) as archive:
        archive.extractall(place, filter="data")
    (folder,) = (path for path in place.iterdir() if path.is_dir())
    return folder


def sources(root: Path) -> set[str]:
    folders = [root / name for name in ("python/torchvision_customizer", "csrc", "recipes", "examples", "tests")]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix not in BUILT]
    return {str(path.relative_to(root)) for path in paths if "results" not in path.parts and "__pycache__" not in path.parts}


def test_it_holds_the_sources_and_nothing_built(unpacked: Path) -> None:
    assert sources(unpacked) == sources(ROOT)
    for name in ("pyproject.toml", "CMakeLists.txt", "Makefile", "constraints.txt", "LICENSE", "README.md", "CHANGELOG.md"):
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes(), name
    assert [str(path) for path in unpacked.rglob("*") if path.suffix in BUILT or path.name == "results"] == []


def test_a_wheel_from_it_without_a_compiler_works(unpacked: Path, tmp_path: Path) -> None:
    wheel = build("build_wheel", unpacked, tmp_path, TVC_NATIVE="0", PATH="/nowhere")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "wheel")
        names = set(archive.namelist())
    package = {name.removeprefix("python/") for name in sources(ROOT) if name.startswith("python/")}
    recipes = {f"torchvision_customizer/{name}" for name in sources(ROOT) if name.startswith("recipes/")}
    assert {name for name in names if ".dist-info/" not in name} == package | recipes
    # An editable installation is found before PYTHONPATH is looked at.
    code = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "ScikitBuildRedirectingFinder"]
import torchvision_customizer as tvc
print(tvc.__file__, tvc.__version__, len(tvc.ops.OPS) > 0, tvc.ops.native_status().cpu_reason, sep="|")
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TVC_")}
    environment["PYTHONPATH"] = str(tmp_path / "wheel")
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    file, version, ops, reason = done.stdout.strip().split("|")
    assert Path(file).is_relative_to(tmp_path / "wheel") and wheel.name.split("-")[1] == version and ops == "True"
    assert reason == "this is a pure-Python installation (built with TVC_NATIVE=0)"
