"""Inputs of every op, written once. ``test_every_op.py`` runs over them; a new op adds an :class:`OpSamples`.

Values are such that rounding crosses no kink: what a ReLU sees is as far from zero as ``x`` itself, and no hardswish
reaches 3. So a gradient is wrong by rounding only, in every type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ACTS = ("none", "relu", "silu", "gelu", "hardswish")
GATES = ("sigmoid", "hard_sigmoid", "two_sigmoid", "tanh1p")

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# Largest error of outputs and of gradients, as a share of the largest value of the float64 oracle. Float32: an exp and erf of
# 1e-7; gradients are sums of some thousand terms, which cancel. The half types: the last bit of a result is 2^-11 and 2^-9 of
# it, and the references round the scale, the product and the sum too.
TOLERANCE = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (2e-6, 1e-5),
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (1.2e-2, 1.2e-2),
}
# torch's own slope of hardsigmoid and hardswish has its 1/6 in float32, in float64 as well.
HARD_SLOPE_TOLERANCE = 1e-6

Layout = Callable[[Tensor], Tensor]


def contiguous(t: Tensor) -> Tensor:
    return t.contiguous()


def channels_last(t: Tensor) -> Tensor:
    """Dense with channels last, at any rank: (N, L, C) or (N, H, W, C) permuted, and channels_last."""
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if t.dim() > 2 else t.contiguous()


def sliced(t: Tensor) -> Tensor:
    """Every second element of a row: dense in no order."""
    wide = t.new_full((*t.shape[:-1], 2 * t.size(-1)), float("nan"))
    wide[..., ::2] = t
    return wide[..., ::2]


def sliced_channels(t: Tensor) -> Tensor:
    """The first channels of a wider activation with channels last: nearer to channels last, but not dense."""
    wide = t.new_full((t.size(0), *t.shape[2:], t.size(1) + 3), float("nan"))
    view = wide[..., : t.size(1)].movedim(-1, 1) if t.dim() > 2 else wide[..., : t.size(1)]
    return view.copy_(t)


def unaligned(t: Tensor) -> Tensor:
    """Contiguous, from the second element of its memory on."""
    return t.new_empty(t.numel() + 1)[1:].view(t.shape).copy_(t)


def expanded(t: Tensor) -> Tensor:
    """The first sample for all samples, with stride 0."""
    return t[:1].expand(t.shape)


LAYOUTS: tuple[Layout, ...] = (contiguous, channels_last, sliced, unaligned)


@dataclass(frozen=True)
class Sample:
    """One call of an op: its arguments by name, and the layout the gradient of the output arrives in.

    Attributes:
        name: what a test's id says.
        arguments: all arguments of the op.
        grad_layout: lays out the gradient of the output.
        tolerance: a looser tolerance than that of the type; the op's file says why.
        gradient_tolerance: the same, for gradients only.
        constants: tensors that take no gradient.
    """

    name: str
    arguments: dict[str, Any]
    grad_layout: Layout = contiguous
    tolerance: float = 0.0
    gradient_tolerance: float = 0.0
    constants: tuple[str, ...] = ()

    def with_tensors(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """The arguments, with every tensor changed."""
        return {name: change(value) if isinstance(value, Tensor) else value for name, value in self.arguments.items()}

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.arguments.items() if isinstance(value, Tensor)}

    def differentiable(self) -> list[str]:
        """The names of the tensors that take a gradient."""
        return [name for name in self.tensors() if name not in self.constants]

    def leaves(self, dtype: torch.dtype | None = None) -> dict[str, Any]:
        """The arguments, every tensor that takes a gradient a leaf that does, with the strides it had."""
        leaves = self.with_tensors(lambda t: t.detach().to(dtype or t.dtype))
        for name in self.differentiable():
            leaves[name].requires_grad_()
        return leaves


@dataclass(frozen=True)
class OpSamples:
    """What the battery needs to know of an op.

    Attributes:
        samples: calls of one type, compared with the oracle; with True all of them, with False representatives.
        layouts: calls of one type in four layouts of ``x``, small ones: torch's own checks run on them.
        errors: changes of the arguments of the first of ``layouts(float32)``, and what the op says to them.
        arguments: makes a call of a shape and a type, by options such as ``layout``.
        ranks: the fewest and the most dimensions of ``x``.
    """

    samples: Callable[[torch.dtype, bool], Iterator[Sample]]
    layouts: Callable[[torch.dtype], Iterator[Sample]]
    errors: dict[str, tuple[dict[str, Any], str]]
    arguments: Callable[..., dict[str, Any]]
    ranks: tuple[int, int] = (2, 5)


SAMPLES: dict[str, OpSamples] = {}


# ---- squeeze_excite ----


def activation(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Values within (-0.6, 0.6), with a mean of their own in each channel."""
    offset = torch.rand(shape[:2]).sub_(0.5).view(*shape[:2], *[1] * (len(shape) - 2))
    return (torch.rand(shape).sub_(0.5) * 0.6 + offset * 0.6).to(dtype)


