"""Open an exported file in a process that has this package."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import _metadata
from ._fresh_process import LOADERS
from .verification import native_libraries


def load_exported(path: str | os.PathLike[str]) -> Callable[[Tensor], Any]:
    """The model of a file that :func:`export` has written, of any format, as a function of a batch.

    Its ops are those of this package, which needs no ``torch.ops.load_library``. What the file asks of an input is in
    :func:`metadata_of`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no exported model, is damaged, or is of a newer version.
        RuntimeError: it calls ``tvc`` ops, and the native library is not in use here; or torch cannot load it.
    """
    path = Path(path)
    format, metadata = _metadata.read(path)
    native_libraries((metadata or {"ops": ()})["ops"], torch.device("cpu"), str(path))
    return LOADERS[format](str(path))


def metadata_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an exported file says of itself, read without loading the model.

    Returns:
        ``file_version``, ``format``, ``torch`` and ``torchvision_customizer`` (the versions that wrote it), ``input_shape``
        (null where any size will do), ``input_dtype``, ``channels_last``, ``ops`` (those of ``tvc`` that it calls),
        ``library`` (what a process must load for them, or null), ``preprocessing`` and ``classes`` (null where not known).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no exported model, is damaged, or is of a newer version; or another program wrote it.
    """
    path = Path(path)
    format, metadata = _metadata.read(path)
    if metadata is None:
        raise ValueError(f"{path} is of the format {format}, and says nothing of itself: another program wrote it")
    return metadata
