"""What ships, side by side: exported files of every format, next to the model they were made from.

Files are those that are given, or every format of one model, made for the purpose. All run in this process on the same images,
with as many threads as torch has, and give the same numbers before any is timed.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..deploy import FORMATS as FILE_FORMATS
from ..deploy import export, load_exported, metadata_of
from ..fusion import fuse
from .models import compare, images, prepared, with_random_gates
from .op_suite import FORMATS
from .plain import plain_model
from .results import ModelCase, ModelResult
from .suite import DTYPES, EAGER, FUSED, SHIPPED
from .timing import Settings

_TYPE_NAMES = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class ExportedFile:
    """A file, and what it says of itself.

    Attributes:
        path: where it is.
        metadata: as :func:`~torchvision_customizer.deploy.metadata_of` reads them.
    """

    path: Path
    metadata: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> ExportedFile:
        """Read what a file says, and look whether it can be timed here.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no exported model, is damaged, of a newer version or of another program; is not of the format that
                it says; or takes no images, or none of a type that is known here.
        """
        metadata = metadata_of(path)
        shape, dtype, said = metadata["input_shape"], metadata["input_dtype"], metadata["format"]
        if said not in FILE_FORMATS:
            raise ValueError(f"{path} says that it is of the format '{said}', and is of none of {', '.join(FILE_FORMATS)}")
        if len(shape) != 4 or shape[1] != 3 or (shape[2] != shape[3]):
            raise ValueError(f"{path} takes inputs of shape {shape}; square images with 3 channels can be timed")
        if dtype not in _TYPE_NAMES:
            raise ValueError(f"{path} takes inputs of {dtype}; one of {', '.join(_TYPE_NAMES)} can be timed")
        return cls(path, metadata)

    @property
    def dtype(self) -> str:
        return _TYPE_NAMES[self.metadata["input_dtype"]]

    @property
    def layout(self) -> str:
        return "channels_last" if self.metadata["channels_last"] else "nchw"

    @property
    def input_size(self) -> int | None:
        """Height and width, or None for any."""
        size: int | None = self.metadata["input_shape"][2]
        return size

    @property
    def batch(self) -> int | None:
        """The batch size, or None for any."""
        batch: int | None = self.metadata["input_shape"][0]
        return batch

    @property
    def variant(self) -> str:
        """What a table calls it: its format and its name."""
        return f"{self.metadata['format']}: {self.path.name}"

    def check(self, case: ModelCase) -> None:
        """Refuse a case that the file does not take.

        Raises:
            ValueError: it is made for another type, size or batch.
        """
        if self.dtype != case.dtype:
            raise ValueError(f"{self.path} takes {self.dtype}, and the images are {case.dtype}; compare files of one type")
        if self.input_size not in (None, case.input_size):
            raise ValueError(
                f"{self.path} takes images of {self.input_size}, and these are of {case.input_size} (--input-size)"
            )
        if self.batch not in (None, case.batch):
            raise ValueError(f"{self.path} takes batches of {self.batch}, and these are of {case.batch} (--batch)")

    def load(self) -> Callable[[Tensor], Any]:
        """The file as a function of a batch. TorchScript is frozen, as for any deployment."""
        with warnings.catch_warnings():
            # TorchScript is on its way out of torch, and measured here as long as it is there.
            warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
            program = load_exported(self.path)
            if isinstance(program, torch.jit.ScriptModule) and hasattr(program, "training"):  # which a frozen one has not
                return torch.jit.freeze(program.eval())
        return program


def files_case(files: Sequence[ExportedFile], name: str, patches: tuple[str, ...]) -> ModelCase:
    """The case in which files can be compared, for a batch of 1: their type, and the size of images that they ask for.

    Args:
        files: one or more.
        name: what results are to be called by.
        patches: of the model, for the results.
    """
    size = next((file.input_size for file in files if file.input_size is not None), 224)
    return ModelCase(name, patches, 1, files[0].dtype, files[0].layout, False, size, exported=True)


def run_files(
    files: Sequence[ExportedFile], case: ModelCase, settings: Settings, model: nn.Module | None = None
) -> ModelResult:
    """Check and time files, next to the model they were made from where it is given: as it is in plain PyTorch, and fused.

    Args:
        files: what to time.
        case: batch size, type, layout of the model, and size of the images.
        settings: how long to measure.
        model: not fused; left as it is. Without one, files are compared with the first of them.

    Raises:
        ValueError: a file does not take the case; or two have the same name.
        DifferentOutputError: a file gives other logits.
    """
    for file in files:
        file.check(case)
    variants = [file.variant for file in files]
    twice = next((name for name in variants if variants.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two files are called '{twice}' here; rename one")
    models, places = ({}, 0) if model is None else _eager(model, case)
    return _compare(case, models, {file.variant: file for file in files}, places, settings)


def export_all(model: nn.Module, folder: Path, case: ModelCase, variants: Sequence[str]) -> dict[str, ExportedFile]:
    """Write one model in the forms that ``suite.SHIPPED`` names, for any batch size.

    Args:
        model: patched, not fused, of the type and layout of the case; left as it is.
        folder: where to.
        case: what is to be run.
        variants: which.

    Raises:
        RuntimeError: a format cannot be had of it.
    """
    example = images(replace(case, batch=2), "cpu")
    plain, fused = plain_model(model), copy.deepcopy(model)
    fuse(fused, example_input=example)
    found = {}
    for number, name in enumerate(variants):
        shipped = SHIPPED[name]
        format = FILE_FORMATS[shipped.format]
        path = folder / f"{number}{format.suffix}"
        export(fused if shipped.fused else plain, path, format.name, example, verify=False, fused=shipped.ops)
        found[name] = ExportedFile.open(path)
    return found


def run_shipped(model: nn.Module, files: Mapping[str, ExportedFile], case: ModelCase, settings: Settings) -> ModelResult:
    """Check and time what :func:`export_all` wrote of a model, next to the model itself; as :func:`run_files` does."""
    models, places = _eager(model, case)
    return _compare(case, models, files, places, settings)


def shipped_variants(dtype: str, compiled: bool) -> list[str]:
    """What :func:`export_all` can write for a type; without what takes minutes to compile, where that is asked."""
    by_format = {"aoti": compiled, "onnx": dtype != "bf16"}  # numpy, which onnxruntime takes its input from, has no bfloat16
    return [name for name, shipped in SHIPPED.items() if by_format.get(shipped.format, True)]


def trained(model: nn.Module, case: ModelCase) -> nn.Module:
    """A copy with random gates, where patches start as the identity, in the type and layout of a case."""
    return prepared(with_random_gates(copy.deepcopy(model)), case, "cpu")


def _eager(model: nn.Module, case: ModelCase) -> tuple[dict[str, Callable[[Tensor], Tensor]], int]:
    """The model in plain PyTorch and fused, in the form of a case; and how many places were fused."""
    model = prepared(copy.deepcopy(model), case, "cpu")
    fused = copy.deepcopy(model)
    places = fuse(fused, example_input=images(case, "cpu")).fused
    return {EAGER: plain_model(model), FUSED: fused}, len(places)


def _compare(
    case: ModelCase,
    models: dict[str, Callable[[Tensor], Tensor]],
    files: Mapping[str, ExportedFile],
    places: int,
    settings: Settings,
) -> ModelResult:
    x = images(case, "cpu")
    models |= {name: _on_images(file, x) for name, file in files.items()}
    return compare(case, models, x, places, settings, list(models), uncompared=(), base=next(iter(models)))


def _on_images(file: ExportedFile, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The file on ``x`` in the layout that it was made for, which is not part of what is timed."""
    program, own = file.load(), x.contiguous(memory_format=FORMATS[file.layout])

    def run(_: Tensor) -> Tensor:
        output = program(own)
        return output if isinstance(output, Tensor) else output[0]

    return run
