"""VGG, of torchvision's layers.

Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, https://arxiv.org/abs/1409.1556
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self

from torch import nn

from .._torchvision import models
from ..hybrid import HybridModel
from ..hybrid.weights import Weights
from .base import Template
from .parts import Count, Network, Part, Rate, StagePlaces, StrictBool, check, initialize, shell

# Convolutions in each of the five stages.
_LAYERS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGGStem(Part):
    """A VGG has no layers before its first stage."""

    in_channels: Count = 3


class VGGStage(Part):
    """``blocks`` convolutions, and a pool."""

    blocks: Count
    channels: Count


class VGG(Network):
    family: ClassVar[str] = "vgg"
    activations: ClassVar[tuple[str, ...]] = ("ReLU",)
    last_layer: ClassVar[str] = "classifier.6"
    without_shape: ClassVar[tuple[str, ...]] = ("dropout",)
    dropout_field: ClassVar[str | None] = "dropout"

    batch_norm: StrictBool
    dropout: Rate = 0.5
    stem: VGGStem = VGGStem()
    stages: tuple[VGGStage, ...]

    @property
    def has_norms(self) -> bool:
        return self.batch_norm

    def make(self) -> nn.Module:
        features = nn.Sequential()
        channels = self.stem.in_channels
        for stage in self.stages:
            for _ in range(stage.blocks):
                features.append(nn.Conv2d(channels, stage.channels, 3, padding=1))
                channels = stage.channels
                if self.batch_norm:
                    features.append(nn.BatchNorm2d(channels))
                features.append(nn.ReLU(inplace=True))
            features.append(nn.MaxPool2d(2, 2))
        model = shell(models.VGG, nn.Identity(), dropout=self.dropout)
        model.features = features
        for name, inputs, outputs in (("0", channels * 7 * 7, 4096), ("3", 4096, 4096), ("6", 4096, 1000)):
            setattr(model.classifier, name, nn.Linear(inputs, outputs))
        initialize(model, linear=lambda layer: nn.init.normal_(layer.weight, 0, 0.01))
        return model

    def places(self) -> tuple[StagePlaces, ...]:
        return tuple(self._places())

    def _places(self) -> Iterator[StagePlaces]:
        start = 0
        for stage in self.stages:
            end = start + stage.blocks * (3 if self.batch_norm else 2)
            paths = tuple(f"features.{index}" for index in range(start, end + 1))
            yield StagePlaces(paths, (), None, paths[-2])  # behind the last activation, before the pool
            start = end + 1

    def scaled(self, factor: float) -> Self:
        stages = [
            stage.changed(f"vgg: stage {index}", {"channels": round(stage.channels * factor)})
            for index, stage in enumerate(self.stages)
        ]
        return self.changed("vgg", {"stages": stages})


@Template.register("vgg")
class VGGTemplate(Template):
    """A VGG to be changed and built; its arguments are those of ``vgg``."""

    network_type: ClassVar[type[Network]] = VGG
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        **{f"vgg{layers}": {"layers": layers, "use_batchnorm": False} for layers in _LAYERS},
        **{f"vgg{layers}_bn": {"layers": layers, "use_batchnorm": True} for layers in _LAYERS},
    }

    def __init__(
        self,
        layers: int = 16,
        in_channels: int = 3,
        activation: str = "relu",
        use_batchnorm: bool = True,
        dropout: float = 0.5,
        channel_scale: float = 1.0,
    ) -> None:
        if layers not in _LAYERS:
            raise ValueError(f"vgg: layers must be one of {', '.join(map(str, _LAYERS))}, got {layers!r}")
        widths = zip(_LAYERS[layers], (64, 128, 256, 512, 512), strict=True)
        values = {
            "batch_norm": use_batchnorm,
            "dropout": dropout,
            "stem": {"in_channels": in_channels},
            "stages": [{"blocks": depth, "channels": width} for depth, width in widths],
        }
        self._start(f"vgg{layers}{'_bn' if use_batchnorm else ''}", check("vgg", VGG, values))
        self.scale_channels(channel_scale)
        if activation != "relu":
            self.replace_activation(activation)

    def use_batchnorm(self, use: bool = True) -> Self:
        """Put a batch norm behind each convolution, or none.

        Raises:
            ValueError: no boolean, or norms that are to be another one would be left out.
        """
        network = self._resized({"batch_norm": use})
        if not use and any(changes.norm is not None for changes in (self.changes, *self.stage_changes)):
            raise ValueError("vgg: without batch norms there are none that could be replaced, as they are to be")
        name = f"{self.name.removesuffix('_bn')}{'_bn' if use else ''}"
        return self._set(network=network, name=name)


def vgg(
    layers: int = 16,
    num_classes: int = 1000,
    in_channels: int = 3,
    activation: str = "relu",
    use_batchnorm: bool = True,
    dropout: float = 0.5,
    channel_scale: float = 1.0,
    *,
    weights: Weights = None,
) -> HybridModel:
    """A VGG of torchvision.

    Args:
        layers: 11, 13, 16 or 19.
        num_classes: classes of the last layer; 0 gives features.
        in_channels: of the images.
        activation: a name that ``layers.get_activation`` takes.
        use_batchnorm: put a batch norm behind each convolution.
        dropout: probability of the dropouts between the linear layers.
        channel_scale: factor of the convolutions' widths.
        weights: as of ``Template.build``.

    Raises:
        ValueError, PatchError, WeightsError: an argument that cannot be honoured, with its name; see ``Template``.
    """
    return VGGTemplate(layers, in_channels, activation, use_batchnorm, dropout, channel_scale).build(num_classes, weights)
