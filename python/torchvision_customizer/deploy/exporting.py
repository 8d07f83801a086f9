"""Write a model to a file that other programs load."""

from __future__ import annotations

import copy
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

import torch
from torch import Tensor, nn

from ..errors import nearest
from ..fusion import fuse
from . import aoti, exported_program, onnx, torchscript
from .formats import ExportOptions, Format
from .known import known_classes, known_preprocessing
from .limits import why_not
from .preprocessing import Preprocessing
from .verification import VerifyReport, compare, native_libraries
from .verification_inputs import in_form, inputs_for, is_channels_last, like_example

#: What :func:`export` can write, by name.
FORMATS: dict[str, Format] = {
    format.name: format for format in (torchscript.FORMAT, exported_program.FORMAT, aoti.FORMAT, onnx.FORMAT)
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}


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
            lines.append("It needs nothing but " + ("onnxruntime." if self.format == "onnx" else "torch."))
        lines.append("It was not verified." if self.verification is None else self.verification.summary())
        return "\n".join(lines)


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    format: str = "torchscript",
    example_input: Tensor | None = None,
    verify: bool = True,
    *,
    fused: bool | None = None,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    dtype: torch.dtype | str | None = None,
    channels_last: bool = False,
    fold_norms: bool = False,
    opset: int | None = None,
    preprocessing: Preprocessing | EllipsisType | None = ...,
    classes: Sequence[str] | EllipsisType | None = ...,
) -> ExportReport:
    """Write ``model`` in eval mode to a file that runs without this package, and prove it in a fresh process.

    The file appears at ``path`` whole and verified, or not at all: what was there before stays until then. The model itself is
    not changed, in whatever mode, type and layout it is.

    Args:
        model: any model that the format can take; it may be in training mode.
        path: the file, in a folder that exists.
        format: a name of :data:`FORMATS`: ``torchscript``, ``pt2`` (``torch.export``), ``aoti`` (AOTInductor, compiled for
            this kind of machine) or ``onnx``.
        example_input: one input, whose shape after the batch, type, device and layout the file is made and verified with. By
            default of the shape the model was patched for, or (1, 3, 224, 224), of the type and on the device of its
            parameters.
        verify: compare the file with the model in a fresh process, see :func:`verify`.
        fused: keep the ``tvc`` ops, which a process finds in ``libtvc_ops``; or make the file portable, with plain aten in
            their place. By default what the format is best at: fused, and portable for ONNX.
        dynamic_batch: whether the file takes any batch size; TorchScript does in any case.
        dynamic_size: whether it takes any height and width that the model does.
        dtype: the type of its weights and input, also as ``fp32``, ``fp16``, ``bf16`` or ``fp64``; by default the model's.
        channels_last: whether weights and input are channels_last. They are too where ``example_input`` is.
        fold_norms: fold norms into convolutions, and fuse what can be: ``fuse(model, inference=True)``, of a copy.
        opset: of ONNX.
        preprocessing: what becomes of an image before, for the metadata of the file. By default that of the weights of
            torchvision or timm that the model was built with, or of its recipe, where there is one; None for nothing.
        classes: names of the outputs, likewise.

    Returns:
        What was written, what a process must load first, and the verification.

    Raises:
        ValueError: an unknown format or type; an option or a file name that the format does not take; the model does not take
            the example, or has not as many outputs as there are classes.
        OSError: the path cannot be written: there is no such folder (FileNotFoundError), it is one (IsADirectoryError), it may
            not be written (PermissionError), the disk is full.
        RuntimeError: the model cannot be had in this format; or it calls ``tvc`` ops, and the native library is not in use.
        VerificationError: the file gives other numbers, or does not run; it is not kept.
    """
    if format not in FORMATS:
        raise ValueError(f"export: format must be one of {', '.join(FORMATS)}, got '{format}'{nearest(format, FORMATS)}")
    kind = FORMATS[format]
    _check_taken(kind, {"dynamic_batch": dynamic_batch is not True, "opset": opset is not None})
    path = _checked(Path(path), kind)
    example, dtype = like_example(model, example_input), _dtype_of(dtype)
    channels_last = channels_last or is_channels_last(example)
    if channels_last and example.dim() != 4:
        raise ValueError(f"export: channels_last is for images (N, C, H, W), and the example is {tuple(example.shape)}")
    example = example.to(dtype or example.dtype)
    example = example.contiguous(memory_format=torch.channels_last) if channels_last else example.contiguous()
    eager = in_form(model, dtype, channels_last)
    options = ExportOptions(
        fused=kind.fused if fused is None else fused,
        dynamic_batch=dynamic_batch,
        dynamic_size=dynamic_size,
        channels_last=channels_last,
        opset=opset,
        preprocessing=known_preprocessing(model) if isinstance(preprocessing, EllipsisType) else preprocessing,
        classes=_classes_of(model, eager, example, classes),
    )
    if (reason := why_not(model, format, options.fused)) is not None:
        mode = "fused" if options.fused else "portable"
        raise RuntimeError(f"export: {type(model).__name__} cannot be had as {mode} {format}: {reason}")
    written = eager
    if fold_norms:
        written = copy.deepcopy(eager)
        fuse(written, inference=True, example_input=example)
    # In the same folder, so that taking its place is one step for whoever looks at it.
    temporary = path.parent / f".{uuid.uuid4().hex[:8]}-{path.name}"
    try:
        try:
            temporary.touch(exist_ok=False)
            ops = kind.write(written, temporary, example, options)
        except OSError as error:
            raise type(error)(f"export: cannot write {path}: {error.strerror or error}") from error
        libraries = native_libraries(ops, example.device, "export")
        found = compare(temporary, path, format, eager, inputs_for(example, options), libraries) if verify else None
        size = temporary.stat().st_size
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return ExportReport(path, format, size, ops, libraries, found)


