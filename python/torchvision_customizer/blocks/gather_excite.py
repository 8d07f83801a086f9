"""Gather-excite.

Hu, Shen, Albanie, Sun, Vedaldi: Gather-Excite, https://arxiv.org/abs/1810.12348
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops._math import activate, gate_of
from ..registry import register
from ._checks import check_option, check_positive
from .attention import ACTIVATIONS, default_gate


@register("gather_excite", "attention", aliases=("ge",), paper="https://arxiv.org/abs/1810.12348")
class GatherExcite(nn.Module):
    """Each position is scaled by a gate computed from the means around it, or over all of space.

    ``y = x * gate(resize(fc2(act(fc1(gather(x))))))``; ``gather`` is an average pool, and ``resize`` takes the nearest.

    Args:
        channels: channels C of the input.
        extent: an even number: the pool has a stride of ``extent`` and a window of ``2 * extent - 1``; 0 for all of space.
        reduction: the hidden layer has ``max(1, channels // reduction)`` channels.
        activation: ``relu``, ``silu``, ``gelu``, ``hardswish`` or ``none``, between the two layers.
        use_mlp: whether there are the two layers; without them there are no parameters.
        gate: ``sigmoid``, ``hard_sigmoid``, ``two_sigmoid`` or ``tanh1p``; by default ``sigmoid``, and with
            ``init="identity"`` ``two_sigmoid``.
        init: ``paper`` starts as published; ``identity`` starts as the identity, exactly: ``fc2`` is zero; it needs
            ``use_mlp``.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, C, H, W), output the same.

    Raises:
        ValueError: an argument that is not listed above; ``init="identity"`` with ``use_mlp=False``.

    Source: Hu, Shen, Albanie, Sun, Vedaldi: Gather-Excite, https://arxiv.org/abs/1810.12348
    """

    __constants__ = ("use_mlp",)

    def __init__(
        self,
        channels: int,
        extent: int = 0,
        reduction: int = 16,
        activation: str = "relu",
        *,
        use_mlp: bool = True,
        gate: str | None = None,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("GatherExcite", "channels", channels)
        check_positive("GatherExcite", "reduction", reduction)
        check_option("GatherExcite", "activation", activation, ACTIVATIONS)
        if not isinstance(extent, int) or extent < 0 or extent % 2:
            raise ValueError(f"GatherExcite: extent must be an even integer of at least 0, got {extent!r}")
        if init == "identity" and not use_mlp:
            raise ValueError("GatherExcite: init='identity' needs use_mlp=True: without layers nothing can be learnt")
        self.extent = extent
        self.activation = activation
        self.use_mlp = use_mlp
        self.gate = default_gate("GatherExcite", init, gate)
        self.init = init
        if use_mlp:
            reduced = max(1, channels // reduction)
            self.fc1 = nn.Conv2d(channels, reduced, 1, device=device, dtype=dtype)
            self.fc2 = nn.Conv2d(reduced, channels, 1, device=device, dtype=dtype)
            if init == "identity":
                for parameter in self.fc2.parameters():
                    nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        means = self.gather(x)
        if self.use_mlp:
            means = self.fc2(activate(self.fc1(means), self.activation))
        if self.extent != 0:
            means = F.interpolate(means, size=[x.size(2), x.size(3)])
        return x * gate_of(means, self.gate)

    def gather(self, x: Tensor) -> Tensor:
        """The means of ``x``."""
        if self.extent == 0:
            return x.mean([2, 3], keepdim=True)
        window = 2 * self.extent - 1
        return F.avg_pool2d(x, window, self.extent, window // 2, count_include_pad=False)

    def extra_repr(self) -> str:
        return f"extent={self.extent}, activation={self.activation}, gate={self.gate}, init={self.init}"
