"""Residual blocks.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..registry import register
from ._checks import check_positive
from ._parts import Parts, Residual, attention_of


@register("residual", "residual", aliases=("res", "resblock"), paper="https://arxiv.org/abs/1512.03385")
class ResidualBlock(Residual):
    """Two 3×3 convolutions whose result is added to the input.

    ``y = act(bn2(conv2(act(bn1(conv1(x))))) + shortcut(x))``; the names of its parts are those of torchvision's blocks, so that
    its weights load. The stride is that of the first 3×3 convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the block.
        downsample: the shortcut. By default it is the identity, or, where the shape changes, a 1×1 convolution and a norm;
            True for the latter in any case, or a module.
        activation: a name of ``registry.list("activation")``, or ``none``.
        norm_type: a name that ``layers.get_normalization`` knows.
        use_se: the same as ``attention="se"``.
        se_reduction: reduction of an attention that has one.
        bottleneck: 1×1, 3×3 and 1×1 convolutions instead, with ``out_channels // 4`` channels between them.
        attention: a name of ``registry.list("attention")``, for the branch, before the addition.
        drop_path: probability that the branch of a sample is dropped in training.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') with H' = ceil(H / stride).

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none; two arguments that contradict each other.

    Source: He, Zhang, Ren, Sun: Deep Residual Learning, https://arxiv.org/abs/1512.03385
    """

    __constants__ = ("bottleneck", *Residual.__constants__)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        downsample: bool | nn.Module | None = None,
        activation: str | None = "relu",
        norm_type: str = "batch",
        use_se: bool = False,
        se_reduction: int = 16,
        bottleneck: bool = False,
        *,
        attention: str | None = None,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("ResidualBlock", "in_channels", in_channels)
        check_positive("ResidualBlock", "out_channels", out_channels)
        attention = attention_of("ResidualBlock", use_se, attention)
        parts = Parts("ResidualBlock", activation, norm_type, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.bottleneck = bottleneck
        if bottleneck:
            hidden = max(1, out_channels // 4)
            self.conv1 = parts.conv(in_channels, hidden, 1)
            self.bn1 = parts.norm(hidden)
            self.act1 = parts.act()
            self.conv2 = parts.conv(hidden, hidden, 3, stride)
            self.bn2 = parts.norm(hidden)
            self.act2 = parts.act()
            self.conv3 = parts.conv(hidden, out_channels, 1)
            self.bn3 = parts.norm(out_channels)
        else:
            self.conv1 = parts.conv(in_channels, out_channels, 3, stride)
            self.bn1 = parts.norm(out_channels)
            self.act1 = parts.act()
            self.conv2 = parts.conv(out_channels, out_channels, 3)
            self.bn2 = parts.norm(out_channels)
        if isinstance(downsample, nn.Module):
            self.downsample = downsample
        else:
            self.downsample = parts.shortcut(in_channels, out_channels, stride, always=bool(downsample))
        self.make_tail(parts, parts.attention(attention, out_channels, se_reduction), drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(self.act2(y)))
        return self.tail(y, self.downsample(x))
