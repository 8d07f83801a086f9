"""EfficientNet and EfficientNetV2, of torchvision's blocks.

Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, https://arxiv.org/abs/1905.11946;
EfficientNetV2: Smaller Models and Faster Training, https://arxiv.org/abs/2104.00298
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, Literal, Self

from torch import nn

from .._torchvision import models
from ..errors import nearest
from ..hybrid import HybridModel
from ..hybrid.weights import Weights
from .base import Template
from .parts import Count, Eighths, Network, OddCount, Part, Rate, StagePlaces, Stride, check, divisible, initialize

# Expansion, kernel, stride, channels and blocks of the stages of b0, of which the others are multiples: width, depth, dropout.
_B0 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_MULTIPLES = {
    "b0": (1.0, 1.0, 0.2),
    "b1": (1.0, 1.1, 0.2),
    "b2": (1.1, 1.2, 0.3),
    "b3": (1.2, 1.4, 0.3),
    "b4": (1.4, 1.8, 0.4),
    "b5": (1.6, 2.2, 0.4),
    "b6": (1.8, 2.6, 0.5),
    "b7": (2.0, 3.1, 0.5),
}
# Those of version 2, the first three stages of fused blocks; channels of the stem, and dropout.
_V2: dict[str, tuple[tuple[tuple[int, ...], ...], int, float]] = {
    "v2_s": (
        (
            (1, 3, 1, 24, 2),
            (4, 3, 2, 48, 4),
            (4, 3, 2, 64, 4),
            (4, 3, 2, 128, 6),
            (6, 3, 1, 160, 9),
            (6, 3, 2, 256, 15),
        ),
        24,
        0.2,
    ),
    "v2_m": (
        (
            (1, 3, 1, 24, 3),
            (4, 3, 2, 48, 5),
            (4, 3, 2, 80, 5),
            (4, 3, 2, 160, 7),
            (6, 3, 1, 176, 14),
            (6, 3, 2, 304, 18),
            (6, 3, 1, 512, 5),
        ),
        24,
        0.3,
    ),
    "v2_l": (
        (
            (1, 3, 1, 32, 4),
            (4, 3, 2, 64, 7),
            (4, 3, 2, 96, 7),
            (4, 3, 2, 192, 10),
            (6, 3, 1, 224, 19),
            (6, 3, 2, 384, 25),
            (6, 3, 1, 640, 7),
        ),
        32,
        0.4,
    ),
}
_VARIANTS = (*_MULTIPLES, *_V2)


class EfficientNetStem(Part):
    channels: Eighths
    in_channels: Count = 3
    kernel: OddCount = 3
    stride: Stride = 2


class EfficientNetStage(Part):
    """``expansion`` is the width within a block by that of its input; a fused block has one convolution for two."""

    blocks: Count
    channels: Eighths
    stride: Stride
    kernel: OddCount
    expansion: Count
    block: Literal["mbconv", "fused_mbconv"]


class EfficientNet(Network):
    family: ClassVar[str] = "efficientnet"
    activations: ClassVar[tuple[str, ...]] = ("SiLU",)
    last_layer: ClassVar[str] = "classifier.1"
    without_shape: ClassVar[tuple[str, ...]] = ("dropout", "stochastic_depth_prob")
    dropout_field: ClassVar[str | None] = "dropout"

    last_channels: Count
    dropout: Rate
    stochastic_depth_prob: Rate = 0.2
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    stem: EfficientNetStem
    stages: tuple[EfficientNetStage, ...]

    def make(self) -> nn.Module:
        module: Any = models.efficientnet
        stem, channels = self.stem, self.stem.channels
        kinds = {"mbconv": module.MBConvConfig, "fused_mbconv": module.FusedMBConvConfig}
        norm = partial(nn.BatchNorm2d, eps=self.norm_eps, momentum=self.norm_momentum)
        rows = []
        for stage in self.stages:
            sizes = (stage.expansion, stage.kernel, stage.stride, channels, stage.channels, stage.blocks)
            rows.append(kinds[stage.block](*sizes))
            channels = stage.channels
        options = {"norm_layer": norm, "last_channel": self.last_channels}
        model = models.EfficientNet(rows, self.dropout, self.stochastic_depth_prob, **options)
        if stem != EfficientNetStem(channels=stem.channels):
            # Torchvision's class takes no other stem.
            shape = (stem.in_channels, stem.channels, stem.kernel, stem.stride)
            model.features[0] = module.Conv2dNormActivation(*shape, norm_layer=norm, activation_layer=nn.SiLU)
            initialize(model.features[0])
        return model

    def places(self) -> tuple[StagePlaces, ...]:
        names = [f"features.{number}" for number in range(1, len(self.stages) + 1)]
        return tuple(StagePlaces((name,), (f"{name}.*",), "after:block", name) for name in names)

    def scaled(self, factor: float) -> Self:
        stem = self.stem.changed("efficientnet: the stem", {"channels": divisible(self.stem.channels * factor)})
        stages = [
            stage.changed(f"efficientnet: stage {index}", {"channels": divisible(stage.channels * factor)})
            for index, stage in enumerate(self.stages)
        ]
        last = divisible(self.last_channels * factor)
        return self.changed("efficientnet", {"stem": stem, "stages": stages, "last_channels": last})


@Template.register("efficientnet")
class EfficientNetTemplate(Template):
    """An EfficientNet to be changed and built; its arguments are those of ``efficientnet``."""

    network_type: ClassVar[type[Network]] = EfficientNet
    variants: ClassVar[dict[str, dict[str, Any]]] = {f"efficientnet_{variant}": {"variant": variant} for variant in _VARIANTS}

    def __init__(self, variant: str = "b0", in_channels: int = 3, *, dropout: float | None = None) -> None:
        if variant not in _VARIANTS:
            hint = nearest(str(variant), _VARIANTS)
            raise ValueError(f"efficientnet: variant must be one of {', '.join(_VARIANTS)}, got {variant!r}{hint}")
        keys = ("expansion", "kernel", "stride", "channels", "blocks")
        values: dict[str, Any]
        if variant in _V2:
            rows, width, usual = _V2[variant]
            stages = [dict(zip(keys, row, strict=True)) for row in rows]
            kinds = ["fused_mbconv"] * 3 + ["mbconv"] * (len(rows) - 3)
            values = {"last_channels": 1280, "norm_eps": 1e-3}
        else:
            factor, depth, usual = _MULTIPLES[variant]
            stages = [dict(zip(keys, row, strict=True)) for row in _B0]
            for stage in stages:
                stage |= {"channels": divisible(stage["channels"] * factor), "blocks": math.ceil(stage["blocks"] * depth)}
            width, kinds = divisible(32 * factor), ["mbconv"] * len(stages)
            values = {"last_channels": 4 * stages[-1]["channels"]}
            values |= {"norm_eps": 1e-3, "norm_momentum": 0.01} if variant in ("b5", "b6", "b7") else {}
        values |= {
            "dropout": usual if dropout is None else dropout,
            "stem": {"channels": width, "in_channels": in_channels},
            "stages": [{**stage, "block": kind} for stage, kind in zip(stages, kinds, strict=True)],
        }
        self._start(f"efficientnet_{variant}", check("efficientnet", EfficientNet, values))


def efficientnet(
    variant: str = "b0",
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    dropout: float | None = None,
    weights: Weights = None,
) -> HybridModel:
    """An EfficientNet of torchvision.

    Args:
        variant: ``b0`` to ``b7``, ``v2_s``, ``v2_m`` or ``v2_l``.
        num_classes: classes of the last layer; 0 gives features.
        in_channels: of the images.
        dropout: probability of the dropout before the last layer; None for that of the variant.
        weights: as of ``Template.build``.

    Raises:
        ValueError, PatchError, WeightsError: an argument that cannot be honoured, with its name; see ``Template``.
    """
    return EfficientNetTemplate(variant, in_channels, dropout=dropout).build(num_classes, weights)
