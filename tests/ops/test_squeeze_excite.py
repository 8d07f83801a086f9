"""What ``tvc::squeeze_excite`` promises beyond what every op does: exact identities, NaN, schedules, types, FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import (
    ACTS,
    DTYPES,
    GATES,
    LAYOUTS,
    Layout,
    Sample,
    away_from,
    channels_last,
    contiguous,
    squeeze_excite_arguments,
)
from test_every_op import compare_with_oracle
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from torchvision_customizer import ops

reference = ops.OPS["squeeze_excite"].reference
backward_reference = ops.OPS["_squeeze_excite_backward"].reference
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
both_layouts = pytest.mark.parametrize("layout", [contiguous, channels_last], ids=lambda layout: layout.__name__)


# ---- Exact identity ----


def zero_weights(channels: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """A block as it is inserted: the last layer is zero, the first is not."""
    return {
        "w1": torch.randn(3, channels).to(dtype),
        "b1": torch.randn(3).to(dtype),
        "w2": torch.zeros(channels, 3, dtype=dtype),
        "b2": torch.zeros(channels, dtype=dtype),
    }


@dtypes
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("gate", ["two_sigmoid", "tanh1p"])
@pytest.mark.parametrize("answer", ["native", "reference"])
def test_a_gate_of_zeros_is_an_exact_identity(dtype: torch.dtype, layout: Layout, gate: str, answer: str) -> None:
    x = layout((torch.randn(3, 20, 7, 5) * 100).to(dtype))
    residual = layout(torch.randn(3, 20, 7, 5).to(dtype))
    weights = zero_weights(20, dtype)

    def call(**options: Any) -> Tensor:
        if answer == "reference":
            with ops.reference():
                return ops.squeeze_excite(x, **weights, gate=gate, **options)
        return ops.squeeze_excite(x, **weights, gate=gate, **options)

    assert torch.equal(call(), x)
    assert torch.equal(call(residual=residual), x + residual)
    assert torch.equal(call(residual=residual, post="relu"), torch.relu(x + residual))


def test_the_identity_keeps_signed_zeros_and_subnormals() -> None:
    values = torch.tensor([-0.0, 0.0, 1e-40, -1e-40, 1e-45, 1e37])
    x = values.repeat(2, 4, 3)
    assert torch.equal(
        ops.squeeze_excite(x, **zero_weights(4, x.dtype), gate="two_sigmoid").view(torch.int32), x.view(torch.int32)
    )


# ---- NaN and infinity ----


@dtypes
@pytest.mark.parametrize("post", ACTS)
@both_layouts
def test_special_values_of_the_residual_pass_through(dtype: torch.dtype, post: str, layout: Layout) -> None:
    # torch's vectorised gelu says NaN to infinity, in some types and not in others: where it answers, infinity is left out.
    torch_gelu = post == "gelu" and not ops.native_status().cpu_loaded
    specials = [float("nan"), 1.0 if torch_gelu else float("inf"), -float("inf"), -0.0]
    arguments = squeeze_excite_arguments((2, 20, 3, 7), dtype, layout=layout, residual=contiguous, post=post)
    for i, special in enumerate(specials):
        arguments["residual"][:, i::5, i % 3, :] = special
    got = ops.squeeze_excite(**arguments)
    want = reference(**{k: v.double() if isinstance(v, Tensor) else v for k, v in arguments.items()})
    torch.testing.assert_close(got.double(), want, rtol=2e-2, atol=1e-2, equal_nan=True)


@dtypes
@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("gate", GATES)
@both_layouts
def test_special_values_of_x_spread_as_in_the_reference(dtype: torch.dtype, special: float, gate: str, layout: Layout) -> None:
    for act in ACTS:
        arguments = squeeze_excite_arguments((2, 20, 3, 7), dtype, layout=layout, act=act, gate=gate)
        arguments["x"][0, 3, 1, 2] = special
        got = ops.squeeze_excite(**arguments)
        want = reference(**{k: v.double() if isinstance(v, Tensor) else v for k, v in arguments.items()})
        assert torch.equal(got.isnan(), want.isnan()), act
        assert torch.equal(got.isinf(), want.isinf()), act
        torch.testing.assert_close(got[1].double(), want[1], rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, -1, 0x7FC00000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["w1", "b1", "w2", "b2"])
def test_a_nan_of_any_bits_in_the_weights_stays_one(bits: int, dtype: torch.dtype, name: str) -> None:
    """Rounding to a half type must not carry a NaN's significand over into infinity or zero."""
    arguments = squeeze_excite_arguments((1, 20, 3, 3), dtype, weights=torch.float32, act="none", reduced=4)
    arguments[name].view(-1)[0] = torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32)
    got = ops.squeeze_excite(**arguments)
    if name in ("w1", "b1"):
        assert got.isnan().all()
    else:
        assert got[0, 0].isnan().all() and not got[0, 1:].isnan().any()
    out = ops.squeeze_excite(**{k: v.requires_grad_() if isinstance(v, Tensor) else v for k, v in arguments.items()})
    out.float().sum().backward()
    assert arguments["x"].grad[0, 0].isnan().all()


