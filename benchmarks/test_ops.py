"""The op suite under pytest-benchmark: ``pytest benchmarks --benchmark-enable``, and ``-m ''`` for all shapes.

Each variant is timed to the end before the next one begins. For ratios use ``tvc benchmark --ops``, whose variants alternate.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from torchvision_customizer.bench.op_suite import conditions, prepare
from torchvision_customizer.bench.suite import EAGER, FLOOR, FUSED, QUICK_SELECTION, Case, Selection
from torchvision_customizer.bench.timing import steady


def cases() -> Iterator[object]:
    quick = set(QUICK_SELECTION.cases())
    for case in Selection().cases():
        yield pytest.param(case, id=str(case).replace(" ", "-"), marks=() if case in quick else pytest.mark.full)


@pytest.mark.parametrize("variant", [FLOOR, EAGER, FUSED])
@pytest.mark.parametrize("case", list(cases()))
def test_op(benchmark: BenchmarkFixture, case: Case, variant: str) -> None:
    benchmark.group = str(case)
    with steady(), conditions(case):
        prepared = prepare(case, (variant,))
        benchmark.extra_info.update(bytes=prepared.bytes, error=prepared.errors.get(variant))
        benchmark(prepared.calls[variant])