def away_from(x: Tensor, gates: int = 1) -> Tensor:
    """A residual that ``x`` times so many gates of at most 2 cannot cancel."""
    return (torch.randn(x.shape).sign() * (2**gates * x.abs().float() + 0.25)).to(x.dtype)


def squeeze_excite_arguments(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    reduced: int = 5,
    layout: Layout = contiguous,
    residual: Layout | None = None,
    weights: torch.dtype | None = None,
    bias: bool = True,
    act: str = "relu",
    gate: str = "sigmoid",
    post: str = "none",
) -> dict[str, Any]:
    channels, kind = shape[1], weights or dtype
    x = activation(shape, dtype)
    return {
        "x": layout(x),
        "w1": (torch.randn(reduced, channels) / max(channels, 1) ** 0.5).to(kind),
        "b1": torch.randn(reduced).to(kind) if bias else None,
        "w2": (torch.randn(channels, reduced) / max(reduced, 1) ** 0.5).to(kind),
        "b2": torch.randn(channels).to(kind) if bias else None,
        "act": act,
        "gate": gate,
        "residual": residual(away_from(x)) if residual else None,
        "post": post,
    }


# Odd sizes, 1×1, one channel, one hidden value, no samples, no positions; shorter and longer than a vector; every rank.
SHAPES = {
    "odd": (3, 24, 7, 5),
    "rows_of_one_vector": (2, 20, 4, 4),
    "long_rows": (1, 3, 41, 43),
    "1x1": (4, 40, 1, 1),
    "one_channel": (3, 1, 6, 7),
    "empty_batch": (0, 6, 3, 3),
    "no_positions": (2, 6, 0, 3),
    "(N, C)": (3, 17),
    "(N, C, L)": (2, 9, 31),
    "5d": (2, 19, 3, 4, 5),
}

# Samples of a thread's own, samples shared by all threads, few and many, small and large.
SCHEDULES = {
    "samples_of_their_own": (9, 16, 12, 12),
    "as_many_as_threads": (2, 32, 24, 24),
    "one_large": (1, 40, 60, 61),
    "three_shared": (3, 40, 40, 41),
    "many_channels": (3, 2048, 7, 7),
    "1x1": (5, 600, 1, 1),
    "tiny": (2, 3, 2, 2),
}


def _squeeze_excite_samples(dtype: torch.dtype, full: bool) -> Iterator[Sample]:
    def sample(name: str, shape: tuple[int, ...], grad_layout: Layout = contiguous, **options: Any) -> Sample:
        hard = options.get("gate") == "hard_sigmoid" or "hardswish" in (options.get("act"), options.get("post"))
        tolerance = HARD_SLOPE_TOLERANCE if hard else 0.0
        return Sample(name, squeeze_excite_arguments(shape, dtype, **options), grad_layout, tolerance)

    posts = ACTS if full else ("none", "relu")
    for name, shape in SHAPES.items():
        for layout in LAYOUTS if full else (contiguous, channels_last):
            for post in posts:
                residual = contiguous if post == "relu" else None
                yield sample(f"{name}-{layout.__name__}-{post}", shape, layout=layout, residual=residual, post=post)
    odd = SHAPES["odd"]
    yield sample("one_hidden", odd, reduced=1)
    yield sample("nothing_hidden", odd, reduced=0)
    yield sample("no_bias", odd, bias=False)
    yield sample("sliced", odd, layout=sliced, residual=sliced, post="silu")
    yield sample("sliced_channels", odd, layout=sliced_channels, residual=channels_last, post="relu")
    yield sample("unaligned", odd, layout=unaligned, residual=unaligned, post="relu")
    yield sample("expanded_x", odd, layout=expanded)
    yield sample("expanded_residual", odd, residual=expanded, layout=channels_last)
    yield sample("residual_of_another_layout", odd, residual=channels_last, post="relu")
    yield sample("gradient_of_another_layout", odd, channels_last, post="relu", residual=contiguous)
    yield sample("gradient_of_stride_0", odd, expanded, layout=channels_last, post="gelu", residual=contiguous)
    if dtype in (torch.float16, torch.bfloat16):
        for layout in LAYOUTS:
            yield sample(f"float32_weights-{layout.__name__}", odd, layout=layout, weights=torch.float32, residual=layout)
    # Each option with a value of its own, and all of them together under `full`.
    for act in ACTS:
        for gate in GATES:
            for post in ACTS if full else (ACTS[(ACTS.index(act) + GATES.index(gate)) % len(ACTS)],):
                residual = channels_last if gate in ("sigmoid", "tanh1p") else None
                yield sample(
                    f"{act}-{gate}-{post}",
                    (2, 20, 3, 5),
                    act=act,
                    gate=gate,
                    post=post,
                    residual=residual,
                    bias=gate != "tanh1p",
                )


