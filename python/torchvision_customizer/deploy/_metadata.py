"""What an exported file says about itself: a JSON among its extra files, readable without loading the model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAME = "torchvision_customizer.json"
LIBRARY = "libtvc_ops"


def describe(example: Tensor, ops: Sequence[str]) -> dict[str, Any]:
    """The metadata of a file.

    Args:
        example: an input the model takes; its first dimension is the batch, which may differ.
        ops: ``tvc`` ops the file calls. Where there are any, ``library`` names what the process that loads it must load first.
    """
    try:
        package = version("torchvision-customizer")
    except PackageNotFoundError:  # run from a source tree
        package = "unknown"
    return {
        "torch": torch.__version__,
        "torchvision_customizer": package,
        "input_shape": [None, *example.shape[1:]],
        "input_dtype": str(example.dtype).removeprefix("torch."),
        "ops": list(ops),
        "library": LIBRARY if ops else None,
    }


def read(path: Path) -> dict[str, Any] | None:
    """The metadata of a TorchScript file, or None where it has none because something else wrote it.

    Raises:
        ValueError: it is no TorchScript file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(name.endswith("/constants.pkl") for name in names):
                raise ValueError(f"{path} is no TorchScript file")
            for name in names:
                if name.endswith(f"/extra/{NAME}"):
                    metadata: dict[str, Any] = json.loads(archive.read(name))
                    return metadata
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no TorchScript file, or a damaged one: {error}") from error
    return None
