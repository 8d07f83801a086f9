"""Inception.

Szegedy et al.: Going Deeper with Convolutions, https://arxiv.org/abs/1409.4842
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..registry import register
from ._checks import check_positive
from ._parts import Parts
from .conv_block import ConvBNAct


@register(
    "inception",
    "inception",
    aliases=("inception_module",),
    paper="https://arxiv.org/abs/1409.4842",
    example={"out_1x1": 8, "out_3x3": 16, "out_5x5": 4},
)
class InceptionModule(nn.Module):
    """Convolutions of several sizes side by side, and a pool (GoogLeNet).

    ``y = cat([conv1(x), conv3(reduce(x)), conv5(reduce(x)), conv1(pool(x))])``, along the channels, each convolution with norm
    and activation.

    Args:
        in_channels: channels of the input.
        out_1x1: channels of the output that come from the 1×1 convolution.
        out_3x3: those that come from the 3×3 convolution.
        out_5x5: those that come from the 5×5 convolution.
        out_pool: those that come from the pool, a 3×3 maximum; by default ``out_1x1 // 2``.
        activation: a name of ``registry.list("activation")``, or ``none``.
        norm_type: a name that ``layers.get_normalization`` knows.
        reduce_3x3: channels before the 3×3 convolution, by default ``out_3x3 // 2``.
        reduce_5x5: channels before the 5×5 convolution, by default ``out_5x5``.
        attention: a name of ``registry.list("attention")``, for the output.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H, W) with the sum of the four as ``out_channels``.

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none.

    Source: Szegedy et al.: Going Deeper with Convolutions, https://arxiv.org/abs/1409.4842
    """

    def __init__(
        self,
        in_channels: int,
        out_1x1: int,
        out_3x3: int,
        out_5x5: int,
        out_pool: int | None = None,
        activation: str | None = "relu",
        norm_type: str = "batch",
        *,
        reduce_3x3: int | None = None,
        reduce_5x5: int | None = None,
        attention: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        out_pool = max(1, out_1x1 // 2) if out_pool is None else out_pool
        reduce_3x3 = max(1, out_3x3 // 2) if reduce_3x3 is None else reduce_3x3
        reduce_5x5 = out_5x5 if reduce_5x5 is None else reduce_5x5
        for name, value in (
            ("in_channels", in_channels),
            ("out_1x1", out_1x1),
            ("out_3x3", out_3x3),
            ("out_5x5", out_5x5),
            ("out_pool", out_pool),
            ("reduce_3x3", reduce_3x3),
            ("reduce_5x5", reduce_5x5),
        ):
            check_positive("InceptionModule", name, value)
        self.in_channels = in_channels
        self.out_channels = out_1x1 + out_3x3 + out_5x5 + out_pool

        def conv(inputs: int, outputs: int, kernel_size: int) -> ConvBNAct:
            return ConvBNAct(
                inputs, outputs, kernel_size, activation=activation, norm_type=norm_type, device=device, dtype=dtype
            )

        self.branch_1x1 = conv(in_channels, out_1x1, 1)
        self.branch_3x3 = nn.Sequential(conv(in_channels, reduce_3x3, 1), conv(reduce_3x3, out_3x3, 3))
        self.branch_5x5 = nn.Sequential(conv(in_channels, reduce_5x5, 1), conv(reduce_5x5, out_5x5, 5))
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(in_channels, out_pool, 1))
        parts = Parts("InceptionModule", activation, norm_type, device, dtype)
        self.attention = parts.attention(attention, self.out_channels, 16)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.branch_1x1(x), self.branch_3x3(x), self.branch_5x5(x), self.branch_pool(x)]
        return self.attention(torch.cat(branches, 1))
