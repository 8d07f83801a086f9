"""Pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .. import ops
from ..registry import register


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
