"""Timing by pairs: variants alternate in short blocks within one run, so that what disturbs the machine disturbs all of them.

``torch.utils.benchmark.Timer`` gives the clock, which waits for an accelerator to finish. Its own loop is not used: it measures
one statement to the end before the next one starts, and a ratio of two such figures drifts with the machine.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.benchmark import timer

WARM_UP_CALLS = 3
#: Below this many rounds quartiles say nothing; a case that is over its time goes on until it has them.
MIN_ROUNDS = 5


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    Attributes:
        rounds: pairs that are measured; each round is one block of every variant, in random order.
        block_seconds: how long a block should last. A call that lasts longer is a block by itself.
        max_seconds: after about this long no new round of a case is begun, once there are ``MIN_ROUNDS``.
        seed: of the order of variants.
    """

    rounds: int = 15
    block_seconds: float = 0.005
    max_seconds: float = 20.0
    seed: int = 0


USUAL = Settings()
QUICK = Settings(rounds=MIN_ROUNDS, block_seconds=0.002, max_seconds=3.0)


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some values."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lies, interpolated between neighbours.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("quantile: there are no values")
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = math.ceil(position)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    return Spread(quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75))


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Median and quartiles of the ratios of values that were measured in the same round.

    Raises:
        ValueError: the two are not of one run.
    """
    if len(numerator) != len(denominator):
        raise ValueError(f"paired_ratio: {len(numerator)} values and {len(denominator)} are not of one run")
    return spread([above / below for above, below in zip(numerator, denominator, strict=True)])


@dataclass(frozen=True)
class Samples:
    """What :func:`measure` found.

    Attributes:
        seconds: for each variant its seconds a call, one figure a round; figures of equal index are of the same round.
        other_load: how busy other work kept the processors meanwhile, as a share of all of them.
    """

    seconds: dict[str, list[float]]
    other_load: float


def measure(variants: Mapping[str, Callable[[], object]], settings: Settings = USUAL) -> Samples:
    """Time every variant, alternating.

    Each variant is warmed up first; before each block it is called once untimed, so that a block does not pay for what the
    variant before it did to the caches. What is returned by a call is dropped, and its memory freed, before the next one.

    Args:
        variants: what to time, by name.
        settings: how long.
    """
    calls = {name: _calls_in_a_block(run, settings.block_seconds) for name, run in variants.items()}
    samples: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    shuffle = random.Random(settings.seed).shuffle
    start = timer()
    with _no_garbage_collection(), _OtherLoad() as load:
        for number in range(settings.rounds):
            if number >= MIN_ROUNDS and timer() - start > settings.max_seconds:
                break
            shuffle(order)
            for name in order:
                if calls[name] > 1:  # a call as long as a block fills the caches with its own data
                    variants[name]()
                samples[name].append(_time(variants[name], calls[name]))
    return Samples(samples, load.share)


def _time(run: Callable[[], object], calls: int) -> float:
    start = timer()
    for _ in range(calls):
        run()
    return (timer() - start) / calls


def _calls_in_a_block(run: Callable[[], object], block_seconds: float) -> int:
    """Warm up, and find how many calls last about ``block_seconds``."""
    for _ in range(WARM_UP_CALLS):
        run()
    calls, seconds = 1, _time(run, 1)
    while seconds * calls < block_seconds / 2 and calls < 1 << 20:
        calls *= 2
        seconds = _time(run, calls)
    return max(1, round(block_seconds / max(seconds, 1e-9)))


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def steady(threads: int | None = None) -> Iterator[None]:
    """Denormals flushed to zero and, where given, this many threads; both as before afterwards.

    Threads inherit the flag when they start, so open this before any parallel work.
    """
    tiny = sys.float_info.min
    flushed, before = tiny / 2 == 0.0, torch.get_num_threads()
    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(before)


class _OtherLoad:
    """How busy everything else kept the processors while this was open: ``share`` of all of them, 0 where it cannot be told.

    Two threads of which one waits for its processor take milliseconds for what lasts microseconds, in one variant more than in
    another: a figure measured next to other work is none.
    """

    _STATISTICS = Path("/proc/stat")

    def __init__(self) -> None:
        self.share = 0.0

    def __enter__(self) -> _OtherLoad:
        self._start = self._seconds()
        return self

    def __exit__(self, *_: object) -> None:
        elapsed, busy, own = (after - before for after, before in zip(self._seconds(), self._start, strict=True))
        if elapsed > 0:
            self.share = max(0.0, busy - own) / (elapsed * (os.cpu_count() or 1))

    def _seconds(self) -> tuple[float, float, float]:
        """Now, what all processors have worked so far, and what this process and those that it has waited for have of it."""
        own = os.times()
        busy = 0.0
        if self._STATISTICS.is_file():
            user, nice, system, _, _, irq, softirq, steal = map(int, self._STATISTICS.read_text().split()[1:9])
            busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy, own.user + own.system + own.children_user + own.children_system
