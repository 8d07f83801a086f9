"""A training that is killed at any moment goes on from its last checkpoint, and ends with the weights of one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate")
FORKED = Path(__file__).with_name("forked.py")


def run(folder: Path, count: int) -> dict[str, Any]:
    # Workers of killed processes live on for seconds, and would hold a pipe open.
    with (folder / "log").open("w") as log:
        subprocess.run([sys.executable, FORKED, "kills", str(count), folder], check=True, stdout=log, stderr=log, timeout=500)
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("kills"), 3)


def check(found: dict[str, Any], count: int) -> None:
    expected = found["undisturbed"]["0"]
    assert expected["code"] == 0 and expected["last"] == "step-00000018" and len(expected["rows"]) == 3
    assert len(found["killed"]) == count
    for killed in found["killed"]:
        assert (killed["code"], killed["resumed"]) == (-9, 0), killed
        for key in ("digests", "rows", "last", "best", "checkpoints"):
            assert killed[key] == expected[key], (killed["at"], key)


def test_killed_at_random_moments_it_ends_the_same(found):
    """Weights, their moving average, the optimizer's state, metrics and kept checkpoints; with and without workers."""
    check(found, 3)


def test_workers_change_nothing(found):
    assert found["undisturbed"]["0"] == found["undisturbed"]["2"]


@pytest.mark.full
def test_killed_at_twenty_random_moments_it_ends_the_same(tmp_path):
    found = run(tmp_path, 20)
    check(found, 20)
    left = [name for killed in found["killed"] for name in killed["left"]]
    assert any(name.startswith(".draft") for name in left), "none was killed while it wrote a checkpoint"
    within = [killed for killed in found["killed"] if killed["left"] and not killed["left"][-1].startswith(".")]
    assert any(int(killed["left"][-1][-2:]) % 6 for killed in within), "none was killed in the middle of an epoch"


def test_without_accelerate_it_says_what_to_install(found):
    assert found["without accelerate"].endswith("pip install torchvision-customizer[train]")
