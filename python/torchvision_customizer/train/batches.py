"""The batches of a loader: split over processes, on the device, and the same ones however often a training is interrupted."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

if TYPE_CHECKING:
    from accelerate import Accelerator

_IMAGES = ("image", "images", "pixel_values", "input", "inputs", "x", "data")
_TARGETS = ("label", "labels", "target", "targets", "y")
# What a loader is made anew with, besides its data set, its batch sampler and its collate_fn.
_KEPT = (
    "num_workers",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "persistent_workers",
    "pin_memory_device",
    "in_order",  # from torch 2.6 on
)


def split_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """The images and the targets of a batch: the first two of a sequence, or those of a mapping by their usual names.

    Raises:
        TypeError: neither.
    """
    if isinstance(batch, Mapping):
        found = [next((batch[name] for name in names if name in batch), None) for names in (_IMAGES, _TARGETS)]
        if isinstance(found[0], Tensor) and isinstance(found[1], Tensor):
            return found[0], found[1]
        names = f"images ({', '.join(_IMAGES)}) and targets ({', '.join(_TARGETS)})"
        raise TypeError(f"a batch that is a mapping must have {names}, got {', '.join(map(str, batch))}")
    if isinstance(batch, Sequence) and len(batch) >= 2 and isinstance(batch[0], Tensor) and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    raise TypeError(f"a batch must be (images, targets) or a mapping with them, got {type(batch).__name__}")


class Batches:
    """What a loader gives to this process.

    Of a ``DataLoader`` with a data set by index, every batch is made with random numbers of its own, which depend on the seed,
    the epoch and the batch alone: not on workers, and not on what was drawn before. So an epoch can be entered in the middle.
    Of a stream (``IterableDataset``), several processes may get the first images once more at the end, and count them.

    Args:
        loader: a ``DataLoader``, or anything that can be iterated over again and again and has a length.
        accelerator: whose processes share the batches, and whose device they are put on.
        seed: of the order, and of what is random in the data set.
        even: whether each process gets as many batches of the same size as any other; some images are then there twice, which
            :meth:`counted` knows.

    Attributes:
        steps: batches of an epoch, for this process.
        enters: whether an epoch can be entered in the middle.

    Raises:
        TypeError: a loader without a length.
        ValueError: a loader without a batch, or several processes and no ``DataLoader``.
    """

    def __init__(self, loader: Any, accelerator: Accelerator, seed: int = 0, even: bool = True) -> None:
        from accelerate.data_loader import prepare_data_loader

        self._device, self._seed = accelerator.device, seed
        self._processes, self._rank = accelerator.num_processes, accelerator.process_index
        self._loader: Any = loader
        self._seeded: _Seeded | None = None
        self._sampler: Any = None
        self._batches: int | None = None
        self._images: int | None = None
        if isinstance(loader, DataLoader):
            if loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset):
                loader = self._reseeded(loader, seed)
            self._loader = prepare_data_loader(
                loader,
                accelerator.device,
                put_on_device=True,
                rng_types=["generator"] if self._processes > 1 else None,
                even_batches=even,
                use_seedable_sampler=True,
                data_seed=_mix(seed, "order") % 2**63,
                non_blocking=bool(loader.pin_memory),
            )
        elif self._processes > 1:
            raise ValueError(f"several processes share the batches of a DataLoader, and this is a {type(loader).__name__}")
        try:
            whole, self.steps = len(loader), len(self._loader)
        except TypeError as error:
            raise TypeError(f"a loader must have a length, which is that of an epoch: {error}") from None
        if whole == 0 or (even and self.steps == 0):
            raise ValueError("the loader has no batch (is drop_last on, and the data set smaller than a batch?)")
        self.enters = self._seeded is not None

    def _reseeded(self, loader: DataLoader[Any], seed: int) -> DataLoader[Any]:
        """The same loader with random numbers for each batch; the one that was given is not touched."""
        batch_sampler = copy.copy(loader.batch_sampler)  # accelerate gives it another sampler
        self._seeded = _Seeded(loader.dataset, loader.collate_fn, seed, shared=loader.num_workers > 0)
        self._sampler = getattr(batch_sampler, "sampler", loader.sampler)
        self._batches = len(loader)
        order: Any = loader.sampler
        if loader.batch_size is not None and not loader.drop_last and hasattr(order, "__len__"):
            self._images, self._size = len(order), loader.batch_size
        options = {name: getattr(loader, name) for name in _KEPT if getattr(loader, name, None) not in (None, "")}
        return DataLoader(self._seeded, batch_sampler=batch_sampler, collate_fn=_as_it_is, **options)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Any]:
        """The batches of an epoch, without the first ``skip``, which are not loaded."""
        from accelerate import skip_first_batches
        from accelerate.utils import send_to_device

        if not isinstance(self._loader, DataLoader):
            return (send_to_device(batch, self._device) for batch in self._loader)
        if self._seeded is not None:
            self._seeded.epoch.fill_(epoch)
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)  # accelerate does not reach it behind the batches that it skips
        if hasattr(self._loader, "set_epoch"):
            self._loader.set_epoch(epoch)
        return self._drawn(skip_first_batches(self._loader, skip) if skip else self._loader, epoch)

    def _drawn(self, loader: Any, epoch: int) -> Iterator[Any]:
        """A loader's batches. Order and workers' seeds are drawn up to the first one; the model's random numbers are others."""
        end = object()
        with drawing(self._seed, epoch, "order"):
            batches = iter(loader)
            first = next(batches, end)
        if first is not end:
            yield first
            yield from batches

    def counted(self, number: int, size: int) -> int:
        """How many images of a batch are there for the first time in this epoch.

        Processes get batches of the same size, and as many; for that, images of the beginning are given out again at the end.

        Args:
            number: of the batch in the epoch, for this process, from 0.
            size: images in it.
        """
        if self._batches is None or self._processes == 1:
            return size
        place = number * self._processes + self._rank  # in the order of the loader that was given
        if place >= self._batches:
            return 0
        if place == self._batches - 1 and self._images is not None:
            return self._images - place * self._size
        return size

    def generators(self) -> list[torch.Generator]:
        """The random generators that loader and sampler have for themselves."""
        owners = (self._loader, self._sampler)
        found = {id(generator): generator for owner in owners if (generator := getattr(owner, "generator", None)) is not None}
        return list(found.values())


class _Seeded(Dataset[Any]):
    """A data set whose batches are each made, and collated, with random numbers of their own."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any], seed: int, shared: bool) -> None:
        self.dataset = dataset
        self.collate = collate
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64)
        if shared:
            self.epoch.share_memory_()  # workers that stay over epochs see it change

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: list[Any]) -> Any:
        many = getattr(self.dataset, "__getitems__", None)
        with drawing(self.seed, int(self.epoch), indices[0]):
            samples = many(indices) if callable(many) else [self.dataset[index] for index in indices]
            return self.collate(samples)


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def drawing(*seeds: Any) -> Iterator[None]:
    """Within it, python, numpy and torch draw random numbers that depend on the seeds alone; outside, nothing has changed."""
    seed = _mix(*seeds)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed % 2**63)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _mix(*seeds: Any) -> int:
    """A seed of other seeds; hash() is not the same in two processes, and their sum is the same for many."""
    return int.from_bytes(hashlib.blake2b(repr(seeds).encode(), digest_size=8).digest(), "little")
