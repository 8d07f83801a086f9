"""A data set as loaders: the same images in the same order for a seed, whoever loads them, and from any place in an epoch.

data = open_data("fashion_mnist", batch_size=256)
trainer.fit(data.train, data.val)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from .._torchvision import models
from .._torchvision import transforms as v2
from ..deploy import Preprocessing
from .sets import NOT_MIRRORED, Images, InMemory, OpenedSet, open_set
from .transforms import ORDER, SPLIT, Augmentation, Draws, Mixing, at_size, generator_for, normalise, preprocessing_of

# Of each set's training images, measured or published; for any other set those of ImageNet.
_STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "CIFAR10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "FashionMNIST": ((0.2860,), (0.3530,)),
    "MNIST": ((0.1307,), (0.3081,)),
}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# What is held out of the training images of a set that has no other ones.
_HELD_OUT = 0.1


@dataclass(frozen=True)
class Data:
    """A data set, ready to train on.

    Attributes:
        name: what it is called.
        train: batches of images, float32 (N, C, H, W), and labels, int64 (N,), or with mixup or CutMix float32 (N, classes).
            Its ``sampler`` has ``set_epoch``.
        val: what is looked at after each epoch, or None; in order, and labels are int64.
        test: what is looked at in the end, or None; the same loader as ``val`` where the set has no other images for that.
        classes: their names.
        input_shape: (C, H, W) of an image.
        transform: what each image goes through; what an exported file must do, too.
        source: the folder that was read.
    """

    name: str
    train: DataLoader[Any]
    val: DataLoader[Any] | None
    test: DataLoader[Any] | None
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    transform: Preprocessing
    source: str


def open_data(
    name: str | os.PathLike[str] | OpenedSet,
    data_dir: str | os.PathLike[str] = "./data",
    *,
    download: bool = False,
    augment: str = "basic",
    image_size: int | None = None,
    channels: int | None = None,
    batch_size: int = 128,
    val_fraction: float | None = None,
    workers: int | None = None,
    weights: Enum | str | None = None,
    transform: Preprocessing | None = None,
    seed: int = 0,
    limit: int | None = None,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    pin_memory: bool = False,
) -> Data:
    """Open a classification set of torchvision, or a folder of images, as loaders.

    ``data_dir`` is looked at first, then ``/usr/share/datasets``. IDX files (MNIST, Fashion-MNIST, KMNIST) are taken plain or
    packed, in ``data_dir`` or in torchvision's layout below it; other sets as torchvision's class of that name expects them.

    Args:
        name: of a set, as in ``fashion_mnist`` or ``Flowers102``; a folder with ``train`` and ``val`` or ``test``, or with a
            folder for each class; or ``imagefolder``, which is ``data_dir``. Or what ``open_set`` has opened.
        data_dir: where the set is, or will be.
        download: whether a set that is not there may be downloaded by torchvision.
        augment: of the training images: ``none``, ``basic`` (crops, and mirror images where they are of the same class),
            ``randaugment`` or ``trivialaugment`` (which come on top of ``basic``).
        image_size: height and width of the images that come out; by default that of the set, of ``weights``, or 224.
        channels: 1 or 3; by default those of the set.
        batch_size: images to a batch, of each process.
        val_fraction: share of the training images that is held out as ``val``. By default ``val`` is the set's own validation
            split, or else its test split, or else a tenth of the training images.
        workers: processes that load images; by default 0 for sets that lie in memory, else one for each core, 8 at most.
        weights: a member of a torchvision weight enum, or its name as in ``ResNet50_Weights.DEFAULT``: its transforms are used.
        transform: what every image goes through, in place of what follows from the set, ``weights``, ``image_size`` and
            ``channels``.
        seed: of the order, of the augmentations and of what is held out.
        limit: at most so many images of each split, drawn with the seed.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of CutMix; 0 for none. With both, each batch goes through one of them.
        pin_memory: whether batches lie in pinned memory, for copies to a GPU.

    Raises:
        ValueError: an unknown set or augmentation, an argument out of its range, or damaged files.
        FileNotFoundError: the set is nowhere; the message says where it was looked for, and how to get it.
        OSError: it could not be downloaded.
    """
    _check(image_size=image_size, batch_size=batch_size, limit=limit)
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    if val_fraction is not None and not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
    found = name if isinstance(name, OpenedSet) else open_set(os.fspath(name), data_dir, download)
    whole = isinstance(found.train, InMemory)
    preprocessing = transform or _preprocessing(found, weights, image_size, channels)
    channels = len(preprocessing.mean)
    augmentation = Augmentation(augment, preprocessing, found.name not in NOT_MIRRORED, whole)
    splits = _splits(found, val_fraction, seed, limit)
    mixing = Mixing(mixup, cutmix, len(found.classes), seed)
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "num_workers": (0 if whole else min(8, os.cpu_count() or 1)) if workers is None else workers,
        "pin_memory": pin_memory,
        "collate_fn": _joined,
    }
    options["persistent_workers"] = options["num_workers"] > 0
    images = ImageSet(*splits[0], channels, augmentation, seed, mixing)
    # Workers are seeded by a number that a loader draws: of a generator of its own, so that it takes none of the run's.
    train = DataLoader(images, sampler=EpochSampler(len(images), seed), generator=torch.Generator(), **options)
    plain = Augmentation("none", preprocessing, False, whole)
    loaders = {
        id(images): DataLoader(ImageSet(images, indices, channels, plain, seed), generator=torch.Generator(), **options)
        for images, indices in filter(None, splits[1:])
    }
    val, test = (None if split is None else loaders[id(split[0])] for split in splits[1:])
    shape = (channels, preprocessing.crop, preprocessing.crop)
    return Data(found.name, train, val, test, found.classes, shape, preprocessing, str(found.folder))


def _check(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _preprocessing(found: OpenedSet, weights: Enum | str | None, size: int | None, channels: int | None) -> Preprocessing:
    if weights is not None:
        own = preprocessing_of(models.get_weight(weights) if isinstance(weights, str) else weights)
        if channels not in (None, len(own.mean)):
            raise ValueError(f"{weights} takes images of {len(own.mean)} channels, got channels={channels}")
        return own if size is None else at_size(own, size)
    mean, std = _STATISTICS.get(found.name, _IMAGENET)
    channels = channels or (found.train.images.shape[1] if isinstance(found.train, InMemory) else 3)
    if len(mean) != channels:
        mean, std = ((sum(values) / len(values),) * channels for values in (mean, std))
    if isinstance(found.train, InMemory):
        size = size or min(found.train.images.shape[2:])
        return Preprocessing(size, mean, std)
    # The share of the image that torchvision's own models look at.
    return at_size(Preprocessing(224, mean, std, 256), size or 224)


_Split = tuple[Images, Tensor]


def _splits(
    found: OpenedSet, fraction: float | None, seed: int, limit: int | None
) -> tuple[_Split, _Split | None, _Split | None]:
    """Images and the indices of those that are used, for training, validation and test."""
    train, val, test = found.train, found.val, found.test
    if fraction is None and val is None:
        val = test
        fraction = _HELD_OUT if val is None else 0.0
    order = torch.randperm(len(train), generator=generator_for(seed, 0, SPLIT))
    held_out = round(len(train) * fraction) if fraction else 0
    if fraction and not 0 < held_out < len(train):
        raise ValueError(f"val_fraction={fraction} of {len(train)} images leaves none for one of the two")
    validated = (train, order[:held_out][:limit].sort().values) if held_out else _some(val, seed, limit)
    return (train, order[held_out:][:limit].sort().values), validated, _some(test, seed, limit)


def _some(images: Images | None, seed: int, limit: int | None) -> _Split | None:
    if images is None:
        return None
    order = torch.randperm(len(images), generator=generator_for(seed, 0, SPLIT))
    return images, order[:limit].sort().values


class ImageSet(Dataset[tuple[Tensor, Tensor]]):
    """Images as batches: what a loader asks for at once is made at once.

    An index is a number, or the pair (epoch, number) that :class:`EpochSampler` gives; a number alone is of epoch 0.

    Args:
        images: all of them.
        indices: of those that are used.
        channels: that come out, 1 or 3.
        augmentation: what happens to them.
        seed: of the run.
        mixing: of each batch, or None.
    """

    def __init__(
        self,
        images: Images,
        indices: Tensor,
        channels: int,
        augmentation: Augmentation,
        seed: int,
        mixing: Mixing | None = None,
    ) -> None:
        self.images = images
        self.indices = indices
        self.channels = channels
        self.augmentation = augmentation
        self.mixing = mixing
        self._seed = seed
        self._draws: Draws | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """The batch of these images, float32 (N, C, H, W), and their labels."""
        pairs = [(0, index) if isinstance(index, int) else index for index in indices]
        epoch, numbers = pairs[0][0], torch.tensor([number for _, number in pairs])
        images, labels = self.images.take(self.indices[numbers].tolist())
        draws = self._draws_of(epoch)
        if isinstance(images, Tensor):
            batch = self._with_channels(self.augmentation.of_batch(images, draws, numbers))
        else:
            seeds = draws.seeds[numbers].tolist()
            made = [self.augmentation.of_image(image, seed) for image, seed in zip(images, seeds, strict=True)]
            batch = self._with_channels(torch.stack(made))
        batch = normalise(batch, self.augmentation.preprocessing)
        return (batch, labels) if self.mixing is None else self.mixing(batch, labels, epoch, pairs[0][1])

    def _draws_of(self, epoch: int) -> Draws:
        if self._draws is None or self._draws.epoch != epoch:
            self._draws = Draws(self._seed, epoch, len(self))
        return self._draws

    def _with_channels(self, images: Tensor) -> Tensor:
        if images.shape[1] == self.channels:
            return images
        return v2.functional.rgb_to_grayscale(images, 1) if self.channels == 1 else images.expand(-1, 3, -1, -1)


class EpochSampler(Sampler[tuple[int, int]]):
    """The order of an epoch, as pairs (epoch, index): it depends on the seed and the epoch, and on nothing else.

    Args:
        length: how many images there are.
        seed: of the run.
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.randperm(self.length, generator=generator_for(self.seed, self.epoch, ORDER))
        epoch = self.epoch
        return ((epoch, index) for index in order.tolist())


def _joined(batch: Any) -> Any:
    """Batches come as they are; single images, of a subset for instance, are joined."""
    return batch if isinstance(batch, tuple) else default_collate(batch)
