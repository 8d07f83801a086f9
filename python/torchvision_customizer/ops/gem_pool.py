"""``tvc::gem_pool``: generalised-mean pooling over space.

    out = mean(max(x, eps)^p)^(1/p)

Radenović, Tolias, Chum: Fine-tuning CNN Image Retrieval with No Human Annotation, https://arxiv.org/abs/1711.02512
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._library import Op, describe
from ._math import accumulate_type, dense, fake_like, per_channel, spatial_mean

op = Op("gem_pool", "(Tensor x, Tensor p, float eps=1e-06) -> Tensor")
backward_op = Op("_gem_pool_backward", "(Tensor grad, Tensor x, Tensor p, float eps, bool p_grad) -> (Tensor, Tensor)")


def _check(x: Tensor, p: Tensor, eps: float) -> None:
    op.check_activation(x)
    if p.dim() != 1 or (p.size(0) != 1 and p.size(0) != x.size(1)):
        op.check(False, f"p must be [1] or [{x.size(1)}] for x with {describe(x)}, got {list(p.shape)}")
    op.check_tensor("p", p, x, (p.size(0),), (x.dtype, accumulate_type(x)))
    if not eps > 0:
        op.check(False, f"eps must be above 0, got {eps:g}")


def _powers(x: Tensor, p: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """max(x, eps), its powers, and p for every channel, (1, 1) or (1, C), in the accumulation type."""
    clamped = x.to(accumulate_type(x)).clamp(min=eps)
    p = p.to(clamped.dtype).unsqueeze(0)
    return clamped, clamped.pow(per_channel(p, x)), p


def reference(x: Tensor, p: Tensor, eps: float) -> Tensor:
    """The op in plain PyTorch: fallback of every device, oracle of the tests."""
    _, powers, p = _powers(x, p, eps)
    return spatial_mean(powers).pow(1 / p).to(x.dtype)


def backward_reference(grad: Tensor, x: Tensor, p: Tensor, eps: float, p_grad: bool) -> tuple[Tensor, Tensor]:
    """Gradients for x and p; an empty tensor stands for one that is not asked for."""
    x, kind = dense(x), p.dtype
    if x.numel() == 0:  # no mean over no positions: the gradient is 0, and not NaN
        return torch.empty_like(x), torch.zeros_like(p) if p_grad else x.new_empty(0)
    clamped, powers, p = _powers(x, p, eps)
    mean = spatial_mean(powers)
    grad = grad.to(mean.dtype)
    factor = grad * mean.pow(1 / p - 1) / x[0, 0].numel()
    slope = clamped.pow(per_channel(p - 1, x)) * per_channel(factor, x)
    grad_x = torch.empty_like(x).copy_(torch.where(x.to(slope.dtype) >= eps, slope, torch.zeros_like(slope)))
    if not p_grad:
        return grad_x, x.new_empty(0)
    with_log = spatial_mean(powers * clamped.log())
    parts = grad * mean.pow(1 / p) / p * (with_log / mean - mean.log() / p)
    return grad_x, (parts.sum(0) if p.size(1) == parts.size(1) else parts.sum().view(1)).to(kind)


def _fake(x: Tensor, p: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape[:2])


def _backward_fake(grad: Tensor, x: Tensor, p: Tensor, eps: float, p_grad: bool) -> tuple[Tensor, Tensor]:
    return fake_like(x), p.new_empty(p.shape) if p_grad else x.new_empty(0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, p, ctx.eps = inputs
    # The output is not kept: rounded to a half type, it is too coarse for the gradient of p.
    ctx.save_for_backward(x, p)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    p_grad = ctx.needs_input_grad[1]
    grad_x, grad_p = backward_op.overload(grad, *ctx.saved_tensors, ctx.eps, p_grad)
    return grad_x, grad_p if p_grad else None, None


def _flops(*args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """torch counts matrix products and convolutions, and here are none."""
    return 0


op.register(
    reference=reference,
    check=_check,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    weights=("p",),
    flops=_flops,
)
backward_op.register(reference=backward_reference, fake=_backward_fake, flops=_flops)


def gem_pool(x: Tensor, p: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalised-mean pooling over space, reading ``x`` once.

    ``out = mean(max(x, eps)^p)^(1/p)``: the average at p = 1, nearer to the maximum the larger p is. Powers and sums are made
    in float32 (float64 for float64). Works under autograd, autocast, ``torch.compile``, ``torch.jit.script`` and
    ``torch.export``.

    Args:
        x: activation (N, C, *), float32, float64, float16 or bfloat16. Contiguous, channels_last and permuted token layouts
            are read as they are; other strides are made dense once.
        p: (1,) or (C,), of the type of ``x`` or float32; it may be learned. Where all are 1, 2, 3 or 4, powers are products.
        eps: smaller values of ``x`` count as this one; above 0.

    Returns:
        (N, C), of the type of ``x``.

    Raises:
        RuntimeError: an argument has a wrong shape, type, device or value; the message names it.

    Source: https://arxiv.org/abs/1711.02512

    Examples:
        >>> import torch
        >>> from torchvision_customizer import ops
        >>> x = torch.rand(2, 8, 5, 5)
        >>> torch.allclose(ops.gem_pool(x, torch.ones(1)), x.mean((2, 3)))
        True
    """
    return torch.ops.tvc.gem_pool(x, p, eps)
