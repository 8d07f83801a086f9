"""``tvc::squeeze_excite``: squeeze-and-excitation with the tail of a residual block.

    out = post(x * gate(w2 · act(w1 · mean(x) + b1) + b2) + residual)

Hu, Shen, Albanie, Sun, Wu: Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507
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
    spatial_dims,
    spatial_mean,
)

op = Op(
    "squeeze_excite",
    "(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act='relu', str gate='sigmoid', "
    "Tensor? residual=None, str post='none') -> Tensor",
)
inplace_op = Op(
    "_squeeze_excite_",
    "(Tensor(a!) x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act, str gate, Tensor? residual, str post) -> ()",
)
backward_op = Op(
    "_squeeze_excite_backward",
    "(Tensor grad, Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act, str gate, Tensor? residual, "
    "str post, Tensor? out, bool residual_grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def _check(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    act: str,
    gate: str,
    residual: Tensor | None,
    post: str,
) -> None:
    op.check_activation(x)
    op.check_option("act", act)
    op.check_option("gate", gate)
    op.check_option("post", post)
    channels = x.size(1)
    op.check_tensor("w1", w1, x, ("reduced", channels), (x.dtype, accumulate_type(x)))
    op.check_tensor("b1", b1, x, (w1.size(0),), (w1.dtype,))
    op.check_tensor("w2", w2, x, (channels, w1.size(0)), (w1.dtype,))
    op.check_tensor("b2", b2, x, (channels,), (w1.dtype,))
    op.check_tensor("residual", residual, x, tuple(x.shape), (x.dtype,))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def reference(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    act: str,
    gate: str,
    residual: Tensor | None,
    post: str,
) -> Tensor:
    """The op in plain PyTorch: fallback of every device, oracle of the tests."""
    x = dense(x)
    hidden = activate(_linear(spatial_mean(x), w1, b1), act)
    scale = gate_of(_linear(hidden, w2, b2), gate)
    out = x * per_channel(scale.to(x.dtype), x)
    if residual is not None:
        out = out + residual
    return activate(out, post)


def backward_reference(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    act: str,
    gate: str,
    residual: Tensor | None,
    post: str,
    out: Tensor | None,
    residual_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, w1, b1, w2, b2, residual; an empty tensor stands for one that is not asked for."""
    x = dense(x)
    nothing = x.new_empty(0)
    if x.numel() == 0:  # no mean over no positions: the gradients are 0, and not NaN
        w1, b1, w2, b2 = (nothing if w is None else torch.zeros_like(w) for w in (w1, b1, w2, b2))
        return torch.empty_like(x), w1, b1, w2, b2, torch.empty_like(x) if residual_grad else nothing
    mean = spatial_mean(x)
    before_act = _linear(mean, w1, b1)
    hidden = activate(before_act, act)
    before_gate = _linear(hidden, w2, b2)
    scale = gate_of(before_gate, gate)
    if out is None:
        out = x * per_channel(scale.to(x.dtype), x)
        if residual is not None:
            out += residual
    grad = activate_backward(grad, out, post)

    product = grad.to(mean.dtype) * x
    grad_scale = product.sum(spatial_dims(x)) if x.dim() > 2 else product
    grad_gate = gate_backward(grad_scale, before_gate, gate)
    grad_act = activate_backward(grad_gate @ w2.to(mean.dtype), before_act, act)
    grad_mean = grad_act @ w1.to(mean.dtype)
    grad_x = torch.empty_like(x)
    grad_x.copy_(grad * per_channel(scale, x) + per_channel(grad_mean / x[0, 0].numel(), x))
    return (
        grad_x,
        (grad_act.t() @ mean).to(w1.dtype),
        nothing if b1 is None else grad_act.sum(0).to(b1.dtype),
        (grad_gate.t() @ hidden).to(w2.dtype),
        nothing if b2 is None else grad_gate.sum(0).to(b2.dtype),
        torch.empty_like(x).copy_(grad) if residual_grad else nothing,
    )


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    act: str,
    gate: str,
    residual: Tensor | None,
    post: str,
    out: Tensor | None,
    residual_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    def like(t: Tensor | None) -> Tensor:
        return x.new_empty(0) if t is None else t.new_empty(t.shape)

    return fake_like(x), like(w1), like(b1), like(w2), like(b2), fake_like(x) if residual_grad else x.new_empty(0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w1, b1, w2, b2, ctx.act, ctx.gate, residual, ctx.post = inputs
    ctx.residual_grad = residual is not None and residual.requires_grad
    # The slope of relu is read off its output; that of the others needs what went into them, made again from x and residual.
    keep_residual = residual if ctx.post not in ("none", "relu") else None
    ctx.save_for_backward(x, w1, b1, w2, b2, keep_residual, output if ctx.post == "relu" else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, w1, b1, w2, b2, residual, out = ctx.saved_tensors
    through = ctx.post == "none"  # then the residual's gradient is grad itself
    grad_x, grad_w1, grad_b1, grad_w2, grad_b2, grad_residual = backward_op.overload(
        grad, x, w1, b1, w2, b2, ctx.act, ctx.gate, residual, ctx.post, out, ctx.residual_grad and not through
    )
    return (
        grad_x,
        grad_w1,
        grad_b1 if b1 is not None else None,
        grad_w2,
        grad_b2 if b2 is not None else None,
        None,
        None,
        (grad if through else grad_residual) if ctx.residual_grad else None,
        None,
    )


def _flops(x_shape: Any, w1_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Two matrix products of N rows, counted as torch counts them: 2 FLOPs a multiply-add."""
    return 4 * int(x_shape[0]) * int(w1_shape[0]) * int(w1_shape[1])


def _backward_flops(grad_shape: Any, x_shape: Any, w1_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """The forward's products again, and four for the gradients."""
    return 3 * _flops(x_shape, w1_shape)


op.register(
    reference=reference,
    check=_check,
    setup_context=_setup_context,
    backward=_backward,
    weights=("w1", "b1", "w2", "b2"),
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


def squeeze_excite(
    x: Tensor,
    w1: Tensor,
    b1: Optional[Tensor],
    w2: Tensor,
    b2: Optional[Tensor],
    act: str = "relu",
    gate: str = "sigmoid",
    residual: Optional[Tensor] = None,
    post: str = "none",
    inplace: bool = False,
) -> Tensor:
    """Squeeze-and-excitation in one pass over memory, with an optional addition and activation after it.

    ``out = post(x * gate(w2 · act(w1 · mean(x) + b1) + b2) + residual)``, the mean over space. Sums are made in float32
    (float64 for float64). Works under autograd, autocast, ``torch.compile``, ``torch.jit.script`` and ``torch.export``.

    Args:
        x: activation (N, C, *), float32, float64, float16 or bfloat16. Contiguous, channels_last and permuted token layouts
            are read as they are; other strides are made dense once.
        w1: (R, C), of the type of ``x`` or float32.
        b1: (R,) or None.
        w2: (C, R).
        b2: (C,) or None.
        act: ``relu``, ``silu``, ``gelu``, ``hardswish`` or ``none``, between the two products.
        gate: ``sigmoid``, ``hard_sigmoid``, ``two_sigmoid`` or ``tanh1p``; the last two are exactly 1 at 0.
        residual: shape and type of ``x``, added after the gate.
        post: one of ``act``'s names, applied last.
        inplace: write the result into ``x``, where no gradient is asked for.

    Returns:
        A new tensor with the shape, type and layout of ``x``, or ``x`` itself.

    Raises:
        RuntimeError: an argument has a wrong shape, type, device or option; the message names it.
        NotImplementedError: ``inplace`` where a gradient is asked for.

    Source: https://arxiv.org/abs/1709.01507

    Examples:
        >>> import torch
        >>> from torchvision_customizer import ops
        >>> x = torch.randn(2, 8, 5, 5)
        >>> out = ops.squeeze_excite(x, torch.zeros(2, 8), None, torch.zeros(8, 2), None, gate="two_sigmoid")
        >>> torch.equal(out, x)
        True
    """
    if inplace:
        torch.ops.tvc._squeeze_excite_(x, w1, b1, w2, b2, act, gate, residual, post)
        return x
    return torch.ops.tvc.squeeze_excite(x, w1, b1, w2, b2, act, gate, residual, post)