def _squeeze_excite_layouts(dtype: torch.dtype) -> Iterator[Sample]:
    cases = {"contiguous": contiguous, "channels_last": channels_last, "sliced": sliced}
    for name, layout in cases.items():
        yield Sample(
            name, squeeze_excite_arguments((2, 6, 3, 5), dtype, reduced=3, layout=layout, residual=layout, post="relu")
        )
    yield Sample(
        "tokens",
        squeeze_excite_arguments(
            (2, 6, 7), dtype, reduced=3, layout=channels_last, residual=contiguous, gate="tanh1p", post="silu"
        ),
    )


_f32 = torch.zeros
SAMPLES["squeeze_excite"] = OpSamples(
    _squeeze_excite_samples,
    _squeeze_excite_layouts,
    # Of x (2, 6, 3, 5), w1 (3, 6), b1 (3), w2 (6, 3), b2 (6), residual (2, 6, 3, 5), float32.
    {
        "x_rank": ({"x": _f32(6)}, "x must be (N, C, *), got [6]"),
        "x_type": ({"x": _f32(2, 6, 3, 5).int()}, "x must be float32, float64, float16 or bfloat16, got int32"),
        "x_complex": (
            {"x": _f32(2, 6, 3, 5, dtype=torch.complex64)},
            "x must be float32, float64, float16 or bfloat16, got complex64",
        ),
        "x_float8": (
            {"x": _f32(2, 6, 3, 5).to(torch.float8_e5m2)},
            "x must be float32, float64, float16 or bfloat16, got float8_e5m2",
        ),
        "x_bool": ({"x": _f32(2, 6).bool()}, "x must be float32, float64, float16 or bfloat16, got bool"),
        "act": ({"act": "rellu"}, "act must be one of none, relu, silu, gelu, hardswish, got 'rellu'"),
        "act_empty": ({"act": ""}, "act must be one of none, relu, silu, gelu, hardswish, got ''"),
        "gate": ({"gate": "relu"}, "gate must be one of sigmoid, hard_sigmoid, two_sigmoid, tanh1p, got 'relu'"),
        "post": ({"post": "ReLU"}, "post must be one of none, relu, silu, gelu, hardswish, got 'ReLU'"),
        "w1_shape": ({"w1": _f32(3, 5)}, "w1 must be [reduced, 6] for x with 6 channels, got [3, 5]"),
        "w1_rank": ({"w1": _f32(3, 6, 1, 1)}, "w1 must be [reduced, 6] for x with 6 channels, got [3, 6, 1, 1]"),
        "w1_type": ({"w1": _f32(3, 6).double()}, "w1 must be float32 for x of float32, got float64"),
        "w1_half": (
            {"x": _f32(2, 6).half(), "w1": _f32(3, 6).bfloat16()},
            "w1 must be float16 or float32 for x of float16, got bfloat16",
        ),
        "b1_shape": ({"b1": _f32(6)}, "b1 must be [3] for x with 6 channels, got [6]"),
        "b1_scalar": ({"b1": _f32(())}, "b1 must be [3] for x with 6 channels, got []"),
        "b1_type": ({"b1": _f32(3).half()}, "b1 must be float32 for x of float32, got float16"),
        "w2_shape": ({"w2": _f32(3, 6)}, "w2 must be [6, 3] for x with 6 channels, got [3, 6]"),
        "w2_type": ({"w2": _f32(6, 3).bfloat16()}, "w2 must be float32 for x of float32, got bfloat16"),
        "b2_shape": ({"b2": _f32(3)}, "b2 must be [6] for x with 6 channels, got [3]"),
        "b2_type": ({"b2": _f32(6).long()}, "b2 must be float32 for x of float32, got int64"),
        "residual_shape": (
            {"residual": _f32(2, 6, 3, 4)},
            "residual must be [2, 6, 3, 5] for x with 6 channels, got [2, 6, 3, 4]",
        ),
        "residual_broadcast": (
            {"residual": _f32(1, 6, 3, 5)},
            "residual must be [2, 6, 3, 5] for x with 6 channels, got [1, 6, 3, 5]",
        ),
        "residual_rank": ({"residual": _f32(2, 6, 15)}, "residual must be [2, 6, 3, 5] for x with 6 channels, got [2, 6, 15]"),
        "residual_type": ({"residual": _f32(2, 6, 3, 5).half()}, "residual must be float32 for x of float32, got float16"),
        **{
            f"{name}_device": (
                {name: _f32(shape, device="meta")},
                f"{name} must be on the device of x, cpu, got meta",
            )
            for name, shape in {"w1": (3, 6), "b1": (3,), "w2": (6, 3), "b2": (6,), "residual": (2, 6, 3, 5)}.items()
        },
    },
    squeeze_excite_arguments,
)


