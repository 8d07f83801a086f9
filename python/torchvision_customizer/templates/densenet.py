"""DenseNet, of torchvision's dense blocks.

Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, https://arxiv.org/abs/1608.06993
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator
from torch import nn

from .._torchvision import models
from ..hybrid import HybridModel
from ..hybrid.weights import Weights
from .base import Template
from .parts import Count, Network, OddCount, Part, Rate, StagePlaces, StrictBool, Stride, check, initialize, shell

# Layers in each of the four dense blocks, growth rate, channels of the stem. Torchvision has no 264.
_LAYERS = {
    121: ((6, 12, 24, 16), 32, 64),
    161: ((6, 12, 36, 24), 48, 96),
    169: ((6, 12, 32, 32), 32, 64),
    201: ((6, 12, 48, 32), 32, 64),
    264: ((6, 12, 64, 48), 32, 64),
}


class DenseNetStem(Part):
    channels: Count = 64
    in_channels: Count = 3
    kernel: OddCount = 7
    stride: Stride = 2
    pool: StrictBool = True


class DenseNetStage(Part):
    """A dense block of ``blocks`` layers; behind each but the last comes a transition."""

    blocks: Count


class DenseNet(Network):
    family: ClassVar[str] = "densenet"
    activations: ClassVar[tuple[str, ...]] = ("ReLU",)
    last_layer: ClassVar[str] = "classifier"
    without_shape: ClassVar[tuple[str, ...]] = ("drop_rate",)
    dropout_field: ClassVar[str | None] = "drop_rate"

    growth_rate: Count = 32
    bn_size: Count = 4
    compression: Annotated[float, Field(gt=0, le=1)] = 0.5
    drop_rate: Rate = 0.0
    stem: DenseNetStem = DenseNetStem()
    stages: tuple[DenseNetStage, ...]

    @model_validator(mode="after")
    def _keeps_channels(self) -> Self:
        channels = self.stem.channels
        for index, stage in enumerate(self.stages[:-1]):
            channels = int((channels + stage.blocks * self.growth_rate) * self.compression)
            if channels < 1:
                raise ValueError(f"a compression of {self.compression:g} leaves no channels behind stage {index}")
        return self

    def make(self) -> nn.Module:
        module: Any = models.densenet
        stem, channels = self.stem, self.stem.channels
        features = nn.Sequential()
        features.add_module(
            "conv0", nn.Conv2d(stem.in_channels, channels, stem.kernel, stem.stride, stem.kernel // 2, bias=False)
        )
        features.add_module("norm0", nn.BatchNorm2d(channels))
        features.add_module("relu0", nn.ReLU(inplace=True))
        features.add_module("pool0", nn.MaxPool2d(3, 2, 1) if stem.pool else nn.Identity())
        for number, stage in enumerate(self.stages, start=1):
            # Torchvision's class takes no compression; its parts do.
            block = module._DenseBlock(stage.blocks, channels, self.bn_size, self.growth_rate, self.drop_rate)
            features.add_module(f"denseblock{number}", block)
            channels += stage.blocks * self.growth_rate
            if number < len(self.stages):
                compressed = int(channels * self.compression)
                features.add_module(f"transition{number}", module._Transition(channels, compressed))
                channels = compressed
        features.add_module("norm5", nn.BatchNorm2d(channels))
        model = shell(models.DenseNet, 1, (1, 1, 1, 1), 2)
        model.features = features
        model.classifier = nn.Linear(channels, 1000)
        initialize(model, mode="fan_in", linear=lambda layer: None)
        return model

    def places(self) -> tuple[StagePlaces, ...]:
        names = [f"features.denseblock{number}" for number in range(1, len(self.stages) + 1)]
        return tuple(StagePlaces((name,), (f"{name}.*",), "output", name) for name in names)

    def scaled(self, factor: float) -> Self:
        stem = self.stem.changed("densenet: the stem", {"channels": round(self.stem.channels * factor)})
        return self.changed("densenet", {"stem": stem, "growth_rate": round(self.growth_rate * factor)})


@Template.register("densenet")
class DenseNetTemplate(Template):
    """A DenseNet to be changed and built; its arguments are those of ``densenet``."""

    network_type: ClassVar[type[Network]] = DenseNet
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        f"densenet{layers}": {"layers": layers} for layers in _LAYERS if layers != 264
    }

    def __init__(
        self,
        layers: int = 121,
        growth_rate: int | None = None,
        bn_size: int = 4,
        compression: float = 0.5,
        activation: str = "relu",
        dropout: float = 0.0,
        num_init_features: int | None = None,
        *,
        in_channels: int = 3,
    ) -> None:
        if layers not in _LAYERS:
            raise ValueError(f"densenet: layers must be one of {', '.join(map(str, _LAYERS))}, got {layers!r}")
        depths, growth, width = _LAYERS[layers]
        values = {
            "growth_rate": growth if growth_rate is None else growth_rate,
            "bn_size": bn_size,
            "compression": compression,
            "drop_rate": dropout,
            "stem": {"channels": width if num_init_features is None else num_init_features, "in_channels": in_channels},
            "stages": [{"blocks": depth} for depth in depths],
        }
        self._start(f"densenet{layers}", check("densenet", DenseNet, values))
        if activation != "relu":
            self.replace_activation(activation)


def densenet(
    layers: int = 121,
    num_classes: int = 1000,
    growth_rate: int | None = None,
    bn_size: int = 4,
    compression: float = 0.5,
    activation: str = "relu",
    dropout: float = 0.0,
    num_init_features: int | None = None,
    *,
    in_channels: int = 3,
    weights: Weights = None,
) -> HybridModel:
    """A DenseNet of torchvision.

    Args:
        layers: 121, 161, 169, 201 or 264, which torchvision has not.
        num_classes: classes of the last layer; 0 gives features.
        growth_rate: channels that each dense layer adds; None for those of the variant, 48 in 161 and 32 in the others.
        bn_size: a dense layer first makes ``bn_size * growth_rate`` channels of its input.
        compression: share of the channels that a transition keeps.
        activation: a name that ``layers.get_activation`` takes.
        dropout: probability of a dropout at the end of each dense layer.
        num_init_features: channels of the stem; None for those of the variant, 96 in 161 and 64 in the others.
        in_channels: of the images.
        weights: as of ``Template.build``.

    Raises:
        ValueError, PatchError, WeightsError: an argument that cannot be honoured, with its name; see ``Template``.
    """
    template = DenseNetTemplate(
        layers, growth_rate, bn_size, compression, activation, dropout, num_init_features, in_channels=in_channels
    )
    return template.build(num_classes, weights)
