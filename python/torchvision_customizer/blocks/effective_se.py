"""Effective squeeze-and-excitation.

Lee, Park: CenterMask, https://arxiv.org/abs/1911.06667
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops._math import gate_of, per_channel, spatial_mean
from ..registry import register
from ._checks import check_positive
from .attention import default_gate


@register("effective_se", "attention", aliases=("ese",), paper="https://arxiv.org/abs/1911.06667")
class EffectiveSE(nn.Module):
    """Squeeze-and-excitation with one layer, which loses nothing on the way through fewer channels (VoVNetV2).

    ``y = x * gate(fc(mean(x)))``.

    Args:
        channels: channels C of the input.
        gate: ``sigmoid``, ``hard_sigmoid``, ``two_sigmoid`` or ``tanh1p``; by default ``hard_sigmoid``, and with
            ``init="identity"`` ``two_sigmoid``.
        init: ``paper`` starts as published; ``identity`` starts as the identity, exactly: ``fc`` is zero.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, C, *), output the same.

    Raises:
        ValueError: an argument that is not listed above.

    Source: Lee, Park: CenterMask, https://arxiv.org/abs/1911.06667
    """

    def __init__(
        self,
        channels: int,
        *,
        gate: str | None = None,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("EffectiveSE", "channels", channels)
        self.gate = default_gate("EffectiveSE", init, gate, "hard_sigmoid")
        self.init = init
        self.fc = nn.Linear(channels, channels, device=device, dtype=dtype)
        if init == "identity":
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        scale = gate_of(self.fc(spatial_mean(x).to(self.fc.weight.dtype)), self.gate)
        return x * per_channel(scale, x).to(x.dtype)

    def extra_repr(self) -> str:
        return f"gate={self.gate}, init={self.init}"
