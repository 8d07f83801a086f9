"""``tvc::drop_path``: stochastic depth with the tail of a residual block.

    out = post(x * mask + residual), one value of mask for each sample

Huang, Sun, Liu, Sedra, Weinberger: Deep Networks with Stochastic Depth, https://arxiv.org/abs/1603.09382
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from ._library import Op
from ._math import (
    IN_PLACE_NO_GRADIENT,
    accumulate_type,
    activate,
    activate_backward,
    dense,
    fake_like,
    in_place,
    in_place_fake,
)

op = Op("drop_path", "(Tensor x, Tensor mask, Tensor? residual=None, str post='none') -> Tensor")
inplace_op = Op("_drop_path_", "(Tensor(a!) x, Tensor mask, Tensor? residual, str post) -> ()")
backward_op = Op(
    "_drop_path_backward",
    "(Tensor grad, Tensor x, Tensor mask, Tensor? residual, str post, Tensor? out, bool residual_grad) -> (Tensor, Tensor)",
)


def _check(x: Tensor, mask: Tensor, residual: Tensor | None, post: str) -> None:
    op.check(x.dim() >= 1, f"x must be (N, *), got {list(x.shape)}")
    op.check_type(x)
    op.check_option("post", post)
    op.check_tensor("mask", mask, x, (x.size(0),), (x.dtype, accumulate_type(x)))
    op.check_tensor("residual", residual, x, tuple(x.shape), (x.dtype,))


def _masked(t: Tensor, mask: Tensor) -> Tensor:
    """``t * mask`` for each sample; where mask is 0 nothing of ``t`` comes through, not even NaN."""
    mask = mask.to(t.dtype).view([-1] + [1] * (t.dim() - 1))
    return torch.where(mask == 0, torch.zeros_like(t), t * mask)


def reference(x: Tensor, mask: Tensor, residual: Tensor | None, post: str) -> Tensor:
    """The op in plain PyTorch: fallback of every device, oracle of the tests."""
    out = _masked(dense(x), mask)
    if residual is not None:
        out = out + residual
    return activate(out, post)


def backward_reference(
    grad: Tensor, x: Tensor, mask: Tensor, residual: Tensor | None, post: str, out: Tensor | None, residual_grad: bool
) -> tuple[Tensor, Tensor]:
    """Gradients for x, residual; an empty tensor stands for one that is not asked for."""
    x = dense(x)
    if out is None and post != "none":
        out = _masked(x, mask)
        if residual is not None:
            out = out + residual
    grad = grad if out is None else activate_backward(grad, out, post)
    return (
        torch.empty_like(x).copy_(_masked(grad, mask)),
        torch.empty_like(x).copy_(grad) if residual_grad else x.new_empty(0),
    )


def _backward_fake(
    grad: Tensor, x: Tensor, mask: Tensor, residual: Tensor | None, post: str, out: Tensor | None, residual_grad: bool
) -> tuple[Tensor, Tensor]:
    return fake_like(x), fake_like(x) if residual_grad else x.new_empty(0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, mask, residual, ctx.post = inputs
    ctx.residual_grad = residual is not None and residual.requires_grad
    # The slope of relu is read off its output; that of the others needs what went into them, made again from x and residual.
    curved = ctx.post not in ("none", "relu")
    ctx.save_for_backward(x if curved else None, mask, residual if curved else None, output if ctx.post == "relu" else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, mask, residual, out = ctx.saved_tensors
    through = ctx.post == "none"  # then the residual's gradient is grad itself
    if x is None:  # only its layout is asked for
        x = grad if out is None else out
    grad_x, grad_residual = backward_op.overload(grad, x, mask, residual, ctx.post, out, ctx.residual_grad and not through)
    return grad_x, None, (grad if through else grad_residual) if ctx.residual_grad else None, None


def _flops(*args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """torch counts matrix products and convolutions, and here are none."""
    return 0


op.register(
    reference=reference,
    check=_check,
    setup_context=_setup_context,
    backward=_backward,
    weights=("mask",),
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
backward_op.register(reference=backward_reference, fake=_backward_fake, flops=_flops)


def drop_path(
    x: Tensor,
    mask: Tensor,
    residual: Optional[Tensor] = None,
    post: str = "none",
    inplace: bool = False,
) -> Tensor:
    """Scale or drop whole samples of a branch in one pass over memory, with an optional addition and activation after it.

    ``out = post(x * mask[n] + residual)``. Where a sample's mask is 0 its branch is not read, and NaN or infinity in it do not
    come through. Works under autograd, autocast, ``torch.compile``, ``torch.jit.script`` and ``torch.export``.

    Args:
        x: the branch (N, *), float32, float64, float16 or bfloat16, of any rank from 1 on.
        mask: (N,), of the type of ``x`` or float32: 0, or 1 divided by the probability to keep. It gets no gradient.
        residual: shape and type of ``x``.
        post: ``relu``, ``silu``, ``gelu``, ``hardswish`` or ``none``, applied last.
        inplace: write the result into ``x``, where no gradient is asked for.

    Returns:
        A new tensor with the shape, type and layout of ``x``, or ``x`` itself.

    Raises:
        RuntimeError: an argument has a wrong shape, type, device or option; the message names it.
        NotImplementedError: ``inplace`` where a gradient is asked for.

    Source: https://arxiv.org/abs/1603.09382

    Examples:
        >>> import torch
        >>> from torchvision_customizer import ops
        >>> x = torch.ones(2, 1, 1, 2)
        >>> ops.drop_path(x, torch.tensor([0.0, 2.0]), residual=x, post="relu").flatten(1)
        tensor([[1., 1.],
                [3., 3.]])
    """
    if inplace:
        torch.ops.tvc._drop_path_(x, mask, residual, post)
        return x
    return torch.ops.tvc.drop_path(x, mask, residual, post)
