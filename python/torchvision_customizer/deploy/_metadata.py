"""What an exported file says about itself: a JSON that is read without loading the model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .formats import ExportOptions
from .preprocessing import Preprocessing

NAME = "torchvision_customizer.json"
LIBRARY = "libtvc_ops"
# The number of the first field of ONNX's message, the version of its format. The others are archives, which begin with PK.
_ONNX_BEGINS = b"\x08"
LOAD_FIRST = f'the ops of tvc are in {LIBRARY}; load it first: torch.ops.load_library(".../{LIBRARY}.so")'
#: Counts up when a reader of before would misunderstand a file.
FILE_VERSION = 1


def describe(format: str, example: Tensor, ops: Sequence[str], options: ExportOptions) -> str:
    """The metadata of a file, as JSON.

    Args:
        format: its name.
        example: an input that the model takes. Of its shape, what may differ is null.
        ops: ``tvc`` ops the file calls. Where there are any, ``library`` names what the process that loads it must load first.
        options: what was asked of the file.
    """
    try:
        package = version("torchvision-customizer")
    except PackageNotFoundError:  # run from a source tree
        package = "unknown"
    batch, channels, *size = example.shape
    metadata = {
        "file_version": FILE_VERSION,
        "format": format,
        "torch": torch.__version__,
        "torchvision_customizer": package,
        "input_shape": [
            None if options.dynamic_batch else batch,
            channels,
            *(None if options.dynamic_size else side for side in size),
        ],
        "input_dtype": str(example.dtype).removeprefix("torch."),
        "channels_last": options.channels_last,
        "ops": list(ops),
        "library": LIBRARY if ops else None,
        "preprocessing": None if options.preprocessing is None else options.preprocessing.values(),
        "classes": None if options.classes is None else list(options.classes),
    }
    return json.dumps(metadata, ensure_ascii=False, allow_nan=False)


def read(path: Path) -> tuple[str, dict[str, Any] | None]:
    """The format of a file, and its metadata, or None where it has none because something else wrote it.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: it is an ONNX file, and onnx is not installed.
        ValueError: it is of no format that :func:`export` writes, is damaged, or is of a newer version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as stream:
        first = stream.read(1)
    if first == _ONNX_BEGINS:
        from .onnx import metadata_of  # which imports this module for what it writes

        said = metadata_of(path)
        return "onnx", None if said is None else parse(path, said)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            format = _format_of(names)
            if format is None:
                raise ValueError(f"{path} is no exported model: an archive that is neither TorchScript nor of torch.export")
            name = next((name for name in names if name.endswith(f"/extra/{NAME}")), None)
            text = None if name is None else archive.read(name)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no exported model, or a damaged one: {error}") from error
    return format, None if text is None else parse(path, text)


def options_of(metadata: Mapping[str, Any] | None) -> ExportOptions:
    """What a file takes, as options; a file that says nothing takes any batch size."""
    if metadata is None:
        return ExportOptions(fused=True)
    batch, _, *size = metadata["input_shape"]
    said = metadata["preprocessing"]
    return ExportOptions(
        fused=bool(metadata["ops"]),
        dynamic_batch=batch is None,
        dynamic_size=None in size,
        channels_last=metadata["channels_last"],
        preprocessing=None if said is None else Preprocessing(**said),
    )


def parse(path: Path, text: bytes | str) -> dict[str, Any]:
    """The metadata of a file from its JSON.

    Raises:
        ValueError: it is damaged, or of a newer version.
    """
    try:
        metadata = json.loads(text)
        newest = metadata["file_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: its metadata cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(newest, int) or newest > FILE_VERSION:
        raise ValueError(
            f"{path} is of file version {newest}, and this torchvision-customizer reads versions up to {FILE_VERSION}; "
            "update it with: pip install --upgrade torchvision-customizer"
        )
    return dict(metadata)


def _format_of(names: Sequence[str]) -> str | None:
    """The format of an archive with entries of these names; their first folder has the archive's own name."""
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        return "torchscript"
    if any(name.startswith("data/aotinductor/") for name in inner):
        return "aoti"
    if "models/model.json" in inner:
        return "pt2"
    return None
