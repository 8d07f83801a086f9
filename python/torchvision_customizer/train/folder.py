"""What a training says of itself: in the model's recipe before it begins, and in its folder when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..deploy.known import known_preprocessing, known_shape
from ..hybrid import HybridModel
from ..hybrid.model import note
from ..recipe.builder import ABOUT
from ..recipe.schema import Training
from .config import check_options
from .data import Data, open_data
from .evaluation import Evaluation
from .metrics import TrainingMetrics, write_whole
from .sets import OpenedSet
from .transforms import at_size

HISTORY, EVALUATION, CONFUSION = "history", "evaluation.json", "confusion.png"
DATA_DIR = "./data"


def training_with(training: Training | None, overrides: Mapping[str, Any]) -> Training:
    """A section ``training`` with other values; None among them does not count. Without a seed it gets 0.

    Raises:
        ValueError: a value that is not allowed, with what is.
    """
    given = {"seed": 0} if training is None else {"seed": 0, **training.given()}
    changed = {key: value for key, value in overrides.items() if value is not None}
    return check_options(Training, "training", {**given, **changed})


def data_for(
    model: nn.Module,
    found: OpenedSet,
    training: Training,
    *,
    size: int | None = None,
    limit: int | None = None,
    pin_memory: bool = False,
) -> Data:
    """The loaders that a model is trained with: images as its weights or its recipe want them.

    Args:
        model: the model.
        found: the set.
        training: the section ``training`` of its recipe.
        size: height and width of the images, in place of what the model was made for.
        limit: at most so many images of each split.
        pin_memory: for copies to a GPU.

    Raises:
        ValueError: the model takes images that are not square, or of a number of channels that is neither 1 nor 3.
    """
    channels, height, width = known_shape(model)
    if height != width:
        raise ValueError(f"images are cut to squares, and the model is made for {height}×{width}; give it another input_shape")
    transform = known_preprocessing(model)
    if transform is not None:
        transform = at_size(transform, size or _size_of(model) or transform.crop)
    return open_data(
        found,
        augment=training.augment,
        transform=transform,
        image_size=size or height,
        channels=channels,
        batch_size=training.batch_size,
        val_fraction=training.val_fraction,
        workers=training.workers,
        seed=training.seed or 0,
        limit=limit,
        mixup=training.mixup,
        cutmix=training.cutmix,
        pin_memory=pin_memory,
    )


def _size_of(model: nn.Module) -> int | None:
    """Height and width that a composed model's recipe says."""
    shape = model.__dict__.get(ABOUT, {}).get("input_shape")
    return None if shape is None else int(shape[-1])


def note_training(model: nn.Module, training: Training, data: Data) -> None:
    """Have a model's recipe say how it is trained, what an image goes through, and what its classes are called.

    It is saved with it, and what evaluates and exports the model reads it there.
    """
    preprocessing = data.transform.values()
    about = model._hybrid_state.about if isinstance(model, HybridModel) else model.__dict__.get(ABOUT, {})
    export = {**(about.get("export") or {}), **preprocessing, "classes": list(data.classes)}
    about = {**about, "training": training.given(), "export": export}
    if isinstance(model, HybridModel):
        note(model, about=about)
    else:
        model.__dict__[ABOUT] = about


def write_history(metrics: TrainingMetrics, folder: Path) -> list[Path]:
    """Write the numbers of a training as JSON and CSV, and as a picture where matplotlib is installed.

    Returns:
        The files.
    """
    written = [metrics.to_json(folder / f"{HISTORY}.json"), metrics.to_csv(folder / f"{HISTORY}.csv")]
    return written + _drawn(metrics, folder / f"{HISTORY}.png") if len(metrics) else written


def write_evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write an evaluation as JSON, and its confusion matrix as a picture where matplotlib is installed.

    Returns:
        The files.
    """
    import json

    text = json.dumps(evaluation.to_dict(), indent=2) + "\n"
    return [write_whole(folder / EVALUATION, text), *_drawn(evaluation, folder / CONFUSION)]


def _drawn(numbers: TrainingMetrics | Evaluation, file: Path) -> list[Path]:
    try:
        return [numbers.plot(file)]
    except ImportError:  # matplotlib is an extra, and a picture no reason to lose a training's end
        return []


def check_classes(mine: tuple[str, ...] | None, data: Data, model: str) -> None:
    """That a model's classes are those of the data, in the same order.

    Raises:
        ValueError: they are others.
    """
    if mine is None or tuple(mine) == data.classes:
        return
    pairs = enumerate(zip(mine, data.classes, strict=False))
    odd = next(((number, pair) for number, pair in pairs if pair[0] != pair[1]), None)
    what = f"{len(mine)} there, {len(data.classes)} here"
    if odd is not None:
        what = f"class {odd[0]} is '{odd[1][0]}' there and '{odd[1][1]}' here"
    raise ValueError(f"{model} was trained on other classes than those of {data.source}: {what}")
