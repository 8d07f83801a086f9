"""Whole models of pieces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..blocks._checks import check_positive
from ..errors import nearest
from .head import DetectionHead, Head, SegmentationHead
from .measure import Signal
from .operators import Sequential, input_channels
from .piece import Piece, WrittenPiece, connect_all, title_of
from .stage import Stage, TransitionLayer
from .stem import PatchStem, SimpleStem, Stem

_TYPES: dict[str, type[WrittenPiece]] = {
    piece.type_name: piece
    for piece in (Stem, SimpleStem, PatchStem, Stage, TransitionLayer, Head, SegmentationHead, DetectionHead)
}


class VisionModel(Piece):
    """A stem, stages and a head, each built for the channels that the one before it gives.

    ``Stem(64) >> Stage(128) >> Head(10)`` is one.

    Args:
        stem: a piece or another module; it is used itself where it is built already, and so are the others.
        stages: of the same kinds.
        head: of the same kinds.

    Raises:
        ValueError: one gives other channels than the next takes; the message names both.
    """

    def __init__(self, stem: nn.Module, stages: Iterable[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self._fill([stem, *stages, head], None)

    def _fill(self, parts: Sequence[nn.Module], signal: Signal | None) -> None:
        (stem, *stages, head), given = connect_all(parts, signal)
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.in_channels = input_channels(stem) if signal is None else signal.channels
        self.out_channels = given.channels if given is not None else None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.forward_features(x))
        return out

    def forward_features(self, x: Tensor) -> Tensor:
        """What the head gets for a batch of images."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def get_stage_outputs(self, x: Tensor) -> list[Tensor]:
        """What each stage gives for a batch of images."""
        x = self.stem(x)
        outputs: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs

    def get_config(self) -> dict[str, Any]:
        """``stem``, ``stages`` and ``head`` as a recipe has them: for each its type and its arguments.

        Raises:
            ValueError: a part is no stem, stage or head.
        """
        parts = [*_configs([self.stem]), *_configs(self.stages), *_configs([self.head])]
        return {"stem": parts[0], "stages": parts[1:-1], "head": parts[-1]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> VisionModel:
        """The model that :meth:`get_config` describes, with new parameters.

        Raises:
            ValueError: an unknown key, type or argument, with the nearest one.
        """
        for key in config:
            if key not in ("stem", "stages", "head"):
                raise ValueError(f"unknown key '{key}'{nearest(key, ('stem', 'stages', 'head'))} (keys: stem, stages, head)")
        return VisionModel(
            piece_from_config(config["stem"]),
            [piece_from_config(stage) for stage in config.get("stages", ())],
            piece_from_config(config["head"]),
        )

    def _connect(self, signal: Signal | None) -> tuple[Piece, Signal | None]:
        model = self
        parts = [self.stem, *self.stages, self.head]
        connected, given = connect_all(parts, signal)
        if any(new is not old for new, old in zip(connected, parts, strict=True)):
            model = VisionModel.__new__(VisionModel)
            Piece.__init__(model)
            model._fill(connected, signal)
            model.train(self.training)
        return model, given

    def _parts(self) -> list[nn.Module]:
        stem = self.stem._parts() if isinstance(self.stem, Piece) else [self.stem]
        return [*stem, *self.stages, self.head]

    def _rows(self) -> list[tuple[str, nn.Module]]:
        stages = [(f"stages.{number}", stage) for number, stage in enumerate(self.stages)]
        return [("stem", self.stem), *stages, ("head", self.head)]


def _configs(modules: Iterable[nn.Module]) -> list[dict[str, Any]]:
    for module in modules:
        if not isinstance(module, WrittenPiece):
            raise ValueError(f"{title_of(module)} is no stem, stage or head, so the model cannot be written as plain values")
    return [module.get_config() for module in modules if isinstance(module, WrittenPiece)]


def piece_from_config(config: Mapping[str, Any]) -> WrittenPiece:
    """The piece that ``get_config`` describes: its ``type``, which is ``stage`` by default, and its arguments.

    Raises:
        ValueError: an unknown type or argument, with the nearest one.
    """
    arguments = dict(config)
    name = arguments.pop("type", Stage.type_name)
    if name not in _TYPES:
        raise ValueError(f"unknown type '{name}'{nearest(str(name), _TYPES)} (known: {', '.join(_TYPES)})")
    return _TYPES[name].from_arguments(arguments)


class Compose(Sequential):
    """Modules one after another for images of one shape, each built for the channels that the one before it gives.

    Since the shape is known, a head without a pool finds its features, too. Without one, images of other sizes are taken.

    Args:
        input_shape: (C, H, W) of an image.
        layers: pieces and other modules.

    Raises:
        ValueError: one gives something else than the next takes; the message names both.
    """

    def __init__(self, input_shape: Sequence[int], layers: Iterable[nn.Module]) -> None:
        Piece.__init__(self)
        if len(input_shape) != 3:
            raise ValueError(f"Compose: input_shape must be (C, H, W), got {tuple(input_shape)!r}")
        for size in input_shape:
            check_positive("Compose", "input_shape", size)
        self.input_shape = tuple(input_shape)
        self._fill(layers, Signal(input_shape[0], True, f"an image of shape {self.input_shape}", size=self.input_shape[1:]))


def build_vision_model(
    input_shape: Sequence[int] = (3, 224, 224),
    num_classes: int = 1000,
    stem_channels: int = 64,
    stage_channels: Sequence[int] = (64, 128, 256, 512),
    blocks_per_stage: int | Sequence[int] = 2,
    pattern: str = "residual",
    **options: Any,
) -> VisionModel:
    """A model with a stem, stages that halve height and width from the second on, and a classifier.

    Args:
        input_shape: (C, H, W) of an image. The model takes other heights and widths, too.
        num_classes: of the classifier.
        stem_channels: channels that the stem gives.
        stage_channels: channels that each stage gives.
        blocks_per_stage: blocks of each stage, or of all of them.
        pattern: of the stages.
        **options: further arguments of the stages.

    Raises:
        ValueError: there are not as many ``blocks_per_stage`` as stages, or an argument that a stage refuses.
    """
    blocks = [blocks_per_stage] * len(stage_channels) if isinstance(blocks_per_stage, int) else list(blocks_per_stage)
    if len(blocks) != len(stage_channels):
        raise ValueError(f"blocks_per_stage must have one number for each of {len(stage_channels)} stages, got {blocks}")
    stages = [
        Stage(channels, count, pattern, downsample=number > 0, **options)
        for number, (channels, count) in enumerate(zip(stage_channels, blocks, strict=True))
    ]
    return VisionModel(Stem(stem_channels, input_shape[0]), stages, Head(num_classes))
