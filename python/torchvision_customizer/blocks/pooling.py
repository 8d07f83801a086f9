"""Pooling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..registry import register
from ._checks import check_positive


@register("gem", "pooling", aliases=("generalized_mean",), paper="https://arxiv.org/abs/1711.02512")
class GeM(nn.Module):
    """Generalised-mean pooling over space: between the mean (p = 1) and the maximum (p large).

    ``y = mean(clamp(x, min=eps) ** p) ** (1 / p)``, reading ``x`` once. In the place of an average pool, ``p=1`` starts as that
    pool does, as far as its input is not negative.

    Args:
        p: where the exponent starts.
        eps: the least value that counts.
        learnable: whether the exponent is a parameter; else it is a buffer. It is in the state dict either way.
        flatten: give (N, C) instead of (N, C, 1, 1).
        device: where the exponent is made.
        dtype: its type.

    Shape:
        x (N, C, *), output (N, C, 1, …) with as many dimensions, as an adaptive pool has it.

    Raises:
        ValueError: ``p`` or ``eps`` is not positive.

    Source: Radenović, Tolias, Chum: Fine-tuning CNN Image Retrieval with No Human Annotation, https://arxiv.org/abs/1711.02512
    """

    if TYPE_CHECKING:  # TorchScript would take it for an attribute
        p: Tensor

    def __init__(
        self,
        p: float = 3.0,
        eps: float = 1e-6,
        learnable: bool = True,
        *,
        flatten: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for argument, value in (("p", p), ("eps", eps)):
            if not value > 0:
                raise ValueError(f"GeM: {argument} must be positive, got {value!r}")
        self.eps = float(eps)
        self.flatten = flatten
        exponent = torch.full((1,), float(p), device=device, dtype=dtype)
        if learnable:
            self.p = nn.Parameter(exponent)
        else:
            self.register_buffer("p", exponent)

    def forward(self, x: Tensor) -> Tensor:
        pooled = ops.gem_pool(x, self.p, self.eps)
        return pooled if self.flatten else pooled.reshape(list(pooled.shape) + [1] * (x.dim() - 2))

    def extra_repr(self) -> str:
        return f"eps={self.eps}" + (", flatten=True" if self.flatten else "")


register("adaptive_avg_pool", "pooling", example={"output_size": 1})(nn.AdaptiveAvgPool2d)
register("adaptive_max_pool", "pooling", example={"output_size": 1})(nn.AdaptiveMaxPool2d)
register("avg_pool", "pooling", example={"kernel_size": 2})(nn.AvgPool2d)
register("max_pool", "pooling", example={"kernel_size": 2})(nn.MaxPool2d)
register("lp_pool", "pooling", example={"norm_type": 2, "kernel_size": 2})(nn.LPPool2d)


@register("blur_pool", "pooling", paper="https://arxiv.org/abs/1904.11486")
class BlurPool2d(nn.Module):
    """Anti-aliased subsampling: each channel is blurred by a binomial filter, and every ``stride``-th position is kept.

    Args:
        kernel_size: of the filter: 1 2 1 for 3, 1 3 3 1 for 4, in both directions.
        stride: of the positions that are kept.
        padding: how many zeros there are around the input; by default as many as keep a stride of 1 in place.

    Shape:
        x (N, C, H, W), output (N, C, H', W') as for ``torch.nn.AvgPool2d``.

    Raises:
        ValueError: ``kernel_size`` or ``stride`` is no integer of at least 1.

    Source: Zhang: Making Convolutional Networks Shift-Invariant Again, https://arxiv.org/abs/1904.11486
    """

    def __init__(self, kernel_size: int = 3, stride: int = 2, padding: int | None = None) -> None:
        super().__init__()
        check_positive("BlurPool2d", "kernel_size", kernel_size)
        check_positive("BlurPool2d", "stride", stride)
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = (kernel_size - 1) // 2 if padding is None else padding
        self.taps = [math.comb(kernel_size - 1, k) / 2 ** (kernel_size - 1) for k in range(kernel_size)]

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.tensor(self.taps, device=x.device, dtype=x.dtype)
        weight = torch.outer(taps, taps).expand(x.size(1), 1, self.kernel_size, self.kernel_size)
        return F.conv2d(x, weight, None, self.stride, self.padding, groups=x.size(1))

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


@register("stochastic_pool", "pooling", paper="https://arxiv.org/abs/1301.3557")
class StochasticPool2d(nn.Module):
    """In training each window gives one of its values, drawn in proportion to them; in evaluation their mean, so weighted.

    The probabilities are ``p = x / sum(x)`` over the window, with negative values as zeros; where none is positive, all of the
    window are equally likely.

    Args:
        kernel_size: of the window.
        stride: of the window, by default ``kernel_size``.

    Shape:
        x (N, C, H, W), output (N, C, H', W') as for ``torch.nn.AvgPool2d``.

    Raises:
        ValueError: ``kernel_size`` or ``stride`` is no integer of at least 1.

    Source: Zeiler, Fergus: Stochastic Pooling for Regularization of Deep Convolutional Neural Networks,
        https://arxiv.org/abs/1301.3557
    """

    def __init__(self, kernel_size: int = 2, stride: int | None = None) -> None:
        super().__init__()
        check_positive("StochasticPool2d", "kernel_size", kernel_size)
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        check_positive("StochasticPool2d", "stride", self.stride)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unfold(2, self.kernel_size, self.stride).unfold(3, self.kernel_size, self.stride).flatten(4)
        weights = windows.clamp(min=0)
        weights = torch.where(weights.sum(4, keepdim=True) > 0, weights, torch.ones_like(weights))
        if not self.training:
            return (windows * weights).sum(4) / weights.sum(4)
        # The first of several exponential clocks to ring is one of rate w with a probability in proportion to w.
        clocks = torch.empty_like(weights, dtype=torch.float32).exponential_()
        drawn = (weights.detach() / clocks).argmax(4, keepdim=True)
        return windows.gather(4, drawn).squeeze(4)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}"
