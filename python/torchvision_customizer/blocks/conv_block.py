"""A convolution with what usually follows it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import registry
from ..registry import register
from ._by_name import get_pooling
from ._checks import check_positive
from ._parts import Parts, Size, is_none, norm_type_of


@register("conv", "block", aliases=("conv2d", "convblock"))
class ConvBlock(nn.Module):
    """Convolution, norm, activation, and, where they are asked for, attention, dropout and a pool, in this order.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the convolution.
        stride: of the convolution.
        padding: of the convolution; by default as much as keeps the size at a stride of 1, for an odd kernel.
        activation: a name of ``registry.list("activation")``, or ``none``.
        use_batchnorm: whether there is a norm; ``norm_type`` says which.
        dropout_rate: probability that a channel is dropped in training.
        pooling_type: a name that ``layers.get_pooling`` knows; None for no pool.
        pooling_kernel_size: window of a pool that has one.
        pooling_stride: stride of such a pool.
        dilation: of the convolution.
        groups: of the convolution.
        bias: whether the convolution has one; by default where no norm follows.
        norm_type: a name that ``layers.get_normalization`` knows, by default ``batch``; ``none`` is ``use_batchnorm=False``.
        attention: a name of ``registry.list("attention")``.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') as for ``torch.nn.Conv2d`` and the pool.

    Raises:
        ValueError: an unknown name, with the nearest one; two arguments that contradict each other; what ``torch.nn.Conv2d``
            refuses.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size | str | None = None,
        activation: str | None = "relu",
        use_batchnorm: bool = True,
        dropout_rate: float = 0.0,
        pooling_type: str | None = None,
        pooling_kernel_size: Size = 2,
        pooling_stride: Size = 2,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool | None = None,
        *,
        norm_type: str | None = None,
        attention: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("ConvBlock", "in_channels", in_channels)
        check_positive("ConvBlock", "out_channels", out_channels)
        norm_type = norm_type_of("ConvBlock", "use_batchnorm", use_batchnorm, norm_type)
        parts = Parts("ConvBlock", activation, norm_type, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.conv = parts.conv(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.bn = parts.norm(out_channels)
        self.act = parts.act()
        self.attention = parts.attention(attention, out_channels, 16)
        self.dropout = nn.Dropout2d(dropout_rate) if dropout_rate else nn.Identity()
        self.pool = _pool(pooling_type, pooling_kernel_size, pooling_stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.act(self.bn(self.conv(x))))
        return self.pool(self.dropout(y))


def _pool(name: str | None, kernel_size: Size, stride: Size) -> nn.Module:
    if name is None or is_none(name):
        return nn.Identity()
    pool = get_pooling(name)
    accepted = registry.parameters_of(type(pool)) or {}
    window = {"kernel_size": kernel_size, "stride": stride}
    return get_pooling(name, **{key: value for key, value in window.items() if key in accepted})


@register("conv_bn_act", "block", aliases=("convbnact",))
class ConvBNAct(nn.Module):
    """Convolution, norm, activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the convolution.
        stride: of the convolution.
        padding: of the convolution; by default as much as keeps the size at a stride of 1, for an odd kernel.
        groups: of the convolution.
        activation: a name of ``registry.list("activation")``; None or ``none`` for no activation.
        use_bn: whether there is a norm; ``norm_type`` says which.
        dilation: of the convolution.
        bias: whether the convolution has one; by default where no norm follows.
        norm_type: a name that ``layers.get_normalization`` knows, by default ``batch``; ``none`` is ``use_bn=False``.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') as for ``torch.nn.Conv2d``.

    Raises:
        ValueError: an unknown name, with the nearest one; two arguments that contradict each other; what ``torch.nn.Conv2d``
            refuses.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size | str | None = None,
        groups: int = 1,
        activation: str | None = "relu",
        use_bn: bool = True,
        *,
        dilation: Size = 1,
        bias: bool | None = None,
        norm_type: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("ConvBNAct", "in_channels", in_channels)
        check_positive("ConvBNAct", "out_channels", out_channels)
        parts = Parts("ConvBNAct", activation, norm_type_of("ConvBNAct", "use_bn", use_bn, norm_type), device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.conv = parts.conv(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.bn = parts.norm(out_channels)
        self.act = parts.act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))
