"""The small sets that version 2.1 trained on by name, as it prepared them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import nearest
from .data import Data, open_data

if TYPE_CHECKING:
    from .metrics import TrainingMetrics

#: The sets of ``quick_train`` and of the ``fit_…`` methods; any other is opened by ``open_data`` and given to ``fit``.
SMALL_SETS = ("mnist", "cifar10", "cifar100")
_SIZE = 32


def open_small_set(
    model: nn.Module,
    name: str,
    batch_size: int,
    data_dir: str | os.PathLike[str] = "./data",
    augment: bool | str = True,
    *,
    download: bool = True,
    seed: int = 0,
) -> Data:
    """Images of 32×32, in as many channels as the model's first convolution takes; ``val`` is the set's test split.

    Args:
        model: what will be trained.
        name: of :data:`SMALL_SETS`.
        batch_size: images to a batch.
        data_dir: where the set is looked for, and downloaded to.
        augment: a name of ``open_data``; True is ``basic``, and False ``none``.
        download: whether a set that is not there may be downloaded.
        seed: of the order and the augmentations.

    Raises:
        ValueError, FileNotFoundError, OSError: as ``open_data``.
    """
    if isinstance(augment, bool):
        augment = "basic" if augment else "none"
    return open_data(
        name,
        data_dir,
        download=download,
        augment=augment,
        image_size=_SIZE,
        channels=channels_of(model),
        batch_size=batch_size,
        seed=seed,
    )


def channels_of(model: nn.Module) -> int:
    """Of the images that a model takes: those of its first convolution, or 3 where it has none for 1 or 3."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return first.in_channels if first is not None and first.in_channels in (1, 3) else 3


def quick_train(
    model: nn.Module,
    dataset: str = "cifar10",
    epochs: int = 5,
    lr: float = 1e-3,
    batch_size: int = 128,
    device: str = "auto",
    verbose: bool = True,
    **options: Any,
) -> TrainingMetrics:
    """Train a model on one of the small sets, in one line.

    Args:
        model: with as many classes as the set has.
        dataset: ``mnist``, ``cifar10`` or ``cifar100``.
        epochs: how often it sees all images.
        lr: learning rate.
        batch_size: images to a batch.
        device: ``auto``, ``cpu``, ``cuda``, …
        verbose: whether to print each epoch.
        options: of ``Trainer.fit_mnist``, ``fit_cifar10`` or ``fit_cifar100``, such as ``data_dir``.

    Raises:
        ValueError: an unknown set.
        ImportError: accelerate is not installed; the message says what to install.
    """
    from .trainer import Trainer

    if dataset not in SMALL_SETS:
        raise ValueError(f"dataset must be one of {', '.join(SMALL_SETS)}, got '{dataset}'{nearest(dataset, SMALL_SETS)}")
    fit = getattr(Trainer(model, device=device), f"fit_{dataset}")
    metrics: TrainingMetrics = fit(epochs=epochs, batch_size=batch_size, lr=lr, verbose=verbose, **options)
    return metrics
