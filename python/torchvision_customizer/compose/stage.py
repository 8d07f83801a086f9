"""The middle of a network: blocks of one resolution, and what lies between two resolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..blocks._checks import check_positive
from ..layers import get_activation, get_normalization
from .patterns import parse_pattern
from .piece import WrittenPiece


class Stage(WrittenPiece):
    """Blocks of one kind, one after another.

    Args:
        channels: channels that it gives, whatever the pattern.
        blocks: how many.
        pattern: ``conv``, ``residual``, ``bottleneck``, ``wide_bottleneck``, ``grouped_bottleneck``, ``depthwise``, ``dense``,
            ``mbconv``, ``fused_mbconv``, or one of :func:`register_pattern`; with suffixes: an attention (``+se``, ``+eca``,
            ``+cbam``, or another name of ``registry.list("attention")``) and ``+drop_path``, which drops at a rate of 0.1
            unless ``drop_path`` says another.
        in_channels: channels of the input; by default those of what stands to the left.
        downsample: whether the first block has a stride, of 2 unless ``stride`` says another.
        stride: of the first block, with or without ``downsample``; by default 2 with it, and 1 without. Every other block has
            a stride of 1.
        activation: a name of :func:`~torchvision_customizer.layers.get_activation`; by default that of the pattern: ``silu`` of
            ``mbconv`` and ``fused_mbconv``, ``relu`` of the others.
        norm: a name of :func:`~torchvision_customizer.layers.get_normalization`, or None.
        expansion: how much narrower a bottleneck is inside, or how much wider an ``mbconv``.
        growth_rate: channels that each layer of ``dense`` adds.
        se_reduction: of squeeze-and-excitation.
        device: where the parameters are.
        dtype: their type.
        **options: further options of the pattern, such as ``groups``, ``width_multiplier``, ``kernel_size``, ``drop_path``,
            ``use_se`` and ``add_residual``: the keyword arguments of its block.

    Shape:
        x (N, in_channels, H, W), output (N, channels, H', W').

    Raises:
        ValueError: an argument has a value that it cannot have, or the pattern does not take it; the message names it.

    Examples:
        >>> import torch
        >>> from torchvision_customizer import Head, Stage, Stem
        >>> model = Stem(8, pool=None) >> Stage(16, blocks=2, pattern="residual+se", downsample=True) >> Head(10)
        >>> tuple(model(torch.randn(2, 3, 32, 32)).shape)
        (2, 10)
    """

    type_name = "stage"

    def __init__(
        self,
        channels: int,
        blocks: int = 2,
        pattern: str = "residual",
        in_channels: int | None = None,
        downsample: bool = False,
        stride: int | None = None,
        activation: str | None = None,
        norm: str | None = "batch",
        expansion: int | None = None,
        growth_rate: int | None = None,
        se_reduction: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._keep(locals())
        check_positive("Stage", "channels", channels)
        check_positive("Stage", "blocks", blocks)
        if stride is None:
            stride = 2 if downsample else 1
        check_positive("Stage", "stride", stride)
        if downsample and stride == 1:
            raise ValueError("Stage: downsample=True and stride=1 contradict each other")
        named = {"activation": activation, "expansion": expansion, "growth_rate": growth_rate, "se_reduction": se_reduction}
        given = {key: value for key, value in named.items() if value is not None} | options
        if norm != "batch":
            given["norm"] = norm or "none"
        # An open stage, too, refuses names that nobody knows.
        get_activation(activation or "none")
        get_normalization(norm or "none", channels)
        maker, given = parse_pattern(pattern, "Stage", given)
        arguments = maker.arguments(given)
        self.in_channels, self.out_channels = in_channels, channels
        if in_channels is None:
            self._leave_open()
            return
        check_positive("Stage", "in_channels", in_channels)
        if maker.makes_stage:
            self.add_module("0", maker.make(in_channels, channels, stride=stride, blocks=blocks, **arguments))
        else:
            for number in range(blocks):
                first = number == 0
                block = maker.make(in_channels if first else channels, channels, stride=stride if first else 1, **arguments)
                self.add_module(str(number), block)
        self._finish(device, dtype)

    def _again(self) -> Stage:
        return self._changed("downsample", "stride")


class TransitionLayer(WrittenPiece):
    """A norm, an activation, a 1×1 convolution to fewer channels, and an average pool, as between DenseNet's dense blocks.

    Args:
        in_channels: channels of the input; by default those of what stands to the left.
        compression: how many channels it gives for each that it gets, rounded down.
        pool_size: size and stride of the pool; 1 for none.
        activation: a name of :func:`~torchvision_customizer.layers.get_activation`, or None.
        norm: a name of :func:`~torchvision_customizer.layers.get_normalization`, or None.
        device: where the parameters are.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, in_channels · compression, H // pool_size, W // pool_size).

    Raises:
        ValueError: an argument has a value that it cannot have; the message names it.

    Source: Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, https://arxiv.org/abs/1608.06993
    """

    type_name = "transition"

    def __init__(
        self,
        in_channels: int | None = None,
        compression: float = 0.5,
        pool_size: int = 2,
        *,
        activation: str | None = "relu",
        norm: str | None = "batch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._keep(locals())
        check_positive("TransitionLayer", "pool_size", pool_size)
        if not compression > 0:
            raise ValueError(f"TransitionLayer: compression must be positive, got {compression!r}")
        first = get_activation(activation or "none")
        self.in_channels: int | None = in_channels
        self.out_channels: int | None = None
        if in_channels is None:
            get_normalization(norm or "none", 8)  # also an open one refuses an unknown name
            self._leave_open()
            return
        check_positive("TransitionLayer", "in_channels", in_channels)
        self.out_channels = max(1, int(in_channels * compression))
        self.norm = get_normalization(norm or "none", in_channels)
        self.activation = first
        self.conv = nn.Conv2d(in_channels, self.out_channels, 1, bias=False)
        if pool_size > 1:
            self.pool = nn.AvgPool2d(pool_size)
        self._finish(device, dtype)

    def _again(self) -> TransitionLayer:
        return self._changed(pool_size=1)