# ---- eca ----


def eca_arguments(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    taps: int = 3,
    layout: Layout = contiguous,
    residual: Layout | None = None,
    weights: torch.dtype | None = None,
    gate: str = "sigmoid",
    post: str = "none",
) -> dict[str, Any]:
    x = activation(shape, dtype)
    return {
        "x": layout(x),
        "weight": torch.randn(taps).to(weights or dtype),
        "gate": gate,
        "residual": residual(away_from(x)) if residual else None,
        "post": post,
    }


def _eca_samples(dtype: torch.dtype, full: bool) -> Iterator[Sample]:
    def sample(name: str, shape: tuple[int, ...], grad_layout: Layout = contiguous, **options: Any) -> Sample:
        hard = options.get("gate") == "hard_sigmoid" or options.get("post") == "hardswish"
        return Sample(name, eca_arguments(shape, dtype, **options), grad_layout, HARD_SLOPE_TOLERANCE if hard else 0.0)

    for name, shape in SHAPES.items():
        for layout in LAYOUTS if full else (contiguous, channels_last):
            for post in ACTS if full else ("none", "relu"):
                residual = contiguous if post == "relu" else None
                yield sample(f"{name}-{layout.__name__}-{post}", shape, layout=layout, residual=residual, post=post)
    odd = SHAPES["odd"]
    for taps in (1, 5, 9, 47, 51):  # the last ones reach beyond all channels
        yield sample(f"taps-{taps}", odd, taps=taps, layout=channels_last if taps % 4 == 1 else contiguous)
    yield sample("sliced", odd, layout=sliced, residual=sliced, post="silu")
    yield sample("sliced_channels", odd, layout=sliced_channels, residual=channels_last, post="relu")
    yield sample("unaligned", odd, layout=unaligned, residual=unaligned, post="relu")
    yield sample("expanded_x", odd, layout=expanded)
    yield sample("gradient_of_another_layout", odd, channels_last, post="relu", residual=contiguous)
    if dtype in (torch.float16, torch.bfloat16):
        for layout in LAYOUTS:
            yield sample(f"float32_weight-{layout.__name__}", odd, layout=layout, weights=torch.float32, residual=layout)
    for gate in GATES:
        for post in ACTS:
            residual = channels_last if gate in ("sigmoid", "tanh1p") else None
            yield sample(f"{gate}-{post}", (2, 20, 3, 5), gate=gate, post=post, residual=residual)


def _eca_layouts(dtype: torch.dtype) -> Iterator[Sample]:
    for name, layout in {"contiguous": contiguous, "channels_last": channels_last, "sliced": sliced}.items():
        yield Sample(name, eca_arguments((2, 6, 3, 5), dtype, layout=layout, residual=layout, post="relu"))
    options: dict[str, Any] = {"residual": contiguous, "gate": "tanh1p", "post": "silu"}
    yield Sample("tokens", eca_arguments((2, 6, 7), dtype, layout=channels_last, **options))


def _activation_errors(residual: bool) -> dict[str, tuple[dict[str, Any], str]]:
    """What ops say of an ``x`` that is none, of x and residual (2, 6, 3, 5), float32."""
    errors: dict[str, tuple[dict[str, Any], str]] = {
        "x_rank": ({"x": _f32(6)}, "x must be (N, C, *), got [6]"),
        "x_type": ({"x": _f32(2, 6, 3, 5).int()}, "x must be float32, float64, float16 or bfloat16, got int32"),
    }
    return errors | (_tail_errors() if residual else {})


def _tail_errors() -> dict[str, tuple[dict[str, Any], str]]:
    shape = "residual must be [2, 6, 3, 5] for x with 6 channels"
    return {
        "post": ({"post": "ReLU"}, "post must be one of none, relu, silu, gelu, hardswish, got 'ReLU'"),
        "residual_shape": ({"residual": _f32(2, 6, 3, 4)}, f"{shape}, got [2, 6, 3, 4]"),
        "residual_broadcast": ({"residual": _f32(1, 6, 3, 5)}, f"{shape}, got [1, 6, 3, 5]"),
        "residual_type": ({"residual": _f32(2, 6, 3, 5).half()}, "residual must be float32 for x of float32, got float16"),
        "residual_device": (
            {"residual": _f32(2, 6, 3, 5, device="meta")},
            "residual must be on the device of x, cpu, got meta",
        ),
    }


