"""Bottlenecks: residual blocks that convolve in space with fewer channels than they add.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..registry import register
from ._checks import check_positive
from ._parts import Parts, Residual


class Bottleneck(Residual):
    """Base of the bottlenecks: ``act(bn3(conv3(act(bn2(conv2(act(bn1(conv1(x)))))))) + shortcut(x))``.

    ``conv1`` and ``conv3`` are 1×1, and ``conv2`` is what makes the difference. The names are those of torchvision's block.
    """

    def build(
        self,
        parts: Parts,
        in_channels: int,
        hidden: int,
        out_channels: int,
        conv2: nn.Module,
        downsample: nn.Module,
        attention: nn.Module,
        drop_path: float,
    ) -> None:
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.conv1 = parts.conv(in_channels, hidden, 1)
        self.bn1 = parts.norm(hidden)
        self.act1 = parts.act()
        self.conv2 = conv2
        self.bn2 = parts.norm(hidden)
        self.act2 = parts.act()
        self.conv3 = parts.conv(hidden, out_channels, 1)
        self.bn3 = parts.norm(out_channels)
        self.downsample = downsample
        self.make_tail(parts, attention, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        return self.tail(self.bn3(self.conv3(y)), self.downsample(x))


def hidden_channels(block: str, in_channels: int, out_channels: int, expansion: int) -> int:
    """The channels inside of a bottleneck."""
    check_positive(block, "in_channels", in_channels)
    check_positive(block, "out_channels", out_channels)
    check_positive(block, "expansion", expansion)
    return max(1, out_channels // expansion)


@register("bottleneck", "bottleneck", aliases=("standard_bottleneck",), paper="https://arxiv.org/abs/1512.03385")
class StandardBottleneck(Bottleneck):
    """1×1, 3×3 and 1×1 convolutions whose result is added to the input.

    Its parts have the names of torchvision's bottleneck, so that its weights load.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the block; that of its 3×3 convolution.
        expansion: there are ``out_channels // expansion`` channels inside.
        activation: a name of ``registry.list("activation")``, or ``none``.
        norm_type: a name that ``layers.get_normalization`` knows.
        use_downsample: True for a 1×1 convolution and a norm as the shortcut even where the shape stays; else there is one only
            where it changes.
        attention: a name of ``registry.list("attention")``, for the branch, before the addition.
        se_reduction: reduction of an attention that has one.
        drop_path: probability that the branch of a sample is dropped in training.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') with H' = ceil(H / stride).

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none.

    Source: He, Zhang, Ren, Sun: Deep Residual Learning, https://arxiv.org/abs/1512.03385
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        expansion: int = 4,
        activation: str | None = "relu",
        norm_type: str = "batch",
        use_downsample: bool | None = None,
        *,
        attention: str | None = None,
        se_reduction: int = 16,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_channels("StandardBottleneck", in_channels, out_channels, expansion)
        parts = Parts("StandardBottleneck", activation, norm_type, device, dtype)
        self.build(
            parts,
            in_channels,
            hidden,
            out_channels,
            parts.conv(hidden, hidden, 3, stride),
            parts.shortcut(in_channels, out_channels, stride, always=bool(use_downsample)),
            parts.attention(attention, out_channels, se_reduction),
            drop_path,
        )


@register("wide_bottleneck", "bottleneck", paper="https://arxiv.org/abs/1605.07146")
class WideBottleneck(Bottleneck):
    """A bottleneck that is wider inside.

    With ``width_multiplier=2`` it is the block of torchvision's Wide ResNets, and its parts have their names.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        width_multiplier: how much wider.
        stride: of the block; that of its 3×3 convolution.
        expansion: there are ``out_channels / expansion * width_multiplier`` channels inside, rounded down.
        activation: a name of ``registry.list("activation")``, or ``none``.
        norm_type: a name that ``layers.get_normalization`` knows.
        use_downsample: True for a 1×1 convolution and a norm as the shortcut even where the shape stays; else there is one only
            where it changes.
        attention: a name of ``registry.list("attention")``, for the branch, before the addition.
        se_reduction: reduction of an attention that has one.
        drop_path: probability that the branch of a sample is dropped in training.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') with H' = ceil(H / stride).

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none.

    Source: Zagoruyko, Komodakis: Wide Residual Networks, https://arxiv.org/abs/1605.07146
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width_multiplier: float = 2.0,
        stride: int = 1,
        expansion: int = 4,
        activation: str | None = "relu",
        norm_type: str = "batch",
        use_downsample: bool | None = None,
        *,
        attention: str | None = None,
        se_reduction: int = 16,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_channels("WideBottleneck", in_channels, out_channels, expansion)
        if not width_multiplier > 0:
            raise ValueError(f"WideBottleneck: width_multiplier must be positive, got {width_multiplier!r}")
        hidden = max(1, int(out_channels / expansion * width_multiplier))
        parts = Parts("WideBottleneck", activation, norm_type, device, dtype)
        self.build(
            parts,
            in_channels,
            hidden,
            out_channels,
            parts.conv(hidden, hidden, 3, stride),
            parts.shortcut(in_channels, out_channels, stride, always=bool(use_downsample)),
            parts.attention(attention, out_channels, se_reduction),
            drop_path,
        )


@register("grouped_bottleneck", "bottleneck", paper="https://arxiv.org/abs/1611.05431")
class GroupedBottleneck(Bottleneck):
    """A bottleneck whose 3×3 convolution has groups (ResNeXt).

    With ``expansion=2`` and 32 groups it is the block of torchvision's ResNeXt-50 32x4d, and its parts have its names.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        num_groups: groups of the 3×3 convolution.
        stride: of the block; that of its 3×3 convolution.
        expansion: there are ``out_channels // expansion`` channels inside, rounded up to a multiple of ``num_groups``.
        activation: a name of ``registry.list("activation")``, or ``none``.
        norm_type: a name that ``layers.get_normalization`` knows.
        use_downsample: True for a 1×1 convolution and a norm as the shortcut even where the shape stays; else there is one only
            where it changes.
        attention: a name of ``registry.list("attention")``, for the branch, before the addition.
        se_reduction: reduction of an attention that has one.
        drop_path: probability that the branch of a sample is dropped in training.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') with H' = ceil(H / stride).

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none.

    Source: Xie, Girshick, Dollár, Tu, He: Aggregated Residual Transformations, https://arxiv.org/abs/1611.05431
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_groups: int = 32,
        stride: int = 1,
        expansion: int = 4,
        activation: str | None = "relu",
        norm_type: str = "batch",
        use_downsample: bool | None = None,
        *,
        attention: str | None = None,
        se_reduction: int = 16,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_channels("GroupedBottleneck", in_channels, out_channels, expansion)
        check_positive("GroupedBottleneck", "num_groups", num_groups)
        hidden = num_groups * math.ceil(hidden / num_groups)
        parts = Parts("GroupedBottleneck", activation, norm_type, device, dtype)
        self.build(
            parts,
            in_channels,
            hidden,
            out_channels,
            parts.conv(hidden, hidden, 3, stride, groups=num_groups),
            parts.shortcut(in_channels, out_channels, stride, always=bool(use_downsample)),
            parts.attention(attention, out_channels, se_reduction),
            drop_path,
        )


