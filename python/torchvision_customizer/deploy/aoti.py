"""``aoti``: an AOTInductor package, the exported program compiled to machine code for this kind of machine."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from . import _metadata
from .exported_program import ops_in, program_of
from .formats import ExportOptions, Format

# What checks its inputs (AOTI_RUNTIME_CHECK_INPUTS=1) would else refuse a batch of 1: torch.export has it that a size that may
# change is 2 or more, and the code is right for 1 all the same.
_CONFIG = {"aot_inductor.check_lowerbound": False}


def write(model: nn.Module, path: Path, example: Tensor, options: ExportOptions) -> tuple[str, ...]:
    """Compile ``model`` into ``path``. That needs a C++ compiler, and for a model on a CUDA device nvcc; running it does not.

    Returns:
        The ``tvc`` ops the file calls.

    Raises:
        RuntimeError: ``torch.export`` or Inductor cannot have the model.
        OSError: ``path`` cannot be written.
    """
    program = program_of(model, example, options)
    ops = ops_in(program)
    with tempfile.TemporaryDirectory(prefix="tvc-aoti-") as folder:
        package = Path(folder) / "model.pt2"
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=_CONFIG)
        except torch._inductor.exc.InductorError as error:
            raise RuntimeError(f"export: AOTInductor cannot compile {type(model).__name__}: {error}") from error
        with zipfile.ZipFile(package, "a") as archive:
            archive.writestr(f"model/extra/{_metadata.NAME}", _metadata.describe("aoti", example, ops, options))
        shutil.copyfile(package, path)
    return ops


FORMAT = Format(name="aoti", suffix=".pt2", fused=True, options=frozenset({"dynamic_batch"}), write=write)
