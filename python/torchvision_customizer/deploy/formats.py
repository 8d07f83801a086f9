"""What the formats have in common: the options of a file, and what a format is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from .preprocessing import Preprocessing

#: The options that not every format takes.
OPTIONS = frozenset({"dynamic_batch", "opset"})


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is asked of a file, with nothing left open.

    Attributes:
        fused: keep the ``tvc`` ops; else the file is portable, with the reference of each in its place, in plain aten.
        dynamic_batch: the file takes any batch size, not only the example's.
        dynamic_size: it takes images of any height and width.
        channels_last: the model and its input are channels_last. The example is.
        opset: of ONNX; None for the exporter's own.
        preprocessing: what the file says about images, or None.
        classes: what it says about outputs, or None.
    """

    fused: bool
    dynamic_batch: bool = True
    dynamic_size: bool = False
    channels_last: bool = False
    opset: int | None = None
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file that :func:`export` writes.

    Attributes:
        name: what ``export(format=…)`` calls it.
        suffix: the end that a file's name must have, where what loads it asks for one.
        fused: whether the ops are kept when nothing is said.
        options: those of :data:`OPTIONS` that it takes.
        write: writes a model, which is in eval mode and nobody else's, to a path, given an example input and the options, and
            returns the ``tvc`` ops the file calls. It raises OSError where the path cannot be written, and RuntimeError where
            the model cannot be had in this format.
    """

    name: str
    fused: bool
    write: Callable[[nn.Module, Path, Tensor, ExportOptions], tuple[str, ...]]
    suffix: str = ""
    options: frozenset[str] = frozenset()