SAMPLES["eca"] = OpSamples(
    _eca_samples,
    _eca_layouts,
    # Of x (2, 6, 3, 5), weight (3), residual (2, 6, 3, 5), float32.
    {
        **_activation_errors(residual=True),
        "gate": ({"gate": "relu"}, "gate must be one of sigmoid, hard_sigmoid, two_sigmoid, tanh1p, got 'relu'"),
        "weight_even": ({"weight": _f32(4)}, "weight must be [odd] for x with 6 channels, got [4]"),
        "weight_empty": ({"weight": _f32(0)}, "weight must be [odd] for x with 6 channels, got [0]"),
        "weight_rank": ({"weight": _f32(1, 1, 3)}, "weight must be [odd] for x with 6 channels, got [1, 1, 3]"),
        "weight_type": ({"weight": _f32(3).double()}, "weight must be float32 for x of float32, got float64"),
        "weight_half": (
            {"x": _f32(2, 6).half(), "weight": _f32(3).bfloat16()},
            "weight must be float16 or float32 for x of float16, got bfloat16",
        ),
        "weight_device": ({"weight": _f32(3, device="meta")}, "weight must be on the device of x, cpu, got meta"),
    },
    eca_arguments,
)


# ---- gem_pool ----


def gem_pool_arguments(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    p: float | None = 3.0,
    layout: Layout = contiguous,
    weights: torch.dtype | None = None,
    eps: float = 1e-6,
) -> dict[str, Any]:
    """``p`` of all channels; None: each has its own."""
    powers = torch.rand(shape[1]) * 4 + 1 if p is None else torch.tensor([p])
    return {"x": layout(activation(shape, dtype)), "p": powers.to(weights or dtype), "eps": eps}


# The gradient of p is made of differences, which are 0 where there is one position, and one p sums them over all outputs, where
# they cancel: float32 leaves 1e-7 of what is subtracted.
P_GRADIENT_TOLERANCE = {False: 2e-4, True: 5e-4}


def _gem_pool_samples(dtype: torch.dtype, full: bool) -> Iterator[Sample]:
    def sample(name: str, shape: tuple[int, ...], grad_layout: Layout = contiguous, **options: Any) -> Sample:
        one = torch.Size(shape[2:]).numel() == 1
        gradient_tolerance = P_GRADIENT_TOLERANCE[one] if dtype == torch.float32 else 0.0
        return Sample(name, gem_pool_arguments(shape, dtype, **options), grad_layout, gradient_tolerance=gradient_tolerance)

    powers = (1.0, 2.0, 3.0, 4.0, 2.5, None) if full else (3.0, 2.5)
    for name, shape in SHAPES.items():
        if name == "no_positions":  # a mean of nothing is NaN, as torch's
            continue
        for layout in LAYOUTS if full else (contiguous, channels_last):
            for p in powers:
                yield sample(f"{name}-{layout.__name__}-{p}", shape, layout=layout, p=p)
    odd = SHAPES["odd"]
    for p in (1.0, 2.0, 4.0, 5.0, -1.0, 0.5, None):
        for layout in (contiguous, channels_last):
            yield sample(f"p-{p}-{layout.__name__}", odd, p=p, layout=layout, eps=1e-2)
    yield sample("sliced", odd, layout=sliced)
    yield sample("sliced_channels", odd, layout=sliced_channels, p=None)
    yield sample("unaligned", odd, layout=unaligned)
    yield sample("expanded_x", odd, layout=expanded)
    yield sample("gradient_of_stride_0", odd, expanded, layout=channels_last)
    if dtype in (torch.float16, torch.bfloat16):
        for layout in LAYOUTS:
            yield sample(f"float32_p-{layout.__name__}", odd, layout=layout, weights=torch.float32, p=None)


def _gem_pool_layouts(dtype: torch.dtype) -> Iterator[Sample]:
    cases: dict[str, tuple[Layout, float | None]] = {
        "contiguous": (contiguous, 3.0),
        "channels_last": (channels_last, None),
        "sliced": (sliced, 2.5),
    }
    for name, (layout, p) in cases.items():
        yield Sample(name, gem_pool_arguments((2, 6, 3, 5), dtype, layout=layout, p=p))
    yield Sample("tokens", gem_pool_arguments((2, 6, 7), dtype, layout=channels_last, p=None))


