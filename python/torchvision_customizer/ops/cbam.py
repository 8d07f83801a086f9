"""``tvc::cbam``: attention over channels, then over positions, with the tail of a residual block.

    s = gate(mlp(mean of x over space) + mlp(maximum of x over space)),  mlp(v) = w2 · act(w1 · v + b1) + b2
    y = x * s
    t = gate(conv2d([mean of y over channels, maximum of y over channels], spatial_weight) + spatial_bias)
    out = post(y * t + residual)

Everything between x and out is in the accumulation type; y is not rounded. So what is equal to a maximum is so for everyone
who computes it, and a gradient is shared among the same elements.

Woo, Park, Lee, Kweon: CBAM: Convolutional Block Attention Module, https://arxiv.org/abs/1807.06521
"""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ._library import Op
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
)

op = Op(
    "cbam",
    "(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor spatial_weight, Tensor? spatial_bias, "
    "str act='relu', str gate='sigmoid', Tensor? residual=None, str post='none') -> Tensor",
)
inplace_op = Op(
    "_cbam_",
    "(Tensor(a!) x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor spatial_weight, Tensor? spatial_bias, "
    "str act, str gate, Tensor? residual, str post) -> ()",
)
backward_op = Op(
    "_cbam_backward",
    "(Tensor grad, Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor spatial_weight, Tensor? spatial_bias, "
    "str act, str gate, Tensor? residual, str post, Tensor? out, bool residual_grad) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
channels_op = Op(
    "_cbam_channels",
    "(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act, str gate) -> (Tensor, Tensor)",
)
channels_backward_op = Op(
    "_cbam_channels_backward",
    "(Tensor grad_scale, Tensor grad_maps, Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act, str gate) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
)
apply_op = Op(
    "_cbam_apply",
    "(Tensor x, Tensor scale, Tensor logits, str gate, Tensor? residual, str post) -> Tensor",
)
apply_backward_op = Op(
    "_cbam_apply_backward",
    "(Tensor grad, Tensor x, Tensor scale, Tensor logits, str gate, Tensor? residual, str post, Tensor? out, "
    "bool residual_grad) -> (Tensor, Tensor, Tensor, Tensor)",
)


# ---- Checks ----


def _check_image(op: Op, x: Tensor) -> None:
    op.check(x.dim() == 4, f"x must be (N, C, H, W), got {list(x.shape)}")
    op.check_activation(x)


def _check_channels_of(
    op: Op, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: str, gate: str
) -> None:
    _check_image(op, x)
    op.check_option("act", act)
    op.check_option("gate", gate)
    channels = x.size(1)
    op.check_tensor("w1", w1, x, ("reduced", channels), (x.dtype, accumulate_type(x)))
    op.check_tensor("b1", b1, x, (w1.size(0),), (w1.dtype,))
    op.check_tensor("w2", w2, x, (channels, w1.size(0)), (w1.dtype,))
    op.check_tensor("b2", b2, x, (channels,), (w1.dtype,))


def _check(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    spatial_weight: Tensor,
    spatial_bias: Tensor | None,
    act: str,
    gate: str,
    residual: Tensor | None,
    post: str,
) -> None:
    _check_channels_of(op, x, w1, b1, w2, b2, act, gate)
    op.check_option("post", post)
    op.check_tensor("spatial_weight", spatial_weight, x, (1, 2, "k", "k"), (x.dtype, accumulate_type(x)))
    height, width = spatial_weight.shape[2:]
    op.check(
        height == width and height % 2 == 1,
        f"spatial_weight must be [1, 2, k, k] with an odd k, got {list(spatial_weight.shape)}",
    )
    op.check_tensor("spatial_bias", spatial_bias, x, (1,), (spatial_weight.dtype,))
    op.check_tensor("residual", residual, x, tuple(x.shape), (x.dtype,))


def _check_channels(*arguments: Any) -> None:
    _check_channels_of(channels_op, *arguments)


def _check_apply(x: Tensor, scale: Tensor, logits: Tensor, gate: str, residual: Tensor | None, post: str) -> None:
    _check_image(apply_op, x)
    apply_op.check_option("gate", gate)
    apply_op.check_option("post", post)
    n, channels, height, width = x.shape
    apply_op.check_tensor("scale", scale, x, (n, channels), (accumulate_type(x),))
    apply_op.check_tensor("logits", logits, x, (n, 1, height, width), (x.dtype, accumulate_type(x)))
    apply_op.check_tensor("residual", residual, x, tuple(x.shape), (x.dtype,))


# ---- References: the two halves, and the op, which is both with the convolution between ----


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _like(y: Tensor, x: Tensor) -> Tensor:
    """``y`` in the type and the layout of ``x``."""
    y = y.to(x.dtype)
    return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)


