"""``tvc::eca``: efficient channel attention with the tail of a residual block.

    out = post(x * gate(conv1d(mean(x), weight)) + residual), the convolution over neighbouring channels

Wang, Wu, Zhu, Li, Zuo, Hu: ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, https://arxiv.org/abs/1910.03151
"""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ._library import Op, describe
from ._math import (
    IN_PLACE_NO_GRADIENT,
    accumulate_type,
    activate,
    activate_backward,
    dense,
    fake_like,
    gate_backward,
    gate_of,
    in_place,
    in_place_fake,
    per_channel,
    spatial_dims,
    spatial_mean,
)

op = Op("eca", "(Tensor x, Tensor weight, str gate='sigmoid', Tensor? residual=None, str post='none') -> Tensor")
inplace_op = Op("_eca_", "(Tensor(a!) x, Tensor weight, str gate, Tensor? residual, str post) -> ()")
backward_op = Op(
    "_eca_backward",
    "(Tensor grad, Tensor x, Tensor weight, str gate, Tensor? residual, str post, Tensor? out, bool residual_grad) "
    "-> (Tensor, Tensor, Tensor)",
)


def _check(x: Tensor, weight: Tensor, gate: str, residual: Tensor | None, post: str) -> None:
    op.check_activation(x)
    op.check_option("gate", gate)
    op.check_option("post", post)
    if weight.dim() != 1 or weight.size(0) % 2 == 0:
        op.check(False, f"weight must be [odd] for x with {describe(x)}, got {list(weight.shape)}")
    op.check_tensor("weight", weight, x, (weight.size(0),), (x.dtype, accumulate_type(x)))
    op.check_tensor("residual", residual, x, tuple(x.shape), (x.dtype,))