SAMPLES["gem_pool"] = OpSamples(
    _gem_pool_samples,
    _gem_pool_layouts,
    # Of x (2, 6, 3, 5), p (1), float32.
    {
        **_activation_errors(residual=False),
        "p_shape": ({"p": _f32(3)}, "p must be [1] or [6] for x with 6 channels, got [3]"),
        "p_empty": ({"p": _f32(0)}, "p must be [1] or [6] for x with 6 channels, got [0]"),
        "p_scalar": ({"p": _f32(())}, "p must be [1] or [6] for x with 6 channels, got []"),
        "p_type": ({"p": _f32(1).double()}, "p must be float32 for x of float32, got float64"),
        "p_half": (
            {"x": _f32(2, 6).half(), "p": _f32(1).bfloat16()},
            "p must be float16 or float32 for x of float16, got bfloat16",
        ),
        "p_device": ({"p": _f32(1, device="meta")}, "p must be on the device of x, cpu, got meta"),
        "eps": ({"eps": 0.0}, "eps must be above 0, got 0"),
        "eps_negative": ({"eps": -1e-6}, "eps must be above 0, got -1e-06"),
        "eps_nan": ({"eps": float("nan")}, "eps must be above 0, got nan"),
    },
    gem_pool_arguments,
)


# ---- drop_path ----


def drop_path_arguments(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    layout: Layout = contiguous,
    residual: Layout | None = None,
    weights: torch.dtype | None = None,
    post: str = "none",
) -> dict[str, Any]:
    """Every second sample is dropped."""
    x = (torch.rand(shape) - 0.5).to(dtype)
    mask = torch.tensor([1.25, 0.0] * shape[0])[: shape[0]]
    return {
        "x": layout(x),
        "mask": mask.to(weights or dtype),
        "residual": residual(away_from(x)) if residual else None,
        "post": post,
    }


def _drop_path_samples(dtype: torch.dtype, full: bool) -> Iterator[Sample]:
    def sample(name: str, shape: tuple[int, ...], grad_layout: Layout = contiguous, **options: Any) -> Sample:
        tolerance = HARD_SLOPE_TOLERANCE if options.get("post") == "hardswish" else 0.0
        return Sample(name, drop_path_arguments(shape, dtype, **options), grad_layout, tolerance, constants=("mask",))

    for name, shape in {**SHAPES, "(N,)": (5,), "runs_across_samples": (7, 3, 41, 43)}.items():
        for layout in LAYOUTS if full else (contiguous, channels_last):
            for post in ACTS if full else ("none", "relu"):
                residual = contiguous if post == "relu" else None
                yield sample(f"{name}-{layout.__name__}-{post}", shape, layout=layout, residual=residual, post=post)
    odd = SHAPES["odd"]
    yield sample("sliced", odd, layout=sliced, residual=sliced, post="silu")
    yield sample("sliced_channels", odd, layout=sliced_channels, residual=channels_last, post="relu")
    yield sample("unaligned", odd, layout=unaligned, residual=unaligned, post="relu")
    yield sample("expanded_x", odd, layout=expanded)
    yield sample("gradient_of_another_layout", odd, channels_last, post="relu", residual=contiguous)
    yield sample("gradient_of_stride_0", odd, expanded, layout=channels_last, residual=contiguous)
    if dtype in (torch.float16, torch.bfloat16):
        for layout in LAYOUTS:
            yield sample(f"float32_mask-{layout.__name__}", odd, layout=layout, weights=torch.float32, residual=layout)
    for post in ACTS:
        for residual in (None, channels_last):
            yield sample(f"{post}-{residual and residual.__name__}", (3, 20, 3, 5), post=post, residual=residual)


def _drop_path_layouts(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, shape: tuple[int, ...], **options: Any) -> Sample:
        return Sample(name, drop_path_arguments(shape, dtype, **options), constants=("mask",))

    for name, layout in {"contiguous": contiguous, "channels_last": channels_last, "sliced": sliced}.items():
        yield sample(name, (2, 6, 3, 5), layout=layout, residual=layout, post="relu")
    yield sample("tokens", (2, 6, 7), layout=channels_last, residual=contiguous, post="silu")


