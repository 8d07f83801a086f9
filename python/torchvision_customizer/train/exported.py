"""A trained model or an exported file, as one that gives scores for images, with all that is known of both."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..deploy import Preprocessing, _metadata
from ..deploy._fresh_process import LOADERS
from ..deploy.known import known_classes, known_preprocessing, known_shape
from ..hybrid import load
from ..hybrid.saving import RECIPE, model_folder
from ..recipe import Recipe
from ..recipe.schema import Training


@dataclass(frozen=True)
class Classifier:
    """What gives scores for images.

    Attributes:
        run: a function of images (N, C, H, W).
        input_shape: (C, H, W) of an image.
        preprocessing: what becomes of an image before, or None where nobody said.
        classes: names of the outputs, or None.
        training: how it was trained; empty where nobody said.
        device: where images go.
    """

    run: Callable[[Tensor], Any]
    input_shape: tuple[int, ...]
    preprocessing: Preprocessing | None
    classes: tuple[str, ...] | None
    training: Training
    device: torch.device

    def __call__(self, images: Tensor) -> Any:
        return self.run(images)


def open_classifier(path: str | os.PathLike[str], device: str = "auto") -> Classifier:
    """Open a folder that ``Trainer.fit`` or ``save`` has written, or a file that ``export`` has.

    Args:
        path: the folder, or the file.
        device: where it shall run; ``auto`` is a GPU where there is one. A file runs on the device it was exported from.

    Raises:
        WeightsError: a folder that is no saved model, or a damaged one.
        ValueError: a file that is none of ``export``, or of a newer version.
    """
    place = Path(path).expanduser()
    return _of_folder(place, device) if place.is_dir() else _of_file(place, device)


def _of_folder(folder: Path, device: str) -> Classifier:
    model = load(folder)
    on = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    model.to(on).eval()
    training = Recipe.from_yaml(model_folder(folder) / RECIPE).config.training or Training.model_validate({})
    return Classifier(model, known_shape(model), known_preprocessing(model), known_classes(model), training, on)


def _of_file(file: Path, device: str) -> Classifier:
    kind, metadata = _metadata.read(file)
    ops.native_status()  # the ops that it calls are there once this package's are loaded
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit's own, about torch.jit
        program = LOADERS[kind](str(file))
    if metadata is None:
        raise ValueError(f"{file} was not written by torchvision_customizer, and does not say what images it takes")
    options = _metadata.options_of(metadata)
    batch, *shape = metadata["input_shape"]
    dtype = getattr(torch, metadata["input_dtype"])
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    size = options.preprocessing.crop if options.preprocessing is not None else 224

    def run(images: Tensor) -> Any:
        images = images.to(dtype)
        count = len(images)
        if batch is not None and count != batch:  # the last one
            images = torch.cat([images, images[:1].expand(batch - count, -1, -1, -1)])
        output = program(images.contiguous(memory_format=layout))
        return (output if isinstance(output, Tensor) else output[0])[:count]

    on = torch.device("cpu" if device == "auto" else device)
    sides = [size if side is None else side for side in shape[1:]]
    classes = None if metadata["classes"] is None else tuple(metadata["classes"])
    return Classifier(run, (shape[0], *sides), options.preprocessing, classes, Training.model_validate({}), on)
