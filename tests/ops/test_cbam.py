"""What ``tvc::cbam`` promises beyond what every op does: ties, its two halves, sizes of the convolution, schedules, memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from samples import ACTS, DTYPES, GATES, LAYOUTS, Layout, Sample, cbam_arguments, channels_last, contiguous
from test_every_op import assert_near, compare_with_oracle
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from torchvision_customizer import ops
from torchvision_customizer.ops.cbam import cbam_apply, cbam_channels

reference = ops.OPS["cbam"].reference
backward_reference = ops.OPS["_cbam_backward"].reference
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
both_layouts = pytest.mark.parametrize("layout", [contiguous, channels_last], ids=lambda layout: layout.__name__)
NAMES = ("x", "w1", "b1", "w2", "b2", "spatial_weight", "spatial_bias", "residual")


@pytest.fixture
def threads() -> Iterator[Any]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# ---- Exact identity ----


@dtypes
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("gate", ["two_sigmoid", "tanh1p"])
@pytest.mark.parametrize("answer", ["native", "reference"])
def test_gates_of_zeros_are_an_exact_identity(dtype: torch.dtype, layout: Layout, gate: str, answer: str) -> None:
    """A block as it is inserted: the last layers are zero, the first is not."""
    arguments = cbam_arguments((3, 20, 7, 5), dtype, k=7, gate=gate)
    for name in ("w2", "b2", "spatial_weight", "spatial_bias"):
        arguments[name].zero_()
    x = arguments["x"] = layout((torch.randn(3, 20, 7, 5) * 100).to(dtype))
    residual = layout(torch.randn(3, 20, 7, 5).to(dtype))

    def call(**options: Any) -> Tensor:
        if answer == "reference":
            with ops.reference():
                return ops.cbam(**{**arguments, **options})
        return ops.cbam(**{**arguments, **options})

    assert torch.equal(call(), x)
    assert torch.equal(call(residual=residual), x + residual)
    assert torch.equal(call(residual=residual, post="relu"), torch.relu(x + residual))


# ---- NaN and infinity ----


@dtypes
@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("gate", GATES)
@both_layouts
def test_special_values_of_x_spread_as_in_the_reference(dtype: torch.dtype, special: float, gate: str, layout: Layout) -> None:
    for act in ACTS:
        arguments = cbam_arguments((2, 20, 3, 7), dtype, layout=layout, act=act, gate=gate)
        arguments["x"][0, 3, 1, 2] = special
        got = ops.cbam(**arguments)
        want = reference(**{k: v.double() if isinstance(v, Tensor) else v for k, v in arguments.items()})
        assert torch.equal(got.isnan(), want.isnan()), act
        assert torch.equal(got.isinf(), want.isinf()), act
        torch.testing.assert_close(got[1].double(), want[1], rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, -1, 0x7FC00000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["w1", "b1", "w2", "b2", "spatial_weight", "spatial_bias"])
def test_a_nan_of_any_bits_in_the_weights_stays_one(bits: int, dtype: torch.dtype, name: str) -> None:
    """Rounding to a half type must not carry a NaN's significand over into infinity or zero."""
    arguments = cbam_arguments((1, 20, 3, 3), dtype, weights=torch.float32, act="none", reduced=4)
    arguments[name].view(-1)[arguments[name].numel() // 2] = torch.tensor(bits).to(torch.int32).view(torch.float32)
    leaves = {k: v.requires_grad_() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    out = ops.cbam(**leaves)
    assert out.isnan().all()
    out.float().sum().backward()
    assert arguments["x"].grad.isnan().all()


@both_layouts
def test_a_nan_in_the_scale_or_the_logits_stays_one(layout: Layout) -> None:
    x = layout(torch.randn(1, 40, 3, 3).bfloat16()).requires_grad_()
    bad = torch.tensor(-1, dtype=torch.int32).view(torch.float32)
    scale, logits = torch.ones(1, 40), torch.zeros(1, 1, 3, 3)
    scale[0, 3] = bad
    logits[0, 0, 1, 1] = bad
    out = cbam_apply(x, scale, logits)
    (grad,) = torch.autograd.grad(out.float().sum(), x)
    for t in (out, grad):
        assert t[0, 3].isnan().all() and t[0, :, 1, 1].isnan().all()
        assert t.isnan().sum() == 9 + 40 - 1


# ---- Ties: a gradient is shared equally among all that are equal to the maximum ----


@dtypes
@both_layouts
@pytest.mark.parametrize("answer", ["native", "reference"])
@pytest.mark.parametrize("shape", [(2, 40, 9, 7), (3, 2, 5, 5), (2, 70, 1, 1), (2, 1, 4, 6), (1, 33, 30, 30)], ids=str)
def test_ties_share_the_gradient(dtype: torch.dtype, layout: Layout, answer: str, shape: tuple[int, int, int, int]) -> None:
    """Few values, and one scale for all channels, so that most elements are at a maximum of both kinds."""
    arguments = cbam_arguments(shape, dtype, layout=layout)
    arguments["w2"].zero_()
    arguments["b2"].zero_()
    arguments["x"] = layout((torch.randint(0, 2, shape) / 2).to(dtype))
    arguments["x"][0, 0] = 0.5
    if answer == "reference":
        with ops.reference():
            compare_with_oracle("cbam", Sample("ties", arguments, tolerance=1e-5))
    else:
        compare_with_oracle("cbam", Sample("ties", arguments, tolerance=1e-5))


@dtypes
def test_equal_elements_have_equal_gradients(dtype: torch.dtype) -> None:
    x = torch.full((1, 6, 3, 3), 0.7).to(dtype).requires_grad_()
    arguments = {**cbam_arguments((1, 6, 3, 3), dtype, k=1), "x": x}
    arguments["w1"].fill_(0.25)
    arguments["w2"].fill_(0.25)
    arguments["b2"].zero_()
    ops.cbam(**arguments).float().sum().backward()
    assert x.grad.unique().numel() == 1 and x.grad.abs().min() > 0


# ---- The convolution ----


@both_layouts
@pytest.mark.parametrize("k", [1, 3, 5, 7, 9])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (33, 1), (2, 3), (5, 16), (17, 6), (9, 67)])
def test_every_size_of_the_convolution(k: int, height: int, width: int, layout: Layout) -> None:
    """Maps narrower than it, and rows shorter and longer than a vector."""
    compare_with_oracle(
        "cbam",
        Sample("k", cbam_arguments((2, 5, height, width), torch.float64, k=k, layout=layout, residual=layout, post="relu")),
    )
    arguments = cbam_arguments((2, 5, height, width), torch.float32, k=k, layout=layout)
    compare_with_oracle("cbam", Sample("k", arguments, tolerance=1e-4))