class _TwoScales(nn.Module):
    """Two convolutions of the same input, side by side."""

    def __init__(self, parts: Parts, channels: int, stride: int, use_dilation: bool) -> None:
        super().__init__()
        half = channels // 2
        self.near = parts.conv(channels, channels - half, 3, stride)
        self.far = parts.conv(channels, half, 3, stride, dilation=2) if use_dilation else parts.conv(channels, half, 5, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.near(x), self.far(x)], 1)


@register("multi_scale_bottleneck", "bottleneck")
class MultiScaleBottleneck(Bottleneck):
    """A bottleneck that sees two scales at once.

    One half of the hidden channels comes from a 3×3 convolution, the other from a dilated one, or from a 5×5 one.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the block; that of its two convolutions in space.
        expansion: there are ``out_channels // expansion`` channels inside, at least two.
        use_dilation: the second convolution is 3×3 with a dilation of 2; else it is 5×5.
        activation: a name of ``registry.list("activation")``, or ``none``.
        norm_type: a name that ``layers.get_normalization`` knows.
        use_downsample: True for a 1×1 convolution and a norm as the shortcut even where the shape stays; else there is one only
            where it changes.
        attention: a name of ``registry.list("attention")``, for the branch, before the addition.
        se_reduction: reduction of an attention that has one.
        drop_path: probability that the branch of a sample is dropped in training.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') with H' = ceil(H / stride).

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        expansion: int = 4,
        use_dilation: bool = True,
        activation: str | None = "relu",
        norm_type: str = "batch",
        use_downsample: bool | None = None,
        *,
        attention: str | None = None,
        se_reduction: int = 16,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_channels("MultiScaleBottleneck", in_channels, out_channels, expansion)
        hidden = max(2, hidden)
        parts = Parts("MultiScaleBottleneck", activation, norm_type, device, dtype)
        self.build(
            parts,
            in_channels,
            hidden,
            out_channels,
            _TwoScales(parts, hidden, stride, use_dilation),
            parts.shortcut(in_channels, out_channels, stride, always=bool(use_downsample)),
            parts.attention(attention, out_channels, se_reduction),
            drop_path,
        )


def _factorized(parts: Parts, channels: int, stride: int) -> nn.Sequential:
    """A convolution along rows, and one along columns."""
    return nn.Sequential(
        parts.conv(channels, channels, (1, 5), (1, stride)),
        parts.norm(channels),
        parts.act(),
        parts.conv(channels, channels, (5, 1), (stride, 1)),
    )


@register("asymmetric_bottleneck", "bottleneck", paper="https://arxiv.org/abs/1606.02147")
class AsymmetricBottleneck(Bottleneck):
    """A bottleneck with a 1×5 and a 5×1 convolution, one after the other.

    They see 5×5 positions with 10 weights in the place of 25; a norm and an activation stand between them.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the block; that of its two convolutions in space, each in its direction.
        expansion: there are ``out_channels // expansion`` channels inside.
        activation: a name of ``registry.list("activation")``, or ``none``.
        norm_type: a name that ``layers.get_normalization`` knows.
        use_downsample: True for a 1×1 convolution and a norm as the shortcut even where the shape stays; else there is one only
            where it changes.
        attention: a name of ``registry.list("attention")``, for the branch, before the addition.
        se_reduction: reduction of an attention that has one.
        drop_path: probability that the branch of a sample is dropped in training.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') with H' = ceil(H / stride).

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none.

    Source: Paszke, Chaurasia, Kim, Culurciello: ENet, https://arxiv.org/abs/1606.02147
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        expansion: int = 4,
        activation: str | None = "relu",
        norm_type: str = "batch",
        use_downsample: bool | None = None,
        *,
        attention: str | None = None,
        se_reduction: int = 16,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_channels("AsymmetricBottleneck", in_channels, out_channels, expansion)
        parts = Parts("AsymmetricBottleneck", activation, norm_type, device, dtype)
        self.build(
            parts,
            in_channels,
            hidden,
            out_channels,
            _factorized(parts, hidden, stride),
            parts.shortcut(in_channels, out_channels, stride, always=bool(use_downsample)),
            parts.attention(attention, out_channels, se_reduction),
            drop_path,
        )