SAMPLES["drop_path"] = OpSamples(
    _drop_path_samples,
    _drop_path_layouts,
    # Of x (2, 6, 3, 5), mask (2), residual (2, 6, 3, 5), float32.
    {
        **_tail_errors(),
        "x_rank": ({"x": _f32(())}, "x must be (N, *), got []"),
        "x_type": ({"x": _f32(2, 6, 3, 5).int()}, "x must be float32, float64, float16 or bfloat16, got int32"),
        "mask_shape": ({"mask": _f32(6)}, "mask must be [2] for x with 6 channels, got [6]"),
        "mask_rank": ({"mask": _f32(2, 1, 1, 1)}, "mask must be [2] for x with 6 channels, got [2, 1, 1, 1]"),
        "mask_of_a_row": ({"x": _f32(3), "residual": None}, "mask must be [3] for x with shape [3], got [2]"),
        "mask_type": ({"mask": _f32(2).bool()}, "mask must be float32 for x of float32, got bool"),
        "mask_device": ({"mask": _f32(2, device="meta")}, "mask must be on the device of x, cpu, got meta"),
    },
    drop_path_arguments,
    ranks=(1, 5),
)


# ---- cbam ----


def cbam_arguments(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    *,
    reduced: int = 5,
    k: int = 3,
    layout: Layout = contiguous,
    residual: Layout | None = None,
    weights: torch.dtype | None = None,
    bias: bool = True,
    act: str = "relu",
    gate: str = "sigmoid",
    post: str = "none",
) -> dict[str, Any]:
    channels, kind = shape[1], weights or dtype
    x = activation(shape, dtype) / 2
    return {
        "x": layout(x),
        "w1": (torch.randn(reduced, channels) / max(channels, 1) ** 0.5).to(kind),
        "b1": torch.randn(reduced).to(kind) if bias else None,
        "w2": (torch.randn(channels, reduced) / max(reduced, 1) ** 0.5).to(kind),
        "b2": torch.randn(channels).to(kind) if bias else None,
        "spatial_weight": torch.randn(1, 2, k, k).to(kind),
        "spatial_bias": torch.randn(1).to(kind) if bias else None,
        "act": act,
        "gate": gate,
        "residual": residual(away_from(x, gates=2)) if residual else None,
        "post": post,
    }


# Those of (N, C, H, W), and maps that are narrower than the convolution.
CBAM_SHAPES: dict[str, tuple[tuple[int, int, int, int], int]] = {
    "odd": ((3, 24, 7, 5), 3),
    "rows_of_one_vector": ((2, 20, 4, 4), 7),
    "long_rows": ((1, 3, 41, 43), 7),
    "1x1": ((4, 40, 1, 1), 3),
    "one_channel": ((3, 1, 6, 7), 3),
    "one_column": ((2, 9, 31, 1), 5),
    "one_row": ((2, 19, 1, 6), 1),
    "empty_batch": ((0, 6, 3, 3), 3),
    "no_positions": ((2, 6, 0, 3), 7),
}


# The gradient of spatial_bias is one sum over all elements, which cancels down to a thousandth of its terms.
CANCELLED = {torch.float32: 1e-4}


def _cbam_samples(dtype: torch.dtype, full: bool) -> Iterator[Sample]:
    def sample(
        name: str, shape: tuple[int, int, int, int], grad_layout: Layout = contiguous, k: int = 3, **options: Any
    ) -> Sample:
        hard = options.get("gate") == "hard_sigmoid" or "hardswish" in (options.get("act"), options.get("post"))
        tolerance = HARD_SLOPE_TOLERANCE if hard else 0.0
        return Sample(name, cbam_arguments(shape, dtype, k=k, **options), grad_layout, tolerance, CANCELLED.get(dtype, 0.0))

    posts = ACTS if full else ("none", "relu")
    for name, (shape, k) in CBAM_SHAPES.items():
        for layout in LAYOUTS if full else (contiguous, channels_last):
            for post in posts:
                residual = contiguous if post == "relu" else None
                yield sample(f"{name}-{layout.__name__}-{post}", shape, k=k, layout=layout, residual=residual, post=post)
    odd = CBAM_SHAPES["odd"][0]
    yield sample("one_hidden", odd, reduced=1)
    yield sample("nothing_hidden", odd, reduced=0)
    yield sample("no_bias", odd, bias=False)
    yield sample("sliced", odd, layout=sliced, residual=sliced, post="silu")
    yield sample("sliced_channels", odd, layout=sliced_channels, residual=channels_last, post="relu")
    yield sample("unaligned", odd, layout=unaligned, residual=unaligned, post="relu")
    yield sample("expanded_x", odd, layout=expanded)
    yield sample("expanded_residual", odd, residual=expanded, layout=channels_last)
    yield sample("residual_of_another_layout", odd, residual=channels_last, post="relu")
    yield sample("gradient_of_another_layout", odd, channels_last, post="relu", residual=contiguous)
    yield sample("gradient_of_stride_0", odd, expanded, layout=channels_last, post="gelu", residual=contiguous)
    if dtype in (torch.float16, torch.bfloat16):
        for layout in LAYOUTS:
            yield sample(f"float32_weights-{layout.__name__}", odd, layout=layout, weights=torch.float32, residual=layout)
    for act in ACTS:
        for gate in GATES:
            for post in ACTS if full else (ACTS[(ACTS.index(act) + GATES.index(gate)) % len(ACTS)],):
                yield sample(
                    f"{act}-{gate}-{post}",
                    (2, 20, 3, 5),
                    act=act,
                    gate=gate,
                    post=post,
                    residual=channels_last if gate in ("sigmoid", "tanh1p") else None,
                    bias=gate != "tanh1p",
                )


