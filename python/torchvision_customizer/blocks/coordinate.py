"""Coordinate attention.

Hou, Zhou, Feng: Coordinate Attention for Efficient Mobile Network Design, https://arxiv.org/abs/2103.02907
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops._math import gate_of
from ..registry import register
from ._checks import check_positive
from ._parts import Parts
from .attention import default_gate


@register("coordinate_attention", "attention", aliases=("coord_attention",), paper="https://arxiv.org/abs/2103.02907")
class CoordinateAttention(nn.Module):
    """Each position is scaled by a gate for its row and one for its column.

    The means of rows and of columns go through ``act(norm(conv))`` together, and then through ``rows`` and ``columns``:
    ``y = x * gate(rows(·)) * gate(columns(·))``.

    Args:
        channels: channels C of the input.
        reduction: there are ``max(8, channels // reduction)`` channels between the convolutions.
        activation: a name of ``registry.list("activation")``, or ``none``.
        norm_type: a name that ``layers.get_normalization`` knows.
        gate: ``sigmoid``, ``hard_sigmoid``, ``two_sigmoid`` or ``tanh1p``; by default ``sigmoid``, and with
            ``init="identity"`` ``two_sigmoid``.
        init: ``paper`` starts as published; ``identity`` starts as the identity, exactly: ``rows`` and ``columns`` are zero.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, C, H, W), output the same.

    Raises:
        ValueError: an argument that is not listed above.

    Source: Hou, Zhou, Feng: Coordinate Attention for Efficient Mobile Network Design, https://arxiv.org/abs/2103.02907
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 32,
        activation: str | None = "hardswish",
        norm_type: str = "batch",
        *,
        gate: str | None = None,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("CoordinateAttention", "channels", channels)
        check_positive("CoordinateAttention", "reduction", reduction)
        self.gate = default_gate("CoordinateAttention", init, gate)
        self.init = init
        parts = Parts("CoordinateAttention", activation, norm_type, device, dtype)
        reduced = max(8, channels // reduction)
        self.conv = parts.conv(channels, reduced, 1)
        self.norm = parts.norm(reduced)
        self.act = parts.act()
        self.rows = nn.Conv2d(reduced, channels, 1, device=device, dtype=dtype)
        self.columns = nn.Conv2d(reduced, channels, 1, device=device, dtype=dtype)
        if init == "identity":
            for parameter in (*self.rows.parameters(), *self.columns.parameters()):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.size(2), x.size(3)
        means = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2)
        y = self.act(self.norm(self.conv(means)))
        rows = self.rows(y.narrow(2, 0, height))
        columns = self.columns(y.narrow(2, height, width).transpose(2, 3))
        return x * gate_of(rows, self.gate) * gate_of(columns, self.gate)

    def extra_repr(self) -> str:
        return f"gate={self.gate}, init={self.init}"