@dtypes
def test_a_nan_lets_the_gradient_through_relu_as_in_torch(dtype: torch.dtype) -> None:
    arguments = squeeze_excite_arguments((2, 20, 3, 3), dtype, residual=contiguous, post="relu")
    arguments["residual"][0, 0, 0, 0] = float("nan")
    arguments["residual"].requires_grad_()
    ops.squeeze_excite(**arguments).backward(torch.ones(2, 20, 3, 3, dtype=dtype))
    assert arguments["residual"].grad[0, 0, 0, 0] == 1


@pytest.mark.parametrize("gate", GATES)
def test_large_arguments_of_gates_saturate(gate: str) -> None:
    x = torch.ones(1, 6, 2, 2)
    b2 = torch.tensor([-1e30, -200.0, -88.5, 88.5, 200.0, 1e30])
    out = ops.squeeze_excite(x, torch.zeros(1, 6), None, torch.zeros(6, 1), b2, gate=gate)[0, :, 0, 0]
    high = 2.0 if gate in ("two_sigmoid", "tanh1p") else 1.0
    torch.testing.assert_close(out, torch.tensor([0, 0, 0, high, high, high]))


# ---- Every option, over wide values ----


def wide(act: str, gate: str, post: str, dtype: torch.dtype, residual: bool) -> dict[str, Any]:
    arguments = squeeze_excite_arguments((3, 24, 5, 7), dtype, act=act, gate=gate, post=post)
    arguments["x"] = (torch.randn(3, 24, 5, 7) * 4).to(dtype)
    arguments["b1"] = arguments["b1"] * 4
    arguments["residual"] = away_from(arguments["x"]) if residual else None
    return arguments


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("act", ACTS)
def test_every_act_and_gate_over_wide_values(act: str, gate: str) -> None:
    post = ACTS[(ACTS.index(act) + 2 * GATES.index(gate)) % 5]
    compare_with_oracle(
        "squeeze_excite", Sample("wide", wide(act, gate, post, torch.float32, gate != "tanh1p"), tolerance=5e-6)
    )


@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("post", ACTS)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("act", ACTS)
def test_every_combination_over_wide_values(act: str, gate: str, post: str, dtype: torch.dtype) -> None:
    for residual in (False, True):
        compare_with_oracle("squeeze_excite", Sample("wide", wide(act, gate, post, dtype, residual), tolerance=5e-6))


# ---- Schedules: samples of a thread's own, samples shared by all threads, weights heavier than samples ----

SCHEDULES = {
    "samples_of_their_own": ((9, 16, 12, 12), 4),
    "as_many_as_threads": ((2, 32, 24, 24), 4),
    "one_large": ((1, 40, 60, 61), 4),
    "three_shared": ((3, 40, 40, 41), 4),
    "groups_of_shared": ((7, 64, 120, 90), 4),
    "heavy_weights": ((3, 2048, 7, 7), 128),
    "heavy_weights_many_samples": ((11, 512, 3, 3), 96),
    "heavy_weights_1x1": ((5, 600, 1, 1), 150),
    "more_rows_than_a_tile": ((5, 131, 9, 9), 37),
    "tiny": ((2, 3, 2, 2), 1),
}
QUICK = tuple(name for name in SCHEDULES if name != "groups_of_shared")


def scheduled(name: str, layout: Layout, dtype: torch.dtype, post: str) -> Sample:
    shape, reduced = SCHEDULES[name]
    arguments = squeeze_excite_arguments(
        shape, dtype, reduced=reduced, layout=layout, residual=None if post == "none" else layout, post=post
    )
    return Sample(f"{name}-{post}", arguments, layout, tolerance=2e-5)  # sums of 10^4 terms that cancel


@both_layouts
@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("count", [1, 2])
def test_every_schedule(name: str, count: int, layout: Layout, threads: Any) -> None:
    threads(count)
    for post in ("none", "relu", "silu"):
        compare_with_oracle("squeeze_excite", scheduled(name, layout, torch.float32, post))


@pytest.mark.full
@dtypes
@both_layouts
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_schedule_in_every_type(name: str, count: int, layout: Layout, dtype: torch.dtype, threads: Any) -> None:
    threads(count)
    for post in ("none", "relu", "silu"):
        compare_with_oracle("squeeze_excite", scheduled(name, layout, dtype, post))


@both_layouts
@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("count", [1, 2])
def test_two_runs_are_equal_to_the_bit(name: str, count: int, layout: Layout, threads: Any) -> None:
    threads(count)
    sample = scheduled(name, layout, torch.float32, "relu")

    def run() -> list[Tensor]:
        arguments = sample.leaves()
        out = ops.squeeze_excite(**arguments)
        out.backward(torch.ones_like(out))
        return [out, *(t.grad for t in arguments.values() if isinstance(t, Tensor))]

    first = run()
    for _ in range(3):
        for a, b in zip(run(), first, strict=True):
            assert torch.equal(a, b)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    """Up to the order of sums: no value leaks from one sample into another."""
    arguments = squeeze_excite_arguments((11, 40, 9, 9), torch.float64)
    whole = ops.squeeze_excite(**arguments)
    for n in range(11):
        torch.testing.assert_close(ops.squeeze_excite(**{**arguments, "x": arguments["x"][n : n + 1]})[0], whole[n])


