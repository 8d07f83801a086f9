"""ResNet, Wide ResNet and ResNeXt, of torchvision's blocks.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385; Zagoruyko, Komodakis: Wide
Residual Networks, https://arxiv.org/abs/1605.07146; Xie et al.: Aggregated Residual Transformations, https://arxiv.org/abs/1611.05431
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator
from torch import nn

from .._torchvision import models
from ..hybrid import HybridModel
from ..hybrid.weights import Weights
from .base import Template
from .parts import Count, Network, OddCount, Part, StagePlaces, StrictBool, Stride, check, initialize, shell

# Kind of block, and blocks in each of the four stages.
_LAYERS: dict[int, tuple[Literal["basic", "bottleneck"], tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


class ResNetStem(Part):
    channels: Count = 64
    in_channels: Count = 3
    kernel: OddCount = 7
    stride: Stride = 2
    pool: StrictBool = True


class ResNetStage(Part):
    """``channels`` is the width within a block; a bottleneck gives four times as many."""

    blocks: Count
    channels: Count
    stride: Stride


class ResNet(Network):
    family: ClassVar[str] = "resnet"
    activations: ClassVar[tuple[str, ...]] = ("ReLU",)
    last_layer: ClassVar[str] = "fc"
    without_shape: ClassVar[tuple[str, ...]] = ("zero_init_residual",)

    block: Literal["basic", "bottleneck"]
    groups: Count = 1
    width_per_group: Count = 64
    zero_init_residual: StrictBool = False
    stem: ResNetStem = ResNetStem()
    stages: tuple[ResNetStage, ...]

    @model_validator(mode="after")
    def _has_widths(self) -> Self:
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError("groups and width_per_group are for bottlenecks, which layers 50, 101 and 152 have")
        for index, stage in enumerate(self.stages):
            if self.block == "bottleneck" and stage.channels * self.width_per_group < 64:
                raise ValueError(f"stage {index}: channels {stage.channels} leave no width to a group of its bottlenecks")
        return self

    def make(self) -> nn.Module:
        kind = models.resnet.BasicBlock if self.block == "basic" else models.resnet.Bottleneck
        model = shell(models.ResNet, kind, [1, 1, 1, 1], groups=self.groups, width_per_group=self.width_per_group)
        stem, width = self.stem, self.stem.channels
        model.conv1 = nn.Conv2d(stem.in_channels, width, stem.kernel, stem.stride, stem.kernel // 2, bias=False)
        model.bn1 = nn.BatchNorm2d(width)
        if not stem.pool:
            model.maxpool = nn.Identity()
        for number, stage in enumerate(self.stages, start=1):
            blocks = [self._block(kind, width, stage.channels, stage.stride)]
            width = stage.channels * kind.expansion
            blocks += [self._block(kind, width, stage.channels, 1) for _ in range(stage.blocks - 1)]
            setattr(model, f"layer{number}", nn.Sequential(*blocks))
        model.inplanes = width
        model.fc = nn.Linear(width, 1000)
        initialize(model)
        if self.zero_init_residual:
            for block in (module for module in model.modules() if isinstance(module, kind)):
                nn.init.zeros_(block.bn2.weight if self.block == "basic" else block.bn3.weight)
        return model

    def _block(self, kind: Any, inputs: int, channels: int, stride: int) -> nn.Module:
        outputs = channels * kind.expansion
        shortcut = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        block: nn.Module = kind(inputs, channels, stride, shortcut, self.groups, self.width_per_group)
        return block

    def places(self) -> tuple[StagePlaces, ...]:
        names = [f"layer{number}" for number in range(1, len(self.stages) + 1)]
        return tuple(StagePlaces((name,), (f"{name}.*",), "residual", name) for name in names)

    def scaled(self, factor: float) -> Self:
        stem = self.stem.changed("resnet: the stem", {"channels": round(self.stem.channels * factor)})
        stages = [
            stage.changed(f"resnet: stage {index}", {"channels": round(stage.channels * factor)})
            for index, stage in enumerate(self.stages)
        ]
        return self.changed("resnet", {"stem": stem, "stages": stages})


@Template.register("resnet")
class ResNetTemplate(Template):
    """A ResNet to be changed and built; its arguments are those of ``resnet``."""

    network_type: ClassVar[type[Network]] = ResNet
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        **{f"resnet{layers}": {"layers": layers} for layers in _LAYERS},
        "resnext50_32x4d": {"layers": 50, "groups": 32, "width_per_group": 4},
        "resnext101_32x8d": {"layers": 101, "groups": 32, "width_per_group": 8},
        "resnext101_64x4d": {"layers": 101, "groups": 64, "width_per_group": 4},
        "wide_resnet50_2": {"layers": 50, "width_per_group": 128},
        "wide_resnet101_2": {"layers": 101, "width_per_group": 128},
    }

    def __init__(
        self,
        layers: int = 50,
        in_channels: int = 3,
        activation: str = "relu",
        norm_type: str = "batch",
        use_se: bool = False,
        se_reduction: int = 16,
        stem_channels: int = 64,
        channel_scale: float = 1.0,
        dropout: float = 0.0,
        zero_init_residual: bool = False,
        *,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        if layers not in _LAYERS:
            raise ValueError(f"resnet: layers must be one of {', '.join(map(str, _LAYERS))}, got {layers!r}")
        block, depths = _LAYERS[layers]
        widths = zip(depths, (64, 128, 256, 512), (1, 2, 2, 2), strict=True)
        values = {
            "block": block,
            "groups": groups,
            "width_per_group": width_per_group,
            "zero_init_residual": zero_init_residual,
            "stem": {"channels": stem_channels, "in_channels": in_channels},
            "stages": [{"blocks": depth, "channels": width, "stride": stride} for depth, width, stride in widths],
        }
        self._start(_name(layers, groups, width_per_group), check("resnet", ResNet, values))
        self.scale_channels(channel_scale).use_dropout(dropout)
        if activation != "relu":
            self.replace_activation(activation)
        if norm_type != "batch":
            self.replace_norm(norm_type)
        if use_se:
            self.add_attention("se", params={"reduction": se_reduction})
        elif se_reduction != 16:
            raise ValueError(f"resnet: se_reduction is for use_se=True, got {se_reduction!r} without it")


def _name(layers: int, groups: int, width_per_group: int) -> str:
    if groups != 1:
        return f"resnext{layers}_{groups}x{width_per_group}d"
    return f"resnet{layers}" if width_per_group == 64 else f"wide_resnet{layers}_{width_per_group / 64:g}"


def resnet(
    layers: int = 50,
    num_classes: int = 1000,
    in_channels: int = 3,
    activation: str = "relu",
    norm_type: str = "batch",
    use_se: bool = False,
    se_reduction: int = 16,
    stem_channels: int = 64,
    channel_scale: float = 1.0,
    dropout: float = 0.0,
    zero_init_residual: bool = False,
    *,
    groups: int = 1,
    width_per_group: int = 64,
    weights: Weights = None,
) -> HybridModel:
    """A ResNet, Wide ResNet or ResNeXt of torchvision.

    Args:
        layers: 18, 34, 50, 101 or 152.
        num_classes: classes of the last layer; 0 gives features.
        in_channels: of the images.
        activation: a name that ``layers.get_activation`` takes.
        norm_type: a name that ``layers.get_normalization`` takes.
        use_se: put squeeze-and-excitation into every block.
        se_reduction: of it.
        stem_channels: channels of the first convolution.
        channel_scale: factor of all widths, see ``Template.scale_channels``.
        dropout: probability of a dropout before the last layer.
        zero_init_residual: start the last norm of each block at 0, so that the block starts as the identity.
        groups: of the 3×3 convolution of a bottleneck; 32 in a ResNeXt.
        width_per_group: its channels per group in a stage of 64; 4 in a ResNeXt, 128 in a Wide ResNet.
        weights: as of ``Template.build``.

    Raises:
        ValueError, PatchError, WeightsError: an argument that cannot be honoured, with its name; see ``Template``.
    """
    template = ResNetTemplate(
        layers,
        in_channels,
        activation,
        norm_type,
        use_se,
        se_reduction,
        stem_channels,
        channel_scale,
        dropout,
        zero_init_residual,
        groups=groups,
        width_per_group=width_per_group,
    )
    return template.build(num_classes, weights)
