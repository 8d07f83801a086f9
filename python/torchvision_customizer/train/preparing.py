"""What is done to a model while it is trained, and undone afterwards: fusing, wrapping, batch norms over processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import IterableDataset

from ..hybrid.saving import any_recipe_of
from .batches import drawing, split_batch

if TYPE_CHECKING:
    from accelerate import Accelerator

# What Accelerator.prepare_model, and torch.compile in it, write into the model itself.
_SET_BY_ACCELERATE = ("forward", "_original_forward", "_is_accelerate_prepared", "_is_torch_compile")


class Wrapped:
    """A model as accelerate runs it: on the device, in its precision, compiled, and with gradients shared by processes.

    Within it; afterwards the model is as it was.

    Args:
        accelerator: that runs it.
        model: the raw model.
        sync_batch_norm: whether batch norms take the statistics of all processes.

    Attributes:
        model: what is to be called.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, sync_batch_norm: bool) -> None:
        self.model = model
        self._accelerator = accelerator
        self._raw = model
        self._sync = sync_batch_norm and accelerator.num_processes > 1
        self._attributes = {name: vars(model)[name] for name in _SET_BY_ACCELERATE if name in vars(model)}
        self._norms: list[tuple[nn.Module, str, nn.Module]] = []

    def __enter__(self) -> Wrapped:
        if self._sync:
            self._norms = _batch_norms(self._raw)
            nn.SyncBatchNorm.convert_sync_batchnorm(self._raw)
        self.renew()
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        for parent, name, norm in self._norms:
            setattr(parent, name, norm.train(getattr(parent, name).training))

    def renew(self) -> None:
        """Wrap it once more: processes share gradients of what was trainable when it was wrapped."""
        self._restore()
        self.model = self._accelerator.prepare_model(self._raw)

    def share_buffers(self, *others: nn.Module) -> None:
        """Give the buffers of the first process, statistics of batch norms above all, to all: they are what is saved."""
        if self._accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            for model in (self._raw, *others):
                for buffer in model.buffers():
                    broadcast(buffer)

    def _restore(self) -> None:
        for name in _SET_BY_ACCELERATE:
            vars(self._raw).pop(name, None)
        vars(self._raw).update(self._attributes)
        self.model = self._raw


def example_of(loader: Any) -> tuple[int, ...] | None:
    """The shape of two images of a loader's data set; None where it is not told by the first one."""
    dataset: Any = getattr(loader, "dataset", None)
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return None
    sampler = iter(loader.sampler)
    with drawing(0):
        try:
            image, _ = split_batch(loader.collate_fn([dataset[next(sampler)]]))
        except (TypeError, StopIteration):
            return None
    return (2, *image.shape[1:])


@contextmanager
def fused(model: nn.Module, wanted: bool, shape: tuple[int, ...] | None) -> Iterator[None]:
    """The model with fused blocks, and afterwards as it was."""
    from ..fusion import fuse, unfuse
    from ..fusion.fusing import is_fused

    if not wanted or is_fused(model):
        yield
        return
    example = None if shape is None else torch.zeros(shape, device=next(model.parameters()).device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fuse: ", category=UserWarning)  # there may be nothing to fuse
        fuse(model, example_input=example)
    try:
        yield
    finally:
        unfuse(model)


def recipe_of(model: nn.Module) -> dict[str, Any] | None:
    """What a model is made of, or None where that cannot be said."""
    try:
        return any_recipe_of(model)
    except ValueError:  # a composed model with parts of the user's own
        return None


def _batch_norms(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    kinds = nn.modules.batchnorm._BatchNorm  # as convert_sync_batchnorm
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, kinds)
    ]
