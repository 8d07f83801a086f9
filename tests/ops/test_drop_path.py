"""What ``tvc::drop_path`` promises beyond what every op does: dropped branches are not read, little is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from samples import ACTS, DTYPES, SCHEDULES, Layout, Sample, channels_last, contiguous, drop_path_arguments
from test_every_op import compare_with_oracle

from torchvision_customizer import ops

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
both_layouts = pytest.mark.parametrize("layout", [contiguous, channels_last], ids=lambda layout: layout.__name__)
posts = pytest.mark.parametrize("post", ACTS)


@dtypes
@both_layouts
def test_a_mask_of_ones_is_an_exact_identity(dtype: torch.dtype, layout: Layout) -> None:
    x, residual = (layout((torch.randn(3, 20, 7, 5) * 100).to(dtype)) for _ in range(2))
    ones = torch.ones(3, dtype=dtype)
    assert torch.equal(ops.drop_path(x, ones), x)
    assert torch.equal(ops.drop_path(x, ones, residual, "relu"), torch.relu(x + residual))


@dtypes
@both_layouts
@posts
@pytest.mark.parametrize("special", [float("nan"), float("inf")], ids=str)
def test_special_values_of_a_dropped_branch_do_not_come_through(
    dtype: torch.dtype, layout: Layout, post: str, special: float
) -> None:
    for residual in (None, layout):
        sample = Sample(post, drop_path_arguments((3, 20, 7, 5), dtype, layout=layout, residual=residual, post=post))
        clean, spoilt = sample.leaves(), sample.leaves()
        spoilt["x"].detach()[1] = special
        grad = torch.randn(3, 20, 7, 5).to(dtype)
        want, got = ops.drop_path(**clean), ops.drop_path(**spoilt)
        assert torch.equal(got, want)
        want.backward(grad)
        got.backward(grad)
        assert torch.equal(spoilt["x"].grad, clean["x"].grad) and not clean["x"].grad[1].any()
        in_place = ops.drop_path(**{k: v.detach() if torch.is_tensor(v) else v for k, v in spoilt.items()}, inplace=True)
        assert torch.equal(in_place, want)
        if residual:
            assert torch.equal(spoilt["residual"].grad, clean["residual"].grad)


@posts
def test_x_is_kept_only_where_the_slope_needs_it(post: str) -> None:
    arguments = Sample(post, drop_path_arguments((4, 8, 5, 5), torch.float32, residual=contiguous, post=post)).leaves()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.data_ptr()), t)[1], lambda t: t):
        ops.drop_path(**arguments)
    assert (arguments["x"].data_ptr() in kept) == (post not in ("none", "relu"))


def test_the_gradient_of_the_residual_is_not_copied() -> None:
    arguments = Sample("none", drop_path_arguments((4, 8, 5, 5), torch.float32, residual=contiguous)).leaves()
    out, grad = ops.drop_path(**arguments), torch.randn(4, 8, 5, 5)
    (got,) = torch.autograd.grad(out, arguments["residual"], grad)
    assert got.data_ptr() == grad.data_ptr()


# Runs of a thread end within samples, hold many, and have sizes that fit no vector.
SHAPES = {**SCHEDULES, "many_short": (64, 3, 3, 3), "rows": (517,), "odd_tokens": (5, 197, 33)}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_schedule(name: str, count: int, threads: Callable[[int], None]) -> None:
    threads(count)
    for dtype in DTYPES:
        for post in ("none", "relu", "silu"):
            for residual in (None, contiguous):
                arguments = drop_path_arguments(SHAPES[name], dtype, residual=residual, post=post)
                compare_with_oracle("drop_path", Sample(post, arguments, constants=("mask",)))


@pytest.mark.parametrize("shape", [(3, 64, 160, 161), (4, 64, 160, 160)], ids=str)
def test_outputs_past_the_caches(shape: tuple[int, ...]) -> None:
    for residual in (None, contiguous):
        arguments = drop_path_arguments(shape, torch.float32, residual=residual)
        compare_with_oracle("drop_path", Sample("large", arguments, constants=("mask",)))
