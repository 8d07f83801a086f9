"""The CUDA kernels against the references in float64 on the CPU, and what a CUDA kernel promises beyond numbers.

First a battery over every op, with the inputs of ``samples.py``; then what is special of squeeze_excite, whose kernels the
others share.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from samples import DTYPES, SAMPLES, Sample
from samples import TOLERANCE as SAMPLE_TOLERANCE
from torch import Tensor

from torchvision_customizer import ops

se = sys.modules["torchvision_customizer.ops.squeeze_excite"]

pytestmark = pytest.mark.skipif(
    not ops.native_status().cuda_loaded, reason=f"no CUDA device: {ops.native_status().cuda_reason or 'not loaded'}"
)

DEVICE = "cuda"
ACTS = ("none", "relu", "silu", "gelu", "hardswish")
GATES = ("sigmoid", "hard_sigmoid", "two_sigmoid", "tanh1p")
# Largest error over the largest value; gradients are sums of more terms.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
GRADIENT_FACTOR = 8

# ---- every op ----

op_names = pytest.mark.parametrize("name", list(SAMPLES))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))

# The tolerances of samples.py are those of the CPU; sums on the device come in another order, and its exp and erf are its own.
DEVICE_FACTOR = 4


def on_device(t: Tensor, device: str = DEVICE) -> Tensor:
    """``t`` on the device with the strides and the offset it has: ``to`` makes what is not dense dense."""
    whole = t.detach().as_strided((t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)
    return whole.to(device).as_strided(t.shape, t.stride(), t.storage_offset())


def leaves_on_device(sample: Sample, device: str = DEVICE) -> dict[str, Any]:
    leaves = sample.with_tensors(lambda t: on_device(t, device))
    for argument in sample.differentiable():
        leaves[argument].requires_grad_()
    return leaves


def call(name: str, arguments: dict[str, Any]) -> Tensor:
    return getattr(ops, name)(**arguments)


def outputs(name: str, sample: Sample, leaves: dict[str, Any], grad: Tensor) -> list[Tensor]:
    """The output and every gradient."""
    out = call(name, leaves)
    gradients = torch.autograd.grad(out, [leaves[argument] for argument in sample.differentiable()], grad.to(out.device))
    return [out.detach(), *gradients]


def grad_like_output(name: str, sample: Sample) -> Tensor:
    with torch.no_grad():
        out = ops.OPS[name].reference(**sample.arguments)
    return sample.grad_layout(torch.randn(out.shape).to(out.dtype))


def compare_sample(name: str, sample: Sample) -> None:
    grad = grad_like_output(name, sample)
    got = outputs(name, sample, leaves_on_device(sample), on_device(grad))
    exact = sample.leaves(torch.float64)
    wanted = ops.OPS[name].reference(**exact)
    if wanted.requires_grad:  # not where there is nothing to take a maximum of
        wanted.backward(grad.double())
    of_out, of_gradients = SAMPLE_TOLERANCE[sample.arguments["x"].dtype]
    assert_close(f"{sample.name}: out", got[0], wanted.detach(), DEVICE_FACTOR * max(of_out, sample.tolerance))
    for argument, gradient in zip(sample.differentiable(), got[1:], strict=True):
        want = exact[argument].grad
        if want is None or want.isnan().any():  # the mean over no positions; the op says 0
            assert not wanted.numel() or not sample.arguments["x"].numel()
            want = torch.zeros(gradient.shape)
        tolerance = max(of_gradients, sample.tolerance, sample.gradient_tolerance)
        assert_close(f"{sample.name}: gradient of {argument}", gradient, want, DEVICE_FACTOR * tolerance)


def assert_close(what: str, got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape and got.is_cuda, what
    assert torch.equal(got.isnan().cpu(), want.isnan()), what
    if got.numel():
        got, want = got.cpu().double().nan_to_num(), want.double().nan_to_num()
        error = (got - want).abs().max() / want.abs().max().clamp_min(1e-3)
        assert error <= tolerance, f"{what}: {error:.2e}"


@op_names
@dtypes
def test_every_op_agrees_with_float64(name: str, dtype: torch.dtype) -> None:
    for sample in SAMPLES[name].samples(dtype, False):
        compare_sample(name, sample)


@pytest.mark.full
@op_names
@dtypes
def test_every_op_agrees_with_float64_at_every_sample(name: str, dtype: torch.dtype) -> None:
    for sample in SAMPLES[name].samples(dtype, True):
        compare_sample(name, sample)


@pytest.mark.parametrize("name", [name for name in SAMPLES if f"_{name}_" in ops.OPS])
@dtypes
def test_every_op_in_place(name: str, dtype: torch.dtype) -> None:
    for sample in SAMPLES[name].samples(dtype, False):
        arguments = sample.with_tensors(on_device)
        x = arguments["x"]
        if 0 in x.stride():  # several elements in one place cannot be written
            continue
        want = call(name, arguments)
        assert call(name, {**arguments, "inplace": True}) is x
        tolerance = DEVICE_FACTOR * SAMPLE_TOLERANCE[dtype][0]
        assert_close(sample.name, x, want.cpu(), tolerance)


@op_names
def test_gradcheck_of_every_op(name: str) -> None:
    for sample in SAMPLES[name].layouts(torch.float64):
        arguments, names = sample.with_tensors(on_device), sample.differentiable()

        def function(*tensors: Tensor, arguments: dict[str, Any] = arguments, names: list[str] = names) -> Tensor:
            return call(name, {**arguments, **dict(zip(names, tensors, strict=True))})

        assert torch.autograd.gradcheck(function, tuple(arguments[argument].clone().requires_grad_() for argument in names))


@op_names
def test_two_runs_of_every_op_are_equal_to_the_bit(name: str) -> None:
    for sample in SAMPLES[name].samples(torch.float32, False):
        grad = grad_like_output(name, sample)
        first, second = (outputs(name, sample, leaves_on_device(sample), grad) for _ in range(2))
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num()), sample.name


@op_names
@pytest.mark.parametrize("index", range(4), ids=["contiguous", "channels_last", "sliced", "tokens"])
def test_every_op_can_be_captured_in_a_graph(name: str, index: int) -> None:
    sample = list(SAMPLES[name].layouts(torch.float32))[index]
    leaves, grad = leaves_on_device(sample), on_device(grad_like_output(name, sample))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # the first products make cuBLAS allocate, which a capture does not allow
        outputs(name, sample, leaves, grad)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = outputs(name, sample, leaves, grad)
    with torch.no_grad():
        leaves["x"].mul_(0.5)
    graph.replay()
    for a, b in zip(got, outputs(name, sample, leaves, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@op_names
def test_every_op_runs_on_the_current_stream(name: str) -> None:
    sample = next(iter(SAMPLES[name].layouts(torch.float32)))
    leaves, grad = leaves_on_device(sample), on_device(grad_like_output(name, sample))
    want = outputs(name, sample, leaves, grad)
    late = {**leaves, "x": torch.zeros_like(leaves["x"]).requires_grad_()}
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # what runs on another stream sees zeros
        with torch.no_grad():
            late["x"].copy_(leaves["x"])
        got = outputs(name, sample, late, grad)
    stream.synchronize()
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@op_names
def test_every_op_answers_on_the_device_of_the_tensor(name: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("only one CUDA device")
    sample = next(iter(SAMPLES[name].layouts(torch.float32)))
    grad = grad_like_output(name, sample)
    want = outputs(name, sample, leaves_on_device(sample), grad)
    got = outputs(name, sample, leaves_on_device(sample, "cuda:1"), grad)
    assert torch.cuda.current_device() == 0
    for a, b in zip(got, want, strict=True):
        assert a.device == torch.device("cuda:1")
        torch.testing.assert_close(a.to(DEVICE), b)


@op_names
def test_the_native_kernels_answer(name: str) -> None:
    answers = {(answer.op, answer.device): answer.answer for answer in ops.who_answers()}
    assert answers[name, "cuda"] == "native"


def test_a_dropped_sample_is_not_read() -> None:
    x, residual = torch.full((3, 1001), float("nan"), device=DEVICE), torch.randn(3, 1001, device=DEVICE)
    x[1] = 2
    out = ops.drop_path(x, torch.tensor([0.0, 1.25, 0.0], device=DEVICE), residual)
    assert torch.equal(out[::2], residual[::2]) and torch.equal(out[1], 2.5 + residual[1])


# ---- squeeze_excite ----

# Odd sizes, one channel, 1×1, rows shorter than a vector, rows cut into parts, long and short products.
SHAPES = [
    (2, 64, 14, 14),
    (3, 24, 7, 7),
    (2, 5, 3, 7),
    (1, 1, 4, 4),
    (4, 40, 1, 1),
    (3, 7, 2, 1),
    (1, 3, 201, 203),
    (2, 1100, 5, 5),
]


def _contiguous(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape).to(DEVICE, dtype)


def _channels_last(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return _contiguous(shape, dtype).contiguous(memory_format=torch.channels_last)


def _tokens(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    n, c, h, w = shape
    return torch.randn(n, h * w, c).to(DEVICE, dtype).permute(0, 2, 1)


def _unaligned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return _contiguous((torch.Size(shape).numel() + 1,), dtype)[1:].view(shape)


def _sliced(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return _contiguous((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]


LAYOUTS = [_contiguous, _channels_last, _tokens, _unaligned, _sliced]


def _weights(channels: int, reduced: int, dtype: torch.dtype, bias: bool = True) -> tuple[Tensor | None, ...]:
    w1, w2 = torch.randn(reduced, channels) / channels**0.5, torch.randn(channels, reduced) / reduced**0.5
    b1, b2 = (torch.randn(reduced), torch.randn(channels)) if bias else (None, None)
    return tuple(None if w is None else w.to(DEVICE, dtype) for w in (w1, b1, w2, b2))


def _double(value: Any) -> Any:
    return value.detach().cpu().double() if isinstance(value, Tensor) else value


def _close(name: str, got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape, name
    if got.numel():
        error = (_double(got) - want).abs().max() / want.abs().max().clamp_min(1)
        assert error < tolerance, f"{name}: {error:.2e}"


def _compare(x: Tensor, weights: tuple[Tensor | None, ...], act: str, gate: str, residual: Tensor | None, post: str) -> None:
    arguments = (x, *weights, act, gate, residual, post)
    out = torch.ops.tvc.squeeze_excite(*arguments)
    _close("out", out, se.reference(*map(_double, arguments)), TOLERANCE[x.dtype])
    assert out.stride() == se.fake_like(x).stride()
    grad = torch.randn(x.shape).to(DEVICE, x.dtype)
    saved = out if post == "relu" else None
    got = torch.ops.tvc._squeeze_excite_backward(grad, *arguments, saved, residual is not None)
    want = se.backward_reference(_double(grad), *map(_double, arguments), _double(saved), residual is not None)
    tolerance = GRADIENT_FACTOR * TOLERANCE[x.dtype]
    if gate == "hard_sigmoid":
        tolerance = max(tolerance, 1e-6)  # torch's own slope of hardsigmoid has its 1/6 in float32
    for name, a, b in zip(("x", "w1", "b1", "w2", "b2", "residual"), got, want, strict=True):
        _close(f"gradient of {name}", a, b, tolerance)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__.strip("_"))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_reference(
    shape: tuple[int, ...], layout: Callable[[tuple[int, ...], torch.dtype], Tensor], dtype: torch.dtype
) -> None:
    for post in ("none", "relu", "silu"):
        x = layout(shape, dtype)
        residual = None if post == "none" else torch.randn(x.shape).to(DEVICE, dtype)
        _compare(x, _weights(shape[1], 5, dtype), "relu", "sigmoid", residual, post)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("post", ACTS)
def test_agrees_for_every_option(act: str, gate: str, post: str) -> None:
    x = _contiguous((2, 16, 5, 5), torch.float32)
    _compare(
        x, _weights(16, 4, torch.float32, bias=gate != "tanh1p"), act, gate, _channels_last((2, 16, 5, 5), torch.float32), post
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_may_be_float32(dtype: torch.dtype) -> None:
    _compare(_channels_last((2, 64, 7, 7), dtype), _weights(64, 600, torch.float32), "relu", "sigmoid", None, "none")


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_agrees_where_samples_are_taken_in_groups(memory_format: torch.memory_format) -> None:
    cache = torch.cuda.get_device_properties(DEVICE).L2_cache_size
    sample = (33, 65, 64)  # 537 kB: no multiple of what a vector holds
    x = torch.randn(3 * cache // 549120 + 3, *sample, device=DEVICE).contiguous(memory_format=memory_format)
    w1, b1, w2, b2 = _weights(33, 8, torch.float32)
    out = torch.ops.tvc.squeeze_excite(x, w1, b1, w2, b2, "relu", "sigmoid", x, "relu")
    want = se.reference(*(t.double() for t in (x, w1, b1, w2, b2)), "relu", "sigmoid", x.double(), "relu")
    torch.testing.assert_close(out, want.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("shape", [(1, 3, 1 << 15, (1 << 15) + 1), (3, 1 << 15, 1 << 15, 1)], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_more_than_2_to_the_31_elements(shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    if torch.cuda.mem_get_info()[0] < 32 << 30:
        pytest.skip("less than 32 GiB of free GPU memory")
    channels = shape[1]
    x = torch.ones(shape, dtype=torch.bfloat16, device=DEVICE).contiguous(memory_format=memory_format)
    x[:, -1] = 3
    # Every scale depends on the mean of the last channel, whose elements lie beyond 2^31.
    w1, w2 = torch.zeros(1, channels, device=DEVICE), torch.ones(channels, 1, device=DEVICE)
    w1[0, -1] = 1
    b2 = torch.linspace(-6, 0, channels, device=DEVICE)
    out = torch.ops.tvc.squeeze_excite(x, w1, None, w2, b2, "relu", "sigmoid", None, "none")
    scale = torch.sigmoid(b2 + 3)
    for channel in {0, 1, channels // 2, channels - 1}:
        want = scale[channel] * (3 if channel == channels - 1 else 1)
        assert ((out[:, channel] - want).abs() < 0.02).all()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("gate", ["two_sigmoid", "tanh1p"])
def test_a_gate_of_zero_is_an_exact_identity(gate: str, dtype: torch.dtype) -> None:
    x = _contiguous((2, 16, 5, 5), dtype)
    w1, b1, w2, b2 = _weights(16, 4, dtype)
    assert torch.equal(ops.squeeze_excite(x, w1, b1, w2 * 0, b2 * 0, gate=gate), x)


def test_nan_passes_through_relu() -> None:
    x = _contiguous((1, 8, 3, 3), torch.float32)
    x[0, 1, 1, 1] = float("nan")
    w1, b1, w2, b2 = _weights(8, 2, torch.float32)
    assert ops.squeeze_excite(x, w1, b1, w2, b2, post="relu").isnan().all()


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3)], ids=str)
def test_nothing_to_do(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=DEVICE, requires_grad=True)
    w1, b1, w2, b2 = (w.requires_grad_() for w in _weights(4, 2, torch.float32))
    out = ops.squeeze_excite(x, w1, b1, w2, b2)
    out.sum().backward()
    assert out.shape == shape and x.grad.shape == shape
    assert all((w.grad == 0).all() for w in (w1, b1, w2, b2))


def _forward_and_backward(x: Tensor, weights: tuple[Tensor | None, ...]) -> list[Tensor]:
    out = torch.ops.tvc.squeeze_excite(x, *weights, "relu", "sigmoid", x, "relu")
    return [out, *torch.ops.tvc._squeeze_excite_backward(x, x, *weights, "relu", "sigmoid", x, "relu", out, True)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__.strip("_"))
def test_two_runs_are_equal_to_the_bit(layout: Callable[[tuple[int, ...], torch.dtype], Tensor]) -> None:
    x, weights = layout((3, 40, 41, 43), torch.float32), _weights(40, 10, torch.float32)
    for first, second in zip(_forward_and_backward(x, weights), _forward_and_backward(x, weights), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__.strip("_"))
def test_can_be_captured_in_a_graph(layout: Callable[[tuple[int, ...], torch.dtype], Tensor]) -> None:
    x, weights = layout((3, 40, 41, 43), torch.float32), _weights(40, 10, torch.float32)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # the first products make cuBLAS allocate, which a capture does not allow
        _forward_and_backward(x, weights)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = _forward_and_backward(x, weights)
    for _ in range(2):
        x.copy_(torch.randn(x.shape))
        graph.replay()
        for a, b in zip(got, _forward_and_backward(x, weights), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_weights_on_another_device_are_refused() -> None:
    x, (w1, b1, w2, b2) = _contiguous((2, 16, 7, 7), torch.float32), _weights(16, 4, torch.float32)
    with pytest.raises(RuntimeError, match="tvc::squeeze_excite: w2 must be on the device of x, cuda:0, got cpu"):
        ops.squeeze_excite(x, w1, b1, w2.cpu(), b2)
