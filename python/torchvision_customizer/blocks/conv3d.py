"""Convolutions of volumes and videos."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..registry import register
from ._checks import check_positive
from ._parts import Parts, is_none


@register("conv3d", "block", example_shape=(2, 32, 3, 5, 7))
class Conv3DBlock(nn.Module):
    """3-D convolutions, each with norm and activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the convolutions.
        stride: of the first convolution.
        padding: of the convolutions.
        activation: a name of ``registry.list("activation")``, or ``none``.
        num_layers: how many convolutions there are.
        norm_type: a name that ``layers.get_normalization`` knows; without a norm a convolution has a bias.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, D, H, W), output (N, out_channels, D', H', W') as for ``torch.nn.Conv3d``.

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none; what ``torch.nn.Conv3d`` refuses.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int] = 3,
        stride: int | tuple[int, int, int] = 1,
        padding: int | tuple[int, int, int] | str = 1,
        activation: str | None = "relu",
        num_layers: int = 1,
        *,
        norm_type: str = "batch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("Conv3DBlock", "in_channels", in_channels)
        check_positive("Conv3DBlock", "out_channels", out_channels)
        check_positive("Conv3DBlock", "num_layers", num_layers)
        parts = Parts("Conv3DBlock", activation, norm_type, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        layers: list[nn.Module] = []
        for index in range(num_layers):
            conv = nn.Conv3d(
                out_channels if index else in_channels,
                out_channels,
                kernel_size,
                1 if index else stride,
                padding,
                bias=is_none(norm_type),
                device=device,
                dtype=dtype,
            )
            layers += [conv, _volume_norm(parts, out_channels), parts.act()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _volume_norm(parts: Parts, channels: int) -> nn.Module:
    norm = parts.norm(channels)
    if isinstance(norm, nn.BatchNorm2d):
        return nn.BatchNorm3d(channels, device=parts.device, dtype=parts.dtype)
    if isinstance(norm, nn.InstanceNorm2d):
        return nn.InstanceNorm3d(channels, device=parts.device, dtype=parts.dtype)
    return norm  # the others take any (N, C, *)
