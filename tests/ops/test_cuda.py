"""The CUDA kernels against the references in float64 on the CPU, and what a CUDA kernel promises beyond numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
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


def test_gradcheck() -> None:
    x, residual = (torch.randn(2, 6, 3, 3, device=DEVICE, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weights = [w.requires_grad_() for w in _weights(6, 3, torch.float64)]
    for post in ACTS:
        assert torch.autograd.gradcheck(
            lambda *t, post=post: ops.squeeze_excite(*t[:5], residual=t[5], post=post), (x, *weights, residual)
        )


def _forward_and_backward(x: Tensor, weights: tuple[Tensor | None, ...]) -> list[Tensor]:
    out = torch.ops.tvc.squeeze_excite(x, *weights, "relu", "sigmoid", x, "relu")
    return [out, *torch.ops.tvc._squeeze_excite_backward(x, x, *weights, "relu", "sigmoid", x, "relu", out, True)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__.strip("_"))
def test_two_runs_are_equal_to_the_bit(layout: Callable[[tuple[int, ...], torch.dtype], Tensor]) -> None:
    x, weights = layout((3, 40, 41, 43), torch.float32), _weights(40, 10, torch.float32)
    for first, second in zip(_forward_and_backward(x, weights), _forward_and_backward(x, weights), strict=True):
        assert torch.equal(first, second)


def test_runs_on_the_current_stream() -> None:
    x, weights = _contiguous((8, 64, 28, 28), torch.float32), _weights(64, 16, torch.float32)
    want = _forward_and_backward(x, weights)
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # what runs on another stream sees zeros
        late.copy_(x)
        got = _forward_and_backward(late, weights)
    stream.synchronize()
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


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


def test_answers_on_the_device_of_the_tensor() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("only one CUDA device")
    x, weights = _contiguous((2, 16, 7, 7), torch.float32), _weights(16, 4, torch.float32)
    want = _forward_and_backward(x, weights)
    got = _forward_and_backward(x.to("cuda:1"), tuple(w.to("cuda:1") for w in weights))
    assert torch.cuda.current_device() == 0
    for a, b in zip(got, want, strict=True):
        assert a.device == torch.device("cuda:1")
        torch.testing.assert_close(a.to(DEVICE), b)


def test_weights_on_another_device_are_refused() -> None:
    x, (w1, b1, w2, b2) = _contiguous((2, 16, 7, 7), torch.float32), _weights(16, 4, torch.float32)
    with pytest.raises(RuntimeError, match="tvc::squeeze_excite: w2 must be on the device of x, cuda:0, got cpu"):
        ops.squeeze_excite(x, w1, b1, w2.cpu(), b2)


def test_the_native_kernel_answers() -> None:
    answers = {(answer.op, answer.device): answer.answer for answer in ops.who_answers()}
    assert answers["squeeze_excite", "cuda"] == "native"
