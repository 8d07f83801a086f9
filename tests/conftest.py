"""What all tests share: quiet torch, few threads, and no network."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # One of two workers has one of two cores, and threads that wait must not keep the other from it. The process that starts
    # the workers has been here, and they have its variables.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import torch

_THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def _same_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test draws the same numbers and has the same threads, and no terminal, in whatever order and process tests run."""
    torch.manual_seed(0)
    monkeypatch.delenv("COLUMNS", raising=False)
    if torch.get_num_threads() != _THREADS:
        torch.set_num_threads(_THREADS)