def test_the_plane_of_the_mean_comes_first() -> None:
    arguments = cbam_arguments((2, 5, 4, 4), torch.float64, k=1, bias=False)
    arguments["w2"].zero_()
    for plane, statistic in enumerate((arguments["x"].mean(1, keepdim=True), arguments["x"].amax(1, keepdim=True))):
        arguments["spatial_weight"].zero_()[0, plane] = 2
        want = arguments["x"] / 2 * torch.sigmoid(2 * statistic / 2)
        torch.testing.assert_close(ops.cbam(**arguments), want)


# ---- The halves ----


def halves(arguments: dict[str, Any], norm: Any = None) -> Tensor:
    scale, maps = cbam_channels(*(arguments[name] for name in NAMES[:5]), arguments["act"], arguments["gate"])
    weight, bias = arguments["spatial_weight"], arguments["spatial_bias"]
    logits = F.conv2d(maps, weight.to(maps.dtype), None if bias is None else bias.to(maps.dtype), padding=weight.size(2) // 2)
    if norm is not None:
        logits = norm(logits)
    return cbam_apply(arguments["x"], scale, logits, arguments["gate"], arguments["residual"], arguments["post"])


def differentiated(out: Tensor, arguments: dict[str, Any]) -> list[Tensor]:
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out.dtype)
    tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
    return [out.detach(), *torch.autograd.grad(out, tensors, grad)]


@dtypes
@both_layouts
@pytest.mark.parametrize("answer", ["native", "reference"])
@pytest.mark.parametrize("post", ["none", "relu", "gelu"])
def test_the_halves_are_the_whole(dtype: torch.dtype, layout: Layout, answer: str, post: str) -> None:
    for shape, k in (((3, 24, 7, 5), 3), ((2, 6, 33, 18), 7), ((4, 40, 1, 1), 1)):
        residual = layout if post == "relu" else None
        sample = Sample("halves", cbam_arguments(shape, dtype, k=k, layout=layout, residual=residual, post=post, gate="tanh1p"))
        whole, parts = sample.leaves(), sample.leaves()
        want = differentiated(ops.cbam(**whole), whole)
        if answer == "reference":
            with ops.reference():
                got = differentiated(halves(parts), parts)
        else:
            got = differentiated(halves(parts), parts)
        assert got[0].stride() == want[0].stride()
        # The gradient of x comes in two parts, each rounded.
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 3e-3, torch.bfloat16: 2.4e-2}[dtype]
        for a, b in zip(got, want, strict=True):
            assert_near(post, a, b, tolerance)


