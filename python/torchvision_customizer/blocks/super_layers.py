"""A convolution and a linear layer with what follows them, under the arguments of version 2.1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..registry import register
from ._checks import check_positive
from ._parts import Parts, Size


@register("super_conv", "block")
class SuperConv2d(nn.Module):
    """Convolution, norm, activation; :class:`ConvBNAct` is the same with a padding that follows the kernel.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the convolution, as the following four.
        stride: see ``torch.nn.Conv2d``.
        padding: see there.
        dilation: see there.
        groups: see there.
        activation: a name of ``registry.list("activation")``, or ``none``.
        norm_type: a name that ``layers.get_normalization`` knows.
        use_activation: whether there is an activation.
        use_normalization: whether there is a norm; without one the convolution has a bias.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') as for ``torch.nn.Conv2d``.

    Raises:
        ValueError: an unknown name, with the nearest one; what ``torch.nn.Conv2d`` refuses.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size | str = 1,
        dilation: Size = 1,
        groups: int = 1,
        activation: str | None = "relu",
        norm_type: str = "batch",
        use_activation: bool = True,
        use_normalization: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("SuperConv2d", "in_channels", in_channels)
        check_positive("SuperConv2d", "out_channels", out_channels)
        norm_type = norm_type if use_normalization else "none"
        parts = Parts("SuperConv2d", activation if use_activation else "none", norm_type, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.conv = parts.conv(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self.norm = parts.norm(out_channels)
        self.activation = parts.act()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


@register("super_linear", "block", example={"in_features": 32, "out_features": 16}, example_shape=(2, 32))
class SuperLinear(nn.Module):
    """Linear layer, activation, dropout.

    Args:
        in_features: size of the input's last dimension.
        out_features: size of the output's last dimension.
        activation: a name of ``registry.list("activation")``, or ``none``.
        dropout_rate: probability that a value is dropped in training.
        use_activation: whether there is an activation.
        use_dropout: whether there is dropout; by default where its probability is not 0.
        bias: whether the layer has one.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (*, in_features), output (*, out_features).

    Raises:
        ValueError: an unknown activation, with the nearest one; a number that is none.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str | None = "relu",
        dropout_rate: float = 0.0,
        use_activation: bool = True,
        use_dropout: bool | None = None,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("SuperLinear", "in_features", in_features)
        check_positive("SuperLinear", "out_features", out_features)
        parts = Parts("SuperLinear", activation if use_activation else "none", "none", device, dtype)
        dropout = nn.Dropout(dropout_rate)
        self.linear = nn.Linear(in_features, out_features, bias, device=device, dtype=dtype)
        self.activation = parts.act()
        self.dropout = dropout if (dropout_rate > 0 if use_dropout is None else use_dropout) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.activation(self.linear(x)))