def _cbam_layouts(dtype: torch.dtype) -> Iterator[Sample]:
    cases = {"contiguous": contiguous, "channels_last": channels_last, "sliced": sliced}
    for name, layout in cases.items():
        yield Sample(name, cbam_arguments((2, 6, 3, 5), dtype, reduced=3, layout=layout, residual=layout, post="relu"))
    # (N, H, W, C), permuted, with a convolution wider than the map.
    yield Sample(
        "tokens",
        cbam_arguments(
            (2, 6, 4, 2), dtype, reduced=3, k=5, layout=channels_last, residual=contiguous, gate="tanh1p", post="silu"
        ),
    )


_CBAM_TENSORS = {
    "w1": (3, 6),
    "b1": (3,),
    "w2": (6, 3),
    "b2": (6,),
    "spatial_weight": (1, 2, 3, 3),
    "spatial_bias": (1,),
    "residual": (2, 6, 3, 5),
}
_SQUEEZE_EXCITE_ERRORS = SAMPLES["squeeze_excite"].errors
SAMPLES["cbam"] = OpSamples(
    _cbam_samples,
    _cbam_layouts,
    # Of the arguments that squeeze_excite has too, of the same shapes, what it says; and those of the convolution.
    {
        **{
            case: _SQUEEZE_EXCITE_ERRORS[case]
            for case in _SQUEEZE_EXCITE_ERRORS
            if case not in ("x_rank", "x_bool", "w1_half") and not case.endswith("_device")
        },
        "x_rank": ({"x": _f32(6)}, "x must be (N, C, H, W), got [6]"),
        "x_tokens": ({"x": _f32(2, 6, 15)}, "x must be (N, C, H, W), got [2, 6, 15]"),
        "x_5d": ({"x": _f32(2, 6, 3, 5, 1)}, "x must be (N, C, H, W), got [2, 6, 3, 5, 1]"),
        "w1_half": (
            {"x": _f32(2, 6, 3, 5).half(), "w1": _f32(3, 6).bfloat16()},
            "w1 must be float16 or float32 for x of float16, got bfloat16",
        ),
        "spatial_weight_even": (
            {"spatial_weight": _f32(1, 2, 4, 4)},
            "spatial_weight must be [1, 2, k, k] with an odd k, got [1, 2, 4, 4]",
        ),
        "spatial_weight_oblong": (
            {"spatial_weight": _f32(1, 2, 3, 5)},
            "spatial_weight must be [1, 2, k, k] with an odd k, got [1, 2, 3, 5]",
        ),
        "spatial_weight_empty": (
            {"spatial_weight": _f32(1, 2, 0, 0)},
            "spatial_weight must be [1, 2, k, k] with an odd k, got [1, 2, 0, 0]",
        ),
        "spatial_weight_planes": (
            {"spatial_weight": _f32(1, 1, 3, 3)},
            "spatial_weight must be [1, 2, k, k] for x with 6 channels, got [1, 1, 3, 3]",
        ),
        "spatial_weight_rank": (
            {"spatial_weight": _f32(2, 3, 3)},
            "spatial_weight must be [1, 2, k, k] for x with 6 channels, got [2, 3, 3]",
        ),
        "spatial_weight_type": (
            {"spatial_weight": _f32(1, 2, 3, 3).half()},
            "spatial_weight must be float32 for x of float32, got float16",
        ),
        "spatial_bias_shape": ({"spatial_bias": _f32(2)}, "spatial_bias must be [1] for x with 6 channels, got [2]"),
        "spatial_bias_type": (
            {"spatial_bias": _f32(1).double()},
            "spatial_bias must be float32 for x of float32, got float64",
        ),
        **{
            f"{name}_device": (
                {name: _f32(shape, device="meta")},
                f"{name} must be on the device of x, cpu, got meta",
            )
            for name, shape in _CBAM_TENSORS.items()
        },
    },
    cbam_arguments,
    ranks=(4, 4),
)