@both_layouts
def test_the_halves_with_a_norm_between(layout: Layout) -> None:
    """As blocks train, in a new graph: the same as the references with that norm."""
    arguments = cbam_arguments((3, 6, 5, 4), torch.float64, reduced=3, layout=layout, residual=layout, post="silu")
    names = [name for name in NAMES if isinstance(arguments[name], Tensor)]

    def norm(logits: Tensor) -> Tensor:
        return F.batch_norm(logits, None, None, training=True)

    def function(*tensors: Tensor) -> Tensor:
        return halves({**arguments, **dict(zip(names, tensors, strict=True))}, norm)

    assert torch.autograd.gradcheck(function, tuple(arguments[name].detach().clone().requires_grad_() for name in names))


@dtypes
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_opcheck_of_the_halves(dtype: torch.dtype, layout: Layout) -> None:
    arguments = Sample("", cbam_arguments((2, 6, 3, 5), dtype, reduced=3, layout=layout, residual=layout)).leaves()
    weights = [arguments[name] for name in ("w1", "b1", "w2", "b2")]
    x, residual = arguments["x"], arguments["residual"]
    torch.library.opcheck(torch.ops.tvc._cbam_channels.default, (x, *weights, "silu", "sigmoid"))
    scale, maps = (t.detach() for t in cbam_channels(x, *weights, "silu", "sigmoid"))
    values = [t.detach() for t in (x, *weights)]
    torch.library.opcheck(torch.ops.tvc._cbam_channels_backward.default, (scale, maps, *values, "silu", "sigmoid"))
    logits = torch.randn(2, 1, 3, 5, dtype=dtype)
    for post in ("none", "relu", "silu"):
        leaves = (x, scale.requires_grad_(), logits.requires_grad_())
        torch.library.opcheck(torch.ops.tvc._cbam_apply.default, (*leaves, "sigmoid", residual, post))
        out = cbam_apply(*leaves, "sigmoid", residual, post).detach()
        values = [t.detach() for t in leaves]
        rest = ("sigmoid", residual.detach(), post, out if post == "relu" else None, True)
        torch.library.opcheck(torch.ops.tvc._cbam_apply_backward.default, (out, *values, *rest))


def test_the_halves_without_elements() -> None:
    for shape in ((0, 6, 3, 3), (2, 6, 0, 3)):
        arguments = Sample("", cbam_arguments(shape, torch.float32)).leaves()
        scale, maps = cbam_channels(*(arguments[name] for name in NAMES[:5]))
        assert scale.shape == shape[:2] and maps.shape == (shape[0], 2, *shape[2:])
        out = cbam_apply(arguments["x"], scale, maps[:, :1])
        out.sum().backward()
        assert out.shape == shape and all(not arguments[name].grad.any() for name in NAMES[:5])


@pytest.mark.parametrize("norm", [False, True])
def test_the_halves_compile_and_script(norm: bool) -> None:
    arguments = cbam_arguments((2, 6, 3, 5), torch.float32, layout=channels_last)
    between = torch.nn.BatchNorm2d(1) if norm else None
    want = halves(arguments, between)
    torch.compiler.reset()
    compiled = torch.compile(lambda: halves(arguments, between), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(), want)
    scale, maps = torch.jit.script(cbam_channels)(*(arguments[name] for name in NAMES[:5]))
    assert torch.equal(
        torch.jit.script(cbam_apply)(arguments["x"], scale, maps[:, :1]), cbam_apply(arguments["x"], scale, maps[:, :1])
    )


