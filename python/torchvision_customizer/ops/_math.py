"""What the references of all ops share: options, the type sums are made in, and the layout an output takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# The options of the contract, in the order csrc/common/options.h numbers them.
ACTS = ("none", "relu", "silu", "gelu", "hardswish")
GATES = ("sigmoid", "hard_sigmoid", "two_sigmoid", "tanh1p")
POSTS = ACTS


def activate(y: Tensor, name: str) -> Tensor:
    """``act`` and ``post`` of the contract; the name has been checked."""
    if name == "relu":
        return F.relu(y)
    if name == "silu":
        return F.silu(y)
    if name == "gelu":
        return F.gelu(y)
    if name == "hardswish":
        return F.hardswish(y)
    return y


def activate_backward(grad: Tensor, y: Tensor, name: str) -> Tensor:
    """Gradient of :func:`activate` at its input ``y``. For relu the output serves as well: it has the same sign."""
    if name == "relu":
        return torch.ops.aten.threshold_backward(grad, y, 0)
    if name == "silu":
        return torch.ops.aten.silu_backward(grad, y)
    if name == "gelu":
        return torch.ops.aten.gelu_backward(grad, y)
    if name == "hardswish":
        return torch.ops.aten.hardswish_backward(grad, y)
    return grad


def gate_of(z: Tensor, name: str) -> Tensor:
    """``gate`` of the contract; ``two_sigmoid`` and ``tanh1p`` are exactly 1 at 0."""
    if name == "hard_sigmoid":
        return F.hardsigmoid(z)
    if name == "two_sigmoid":
        return 2 * torch.sigmoid(z)
    if name == "tanh1p":
        return 1 + torch.tanh(z)
    return torch.sigmoid(z)


def gate_backward(grad: Tensor, z: Tensor, name: str) -> Tensor:
    """Gradient of :func:`gate_of` at ``z``."""
    if name == "hard_sigmoid":
        return torch.ops.aten.hardsigmoid_backward(grad, z)
    if name == "two_sigmoid":
        return torch.ops.aten.sigmoid_backward(2 * grad, torch.sigmoid(z))
    if name == "tanh1p":
        return torch.ops.aten.tanh_backward(grad, torch.tanh(z))
    return torch.ops.aten.sigmoid_backward(grad, torch.sigmoid(z))


def accumulate_type(x: Tensor) -> torch.dtype:
    """The type sums are made in: float64 for float64, float32 for everything else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def spatial_dims(x: Tensor) -> list[int]:
    """Dimensions of ``x`` (N, C, *) that are space; for (N, C) the mean over none of them is ``x`` itself."""
    return list(range(2, x.dim()))


def spatial_mean(x: Tensor) -> Tensor:
    """Mean over space, (N, C), in the accumulation type."""
    return x.mean(spatial_dims(x), dtype=accumulate_type(x)) if x.dim() > 2 else x.to(accumulate_type(x))


def per_channel(s: Tensor, x: Tensor) -> Tensor:
    """View (N, C) as (N, C, 1, …) so that it broadcasts over ``x``."""
    return s.reshape(list(s.shape) + [1] * (x.dim() - 2))


def dense(x: Tensor) -> Tensor:
    """``x`` itself where its samples are dense, channels first or channels last; else a copy that is.

    The native kernels read exactly these two layouts (``csrc/common/layout.h`` has the same rule), token views among
    them: (N, L, C) and (N, H, W, C) permuted to (N, C, *) are dense, channels last.
    """
    if x.is_contiguous() or (x.dim() > 2 and x.movedim(1, -1).is_contiguous()):
        return x
    if x.dim() in (4, 5) and x.stride(1) < x.stride(-1):
        return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    return x.contiguous()


def fake_like(x: Tensor) -> Tensor:
    """The output of a shape-preserving op: strides as :func:`dense` leaves them."""
    return torch.empty_like(dense(x))


IN_PLACE_NO_GRADIENT = "inplace=True overwrites x, which the gradient needs; call it under torch.no_grad()"


def in_place(reference: Callable[..., Tensor]) -> Callable[..., None]:
    """The reference of the form that overwrites its first argument."""

    def overwrite(x: Tensor, *args: Any) -> None:
        x.copy_(reference(x, *args))

    return overwrite


def in_place_fake(*_: Any) -> None:
    """The fake of that form: nothing is returned."""
