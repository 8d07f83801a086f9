"""Convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import register
from ._parts import Size


@register(
    "depthwise_separable_conv", "block", paper="https://arxiv.org/abs/1610.02357", example={"kernel_size": 3, "padding": 1}
)
class DepthwiseSeparableConv2d(nn.Module):
    """A convolution in two: over space for each channel, then over channels at each position.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the first part, as the following three.
        stride: see ``torch.nn.Conv2d``.
        padding: see there.
        dilation: see there.
        bias: whether the second part adds one; the first does not.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') as for ``torch.nn.Conv2d``.

    Raises:
        ValueError: what ``torch.nn.Conv2d`` refuses.

    Source: Chollet: Xception, https://arxiv.org/abs/1610.02357
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups=in_channels,
            bias=False,
            device=device,
            dtype=dtype,
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


@register(
    "coord_conv",
    "block",
    aliases=("coordinate_conv",),
    paper="https://arxiv.org/abs/1807.03247",
    example={"kernel_size": 3, "padding": 1},
)
class CoordConv(nn.Conv2d):
    """A convolution that knows where it is: each position's coordinates, from -1 to 1, are two more channels of its input.

    The weights of the coordinates are a parameter of their own, ``coord_weight``, so that ``weight`` is that of a plain
    convolution; its part of the output is the same for all samples, and computed once. With groups, each group has the
    coordinates.

    Args:
        in_channels: channels of the input, without the coordinates.
        out_channels: channels of the output.
        kernel_size: see ``torch.nn.Conv2d``, as for the following but ``with_r``.
        with_r: whether the distance from the middle is a third coordinate. It stands here because it did in version 2.1.
        stride: see there.
        padding: see there; the coordinates are padded with zeros, too.
        dilation: see there.
        groups: see there.
        bias: see there.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W) or (in_channels, H, W), output as for ``torch.nn.Conv2d``. Along a side of length 1 the
        coordinate is -1.

    Raises:
        ValueError: what ``torch.nn.Conv2d`` refuses.

    Source: Liu, Lehman, Molino, Such, Frank, Sergeev, Yosinski: An Intriguing Failing of Convolutional Neural Networks and the
        CoordConv Solution, https://arxiv.org/abs/1807.03247
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        with_r: bool = False,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, device=device, dtype=dtype
        )
        self.with_r = with_r
        coordinates = 3 if with_r else 2
        self.coord_weight = nn.Parameter(torch.empty(out_channels, coordinates, *self.kernel_size, device=device, dtype=dtype))
        # As torch starts a convolution with so many channels more.
        fan_in = (in_channels // groups + coordinates) * self.kernel_size[0] * self.kernel_size[1]
        nn.init.uniform_(self.coord_weight, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        shift = F.conv2d(self.coordinates(input), self.coord_weight, None, self.stride, self.padding, self.dilation)
        return self._conv_forward(input, self.weight, self.bias) + shift

    def coordinates(self, x: Tensor) -> Tensor:
        """Of each position of ``x``: (2, H, W), vertical and horizontal, or with the distance from the middle (3, H, W)."""
        # In float32 at least: above 256, bfloat16 does not have every integer.
        dtype = torch.promote_types(x.dtype, torch.float32)
        i = torch.arange(x.size(-2), device=x.device, dtype=dtype)
        j = torch.arange(x.size(-1), device=x.device, dtype=dtype)
        rows = (2 * i / i[-1:].clamp(min=1) - 1)[:, None].expand(x.size(-2), x.size(-1))
        columns = (2 * j / j[-1:].clamp(min=1) - 1)[None, :].expand(x.size(-2), x.size(-1))
        maps = [rows, columns]
        if self.with_r:
            maps.append((rows.square() + columns.square()).sqrt())
        return torch.stack(maps).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, with_r={self.with_r}"