def _over_channels(t: Tensor, weight: Tensor) -> Tensor:
    """``t`` (N, C) correlated with ``weight`` along the channels, zeros beyond them."""
    if t.size(1) == 0:
        return t
    return F.conv1d(t.unsqueeze(1), weight.to(t.dtype).view(1, 1, -1), padding=weight.size(0) // 2).squeeze(1)


def reference(x: Tensor, weight: Tensor, gate: str, residual: Tensor | None, post: str) -> Tensor:
    """The op in plain PyTorch: fallback of every device, oracle of the tests."""
    x = dense(x)
    scale = gate_of(_over_channels(spatial_mean(x), weight), gate)
    out = x * per_channel(scale.to(x.dtype), x)
    if residual is not None:
        out = out + residual
    return activate(out, post)


def backward_reference(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: str,
    residual: Tensor | None,
    post: str,
    out: Tensor | None,
    residual_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for x, weight, residual; an empty tensor stands for one that is not asked for."""
    x = dense(x)
    nothing = x.new_empty(0)
    if x.numel() == 0:  # no mean over no positions: the gradients are 0, and not NaN
        return torch.empty_like(x), torch.zeros_like(weight), torch.empty_like(x) if residual_grad else nothing
    mean = spatial_mean(x)
    before_gate = _over_channels(mean, weight)
    scale = gate_of(before_gate, gate)
    if out is None:
        out = x * per_channel(scale.to(x.dtype), x)
        if residual is not None:
            out += residual
    grad = activate_backward(grad, out, post)

    product = grad.to(mean.dtype) * x
    grad_scale = product.sum(spatial_dims(x)) if x.dim() > 2 else product
    grad_gate = gate_backward(grad_scale, before_gate, gate)
    grad_mean = _over_channels(grad_gate, weight.flip(0))
    taps = weight.size(0)
    neighbours = F.pad(mean, (taps // 2, taps // 2)).unfold(1, taps, 1)  # (N, C, k)
    grad_x = torch.empty_like(x)
    grad_x.copy_(grad * per_channel(scale, x) + per_channel(grad_mean / x[0, 0].numel(), x))
    return (
        grad_x,
        (grad_gate.reshape(1, -1) @ neighbours.reshape(-1, taps)).view(-1).to(weight.dtype),
        torch.empty_like(x).copy_(grad) if residual_grad else nothing,
    )


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: str,
    residual: Tensor | None,
    post: str,
    out: Tensor | None,
    residual_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return fake_like(x), weight.new_empty(weight.shape), fake_like(x) if residual_grad else x.new_empty(0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.gate, residual, ctx.post = inputs
    ctx.residual_grad = residual is not None and residual.requires_grad
    # The slope of relu is read off its output; that of the others needs what went into them, made again from x and residual.
    keep_residual = residual if ctx.post not in ("none", "relu") else None
    ctx.save_for_backward(x, weight, keep_residual, output if ctx.post == "relu" else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, residual, out = ctx.saved_tensors
    through = ctx.post == "none"  # then the residual's gradient is grad itself
    grad_x, grad_weight, grad_residual = backward_op.overload(
        grad, x, weight, ctx.gate, residual, ctx.post, out, ctx.residual_grad and not through
    )
    return grad_x, grad_weight, None, (grad if through else grad_residual) if ctx.residual_grad else None, None


def _flops(x_shape: Any, weight_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """The convolution, counted as torch counts it: 2 FLOPs a multiply-add."""
    return 2 * int(x_shape[0]) * int(x_shape[1]) * int(weight_shape[0])


def _backward_flops(grad_shape: Any, x_shape: Any, weight_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """The forward's convolution again, and two for the gradients."""
    return 3 * _flops(x_shape, weight_shape)


op.register(
    reference=reference,
    check=_check,
    setup_context=_setup_context,
    backward=_backward,
    weights=("weight",),
    flops=_flops,
)
inplace_op.register(
    reference=in_place(reference),
    check=_check,
    fake=in_place_fake,
    no_gradient=IN_PLACE_NO_GRADIENT,
    weights=(),
    flops=_flops,
)
backward_op.register(reference=backward_reference, fake=_backward_fake, flops=_backward_flops)


def eca(
    x: Tensor,
    weight: Tensor,
    gate: str = "sigmoid",
    residual: Optional[Tensor] = None,
    post: str = "none",
    inplace: bool = False,
) -> Tensor:
    """Efficient channel attention in one pass over memory, with an optional addition and activation after it.

    ``out = post(x * gate(z) + residual)``, where ``z`` is the mean over space, convolved with ``weight`` along the channels
    (zeros beyond the first and the last, no bias). Sums are made in float32 (float64 for float64). Works under autograd,
    autocast, ``torch.compile``, ``torch.jit.script`` and ``torch.export``.

    Args:
        x: activation (N, C, *), float32, float64, float16 or bfloat16. Contiguous, channels_last and permuted token layouts
            are read as they are; other strides are made dense once.
        weight: (k,), k odd, of the type of ``x`` or float32.
        gate: ``sigmoid``, ``hard_sigmoid``, ``two_sigmoid`` or ``tanh1p``; the last two are exactly 1 at 0.
        residual: shape and type of ``x``, added after the gate.
        post: ``relu``, ``silu``, ``gelu``, ``hardswish`` or ``none``, applied last.
        inplace: write the result into ``x``, where no gradient is asked for.

    Returns:
        A new tensor with the shape, type and layout of ``x``, or ``x`` itself.

    Raises:
        RuntimeError: an argument has a wrong shape, type, device or option; the message names it.
        NotImplementedError: ``inplace`` where a gradient is asked for.

    Source: https://arxiv.org/abs/1910.03151

    Examples:
        >>> import torch
        >>> from torchvision_customizer import ops
        >>> x = torch.randn(2, 8, 5, 5)
        >>> torch.equal(ops.eca(x, torch.zeros(3), gate="two_sigmoid", post="relu"), x.relu())
        True
    """
    if inplace:
        torch.ops.tvc._eca_(x, weight, gate, residual, post)
        return x
    return torch.ops.tvc.eca(x, weight, gate, residual, post)
