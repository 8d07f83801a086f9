"""The tests of ops in other processes: with each instruction set, and with no native library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchvision_customizer import ops

NUMBERS = "(agrees_with_float64 and not reference) or identity or special or any_bits or saturate"
NUMBERS += " or known_means or large_and_small or (every_schedule and (three_shared or more_rows or 1x1))"


def run_tests(select: str, **environment: str) -> None:
    """The tests of ops once more, in a process of another environment."""
    here = Path(__file__).parent
    own = [f"test_{name}.py" for name in ops.OPS if not name.startswith("_")]
    files = [str(here / name) for name in ("test_every_op.py", *own, "test_library.py", Path(__file__).name)]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", select, *files]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]


def test_the_instruction_set_is_the_one_that_was_asked_for() -> None:
    wanted = os.environ.get("TVC_INSTRUCTION_SET", "")
    assert ops.native_status().instruction_set == wanted or not wanted or not ops.native_status().cpu_loaded


def other_sets() -> list[str]:
    """The sets that this machine runs and this process does not."""
    if not ops.native_status().cpu_loaded:
        return []
    built = ops.native_status().build["instruction_sets"].split()
    return built[: built.index(ops.native_status().instruction_set)]


def test_the_numbers_of_other_instruction_sets() -> None:
    if not other_sets():
        pytest.skip("no other instruction set: the native library is missing, or this process runs its first one")
    for name in other_sets():
        run_tests(f"instruction_set_is or {NUMBERS}", TVC_INSTRUCTION_SET=name)


def test_without_native_library() -> None:
    run_tests("test_library or agrees_with_float64 or errors_are or identity or strides", TVC_DISABLE_NATIVE="1")


@pytest.mark.full
def test_everything_without_native_library() -> None:
    run_tests("not without_native and not other_instruction_sets", TVC_DISABLE_NATIVE="1")
