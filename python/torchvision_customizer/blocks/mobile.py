"""Blocks of networks for small devices.

Howard et al.: MobileNets, https://arxiv.org/abs/1704.04861
Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2, https://arxiv.org/abs/1801.04381
Tan, Le: EfficientNet, https://arxiv.org/abs/1905.11946, and EfficientNetV2, https://arxiv.org/abs/2104.00298
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..registry import register
from ._checks import check_positive
from ._parts import Parts, Residual, attention_of
from .conv_block import ConvBNAct
from .regularization import DropPath


@register("depthwise", "mobile", aliases=("dw", "depthwise_separable"), paper="https://arxiv.org/abs/1704.04861")
class DepthwiseBlock(Residual):
    """A convolution over space for each channel, and one over channels at each position, with norm and activation (MobileNet).

    ``y = act(bn2(pointwise(act(bn1(depthwise(x))))))``, and, with ``add_residual``, the input is added before the last ``act``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the convolution over space.
        stride: of that convolution.
        padding: of that convolution; by default as much as keeps the size at a stride of 1, for an odd kernel.
        activation: a name of ``registry.list("activation")``, or ``none``.
        norm_type: a name that ``layers.get_normalization`` knows.
        add_residual: add the input; where the shape changes, through a 1×1 convolution and a norm.
        attention: a name of ``registry.list("attention")``, for what comes out of ``bn2``.
        se_reduction: reduction of an attention that has one.
        drop_path: probability that the branch of a sample is dropped in training; needs ``add_residual``.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') as for ``torch.nn.Conv2d``.

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none; ``drop_path`` without ``add_residual``.

    Source: Howard et al.: MobileNets, https://arxiv.org/abs/1704.04861
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        activation: str | None = "relu",
        norm_type: str = "batch",
        add_residual: bool = False,
        *,
        attention: str | None = None,
        se_reduction: int = 16,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("DepthwiseBlock", "in_channels", in_channels)
        check_positive("DepthwiseBlock", "out_channels", out_channels)
        if drop_path and not add_residual:
            raise ValueError(
                f"DepthwiseBlock: drop_path={drop_path} needs add_residual=True: without it there is no branch to drop"
            )
        parts = Parts("DepthwiseBlock", activation, norm_type, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.depthwise = parts.conv(in_channels, in_channels, kernel_size, stride, padding, groups=in_channels)
        self.bn1 = parts.norm(in_channels)
        self.act1 = parts.act()
        self.pointwise = parts.conv(in_channels, out_channels, 1)
        self.bn2 = parts.norm(out_channels)
        self.downsample = parts.shortcut(in_channels, out_channels, stride) if add_residual else None
        self.make_tail(parts, parts.attention(attention, out_channels, se_reduction), drop_path, adds=add_residual)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.depthwise(x)))
        identity = None if self.downsample is None else self.downsample(x)
        return self.tail(self.bn2(self.pointwise(y)), identity)


class InvertedResidual(nn.Module):
    """Base of the blocks that are wider inside: the input is added where the shape stays, and no activation follows."""

    __constants__ = ("adds", "drops")  # TorchScript compiles only the branch that is taken

    def set_shape(self, block: str, in_channels: int, out_channels: int, expansion: int, stride: int) -> int:
        """Note the channels, and whether the input is added; returns the channels inside."""
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("expansion", expansion)):
            check_positive(block, name, value)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.adds = stride == 1 and in_channels == out_channels
        return in_channels * expansion

    def set_drop_path(self, drop_path: float) -> None:
        dropping = DropPath(drop_path)
        self.drop_path = dropping if drop_path and self.adds else nn.Identity()
        self.drops = isinstance(self.drop_path, DropPath)

    def add(self, branch: Tensor, x: Tensor) -> Tensor:
        if self.drops:
            return self.drop_path(branch, x, inplace=True)
        return branch + x if self.adds else branch


def _unit(
    parts: Parts, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1, act: bool = True
) -> ConvBNAct:
    return ConvBNAct(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        groups=groups,
        activation=parts.activation if act else "none",
        norm_type=parts.norm_type,
        device=parts.device,
        dtype=parts.dtype,
    )