def _check_taken(kind: Format, given: dict[str, bool]) -> None:
    for option, is_given in given.items():
        if is_given and option not in kind.options:
            takers = ", ".join(name for name, other in FORMATS.items() if option in other.options) or "none here"
            raise ValueError(f"export: {option} is not an option of {kind.name}; the formats that take it: {takers}")


def _checked(path: Path, kind: Format) -> Path:
    if path.is_dir():
        raise IsADirectoryError(f"export: {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"export: there is no folder {path.parent}")
    if not path.name.endswith(kind.suffix):
        raise ValueError(
            f"export: torch loads a file of format {kind.name} by a name that ends in {kind.suffix}, got {path.name}"
        )
    return path


def _dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise ValueError(f"export: dtype must be one of {', '.join(DTYPES)}, got '{dtype}'{nearest(dtype, DTYPES)}")
        return DTYPES[dtype]
    if dtype is not None and dtype not in DTYPES.values():
        raise ValueError(f"export: dtype must be one of {', '.join(map(str, DTYPES.values()))}, got {dtype}")
    return dtype


def _classes_of(
    model: nn.Module, eager: nn.Module, example: Tensor, classes: Sequence[str] | EllipsisType | None
) -> tuple[str, ...] | None:
    """The names of the outputs; and the first run of the model, which says whether it takes the example at all."""
    try:
        with torch.no_grad():
            output = eager(example)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"export: the model does not take an input of {tuple(example.shape)}: {error}") from error
    outputs = output.size(1) if isinstance(output, Tensor) and output.dim() == 2 else None
    if isinstance(classes, EllipsisType):
        known = known_classes(model)
        return known if known is not None and len(known) == outputs else None
    if classes is None:
        return None
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"export: classes must be a list of names, got {classes!r}")
    if len(classes) != outputs:
        has = "another kind of output" if outputs is None else f"{outputs} outputs"
        raise ValueError(f"export: there are {len(classes)} classes, and the model has {has}")
    return tuple(classes)
