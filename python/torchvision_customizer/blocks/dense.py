"""Dense connections.

Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, https://arxiv.org/abs/1608.06993
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..registry import register
from ._checks import check_odd, check_positive
from ._parts import Parts, is_none, norm_type_of


@register(
    "dense",
    "dense",
    aliases=("dense_block", "densenet"),
    paper="https://arxiv.org/abs/1608.06993",
    example={"num_layers": 2, "growth_rate": 8},
)
class DenseConnectionBlock(nn.Module):
    """Layers that each see the input and the output of all layers before them (DenseNet).

    Each layer is ``dropout(conv2(act(norm2(conv1(act(norm1(x)))))))`` with a 1×1 and a 3×3 convolution, and its output is
    appended to its input, along the channels.

    Args:
        num_layers: how many layers there are.
        in_channels: channels of the input.
        growth_rate: channels that each layer appends.
        kernel_size: of the second convolution, an odd number.
        bottleneck_ratio: between the two convolutions there are ``bottleneck_ratio * growth_rate`` channels.
        activation: a name of ``registry.list("activation")``, or ``none``.
        use_batchnorm: whether there are norms; ``norm_type`` says which.
        dropout_rate: probability that a value that a layer appends is dropped in training.
        norm_type: a name that ``layers.get_normalization`` knows, by default ``batch``; ``none`` is ``use_batchnorm=False``.
        attention: a name of ``registry.list("attention")``, for the output.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H, W) with ``out_channels = in_channels + num_layers * growth_rate``.

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none; two arguments that contradict each other.

    Source: Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, https://arxiv.org/abs/1608.06993
    """

    def __init__(
        self,
        num_layers: int,
        in_channels: int,
        growth_rate: int = 32,
        kernel_size: int = 3,
        bottleneck_ratio: int = 4,
        activation: str | None = "relu",
        use_batchnorm: bool = True,
        dropout_rate: float = 0.0,
        *,
        norm_type: str | None = None,
        attention: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("num_layers", num_layers),
            ("in_channels", in_channels),
            ("growth_rate", growth_rate),
            ("bottleneck_ratio", bottleneck_ratio),
        ):
            check_positive("DenseConnectionBlock", name, value)
        check_odd("DenseConnectionBlock", "kernel_size", kernel_size)
        norm_type = norm_type_of("DenseConnectionBlock", "use_batchnorm", use_batchnorm, norm_type)
        parts = Parts("DenseConnectionBlock", activation, norm_type, device, dtype)
        self.in_channels = in_channels
        self.out_channels = in_channels + num_layers * growth_rate
        self.layers = nn.ModuleList(
            _DenseLayer(parts, channels, growth_rate, kernel_size, bottleneck_ratio * growth_rate, dropout_rate)
            for channels in range(in_channels, self.out_channels, growth_rate)
        )
        self.attention = parts.attention(attention, self.out_channels, 16)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.attention(x)


class _DenseLayer(nn.Module):
    def __init__(
        self, parts: Parts, in_channels: int, out_channels: int, kernel_size: int, hidden: int, dropout_rate: float
    ) -> None:
        super().__init__()
        self.norm1 = parts.norm(in_channels)
        self.act1 = parts.act(inplace=not is_none(parts.norm_type))  # without a norm, it is given what others still need
        self.conv1 = parts.conv(in_channels, hidden, 1)
        self.norm2 = parts.norm(hidden)
        self.act2 = parts.act()
        self.conv2 = parts.conv(hidden, out_channels, kernel_size)
        self.dropout = nn.Dropout(dropout_rate) if dropout_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.act1(self.norm1(x)))
        return self.dropout(self.conv2(self.act2(self.norm2(y))))
