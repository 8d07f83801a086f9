"""MobileNetV2 and MobileNetV3, of torchvision's inverted residuals.

Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks, https://arxiv.org/abs/1801.04381; Howard et al.:
Searching for MobileNetV3, https://arxiv.org/abs/1905.02244
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

from torch import nn

from .._torchvision import models
from ..hybrid import HybridModel
from ..hybrid.weights import Weights
from .base import Template
from .parts import (
    Count,
    Eighths,
    Network,
    OddCount,
    Part,
    Rate,
    StagePlaces,
    StrictBool,
    Stride,
    check,
    divisible,
    initialize,
    shell,
)

# Expansion, channels, blocks and stride of each stage.
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# Kernel, channels, whether it squeezes, whether it has Hardswish, stride, and the width within each block.
_V3 = {
    "large": (
        (3, 16, False, False, 1, (16,)),
        (3, 24, False, False, 2, (64, 72)),
        (5, 40, True, False, 2, (72, 120, 120)),
        (3, 80, False, True, 2, (240, 200, 184, 184)),
        (3, 112, True, True, 1, (480, 672)),
        (5, 160, True, True, 2, (672, 960, 960)),
    ),
    "small": (
        (3, 16, True, False, 2, (16,)),
        (3, 24, False, False, 2, (72, 88)),
        (5, 40, True, True, 2, (96, 240, 240)),
        (5, 48, True, True, 1, (120, 144)),
        (5, 96, True, True, 2, (288, 576, 576)),
    ),
}
_LAST = {"large": 1280, "small": 1024}


class MobileNetV2Stem(Part):
    channels: Count = 32
    in_channels: Count = 3
    kernel: OddCount = 3
    stride: Stride = 2


class MobileNetV2Stage(Part):
    """``expansion`` is the width within a block by that of its input."""

    blocks: Count
    channels: Count
    stride: Stride
    expansion: Count


class MobileNetV2(Network):
    family: ClassVar[str] = "mobilenet_v2"
    activations: ClassVar[tuple[str, ...]] = ("ReLU6",)
    last_layer: ClassVar[str] = "classifier.1"
    without_shape: ClassVar[tuple[str, ...]] = ("dropout",)
    dropout_field: ClassVar[str | None] = "dropout"

    last_channels: Count = 1280
    dropout: Rate = 0.2
    stem: MobileNetV2Stem = MobileNetV2Stem()
    stages: tuple[MobileNetV2Stage, ...]

    def make(self) -> nn.Module:
        module: Any = models.mobilenetv2
        stem, channels = self.stem, self.stem.channels
        layer = partial(module.Conv2dNormActivation, activation_layer=nn.ReLU6)
        features = nn.Sequential(layer(stem.in_channels, channels, stem.kernel, stem.stride))
        for stage in self.stages:
            for index in range(stage.blocks):
                stride = 1 if index else stage.stride
                features.append(module.InvertedResidual(channels, stage.channels, stride, stage.expansion))
                channels = stage.channels
        features.append(layer(channels, self.last_channels, 1))
        model = shell(models.MobileNetV2, dropout=self.dropout)
        model.features = features
        model.classifier[1] = nn.Linear(self.last_channels, 1000)
        model.last_channel = self.last_channels
        initialize(model, linear=lambda linear: nn.init.normal_(linear.weight, 0, 0.01))
        return model

    def places(self) -> tuple[StagePlaces, ...]:
        return _places([stage.blocks for stage in self.stages], "after:conv")

    def scaled(self, factor: float) -> Self:
        stem = self.stem.changed(f"{self.family}: the stem", {"channels": divisible(self.stem.channels * factor)})
        stages = [
            stage.changed(f"{self.family}: stage {index}", {"channels": divisible(stage.channels * factor)})
            for index, stage in enumerate(self.stages)
        ]
        last = divisible(self.last_channels * max(1.0, factor))
        return self.changed(self.family, {"stem": stem, "stages": stages, "last_channels": last})


class MobileNetV3Stem(Part):
    channels: Eighths = 16
    in_channels: Count = 3
    kernel: OddCount = 3
    stride: Stride = 2


class MobileNetV3Stage(Part):
    """``expanded`` has the width within each block, and thereby as many as there are blocks."""

    expanded: tuple[Eighths, ...]
    channels: Eighths
    stride: Stride
    kernel: OddCount
    use_se: StrictBool
    hardswish: StrictBool

    def with_blocks(self, place: str, blocks: Any) -> Self:
        """So many of the blocks; where there are more than before, they are like the last."""
        if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
            raise ValueError(f"{place}.blocks: must be an integer of at least 1, got {blocks!r}")
        more = blocks - len(self.expanded)
        return self.changed(place, {"expanded": (*self.expanded[:blocks], *self.expanded[-1:] * more)})


class MobileNetV3(Network):
    family: ClassVar[str] = "mobilenet_v3"
    activations: ClassVar[tuple[str, ...]] = ("ReLU", "Hardswish")
    last_layer: ClassVar[str] = "classifier.3"
    without_shape: ClassVar[tuple[str, ...]] = ("dropout",)
    dropout_field: ClassVar[str | None] = "dropout"

    last_channels: Eighths
    dropout: Rate = 0.2
    stem: MobileNetV3Stem = MobileNetV3Stem()
    stages: tuple[MobileNetV3Stage, ...]

    def make(self) -> nn.Module:
        module: Any = models.mobilenetv3
        stem, channels = self.stem, self.stem.channels
        blocks = []
        for stage in self.stages:
            for index, expanded in enumerate(stage.expanded):
                stride, activation = 1 if index else stage.stride, "HS" if stage.hardswish else "RE"
                sizes = (channels, stage.kernel, expanded, stage.channels)
                blocks.append(module.InvertedResidualConfig(*sizes, stage.use_se, activation, stride, 1, 1.0))
                channels = stage.channels
        model = models.MobileNetV3(blocks, self.last_channels, dropout=self.dropout)
        if stem != MobileNetV3Stem(channels=stem.channels):
            # Torchvision's class takes no other stem.
            norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
            sizes = (stem.in_channels, stem.channels, stem.kernel, stem.stride)
            model.features[0] = module.Conv2dNormActivation(*sizes, norm_layer=norm, activation_layer=nn.Hardswish)
            initialize(model.features[0])
        return model

    def places(self) -> tuple[StagePlaces, ...]:
        return _places([len(stage.expanded) for stage in self.stages], "after:block")

    def scaled(self, factor: float) -> Self:
        stem = self.stem.changed(f"{self.family}: the stem", {"channels": divisible(self.stem.channels * factor)})
        stages = []
        for index, stage in enumerate(self.stages):
            sizes = {
                "channels": divisible(stage.channels * factor),
                "expanded": [divisible(width * factor) for width in stage.expanded],
            }
            stages.append(stage.changed(f"{self.family}: stage {index}", sizes))
        last = divisible(self.last_channels * factor)
        return self.changed(self.family, {"stem": stem, "stages": stages, "last_channels": last})


def _places(blocks: Sequence[int], at: str) -> tuple[StagePlaces, ...]:
    """The blocks follow each other in ``features``, the stem before them."""
    found, start = [], 1
    for count in blocks:
        paths = tuple(f"features.{index}" for index in range(start, start + count))
        found.append(StagePlaces(paths, paths, at, paths[-1]))
        start += count
    return tuple(found)


class _MobileNetTemplate(Template):
    def _finish(self, name: str, network: Network, width_multiplier: float, activation: str | None) -> None:
        self._start(name, network)
        self.scale_channels(width_multiplier)
        if activation is not None:
            self.replace_activation(activation)


class MobileNetV2Template(_MobileNetTemplate):
    """A MobileNetV2 to be changed and built; its arguments are those of ``mobilenet``."""

    network_type: ClassVar[type[Network]] = MobileNetV2
    variants: ClassVar[dict[str, dict[str, Any]]] = {"mobilenet_v2": {}}

    def __init__(
        self, width_multiplier: float = 1.0, activation: str | None = None, dropout: float = 0.2, *, in_channels: int = 3
    ) -> None:
        values = {
            "dropout": dropout,
            "stem": {"in_channels": in_channels},
            "stages": [
                {"expansion": expansion, "channels": channels, "blocks": blocks, "stride": stride}
                for expansion, channels, blocks, stride in _V2
            ],
        }
        self._finish("mobilenet_v2", check("mobilenet_v2", MobileNetV2, values), width_multiplier, activation)


class MobileNetV3Template(_MobileNetTemplate):
    """A MobileNetV3 to be changed and built; its arguments are those of ``mobilenet``."""

    network_type: ClassVar[type[Network]] = MobileNetV3
    variants: ClassVar[dict[str, dict[str, Any]]] = {f"mobilenet_v3_{mode}": {"mode": mode} for mode in _V3}

    def __init__(
        self,
        width_multiplier: float = 1.0,
        activation: str | None = None,
        dropout: float = 0.2,
        mode: str = "small",
        *,
        in_channels: int = 3,
    ) -> None:
        if mode not in _V3:
            raise ValueError(f"mobilenet_v3: mode must be one of {', '.join(_V3)}, got {mode!r}")
        keys = ("kernel", "channels", "use_se", "hardswish", "stride", "expanded")
        values = {
            "last_channels": _LAST[mode],
            "dropout": dropout,
            "stem": {"in_channels": in_channels},
            "stages": [dict(zip(keys, row, strict=True)) for row in _V3[mode]],
        }
        self._finish(f"mobilenet_v3_{mode}", check("mobilenet_v3", MobileNetV3, values), width_multiplier, activation)


@Template.register("mobilenet")
def mobilenet_template(
    version: int = 2,
    width_multiplier: float = 1.0,
    activation: str | None = None,
    dropout: float = 0.2,
    mode: Literal["small", "large"] | None = None,
    *,
    in_channels: int = 3,
) -> Template:
    """A MobileNet to be changed and built; its arguments are those of ``mobilenet``."""
    if version == 3:
        return MobileNetV3Template(width_multiplier, activation, dropout, mode or "small", in_channels=in_channels)
    if version != 2:
        raise ValueError(f"mobilenet: version must be 2 or 3, which torchvision has, got {version!r}")
    if mode is not None:
        raise ValueError(f"mobilenet: mode is for version 3, got {mode!r} for version 2")
    return MobileNetV2Template(width_multiplier, activation, dropout, in_channels=in_channels)


def mobilenet(
    version: int = 2,
    num_classes: int = 1000,
    width_multiplier: float = 1.0,
    activation: str | None = None,
    dropout: float = 0.2,
    mode: Literal["small", "large"] | None = None,
    *,
    in_channels: int = 3,
    weights: Weights = None,
) -> HybridModel:
    """A MobileNet of torchvision.

    Args:
        version: 2 or 3.
        num_classes: classes of the last layer; 0 gives features.
        width_multiplier: factor of all widths, see ``Template.scale_channels``.
        activation: a name that ``layers.get_activation`` takes, in place of those that it has.
        dropout: probability of the dropout before the last layer.
        mode: ``small`` or ``large``, of version 3; None is ``small``.
        in_channels: of the images.
        weights: as of ``Template.build``.

    Raises:
        ValueError, PatchError, WeightsError: an argument that cannot be honoured, with its name; see ``Template``.
    """
    template = mobilenet_template(version, width_multiplier, activation, dropout, mode, in_channels=in_channels)
    return template.build(num_classes, weights)
