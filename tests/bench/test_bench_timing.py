"""Statistics on numbers whose answer is known, and the order of measuring."""

from __future__ import annotations

import gc
import sys
import time

import pytest
import torch

from torchvision_customizer.bench.timing import QUICK, Settings, measure, paired_ratio, quantile, spread, steady


def test_quantiles_are_interpolated() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert [quantile(values, share) for share in (0, 0.25, 0.5, 1)] == [1.0, 1.75, 2.5, 4.0]
    assert quantile([7.0], 0.9) == 7.0
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_spread_is_median_and_quartiles() -> None:
    found = spread([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)
    assert str(found) == "3.00 [2.00, 4.00]"


def test_a_ratio_is_of_pairs_and_not_of_medians() -> None:
    """A machine that becomes four times as slow half-way through does not change the ratio of pairs."""
    slow, fast = [2.0, 2.0, 8.0, 8.0, 8.0], [1.0, 1.0, 4.0, 4.0, 4.0]
    ratio = paired_ratio(slow, fast)
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="not of one run"):
        paired_ratio([1.0], [1.0, 2.0])


def test_variants_alternate_in_blocks_and_in_random_order() -> None:
    called: list[str] = []

    def variant(name: str, seconds: float) -> None:
        called.append(name)
        time.sleep(seconds)

    settings = Settings(rounds=8, block_seconds=0.0005)
    variants = {"a": lambda: variant("a", 0.001), "b": lambda: variant("b", 0.001), "c": lambda: variant("c", 0.001)}
    found = measure(variants, settings)
    assert {name: len(times) for name, times in found.seconds.items()} == {"a": 8, "b": 8, "c": 8}
    assert all(0.001 <= seconds < 0.1 for times in found.seconds.values() for seconds in times)
    rounds = ["".join(called[-24 + 3 * i :][:3]) for i in range(8)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds), "each round has every variant"
    assert len(set(rounds)) > 1, "the order changes"
    assert 0 <= found.other_load <= 1


def test_short_calls_are_timed_many_at_once_and_garbage_is_collected_again_afterwards() -> None:
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        assert not gc.isenabled() or calls < 100_000

    measure({"count": count}, Settings(rounds=5, block_seconds=0.002))
    assert calls > 1000
    assert gc.isenabled()


def test_a_case_that_takes_too_long_stops_when_it_has_enough_rounds() -> None:
    found = measure({"sleep": lambda: time.sleep(0.01)}, Settings(rounds=1000, block_seconds=0.001, max_seconds=0.0))
    assert len(found.seconds["sleep"]) == QUICK.rounds


def test_steady_flushes_denormals_sets_threads_and_takes_both_back() -> None:
    threads = torch.get_num_threads()
    tiny = sys.float_info.min
    with steady(threads=1):
        assert torch.get_num_threads() == 1
        assert tiny / 2 == 0.0
    assert torch.get_num_threads() == threads
    assert tiny / 2 > 0.0
