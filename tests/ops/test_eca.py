"""What ``tvc::eca`` promises beyond what every op does: exact identities, NaN, schedules, FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from samples import DTYPES, GATES, SCHEDULES, Layout, Sample, channels_last, contiguous, eca_arguments
from test_every_op import compare_with_oracle, counted
from torch import Tensor

from torchvision_customizer import ops

reference = ops.OPS["eca"].reference
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
both_layouts = pytest.mark.parametrize("layout", [contiguous, channels_last], ids=lambda layout: layout.__name__)


@dtypes
@both_layouts
@pytest.mark.parametrize("gate", ["two_sigmoid", "tanh1p"])
def test_a_gate_of_zeros_is_an_exact_identity(dtype: torch.dtype, layout: Layout, gate: str) -> None:
    x = layout((torch.randn(3, 20, 7, 5) * 100).to(dtype))
    residual = layout(torch.randn(3, 20, 7, 5).to(dtype))
    weight = torch.zeros(3, dtype=dtype)
    assert torch.equal(ops.eca(x, weight, gate), x)
    assert torch.equal(ops.eca(x, weight, gate, residual, "relu"), torch.relu(x + residual))


@pytest.mark.parametrize("taps", [1, 3, 5, 41, 43])
def test_the_gates_are_those_of_a_convolution_over_channels(taps: int) -> None:
    """In the order of torch's convolution, with zeros beyond the first and the last channel."""
    x, weight = torch.randn(2, 21, 4, 4), torch.randn(taps)
    gates = torch.nn.functional.conv1d(x.mean((2, 3)).unsqueeze(1), weight.view(1, 1, -1), padding=taps // 2).squeeze(1)
    torch.testing.assert_close(ops.eca(x, weight), x * gates.sigmoid()[:, :, None, None])


@dtypes
@both_layouts
@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_special_values_of_x_spread_as_in_the_reference(dtype: torch.dtype, layout: Layout, special: float) -> None:
    for gate in GATES:
        arguments = eca_arguments((2, 20, 3, 7), dtype, layout=layout, gate=gate, taps=5)
        arguments["x"][0, 3, 1, 2] = special
        got = ops.eca(**arguments)
        want = reference(**{k: v.double() if isinstance(v, Tensor) else v for k, v in arguments.items()})
        assert torch.equal(got.isnan(), want.isnan()) and torch.equal(got.isinf(), want.isinf()), gate
        torch.testing.assert_close(got[1].double(), want[1], rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, -1, 0x7FC00000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_nan_of_any_bits_in_the_weight_stays_one(bits: int, dtype: torch.dtype) -> None:
    arguments = eca_arguments((1, 20, 3, 3), dtype, weights=torch.float32)
    arguments["weight"][1] = torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32)
    leaves = Sample("nan", arguments).leaves()
    out = ops.eca(**leaves)
    out.float().sum().backward()
    assert out.isnan().all() and leaves["x"].grad.isnan().all()


@both_layouts
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_schedule(name: str, count: int, layout: Layout, threads: Callable[[int], None]) -> None:
    threads(count)
    for post in ("none", "relu", "silu"):
        options: dict[str, Any] = {"layout": layout, "post": post, "residual": None if post == "none" else layout}
        arguments = eca_arguments(SCHEDULES[name], torch.float32, taps=5, **options)
        compare_with_oracle("eca", Sample(post, arguments, layout, tolerance=2e-5))  # sums of 10^4 terms that cancel


def test_flops_are_those_of_the_convolution() -> None:
    arguments = eca_arguments((3, 24, 7, 5), torch.float32, taps=5)
    assert counted(lambda: ops.eca(**arguments)) == 2 * 3 * 24 * 5
