"""What all tests share: quiet torch, few threads, and no network."""

import os

# One of two workers has one of two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Every test draws the same numbers, in whatever order tests run."""
    torch.manual_seed(0)
