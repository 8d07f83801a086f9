"""Several residual blocks in a row, under the arguments of version 2.1; ``compose`` has the stages of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..registry import register
from ._checks import check_option, check_positive
from ._parts import attention_of
from .bottleneck import AsymmetricBottleneck, GroupedBottleneck, MultiScaleBottleneck, StandardBottleneck, WideBottleneck
from .residual import ResidualBlock

_BOTTLENECKS: dict[str, Any] = {
    "standard": StandardBottleneck,
    "wide": WideBottleneck,
    "grouped": GroupedBottleneck,
    "multi_scale": MultiScaleBottleneck,
    "asymmetric": AsymmetricBottleneck,
}
_SCHEDULES = ("later", "all", "first", "none")


@register("residual_stage", "architecture", paper="https://arxiv.org/abs/1512.03385", example={"num_blocks": 2})
class ResidualStage(nn.Module):
    """Residual blocks one after the other; one of them has the stride, the first changes the channels.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        num_blocks: how many blocks there are.
        stride: of the stage.
        expansion: of the bottlenecks.
        use_bottleneck: blocks are bottlenecks; else :class:`ResidualBlock`.
        bottleneck_type: ``standard``, ``wide``, ``grouped``, ``multi_scale`` or ``asymmetric``.
        activation: a name of ``registry.list("activation")``, or ``none``.
        norm_type: a name that ``layers.get_normalization`` knows.
        use_se: the same as ``attention="se"``.
        se_reduction: reduction of an attention that has one.
        downsample_first: the first block has the stride; else the last.
        attention: a name of ``registry.list("attention")``, for each branch.
        drop_path: probability that the branch of a sample is dropped in training, in each block.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') with H' = ceil(H / stride).

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none; two arguments that contradict each other.

    Source: He, Zhang, Ren, Sun: Deep Residual Learning, https://arxiv.org/abs/1512.03385
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        stride: int = 1,
        expansion: int = 4,
        use_bottleneck: bool = True,
        bottleneck_type: str = "standard",
        activation: str | None = "relu",
        norm_type: str = "batch",
        use_se: bool = False,
        se_reduction: int = 16,
        downsample_first: bool = True,
        *,
        attention: str | None = None,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("ResidualStage", "num_blocks", num_blocks)
        check_option("ResidualStage", "bottleneck_type", bottleneck_type, tuple(_BOTTLENECKS))
        options: dict[str, Any] = {
            "activation": activation,
            "norm_type": norm_type,
            "attention": attention_of("ResidualStage", use_se, attention),
            "se_reduction": se_reduction,
            "drop_path": drop_path,
            "device": device,
            "dtype": dtype,
        }
        if use_bottleneck:
            options["expansion"] = expansion
        block = _BOTTLENECKS[bottleneck_type] if use_bottleneck else ResidualBlock
        strided = 0 if downsample_first else num_blocks - 1
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.blocks = nn.Sequential(
            *(
                block(out_channels if index else in_channels, out_channels, stride=stride if index == strided else 1, **options)
                for index in range(num_blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


@register(
    "residual_sequence",
    "architecture",
    paper="https://arxiv.org/abs/1512.03385",
    example={"num_stages": 2, "blocks_per_stage": 1, "channels_per_stage": (16, 32)},
)
class ResidualSequence(nn.Module):
    """Residual stages one after the other.

    Args:
        in_channels: channels of the input.
        num_stages: how many stages there are.
        blocks_per_stage: blocks of each stage, one number or one for each.
        channels_per_stage: channels of each stage's output, one number or one for each.
        stride_schedule: which stages have a stride of 2: ``later`` (all but the first), ``all``, ``first`` or ``none``.
        expansion: of the bottlenecks.
        use_bottleneck: blocks are bottlenecks; else :class:`ResidualBlock`.
        activation: a name of ``registry.list("activation")``, or ``none``.
        norm_type: a name that ``layers.get_normalization`` knows.
        use_se: the same as ``attention="se"``.
        attention: a name of ``registry.list("attention")``, for each branch.
        drop_path: probability that the branch of a sample is dropped in training, in each block.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, in_channels, H, W), output (N, out_channels, H', W') with H' = ceil(H / 2) for each stage that has a stride.

    Raises:
        ValueError: an unknown name, with the nearest one; a number that is none; a list that has no value for each stage.

    Source: He, Zhang, Ren, Sun: Deep Residual Learning, https://arxiv.org/abs/1512.03385
    """

    def __init__(
        self,
        in_channels: int,
        num_stages: int,
        blocks_per_stage: int | Sequence[int],
        channels_per_stage: int | Sequence[int],
        stride_schedule: str = "later",
        expansion: int = 4,
        use_bottleneck: bool = True,
        activation: str | None = "relu",
        norm_type: str = "batch",
        use_se: bool = False,
        *,
        attention: str | None = None,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("ResidualSequence", "num_stages", num_stages)
        check_option("ResidualSequence", "stride_schedule", stride_schedule, _SCHEDULES)
        first = 2 if stride_schedule in ("all", "first") else 1
        later = 2 if stride_schedule in ("all", "later") else 1
        blocks = _of_each("blocks_per_stage", blocks_per_stage, num_stages)
        channels = _of_each("channels_per_stage", channels_per_stage, num_stages)
        self.in_channels = in_channels
        self.out_channels = channels[-1]
        self.stages = nn.Sequential(
            *(
                ResidualStage(
                    before,
                    after,
                    count,
                    later if index else first,
                    expansion,
                    use_bottleneck,
                    activation=activation,
                    norm_type=norm_type,
                    use_se=use_se,
                    attention=attention,
                    drop_path=drop_path,
                    device=device,
                    dtype=dtype,
                )
                for index, (before, after, count) in enumerate(zip((in_channels, *channels), channels, blocks, strict=False))
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)


def _of_each(argument: str, value: int | Sequence[int], stages: int) -> tuple[int, ...]:
    values = (value,) * stages if isinstance(value, int) else tuple(value)
    if len(values) != stages:
        raise ValueError(f"ResidualSequence: {argument} must be a number or {stages}, one for each stage, got {value!r}")
    return values