@register("mbconv", "mobile", aliases=("inverted_residual",), paper="https://arxiv.org/abs/1905.11946")
class MBConv(InvertedResidual):
    """Mobile inverted bottleneck: wider, over space for each channel, attention, narrow again (MobileNetV2, EfficientNet).

    ``y = project(se(depthwise(expand(x))))``, and the input is added where the shape stays. ``expand`` and ``project`` are 1×1
    convolutions with a norm; ``project`` has no activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        expansion: there are ``in_channels * expansion`` channels inside; with 1 there is no ``expand``.
        stride: of the convolution over space.
        kernel_size: of that convolution.
        use_se: whether there is an attention.
        se_reduction: the hidden layer of squeeze-and-excitation has ``in_channels // se_reduction`` channels.
        drop_path: probability that the branch of a sample is dropped in training, where the input is added.
        activation: a name of ``registry.list("activation")``, or ``none``; also that of squeeze-and-excitation, if it is one of
            its own, else there it is ``relu``.
        norm_type: a name that ``layers.get_normalization`` knows.
        attention: a name of ``registry.list("attention")``, in the place of squeeze-and-excitation.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') with H' = ceil(H / stride) for an odd kernel.

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none.

    Source: Tan, Le: EfficientNet, https://arxiv.org/abs/1905.11946
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int = 4,
        stride: int = 1,
        kernel_size: int = 3,
        use_se: bool = True,
        se_reduction: int = 4,
        drop_path: float = 0.0,
        *,
        activation: str | None = "silu",
        norm_type: str = "batch",
        attention: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = self.set_shape("MBConv", in_channels, out_channels, expansion, stride)
        parts = Parts("MBConv", activation, norm_type, device, dtype)
        self.expand = _unit(parts, in_channels, hidden, 1) if expansion != 1 else nn.Identity()
        self.depthwise = _unit(parts, hidden, hidden, kernel_size, stride, groups=hidden)
        name = attention or ("se" if use_se else None)
        self.se = parts.attention(name, hidden, se_reduction * expansion, parts.activation)
        self.project = _unit(parts, hidden, out_channels, 1, act=False)
        self.set_drop_path(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.se(self.depthwise(self.expand(x))))
        return self.add(y, x)


@register("fused_mbconv", "mobile", aliases=("fused_inverted_residual",), paper="https://arxiv.org/abs/2104.00298")
class FusedMBConv(InvertedResidual):
    """:class:`MBConv` with one full convolution in the place of ``expand`` and ``depthwise`` (EfficientNetV2).

    ``y = project(se(expand(x)))``, and the input is added where the shape stays.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        expansion: there are ``in_channels * expansion`` channels inside; with 1 there is no ``project``, and ``expand`` makes
            the channels of the output.
        stride: of ``expand``.
        kernel_size: of ``expand``.
        use_se: the same as ``attention="se"``.
        drop_path: probability that the branch of a sample is dropped in training, where the input is added.
        activation: a name of ``registry.list("activation")``, or ``none``; also that of squeeze-and-excitation, if it is one of
            its own, else there it is ``relu``.
        norm_type: a name that ``layers.get_normalization`` knows.
        attention: a name of ``registry.list("attention")``, for what comes out of ``expand``.
        se_reduction: the hidden layer of squeeze-and-excitation has ``in_channels // se_reduction`` channels.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') with H' = ceil(H / stride) for an odd kernel.

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none; two arguments that contradict each other.

    Source: Tan, Le: EfficientNetV2, https://arxiv.org/abs/2104.00298
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int = 4,
        stride: int = 1,
        kernel_size: int = 3,
        use_se: bool = False,
        drop_path: float = 0.0,
        *,
        activation: str | None = "silu",
        norm_type: str = "batch",
        attention: str | None = None,
        se_reduction: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = self.set_shape("FusedMBConv", in_channels, out_channels, expansion, stride)
        attention = attention_of("FusedMBConv", use_se, attention)
        parts = Parts("FusedMBConv", activation, norm_type, device, dtype)
        wide = hidden if expansion != 1 else out_channels
        self.expand = _unit(parts, in_channels, wide, kernel_size, stride)
        self.se = parts.attention(attention, wide, max(1, wide * se_reduction // in_channels), parts.activation)
        self.project = _unit(parts, hidden, out_channels, 1, act=False) if expansion != 1 else nn.Identity()
        self.set_drop_path(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.se(self.expand(x)))
        return self.add(y, x)
