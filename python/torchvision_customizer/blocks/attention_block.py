"""Attention over channels and positions under the names of version 2.1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops._math import gate_of
from ..registry import register
from ._checks import check_positive
from .attention import CBAMBlock, ChannelAttention, SpatialAttention, default_gate


@register(
    "channel_spatial_attention",
    "attention",
    aliases=("channel_spatial",),
    paper="https://arxiv.org/abs/1807.06521",
)
class ChannelSpatialAttention(CBAMBlock):
    """:class:`CBAMBlock` under the argument names of version 2.1.

    Args:
        channels: channels C of the input.
        channel_reduction: the hidden layer has ``max(1, channels // channel_reduction)`` channels.
        spatial_kernel: size of the spatial gate's convolution, an odd number.
        gate: see :class:`CBAMBlock`, as for the following.
        init: see there.
        device: see there.
        dtype: see there.

    Shape:
        x and residual (N, C, H, W), output the same, as there.

    Raises:
        ValueError: an argument that is not listed above.

    Source: Woo, Park, Lee, Kweon: CBAM, https://arxiv.org/abs/1807.06521
    """

    def __init__(
        self,
        channels: int,
        channel_reduction: int = 16,
        spatial_kernel: int = 7,
        *,
        gate: str | None = None,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, channel_reduction, spatial_kernel, gate=gate, init=init, device=device, dtype=dtype)


@register("attention_block", "attention")
class AttentionBlock(nn.Module):
    """Attention over channels, over positions, and over both at once, one after the other, each if it is asked for.

    ``y = cross(spatial(channel(x)))``; the last is ``x * gate(conv2(relu(conv1(x))))`` with 1×1 convolutions.

    Args:
        channels: channels C of the input.
        use_channel: whether there is a :class:`ChannelAttention`.
        use_spatial: whether there is a :class:`SpatialAttention`.
        use_cross: whether there is the last.
        channel_reduction: reduction of the first.
        spatial_kernel: size of the convolution of the second, an odd number.
        gate: ``sigmoid``, ``hard_sigmoid``, ``two_sigmoid`` or ``tanh1p``; by default ``sigmoid``, and with
            ``init="identity"`` ``two_sigmoid``.
        init: ``paper`` starts as published; ``identity`` starts as the identity, exactly: the last layer of each is zero.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, C, H, W), output the same.

    Raises:
        ValueError: an argument that is not listed above; none of the three is asked for.
    """

    def __init__(
        self,
        channels: int,
        use_channel: bool = True,
        use_spatial: bool = True,
        use_cross: bool = False,
        channel_reduction: int = 16,
        spatial_kernel: int = 7,
        *,
        gate: str | None = None,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not (use_channel or use_spatial or use_cross):
            raise ValueError("AttentionBlock: one of use_channel, use_spatial and use_cross must be True")
        self.channel = (
            nn.Identity()
            if not use_channel
            else ChannelAttention(channels, channel_reduction, gate=gate, init=init, device=device, dtype=dtype)
        )
        self.spatial = (
            nn.Identity()
            if not use_spatial
            else SpatialAttention(spatial_kernel, gate=gate, init=init, device=device, dtype=dtype)
        )
        self.cross = nn.Identity() if not use_cross else _CrossAttention(channels, gate, init, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.cross(self.spatial(self.channel(x)))


class _CrossAttention(nn.Module):
    """Each value is scaled by a gate computed from all channels at its position."""

    def __init__(
        self, channels: int, gate: str | None, init: str, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        check_positive("AttentionBlock", "channels", channels)
        self.gate = default_gate("AttentionBlock", init, gate)
        reduced = max(1, channels // 2)
        self.conv1 = nn.Conv2d(channels, reduced, 1, device=device, dtype=dtype)
        self.conv2 = nn.Conv2d(reduced, channels, 1, device=device, dtype=dtype)
        if init == "identity":
            for parameter in self.conv2.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x * gate_of(self.conv2(self.conv1(x).relu()), self.gate)

    def extra_repr(self) -> str:
        return f"gate={self.gate}"
