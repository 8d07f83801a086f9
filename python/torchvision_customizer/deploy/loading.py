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
from .onnx_translation import need
from .verification import native_libraries


def load_exported(path: str | os.PathLike[str]) -> Callable[[Tensor], Any]:
    """The model of a file that :func:`export` has written, of any format, as a function of a batch.

    Its ops are those of this package, which needs no ``torch.ops.load_library``. What the file asks of an input is in
    :func:`metadata_of`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no exported model, is damaged, or is of a newer version.
        ImportError: it is an ONNX file, and onnx or onnxruntime is not installed; the message says what to install.
        RuntimeError: it calls ``tvc`` ops, and the native library is not in use here; or torch cannot load it.
    """
    path = Path(path)
    format, metadata = _metadata.read(path)
    native_libraries((metadata or {"ops": ()})["ops"], torch.device("cpu"), str(path))
    return load_onnx(path) if format == "onnx" else LOADERS[format](str(path))


def load_onnx(path: Path) -> Callable[[Tensor], Any]:
    """An ONNX file in onnxruntime on the CPU, with as many threads as torch has now, as a function of a torch tensor.

    Raises:
        ImportError: onnxruntime is not installed; the message says what to install.
        RuntimeError: onnxruntime cannot load it.
    """
    runtime = need("onnxruntime", str(path))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    # Its threads would wait for the next call at full speed, and torch's would wait for them.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    refused = runtime.capi.onnxruntime_pybind11_state
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (refused.Fail, refused.InvalidGraph, refused.InvalidProtobuf, refused.NotImplemented) as error:
        raise RuntimeError(f"{path}: onnxruntime cannot load it: {error}") from error
    (name,) = (value.name for value in session.get_inputs())

    def run(x: Tensor) -> Any:
        results = [torch.from_numpy(array) for array in session.run(None, {name: x.numpy()})]
        return results[0] if len(results) == 1 else tuple(results)

    return run


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