# ---- Types ----


def test_mixed_types_under_autocast() -> None:
    arguments = squeeze_excite_arguments((2, 20, 5, 5), torch.float32, residual=contiguous, post="relu")
    want = ops.squeeze_excite(**arguments)
    cases = {
        (torch.float32, torch.float32): torch.float32,
        (torch.bfloat16, torch.bfloat16): torch.bfloat16,
        (torch.bfloat16, torch.float32): torch.float32,
        (torch.float32, torch.bfloat16): torch.float32,
        (torch.float16, torch.bfloat16): torch.float32,
    }
    with torch.autocast("cpu", torch.bfloat16):
        for (kind, residual_kind), result in cases.items():
            mixed = {**arguments, "x": arguments["x"].to(kind), "residual": arguments["residual"].to(residual_kind)}
            leaves = {k: v.detach().requires_grad_() if isinstance(v, Tensor) else v for k, v in mixed.items()}
            out = ops.squeeze_excite(**leaves)
            assert out.dtype == result
            torch.testing.assert_close(out.float(), want, rtol=2e-2, atol=1e-2)
            out.float().sum().backward()
            assert all(t.grad.dtype == t.dtype for t in leaves.values() if isinstance(t, Tensor))
        halves = {k: v.bfloat16() if isinstance(v, Tensor) and k[0] in "wb" else v for k, v in arguments.items()}
        torch.testing.assert_close(ops.squeeze_excite(**halves), want, rtol=2e-2, atol=1e-2)
    with pytest.raises(RuntimeError, match="residual must be bfloat16 for x of bfloat16, got float32"):
        ops.squeeze_excite(**{**arguments, "x": arguments["x"].bfloat16()})


def test_gradients_of_half_weights_round_once() -> None:
    """Summed over the batch in float32: what cancels leaves no rounding behind."""
    arguments = squeeze_excite_arguments((2, 8, 3, 3), torch.float16, act="none")
    arguments["x"][1] = arguments["x"][0]
    grad = torch.randn(1, 8, 3, 3).half()
    leaves = {k: v.detach().requires_grad_() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    ops.squeeze_excite(**leaves).backward(torch.cat([grad, -grad]))
    for name in ("w1", "b1", "w2", "b2"):
        assert torch.equal(leaves[name].grad, torch.zeros_like(leaves[name]))


# ---- FLOPs ----


def counted(function: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("shape", [(3, 24, 7, 5), (4, 17), (2, 9, 31)], ids=str)
def test_flops_are_those_of_the_reference(shape: tuple[int, ...]) -> None:
    arguments = squeeze_excite_arguments(shape, torch.float32)
    forward = counted(lambda: ops.squeeze_excite(**arguments))
    assert forward == counted(lambda: reference(**arguments)) == 4 * shape[0] * shape[1] * 5
    leaves = Sample("flops", arguments).leaves()
    out = ops.squeeze_excite(**leaves)
    # The backward makes the hidden values again, which is cheaper than keeping them.
    weights = [arguments[name] for name in ("w1", "b1", "w2", "b2")]
    plain = counted(
        lambda: backward_reference(out.detach(), arguments["x"], *weights, "relu", "sigmoid", None, "none", None, False)
    )
    assert counted(lambda: out.backward(torch.ones_like(out))) == plain == 3 * forward


# ---- The private backward ----


def test_the_backward_says_what_it_lacks() -> None:
    a = squeeze_excite_arguments((2, 6, 3, 5), torch.float32, reduced=3)
    weights = [a[name] for name in ("w1", "b1", "w2", "b2")]

    def error(grad: Tensor, post: str = "none", out: Tensor | None = None) -> str:
        with pytest.raises(RuntimeError) as caught:
            torch.ops.tvc._squeeze_excite_backward(grad, a["x"], *weights, "relu", "sigmoid", None, post, out, False)
        return str(caught.value)

    if ops.native_status().cpu_loaded:
        assert "grad must be [2, 6, 3, 5] for x with 6 channels, got [2, 6, 3, 4]" in error(torch.zeros(2, 6, 3, 4))
        assert "grad must be float32 for x of float32, got float64" in error(torch.zeros(2, 6, 3, 5).double())
        assert "out must be given for post 'relu'" in error(a["x"], "relu")
        assert "out must be [2, 6, 3, 5] for x with 6 channels, got [1]" in error(a["x"], "relu", torch.zeros(1))


def test_the_sentence_of_the_contract() -> None:
    x, w1, w2 = torch.zeros(1, 256, 2, 2), torch.zeros(16, 128), torch.zeros(256, 16)
    with pytest.raises(RuntimeError) as caught:
        ops.squeeze_excite(x, w1, None, w2, None)
    sentence = "tvc::squeeze_excite: w1 must be [reduced, 256] for x with 256 channels, got [16, 128]"
    assert sentence in str(caught.value)