def _statistics(x: Tensor) -> Tensor:
    """Mean and maximum over space, (2, N, C)."""
    return torch.stack((x.mean((2, 3)), x.amax((2, 3))))


def _maps(y: Tensor) -> Tensor:
    """Mean and maximum over channels, (N, 2, H, W)."""
    return torch.stack((y.mean(1), y.amax(1)), 1)


def _convolution(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    weight, bias = weight.to(maps.dtype), None if bias is None else bias.to(maps.dtype)
    return F.conv2d(maps, weight, bias, padding=weight.size(2) // 2)


def _channel_gate(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: str, gate: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The scale (N, C), after all that it is made of."""
    statistics = _statistics(x)
    before_act = _linear(statistics, w1, b1)
    hidden = activate(before_act, act)
    # The sum of both mlps: their second products are one, and b2 is there twice.
    before_gate = _linear(hidden.sum(0), w2, None if b2 is None else 2 * b2.to(x.dtype))
    return statistics, before_act, hidden, before_gate, gate_of(before_gate, gate)


def channels_reference(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: str, gate: str
) -> tuple[Tensor, Tensor]:
    """Scale (N, C) and maps (N, 2, H, W), in the accumulation type."""
    n, channels, height, width = x.shape
    x = dense(x).to(accumulate_type(x))
    if x.numel() == 0:  # torch has no maximum of nothing
        return x.new_zeros(n, channels), x.new_zeros(n, 2, height, width)
    scale = _channel_gate(x, w1, b1, w2, b2, act, gate)[-1]
    return scale, _maps(x * per_channel(scale, x))


def apply_reference(x: Tensor, scale: Tensor, logits: Tensor, gate: str, residual: Tensor | None, post: str) -> Tensor:
    """The scale and the gate of positions on ``x``, and the tail."""
    x = dense(x)
    out = x.to(scale.dtype) * per_channel(scale, x) * gate_of(logits.to(scale.dtype), gate)
    if residual is not None:
        out = out + residual
    return _like(activate(out, post), x)


def reference(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    spatial_weight: Tensor,
    spatial_bias: Tensor | None,
    act: str,
    gate: str,
    residual: Tensor | None,
    post: str,
) -> Tensor:
    """The op in plain PyTorch: fallback of every device, oracle of the tests."""
    if x.numel() == 0:  # torch has no maximum of nothing, nor a convolution over nothing
        return fake_like(x)
    scale, maps = channels_reference(x, w1, b1, w2, b2, act, gate)
    return apply_reference(x, scale, _convolution(maps, spatial_weight, spatial_bias), gate, residual, post)


def _shared(grad: Tensor, equal: Tensor, dims: list[int]) -> Tensor:
    """Gradient of a maximum: the same for all that are equal to it."""
    return equal * (grad / equal.sum(dims, keepdim=True))


def _channels_gradients(
    grad_scale: Tensor,
    grad_maps: Tensor,
    x: Tensor,
    made: tuple[Tensor, ...],
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    act: str,
    gate: str,
) -> tuple[Tensor, ...]:
    """Gradients for x, in the accumulation type, w1, b1, w2, b2; ``made`` is what :func:`_channel_gate` returned."""
    nothing = x.new_empty(0)
    statistics, before_act, hidden, before_gate, scale = made
    scale = per_channel(scale, x)
    y = x * scale

    of_mean, of_max = grad_maps.split(1, 1)
    grad_y = of_mean / x.size(1) + _shared(of_max, y == y.amax(1, keepdim=True), [1])
    grad_gate = gate_backward(grad_scale + (grad_y * x).sum((2, 3)), before_gate, gate)
    grad_act = activate_backward((grad_gate @ w2.to(x.dtype)).expand_as(hidden), before_act, act)
    of_mean, of_max = (per_channel(grad, x) for grad in grad_act @ w1.to(x.dtype))
    grad_x = grad_y * scale + of_mean / x[0, 0].numel()
    grad_x += _shared(of_max, x == per_channel(statistics[1], x), [2, 3])
    return (
        grad_x,
        (grad_act.flatten(0, 1).t() @ statistics.flatten(0, 1)).to(w1.dtype),
        nothing if b1 is None else grad_act.sum((0, 1)).to(b1.dtype),
        (grad_gate.t() @ hidden.sum(0)).to(w2.dtype),
        nothing if b2 is None else (2 * grad_gate.sum(0)).to(b2.dtype),
    )


def _apply_gradients(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    logits: Tensor,
    gate: str,
    residual: Tensor | None,
    post: str,
    out: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, scale, logits and residual, in the accumulation type."""
    x, logits = x.to(scale.dtype), logits.to(scale.dtype)
    y, position = x * per_channel(scale, x), gate_of(logits, gate)
    if out is None:
        out = y * position
        if residual is not None:
            out += residual
    grad = activate_backward(grad.to(x.dtype), out.to(x.dtype), post)
    grad_y = grad * position
    grad_logits = gate_backward((grad * y).sum(1, keepdim=True), logits, gate)
    return grad_y * per_channel(scale, x), (grad_y * x).sum((2, 3)), grad_logits, grad


def channels_backward_reference(
    grad_scale: Tensor,
    grad_maps: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    act: str,
    gate: str,
) -> tuple[Tensor, ...]:
    """Gradients for x, w1, b1, w2, b2; an empty tensor stands for one that is not there."""
    x = dense(x)
    if x.numel() == 0:
        weights = (x.new_empty(0) if w is None else torch.zeros_like(w) for w in (w1, b1, w2, b2))
        return torch.empty_like(x), *weights
    wide = x.to(accumulate_type(x))
    made = _channel_gate(wide, w1, b1, w2, b2, act, gate)
    grad_x, *grads = _channels_gradients(grad_scale, grad_maps, wide, made, w1, b1, w2, b2, act, gate)
    return torch.empty_like(x).copy_(grad_x), *grads


def apply_backward_reference(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    logits: Tensor,
    gate: str,
    residual: Tensor | None,
    post: str,
    out: Tensor | None,
    residual_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, scale, logits, residual; an empty tensor stands for one that is not asked for."""
    x = dense(x)
    grad_x, grad_scale, grad_logits, inner = _apply_gradients(grad, x, scale, logits, gate, residual, post, out)
    grad_residual = torch.empty_like(x).copy_(inner) if residual_grad else x.new_empty(0)
    return torch.empty_like(x).copy_(grad_x), grad_scale, grad_logits.to(logits.dtype).contiguous(), grad_residual


def backward_reference(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    spatial_weight: Tensor,
    spatial_bias: Tensor | None,
    act: str,
    gate: str,
    residual: Tensor | None,
    post: str,
    out: Tensor | None,
    residual_grad: bool,
) -> tuple[Tensor, ...]:
    """Gradients for all tensors, in order; an empty tensor stands for one that is not asked for."""
    x = dense(x)
    nothing = x.new_empty(0)
    if x.numel() == 0:
        weights = (w1, b1, w2, b2, spatial_weight, spatial_bias)
        zeros = tuple(nothing if w is None else torch.zeros_like(w) for w in weights)
        return torch.empty_like(x), *zeros, torch.empty_like(x) if residual_grad else nothing
    wide = x.to(accumulate_type(x))
    made = _channel_gate(wide, w1, b1, w2, b2, act, gate)
    scale = made[-1]
    maps = _maps(wide * per_channel(scale, x))
    logits = _convolution(maps, spatial_weight, spatial_bias)
    grad_x, grad_scale, grad_logits, inner = _apply_gradients(grad, x, scale, logits, gate, residual, post, out)
    weight, bias, pad = spatial_weight.to(maps.dtype), spatial_bias is not None, spatial_weight.size(2) // 2
    grad_maps, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad_logits, maps, weight, [1], [1, 1], [pad, pad], [1, 1], False, [0, 0], 1, [True, True, bias]
    )
    of_channels, *grad_weights = _channels_gradients(grad_scale, grad_maps, wide, made, w1, b1, w2, b2, act, gate)
    return (
        torch.empty_like(x).copy_(grad_x + of_channels),
        *grad_weights,
        grad_weight.to(spatial_weight.dtype),
        grad_bias.to(spatial_weight.dtype) if bias else nothing,
        torch.empty_like(x).copy_(inner) if residual_grad else nothing,
    )


# ---- Fakes ----


def _fake_of(x: Tensor, t: Tensor | None) -> Tensor:
    return x.new_empty(0) if t is None else t.new_empty(t.shape)


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    spatial_weight: Tensor,
    spatial_bias: Tensor | None,
    act: str,
    gate: str,
    residual: Tensor | None,
    post: str,
    out: Tensor | None,
    residual_grad: bool,
) -> tuple[Tensor, ...]:
    weights = (_fake_of(x, w) for w in (w1, b1, w2, b2, spatial_weight, spatial_bias))
    return fake_like(x), *weights, fake_like(x) if residual_grad else x.new_empty(0)


def _channels_fake(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    n, channels, height, width = x.shape
    kind = accumulate_type(x)
    return x.new_empty((n, channels), dtype=kind), x.new_empty((n, 2, height, width), dtype=kind)


def _channels_backward_fake(
    grad_scale: Tensor,
    grad_maps: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    act: str,
    gate: str,
) -> tuple[Tensor, ...]:
    return fake_like(x), *(_fake_of(x, w) for w in (w1, b1, w2, b2))


def _apply_backward_fake(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    logits: Tensor,
    gate: str,
    residual: Tensor | None,
    post: str,
    out: Tensor | None,
    residual_grad: bool,
) -> tuple[Tensor, ...]:
    return fake_like(x), _fake_of(x, scale), _fake_of(x, logits), fake_like(x) if residual_grad else x.new_empty(0)


# ---- Autograd ----


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.act, ctx.gate, residual, ctx.post = inputs
    ctx.residual_grad = residual is not None and residual.requires_grad
    # The slope of relu is read off its output; that of the others needs what went into them, made again from x and residual.
    keep_residual = residual if ctx.post not in ("none", "relu") else None
    ctx.save_for_backward(*tensors, keep_residual, output if ctx.post == "relu" else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, residual, out = ctx.saved_tensors
    through = ctx.post == "none"  # then the residual's gradient is grad itself
    *grads, grad_residual = backward_op.overload(
        grad, *tensors, ctx.act, ctx.gate, residual, ctx.post, out, ctx.residual_grad and not through
    )
    return (
        *(g if t is not None else None for g, t in zip(grads, tensors, strict=True)),
        None,
        None,
        (grad if through else grad_residual) if ctx.residual_grad else None,
        None,
    )


def _channels_setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.act, ctx.gate = inputs
    ctx.save_for_backward(*tensors)


def _channels_backward(ctx: Any, grad_scale: Tensor, grad_maps: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    grads = channels_backward_op.overload(grad_scale, grad_maps, *tensors, ctx.act, ctx.gate)
    return *(g if t is not None else None for g, t in zip(grads, tensors, strict=True)), None, None


def _apply_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.gate, residual, ctx.post = inputs
    ctx.residual_grad = residual is not None and residual.requires_grad
    keep_residual = residual if ctx.post not in ("none", "relu") else None
    ctx.save_for_backward(*tensors, keep_residual, output if ctx.post == "relu" else None)


def _apply_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, residual, out = ctx.saved_tensors
    through = ctx.post == "none"
    *grads, grad_residual = apply_backward_op.overload(
        grad, *tensors, ctx.gate, residual, ctx.post, out, ctx.residual_grad and not through
    )
    return *grads, None, (grad if through else grad_residual) if ctx.residual_grad else None, None


# ---- FLOPs, counted as torch counts them: 2 a multiply-add ----


def _channels_flops(x_shape: Any, w1_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """The first matrix product of 2 N rows, and the second of N."""
    return 6 * int(x_shape[0]) * int(w1_shape[0]) * int(w1_shape[1])


def _flops(
    x_shape: Any, w1_shape: Any, b1_shape: Any, w2_shape: Any, b2_shape: Any, spatial_shape: Any, *args: Any, **kwargs: Any
) -> int:
    """Those, and the convolution of two planes."""
    convolution = 4 * int(x_shape[0]) * int(x_shape[2]) * int(x_shape[3]) * int(spatial_shape[2]) ** 2
    return _channels_flops(x_shape, w1_shape) + convolution


def _backward_flops(grad_shape: Any, *shapes: Any, **kwargs: Any) -> int:
    """The forward's products again, and twice as many for the gradients."""
    return 3 * _flops(*shapes)


def _channels_backward_flops(
    grad_scale_shape: Any, grad_maps_shape: Any, x_shape: Any, w1_shape: Any, *args: Any, **kwargs: Any
) -> int:
    return 3 * _channels_flops(x_shape, w1_shape)


op.register(
    reference=reference,
    check=_check,
    setup_context=_setup_context,
    backward=_backward,
    weights=("w1", "b1", "w2", "b2", "spatial_weight", "spatial_bias"),
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
channels_op.register(
    reference=channels_reference,
    check=_check_channels,
    fake=_channels_fake,
    setup_context=_channels_setup_context,
    backward=_channels_backward,
    weights=("w1", "b1", "w2", "b2"),
    flops=_channels_flops,
)
channels_backward_op.register(
    reference=channels_backward_reference, fake=_channels_backward_fake, flops=_channels_backward_flops
)
apply_op.register(
    reference=apply_reference,
    check=_check_apply,
    setup_context=_apply_setup_context,
    backward=_apply_backward,
    weights=("scale", "logits"),
)
apply_backward_op.register(reference=apply_backward_reference, fake=_apply_backward_fake)


def cbam(
    x: Tensor,
    w1: Tensor,
    b1: Optional[Tensor],
    w2: Tensor,
    b2: Optional[Tensor],
    spatial_weight: Tensor,
    spatial_bias: Optional[Tensor],
    act: str = "relu",
    gate: str = "sigmoid",
    residual: Optional[Tensor] = None,
    post: str = "none",
    inplace: bool = False,
) -> Tensor:
    """Attention over channels and then over positions, with an optional addition and activation after it.

    ``s = gate(mlp(mean) + mlp(maximum))`` of ``x`` over space, with ``mlp(v) = w2 · act(w1 · v + b1) + b2``; ``y = x * s``;
    ``t = gate(conv2d([mean, maximum] of y over channels, spatial_weight) + spatial_bias)``;
    ``out = post(y * t + residual)``. All of it in float32 (float64 for float64), ``y`` too, which is rounded nowhere: the
    gradient of a maximum is shared equally among the elements that are equal to it in that type, as ``amax`` does. Works
    under autograd, autocast, ``torch.compile``, ``torch.jit.script`` and ``torch.export``.

    Args:
        x: activation (N, C, H, W), float32, float64, float16 or bfloat16. Contiguous, channels_last and permuted
            (N, H, W, C) are read as they are; other strides are made dense once.
        w1: (R, C), of the type of ``x`` or float32.
        b1: (R,) or None.
        w2: (C, R).
        b2: (C,) or None.
        spatial_weight: (1, 2, k, k) with an odd k, of the type of ``x`` or float32; the plane of the mean comes first.
        spatial_bias: (1,) or None.
        act: ``relu``, ``silu``, ``gelu``, ``hardswish`` or ``none``, between the two products.
        gate: ``sigmoid``, ``hard_sigmoid``, ``two_sigmoid`` or ``tanh1p``, for channels and positions alike; the last two are
            exactly 1 at 0.
        residual: shape and type of ``x``, added after the gates.
        post: one of ``act``'s names, applied last.
        inplace: write the result into ``x``, where no gradient is asked for.

    Returns:
        A new tensor with the shape, type and layout of ``x``, or ``x`` itself.

    Raises:
        RuntimeError: an argument has a wrong shape, type, device or option; the message names it.
        NotImplementedError: ``inplace`` where a gradient is asked for.

    Source: https://arxiv.org/abs/1807.06521

    Examples:
        >>> import torch
        >>> from torchvision_customizer import ops
        >>> x, w1, w2 = torch.randn(2, 8, 5, 5), torch.zeros(2, 8), torch.zeros(8, 2)
        >>> out = ops.cbam(x, w1, None, w2, None, torch.zeros(1, 2, 7, 7), None, gate="two_sigmoid")
        >>> torch.equal(out, x)
        True
    """
    if inplace:
        torch.ops.tvc._cbam_(x, w1, b1, w2, b2, spatial_weight, spatial_bias, act, gate, residual, post)
        return x
    return torch.ops.tvc.cbam(x, w1, b1, w2, b2, spatial_weight, spatial_bias, act, gate, residual, post)


def cbam_channels(
    x: Tensor,
    w1: Tensor,
    b1: Optional[Tensor],
    w2: Tensor,
    b2: Optional[Tensor],
    act: str = "relu",
    gate: str = "sigmoid",
) -> tuple[Tensor, Tensor]:
    """The first half of :func:`cbam`, for training with a norm between the convolution and the gate of positions::

        scale, maps = cbam_channels(x, w1, b1, w2, b2, act, gate)
        logits = norm(F.conv2d(maps.to(weight.dtype), weight, bias, padding=k // 2))
        out = cbam_apply(x, scale, logits, gate, residual, post)

    Args:
        x: as in :func:`cbam`, and so are the others.
        w1: (R, C).
        b1: (R,) or None.
        w2: (C, R).
        b2: (C,) or None.
        act: between the two products.
        gate: of the scale.

    Returns:
        The scale (N, C), and mean and maximum over channels of ``x`` times it, (N, 2, H, W), both in float32 (float64 for
        float64).
    """
    return torch.ops.tvc._cbam_channels(x, w1, b1, w2, b2, act, gate)


def cbam_apply(
    x: Tensor,
    scale: Tensor,
    logits: Tensor,
    gate: str = "sigmoid",
    residual: Optional[Tensor] = None,
    post: str = "none",
) -> Tensor:
    """The second half of :func:`cbam`: ``post(x * scale * gate(logits) + residual)``.

    Args:
        x: what :func:`cbam_channels` was called with.
        scale: (N, C), as it returned it.
        logits: (N, 1, H, W), of the type of ``x`` or float32.
        gate: of ``logits``.
        residual: shape and type of ``x``.
        post: applied last.

    Returns:
        A new tensor with the shape, type and layout of ``x``.
    """
    return torch.ops.tvc._cbam_apply(x, scale, logits, gate, residual, post)
