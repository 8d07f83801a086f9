"""TorchScript: the format that a C++ program loads with LibTorch alone, and ``libtvc_ops`` where the model calls its ops."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from . import _metadata
from .verification import evaluating


def write(model: nn.Module, path: Path, example: Tensor) -> tuple[str, ...]:
    """Script ``model`` in eval mode into ``path``.

    Returns:
        The ``tvc`` ops the file calls.

    Raises:
        RuntimeError: TorchScript cannot compile the model; the message shows the line.
    """
    with evaluating(model), warnings.catch_warnings():
        # torch.export is to follow TorchScript. Until torch takes it away, this is what loads in C++ without a compiler.
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        try:
            scripted = torch.jit.script(model)
        except (RuntimeError, torch.jit.frontend.FrontendError) as error:
            raise RuntimeError(f"export: TorchScript cannot compile {type(model).__name__}: {error}") from error
        called: list[str] = torch.jit.export_opnames(scripted)
        ops = tuple(sorted(name for name in called if name.startswith("tvc::")))
        extra = {_metadata.NAME: json.dumps(_metadata.describe(example, ops))}
        torch.jit.save(scripted, str(path), _extra_files=extra)
    return ops