def test_the_halves_under_autocast() -> None:
    arguments = cbam_arguments((2, 20, 5, 5), torch.float32, residual=contiguous, post="relu")
    want = ops.cbam(**arguments)
    for kind in (torch.float32, torch.bfloat16):
        mixed = Sample("", {**arguments, "x": arguments["x"].to(kind)}).leaves()
        with torch.autocast("cpu", torch.bfloat16):
            scale, maps = cbam_channels(*(mixed[name] for name in NAMES[:5]))
            logits = F.conv2d(maps, mixed["spatial_weight"], mixed["spatial_bias"], padding=1)
            out = cbam_apply(mixed["x"], scale, logits, residual=mixed["residual"], post="relu")
        assert logits.dtype == torch.bfloat16 and scale.dtype == maps.dtype == torch.float32
        torch.testing.assert_close(out.float(), want, rtol=3e-2, atol=2e-2)
        out.sum().backward()
        assert all(t.grad.dtype == t.dtype for t in mixed.values() if isinstance(t, Tensor))


HALF_ERRORS = {
    "channels_x": ("_cbam_channels", {"x": torch.zeros(2, 6)}, "x must be (N, C, H, W), got [2, 6]"),
    "channels_gate": (
        "_cbam_channels",
        {"gate": "relu"},
        "gate must be one of sigmoid, hard_sigmoid, two_sigmoid, tanh1p, got 'relu'",
    ),
    "channels_w1": ("_cbam_channels", {"w1": torch.zeros(3, 5)}, "w1 must be [reduced, 6] for x with 6 channels, got [3, 5]"),
    "apply_scale": ("_cbam_apply", {"scale": torch.zeros(2, 5)}, "scale must be [2, 6] for x with 6 channels, got [2, 5]"),
    "apply_scale_type": (
        "_cbam_apply",
        {"scale": torch.zeros(2, 6).half()},
        "scale must be float32 for x of float32, got float16",
    ),
    "apply_logits": (
        "_cbam_apply",
        {"logits": torch.zeros(2, 2, 3, 5)},
        "logits must be [2, 1, 3, 5] for x with 6 channels, got [2, 2, 3, 5]",
    ),
    "apply_post": ("_cbam_apply", {"post": "tanh"}, "post must be one of none, relu, silu, gelu, hardswish, got 'tanh'"),
}


@pytest.mark.parametrize("case", HALF_ERRORS)
def test_errors_of_the_halves(case: str) -> None:
    name, change, message = HALF_ERRORS[case]
    arguments = {
        **cbam_arguments((2, 6, 3, 5), torch.float32, reduced=3),
        "scale": torch.ones(2, 6),
        "logits": torch.zeros(2, 1, 3, 5),
        **change,
    }
    values = [arguments[argument.name] for argument in ops.OPS[name].arguments]
    for on_meta in (False, True):
        with pytest.raises(RuntimeError) as caught:
            ops.OPS[name].overload(*(v.to("meta") if on_meta and isinstance(v, Tensor) else v for v in values))
        assert f"tvc::{name}: {message}" in str(caught.value)


# ---- Schedules: samples of a thread's own, samples shared by all threads, weights heavier than samples ----

SCHEDULES = {
    "samples_of_their_own": ((9, 16, 12, 12), 4),
    "as_many_as_threads": ((2, 32, 24, 24), 4),
    "one_large": ((1, 40, 60, 61), 4),
    "three_shared": ((3, 40, 40, 41), 4),
    "heavy_weights": ((3, 1024, 7, 7), 64),
    "more_rows_than_a_tile": ((5, 131, 9, 9), 37),
    "tiny": ((2, 3, 2, 2), 1),
}


def scheduled(name: str, layout: Layout, dtype: torch.dtype, post: str) -> Sample:
    shape, reduced = SCHEDULES[name]
    residual = None if post == "none" else layout
    arguments = cbam_arguments(shape, dtype, reduced=reduced, k=7, layout=layout, residual=residual, post=post)
    return Sample(f"{name}-{post}", arguments, layout, tolerance=1e-4)  # sums of 10^5 terms that cancel


@both_layouts
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_schedule(name: str, count: int, layout: Layout, threads: Any) -> None:
    threads(count)
    for post in ("none", "relu", "silu"):
        compare_with_oracle("cbam", scheduled(name, layout, torch.float64, post))
    threads(count)
    compare_with_oracle("cbam", scheduled(name, layout, torch.bfloat16, "relu"))


@both_layouts
@pytest.mark.parametrize("name", ["samples_of_their_own", "three_shared", "one_large", "heavy_weights"])
@pytest.mark.parametrize("count", [1, 2])
def test_two_runs_are_equal_to_the_bit(name: str, count: int, layout: Layout, threads: Any) -> None:
    threads(count)
    sample = scheduled(name, layout, torch.float32, "relu")

    def run() -> list[Tensor]:
        arguments = sample.leaves()
        return differentiated(ops.cbam(**arguments), arguments)

    first = run()
    for _ in range(3):
        for a, b in zip(run(), first, strict=True):
            assert torch.equal(a, b)


