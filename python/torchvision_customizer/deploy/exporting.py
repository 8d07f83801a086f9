"""Write a model to a file that other programs load."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ..errors import nearest
from . import torchscript
from .verification import VerifyReport, compare, like_example, native_libraries, random_inputs


@dataclass(frozen=True)
class ExportReport:
    """What :func:`export` wrote.

    Attributes:
        path: the file.
        format: a name of :data:`FORMATS`.
        bytes: its size.
        ops: the ``tvc`` ops it calls.
        libraries: what a process must load with ``torch.ops.load_library`` before the file; empty without such ops.
        verification: what the fresh process found, or None when it was not asked.
    """

    path: Path
    format: str
    bytes: int
    ops: tuple[str, ...]
    libraries: tuple[Path, ...]
    verification: VerifyReport | None

    def summary(self) -> str:
        """A few lines: the file, what it needs, and what was verified."""
        lines = [f"{self.path}: {self.format}, {self.bytes / 1e6:.1f} MB"]
        if self.ops:
            libraries = ", ".join(str(library) for library in self.libraries)
            lines.append(f"It calls {', '.join(self.ops)}: load {libraries} before it.")
        else:
            lines.append("It needs nothing but torch.")
        lines.append("It was not verified." if self.verification is None else self.verification.summary())
        return "\n".join(lines)


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    format: str = "torchscript",
    example_input: Tensor | None = None,
    verify: bool = True,
) -> ExportReport:
    """Write ``model`` in eval mode to a file that runs without this package, and prove it in a fresh process.

    The file appears at ``path`` whole and verified, or not at all: what was there before stays until then.

    Args:
        model: the model; its training flags are as before when this returns.
        path: where to write. The folder must exist.
        format: ``torchscript``, the only one of this version.
        example_input: an input, whose shape after the batch, type, device and layout the verification's inputs take. By default
            the shape the model was patched for, or (N, 3, 224, 224), of the type and on the device of its parameters.
        verify: whether to run the file in a fresh process and compare it with ``model`` (see
            :func:`~torchvision_customizer.verify`).

    Raises:
        ValueError: an unknown format.
        OSError: the file cannot be written.
        RuntimeError: TorchScript cannot compile the model, or the model calls native ops that are not in use here.
        VerificationError: the file gives other numbers, or does not run; it is not kept.
    """
    if format not in FORMATS:
        raise ValueError(f"export: format must be one of {', '.join(FORMATS)}, got '{format}'{nearest(format, FORMATS)}")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"export: {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"export: there is no folder {path.parent}")
    example = like_example(model, example_input)
    # In the same folder, so that taking its place is one step for whoever looks at it.
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise type(error)(f"export: cannot write {path}: {error.strerror}") from error
    try:
        ops = FORMATS[format](model, temporary, example)
        libraries = native_libraries(ops, example.device, "export")
        found = compare(temporary, path, model, list(random_inputs(example)), libraries) if verify else None
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return ExportReport(path, format, path.stat().st_size, ops, libraries, found)


#: What :func:`export` can write: a function of the model, the path and an example input, which returns the ``tvc`` ops called.
FORMATS: dict[str, Callable[[nn.Module, Path, Tensor], tuple[str, ...]]] = {"torchscript": torchscript.write}
