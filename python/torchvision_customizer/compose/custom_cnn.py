"""``CustomCNN`` of version 1, for code that has it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from ..blocks import ConvBlock
from ..blocks._checks import check_positive
from .head import Head
from .model import VisionModel


class CustomCNN(VisionModel):
    """Convolutional blocks and a linear classifier.

    Deprecated: ``Stem`` and ``Stage`` say the same, and more.

    Args:
        input_shape: (C, H, W) of an image; other heights and widths are taken, too.
        num_classes: of the classifier.
        num_conv_blocks: how many blocks.
        channels: of each block, or ``auto`` for 64, 128, 256, …
        activation: a name of :func:`~torchvision_customizer.layers.get_activation`.
        use_batchnorm: whether each convolution has a batch norm.
        dropout_rate: probability that a channel is dropped, after each block.
        pooling_type: a name of :func:`~torchvision_customizer.layers.get_pooling`.
        use_pooling: whether each block ends with a pool.
        pooling_kernel_size: of the pools.
        pooling_stride: of the pools.

    Shape:
        x (N, C, H, W), output (N, num_classes).

    Raises:
        ValueError: an argument has a value that it cannot have; the message names it.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        num_conv_blocks: int = 4,
        channels: str | Sequence[int] = "auto",
        activation: str = "relu",
        use_batchnorm: bool = True,
        dropout_rate: float = 0.0,
        pooling_type: str = "max",
        use_pooling: bool = True,
        pooling_kernel_size: int = 2,
        pooling_stride: int = 2,
    ) -> None:
        warnings.warn("CustomCNN is deprecated; write Stem(64) >> Stage(128) >> Head(10)", DeprecationWarning, stacklevel=2)
        if len(input_shape) != 3:
            raise ValueError(f"CustomCNN: input_shape must be (C, H, W), got {tuple(input_shape)!r}")
        check_positive("CustomCNN", "num_classes", num_classes)
        check_positive("CustomCNN", "num_conv_blocks", num_conv_blocks)
        if isinstance(channels, str) and channels != "auto":
            raise ValueError(f"CustomCNN: channels must be 'auto' or a list, got {channels!r}")
        widths = [64 * 2**number for number in range(num_conv_blocks)] if isinstance(channels, str) else list(channels)
        if len(widths) != num_conv_blocks:
            raise ValueError(f"CustomCNN: channels must be {num_conv_blocks} numbers, one for each block, got {widths}")
        options: dict[str, Any] = {"activation": activation, "use_batchnorm": use_batchnorm, "dropout_rate": dropout_rate}
        pool: dict[str, Any] = {
            "pooling_type": pooling_type,
            "pooling_kernel_size": pooling_kernel_size,
            "pooling_stride": pooling_stride,
        }
        self._settings = {
            "input_shape": tuple(input_shape),
            "num_classes": num_classes,
            "num_conv_blocks": num_conv_blocks,
            "channels": widths,
            **options,
            **pool,
            "use_pooling": use_pooling,
        }
        first, *others = [
            ConvBlock(before, after, **options, **(pool if use_pooling else {}))
            for before, after in zip([input_shape[0], *widths], widths, strict=False)
        ]
        super().__init__(first, others, Head(num_classes, widths[-1]))

    def get_config(self) -> dict[str, Any]:
        """The arguments that it was made with; ``channels`` as numbers."""
        return dict(self._settings)