# ---- Memory ----


def saved_bytes(function: Any, parameters: list[Tensor]) -> int:
    """Bytes of what autograd keeps, each memory once, without what is a parameter anyway."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = function()
    for parameter in parameters:
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("post", ["none", "relu"])
@pytest.mark.parametrize("way", ["whole", "halves"])
def test_at_most_half_of_eager_is_saved(dtype: torch.dtype, post: str, way: str) -> None:
    residual = contiguous if post == "relu" else None
    arguments = Sample("", cbam_arguments((4, 64, 28, 28), dtype, residual=residual, post=post)).leaves()
    parameters = [arguments[name] for name in NAMES[1:7]]

    def eager() -> Tensor:
        x = arguments["x"]
        w1, b1, w2, b2, weight, bias = parameters
        pooled = [F.linear(F.relu(F.linear(p, w1, b1)), w2, b2) for p in (x.mean((2, 3)), x.amax((2, 3)))]
        y = x * torch.sigmoid(sum(pooled))[:, :, None, None]
        maps = torch.cat((y.mean(1, keepdim=True), y.amax(1, keepdim=True)), 1)
        out = y * torch.sigmoid(F.conv2d(maps, weight, bias, padding=1))
        return torch.relu(out + arguments["residual"]) if post == "relu" else out

    # Beside x, and out for relu, the halves keep the scale, the maps, the logits and the weight between them, in float32.
    maps = 4 * (4 * 64 + 3 * 4 * 28 * 28 + 2 * 3 * 3) if way == "halves" else 0
    got = saved_bytes(lambda: ops.cbam(**arguments) if way == "whole" else halves(arguments), parameters)
    size = arguments["x"].numel() * arguments["x"].element_size()
    assert got <= size * (1 + (post == "relu")) + maps
    assert got - maps <= saved_bytes(eager, parameters) * (0.5 if post == "none" else 0.67)


# ---- Types and FLOPs ----


def test_the_weights_of_both_gates_may_have_types_of_their_own() -> None:
    arguments = cbam_arguments((2, 20, 5, 5), torch.bfloat16, weights=torch.bfloat16)
    for change in (("w1", "b1", "w2", "b2"), ("spatial_weight", "spatial_bias")):
        mixed = {k: v.float() if k in change else v for k, v in arguments.items()}
        compare_with_oracle("cbam", Sample("mixed", mixed))


def test_flops_are_those_of_the_reference() -> None:
    def counted(function: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops()

    arguments = cbam_arguments((3, 24, 7, 6), torch.float32, k=5)
    forward = counted(lambda: ops.cbam(**arguments))
    assert forward == counted(lambda: reference(**arguments)) == 6 * 3 * 24 * 5 + 4 * 3 * 42 * 25
    leaves = Sample("flops", arguments).leaves()
    out = ops.cbam(**leaves)
    tensors = [arguments[name] for name in NAMES[:7]]
    plain = counted(lambda: backward_reference(out.detach(), *tensors, "relu", "sigmoid", None, "none", None, False))
    assert counted(lambda: out.backward(torch.ones_like(out))) == plain == 3 * forward


# ---- The private backward ----


@pytest.mark.skipif(not ops.native_status().cpu_loaded, reason="no native library")
def test_the_backward_says_what_it_lacks() -> None:
    a = cbam_arguments((2, 6, 3, 5), torch.float32, reduced=3)
    tensors = [a[name] for name in NAMES[:7]]

    def error(grad: Tensor, post: str = "none", out: Tensor | None = None) -> str:
        with pytest.raises(RuntimeError) as caught:
            torch.ops.tvc._cbam_backward(grad, *tensors, "relu", "sigmoid", None, post, out, False)
        return str(caught.value)

    assert "grad must be [2, 6, 3, 5] for x with 6 channels, got [2, 6, 3, 4]" in error(torch.zeros(2, 6, 3, 4))
    assert "grad must be float32 for x of float32, got float64" in error(torch.zeros(2, 6, 3, 5).double())
    assert "out must be given for post 'relu'" in error(a["x"], "relu")
    assert "out must be [2, 6, 3, 5] for x with 6 channels, got [1]" in error(a["x"], "relu", torch.zeros(1))
