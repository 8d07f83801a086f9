"""The traffic that ``limit`` times is traffic that happens."""

from __future__ import annotations

import pytest
import torch

from torchvision_customizer.bench import limit

REASON = limit.reason_without("cpu")
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no limit: {REASON}")


@pytest.mark.parametrize("shape", [(1, 64, 9, 9), (3, 64, 7, 7), (8, 16, 5, 3), (33, 2, 1, 1), (2, 512, 96, 96)])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_word_is_read_and_written_once(shape: tuple[int, ...], threads: int) -> None:
    # Bytes below 64: their sums carry nothing from one to the next, however many are added at once.
    x, residual = (torch.randint(64, shape, dtype=torch.uint8) for _ in range(2))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        turned, added = limit.traffic(x, None, 2, True)(), limit.traffic(x, residual, 1, True)()
    finally:
        torch.set_num_threads(before)
    assert turned is not None and added is not None
    torch.testing.assert_close(turned, ~x, rtol=0, atol=0)
    torch.testing.assert_close(added, x + residual, rtol=0, atol=0)


def test_a_pool_writes_nothing() -> None:
    assert limit.traffic(torch.ones(2, 3, 4, 4), None, 1, False, [torch.ones(5)])() is None


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="positive samples"):
        limit.traffic(torch.ones(2, 3, 4, 4), None, 0, False)()
