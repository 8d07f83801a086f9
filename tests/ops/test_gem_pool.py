"""What ``tvc::gem_pool`` promises beyond what every op does: known means, eps, NaN, large and small values, schedules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from samples import DTYPES, P_GRADIENT_TOLERANCE, SCHEDULES, Layout, Sample, channels_last, contiguous, gem_pool_arguments
from test_every_op import compare_with_oracle
from torch import Tensor

from torchvision_customizer import ops

reference = ops.OPS["gem_pool"].reference
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
both_layouts = pytest.mark.parametrize("layout", [contiguous, channels_last], ids=lambda layout: layout.__name__)
powers = pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 4.0, 2.5, 7.0, -1.0])


@both_layouts
def test_known_means(layout: Layout) -> None:
    x = layout(torch.rand(3, 20, 7, 5) + 0.1)
    dims = (2, 3)

    def pooled(p: float) -> Tensor:
        return ops.gem_pool(x, torch.tensor([p]))

    torch.testing.assert_close(pooled(1.0), x.mean(dims))
    torch.testing.assert_close(pooled(-1.0), 1 / (1 / x).mean(dims))
    torch.testing.assert_close(pooled(2.0), (x * x).mean(dims).sqrt())
    torch.testing.assert_close(pooled(60.0), x.amax(dims), rtol=0.07, atol=0)


@powers
@dtypes
def test_one_power_for_all_is_the_same_power_for_each(p: float, dtype: torch.dtype) -> None:
    x = torch.rand(2, 20, 7, 5).to(dtype)
    one, each = (torch.full((n,), p).to(dtype).requires_grad_() for n in (1, 20))
    # Exactly so by the kernels; the references have torch's pow, which may round one exponent for all in another way.
    tolerance = {"rtol": 0, "atol": 0} if ops.native_status().cpu_loaded else {}
    torch.testing.assert_close(ops.gem_pool(x, one), ops.gem_pool(x, each), **tolerance)
    ops.gem_pool(x, one).sum().backward()
    ops.gem_pool(x, each).sum().backward()
    torch.testing.assert_close(one.grad, each.grad.float().sum(0, keepdim=True).to(dtype), rtol=2e-2, atol=1e-4)


@both_layouts
@powers
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-7, 1e-3, 1e3, 1e8, 1e13, 1e30])
def test_large_and_small_values_are_those_of_the_reference(scale: float, p: float, layout: Layout) -> None:
    """Overflow and underflow of the powers included: subnormal sums lose digits, and in either case the same way."""
    for eps in (1e-6, 1e-40):
        x, power = layout(torch.rand(2, 5, 4, 5) * scale), torch.tensor([p])
        got, want = ops.gem_pool(x, power, eps), reference(x, power, eps)
        sums = x.clamp(min=eps).pow(p).mean((2, 3))
        subnormal = bool(((sums < 1.2e-38) | (x.clamp(min=eps).pow(p) < 1.2e-38).any((2, 3))).any())
        torch.testing.assert_close(got, want, rtol=0.5 if subnormal else 2e-5, atol=0)


@dtypes
@both_layouts
@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("p", [1.0, 3.0, 2.5])
def test_special_values_are_those_of_the_reference(dtype: torch.dtype, layout: Layout, special: float, p: float) -> None:
    arguments = gem_pool_arguments((2, 20, 3, 7), dtype, layout=layout, p=p, weights=torch.float64)
    arguments["x"][0, 3, 1, 2] = special
    arguments["p"] = arguments["p"].to(dtype)
    got = ops.gem_pool(**arguments)
    want = reference(arguments["x"].double(), arguments["p"].double(), 1e-6)
    torch.testing.assert_close(got.double(), want, rtol=2e-2, atol=1e-2, equal_nan=True)


def test_the_gradient_stops_below_eps_and_at_nan_as_in_torch() -> None:
    x = torch.tensor([[[0.5, 0.25, -1.0, 0.125, 0.2], [1.0, float("nan"), 1.0, 2.0, 0.2]]], requires_grad=True)
    exact = x.detach().clone().requires_grad_()
    p = torch.tensor([3.0])
    ops.gem_pool(x, p, eps=0.25).sum().backward()
    reference(exact, p, 0.25).sum().backward()
    other = x.detach() != 0.25
    torch.testing.assert_close(x.grad[other], exact.grad[other], equal_nan=True)
    assert x.grad[0, 0, 3] == 0 and x.grad[0, 1, 1] == 0
    # At eps the gradient passes, as through the clamp of torch up to 2.13 at least. That of 2.15 stops it; ours is of one mind.
    torch.testing.assert_close(x.grad[0, 0, 1], x.grad[0, 0, 0] / 4)


def test_a_channel_that_is_off_has_finite_gradients() -> None:
    """After a ReLU many are."""
    x, p = torch.zeros(2, 4, 7, 7, requires_grad=True), torch.tensor([3.0], requires_grad=True)
    ops.gem_pool(x, p).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x)) and p.grad.isfinite().all()


def test_no_positions_give_nan_as_a_mean_does() -> None:
    out = ops.gem_pool(torch.zeros(2, 6, 0, 3), torch.tensor([3.0]))
    assert out.shape == (2, 6) and out.isnan().all()


@both_layouts
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_schedule(name: str, count: int, layout: Layout, threads: Callable[[int], None]) -> None:
    threads(count)
    for p in (3.0, None):
        arguments = gem_pool_arguments(SCHEDULES[name], torch.float32, p=p, layout=layout)
        tolerance = P_GRADIENT_TOLERANCE[name == "1x1"]
        compare_with_oracle("gem_pool", Sample(str(p), arguments, gradient_tolerance=tolerance))


def test_a_fixed_p_has_no_gradient() -> None:
    sample = Sample("fixed", gem_pool_arguments((2, 6, 3, 5), torch.float32))
    leaves, both = sample.leaves(), sample.leaves()
    leaves["p"] = leaves["p"].detach()
    ops.gem_pool(**leaves).sum().backward()
    ops.gem_pool(**both).sum().backward()
    assert leaves["p"].grad is None and torch.equal(leaves["x"].grad, both["x"].grad)
