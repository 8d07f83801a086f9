"""What the installed libraries ask of the system they run on: the part of the wheel's audit that needs no wheel."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from try_wheel import problems

from torchvision_customizer import ops

STATUS = ops.native_status()


def libraries() -> list[Path]:
    if (native := importlib.util.find_spec("torchvision_customizer._native")) is None or native.origin is None:
        pytest.skip("this is a pure-Python installation")
    folder = Path(native.origin).parent
    return [Path(native.origin), *folder.glob("libtvc_ops*.so")]


def test_they_need_torch_and_the_system_only() -> None:
    assert len(libraries()) >= 2
    assert {path.name: problems(path) for path in libraries()} == {path.name: [] for path in libraries()}


def test_the_audit_finds_an_openmp_runtime_and_a_search_path() -> None:
    """Torch's own library has both."""
    found = problems(Path(torch.__file__).parent / "lib/libtorch_cpu.so")
    assert any("omp" in problem for problem in found) and any(problem.startswith("searches") for problem in found)
