"""How a network ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ..blocks._checks import check_positive
from ..layers import get_activation, get_normalization, get_pooling
from .measure import Signal
from .piece import WrittenPiece, title_of


class Head(WrittenPiece):
    """A pool over space, hidden layers, and a linear classifier.

    Args:
        num_classes: of the classifier; 0 gives the features that it would get.
        in_features: features after the pool; by default the channels of what stands to the left. Without a pool they are
            channels × height × width; they are found where the size is known: after vectors, after a pool that gives maps of
            one size, and in ``Compose``.
        hidden: sizes of linear layers before the classifier, each followed by the activation and dropout.
        dropout: probability that a feature is dropped before the classifier, and after each hidden layer.
        pool: ``adaptive_avg``, ``adaptive_max``, ``gem``, another pool of :func:`~torchvision_customizer.layers.get_pooling`
            that gives maps of 1×1, or None (or ``flatten``) for none.
        activation: of the hidden layers, a name of :func:`~torchvision_customizer.layers.get_activation`.
        device: where the parameters are.
        dtype: their type.

    Shape:
        x (N, C, H, W), output (N, num_classes), or (N, features).

    Raises:
        ValueError: an argument has a value that it cannot have; the message names it.
    """

    type_name = "linear"
    channels_argument = "in_features"
    gives_maps = False

    def __init__(
        self,
        num_classes: int,
        in_features: int | None = None,
        hidden: int | Sequence[int] | None = None,
        dropout: float = 0.0,
        pool: str | None = "adaptive_avg",
        activation: str = "relu",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._keep(locals())
        sizes = [hidden] if isinstance(hidden, int) else list(hidden or ())
        if num_classes != 0:
            check_positive("Head", "num_classes", num_classes)
        for size in sizes:
            check_positive("Head", "hidden", size)
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"Head: dropout must be between 0 and 1, got {dropout!r}")
        get_activation(activation)  # also an open head refuses an unknown name
        self.num_classes = num_classes
        self.takes_maps = pool not in (None, "none", "flatten")
        layers = _pool(str(pool)) if self.takes_maps else None
        self.in_channels = in_features if self.takes_maps else None
        self.out_channels: int | None = num_classes or (sizes[-1] if sizes else in_features)
        if in_features is None:
            self._leave_open()
            return
        check_positive("Head", "in_features", in_features)
        if layers is not None:
            self.pool = layers
        self.flatten = nn.Flatten()
        features = in_features
        for number, size in enumerate(sizes):
            self.add_module(f"hidden{number}", nn.Linear(features, size))
            self.add_module(f"activation{number}", get_activation(activation))
            if dropout:
                self.add_module(f"dropout{number}", nn.Dropout(dropout))
            features = size
        if dropout and not sizes:
            self.dropout = nn.Dropout(dropout)
        if num_classes:
            self.classifier = nn.Linear(features, num_classes)
        self._finish(device, dtype)

    def _takes(self, channels: int, signal: Signal) -> bool:
        wanted: int = self._arguments["in_features"]
        if not self.takes_maps and signal.maps and signal.size is None:
            return wanted % channels == 0
        return wanted == self._needed(channels, signal)

    def _needed(self, channels: int, signal: Signal) -> int:
        if self.takes_maps or not signal.maps:
            return channels
        if signal.size is None:
            raise ValueError(
                f"{title_of(self)} needs in_features, or a pool, since the height and width of what {signal.giver} gives are "
                "not known"
            )
        return channels * math.prod(signal.size)


def _pool(name: str) -> nn.Module:
    pool = get_pooling(name)
    with torch.no_grad():
        shape = tuple(pool(torch.zeros(1, 1, 5, 7)).shape)
    if shape != (1, 1, 1, 1):
        raise ValueError(
            f"Head: pool must give maps of 1×1, and '{name}' does not; known are adaptive_avg, adaptive_max and gem"
        )
    return pool


class SegmentationHead(WrittenPiece):
    """A convolution, a norm, an activation, and a classifier for each position.

    Args:
        num_classes: channels of the output.
        in_channels: channels of the input; by default those of what stands to the left.
        hidden_channels: channels between the two convolutions.
        upsample_factor: how many times the height and width of the output are those of the input, by bilinear interpolation.
        norm: a name of :func:`~torchvision_customizer.layers.get_normalization`, or None.
        activation: a name of :func:`~torchvision_customizer.layers.get_activation`, or None.
        dropout: probability that a channel is dropped before the classifier.
        device: where the parameters are.
        dtype: their type.

    Shape:
        x (N, C, H, W), output (N, num_classes, H · upsample_factor, W · upsample_factor).

    Raises:
        ValueError: an argument has a value that it cannot have; the message names it.

    Source: Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, https://arxiv.org/abs/1411.4038
    """

    type_name = "segmentation"

    def __init__(
        self,
        num_classes: int,
        in_channels: int | None = None,
        hidden_channels: int = 256,
        upsample_factor: int = 1,
        *,
        norm: str | None = "batch",
        activation: str | None = "relu",
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._keep(locals())
        counts = {"num_classes": num_classes, "hidden_channels": hidden_channels, "upsample_factor": upsample_factor}
        for argument, value in counts.items():
            check_positive("SegmentationHead", argument, value)
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"SegmentationHead: dropout must be between 0 and 1, got {dropout!r}")
        middle = get_normalization(norm or "none", hidden_channels), get_activation(activation or "none")
        self.num_classes = num_classes
        self.in_channels, self.out_channels = in_channels, num_classes
        if in_channels is None:
            self._leave_open()
            return
        check_positive("SegmentationHead", "in_channels", in_channels)
        self.conv = nn.Conv2d(in_channels, hidden_channels, 3, padding=1, bias=norm in (None, "none"))
        self.norm, self.activation = middle
        if dropout:
            self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(hidden_channels, num_classes, 1)
        if upsample_factor > 1:
            self.upsample = nn.Upsample(scale_factor=float(upsample_factor), mode="bilinear")
        self._finish(device, dtype)


class DetectionHead(WrittenPiece):
    """A convolution that predicts, for each anchor of each position, scores of the classes and a box of four numbers.

    Args:
        num_classes: scores of an anchor.
        num_anchors: anchors of a position.
        in_channels: channels of the input; by default those of what stands to the left.
        device: where the parameters are.
        dtype: their type.

    Shape:
        x (N, C, H, W), output (N, num_anchors · (num_classes + 4), H, W).

    Raises:
        ValueError: an argument is no integer of at least 1.
    """

    type_name = "detection"

    def __init__(
        self,
        num_classes: int,
        num_anchors: int = 9,
        in_channels: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._keep(locals())
        for argument, value in (("num_classes", num_classes), ("num_anchors", num_anchors)):
            check_positive("DetectionHead", argument, value)
        self.num_classes = num_classes
        self.num_anchors = num_anchors
        self.in_channels, self.out_channels = in_channels, num_anchors * (num_classes + 4)
        if in_channels is None:
            self._leave_open()
            return
        check_positive("DetectionHead", "in_channels", in_channels)
        self.predictor = nn.Conv2d(in_channels, self.out_channels, 3, padding=1)
        self._finish(device, dtype)


HEADS = (Head, SegmentationHead, DetectionHead)
