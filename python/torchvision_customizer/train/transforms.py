"""From an image as it is stored to what a model takes: preprocessing, and augmentation by name.

Every random number belongs to (seed, epoch, index): the same image comes out in the same epoch, whichever process or worker
makes it, and in whichever batch. Nothing here draws from torch's global generator, or leaves a trace in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._torchvision import transforms as v2
from ..deploy import Preprocessing
from ..errors import nearest

#: The names of augmentations. ``basic``: a crop, and a flip where the mirror image is as good; the other two come on top of it.
AUGMENTATIONS = ("none", "basic", "randaugment", "trivialaugment")

# What random numbers are for: each purpose has a generator of its own.
ORDER, AUGMENT, MIX, SPLIT = range(4)
_SEEDS = 2**62


def generator_for(seed: int, epoch: int, purpose: int, index: int = 0) -> torch.Generator:
    """A generator whose numbers depend on these four and on nothing else."""
    state = np.random.SeedSequence([seed, epoch, purpose, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) % _SEEDS)


def preprocessing_of(weights: Enum) -> Preprocessing:
    """The preprocessing that belongs to a member of one of torchvision's weight enums.

    Raises:
        ValueError: it has none, or one that is not for classification.
    """
    preset: Any = getattr(weights, "transforms", lambda: None)()
    if not hasattr(preset, "crop_size"):
        raise ValueError(f"{weights!r} say nothing of how images are prepared for classification")
    crop, resize = (size if isinstance(size, int) else size[0] for size in (preset.crop_size, preset.resize_size))
    return Preprocessing(
        crop, tuple(preset.mean), tuple(preset.std), resize, preset.interpolation.value, bool(preset.antialias)
    )


def at_size(preprocessing: Preprocessing, size: int) -> Preprocessing:
    """The same for images of another size, with the same share of the image seen."""
    return replace(preprocessing, crop=size, resize=round(size * preprocessing.resize / preprocessing.crop))


def cut(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize the short side and crop the centre: uint8 (..., C, H, W) to uint8 (..., C, crop, crop)."""
    if min(images.shape[-2:]) != preprocessing.resize:
        mode = v2.InterpolationMode(preprocessing.interpolation)
        images = v2.functional.resize(images, [preprocessing.resize], mode, antialias=preprocessing.antialias)
    size = (preprocessing.crop, preprocessing.crop)
    return images if images.shape[-2:] == size else v2.functional.center_crop(images, list(size))


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Scale to [0, 1] and normalise: uint8 (N, C, H, W) to float32 of the same shape."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    # (x / 255 - mean) / std, in one multiplication and one subtraction.
    return images.to(torch.float32).mul_(1 / (255 * std)).sub_(mean / std)


@dataclass(frozen=True)
class Augmentation:
    """What happens to images of the training set, before they are normalised.

    Attributes:
        name: one of :data:`AUGMENTATIONS`.
        preprocessing: of the images that come out.
        flip: whether the mirror image of an image is of the same class.
        whole: whether images are small and all of one size: crops are then shifts by an eighth of the size over a black border,
            as for CIFAR in https://arxiv.org/abs/1512.03385; else they are of random size and shape, as for ImageNet in
            https://arxiv.org/abs/1409.4842.
    """

    name: str
    preprocessing: Preprocessing
    flip: bool
    whole: bool

    def __post_init__(self) -> None:
        if self.name not in AUGMENTATIONS:
            raise ValueError(
                f"augment must be one of {', '.join(AUGMENTATIONS)}, got '{self.name}'{nearest(self.name, AUGMENTATIONS)}"
            )

    def of_batch(self, images: Tensor, draws: Draws, indices: Tensor) -> Tensor:
        """uint8 (N, C, H, W), all of one size, to uint8 (N, C, crop, crop).

        Args:
            images: the images.
            draws: the random numbers of the epoch.
            indices: of the images in the set.
        """
        if self.name != "none":
            images = _shifted(images, draws, indices, self.flip)
        if self._policy is not None:
            seeds = draws.seeds[indices].tolist()
            with _own_generator() as generator:
                images = torch.stack([_seeded(generator, seed, self._policy, x) for seed, x in zip(seeds, images, strict=True)])
        return cut(images, self.preprocessing)

    def of_image(self, image: Tensor, seed: int) -> Tensor:
        """uint8 (C, H, W) of any size to uint8 (C, crop, crop)."""
        if self.name == "none":
            return cut(image, self.preprocessing)
        with _own_generator() as generator:
            return _seeded(generator, seed, self._crop_and_policy, image)

    @cached_property
    def _policy(self) -> Any:
        policies = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}
        return policies[self.name](interpolation=v2.InterpolationMode.BILINEAR) if self.name in policies else None

    @cached_property
    def _crop_and_policy(self) -> Any:
        to = self.preprocessing
        steps = [v2.RandomResizedCrop(to.crop, interpolation=v2.InterpolationMode(to.interpolation), antialias=to.antialias)]
        steps += [v2.RandomHorizontalFlip()] if self.flip else []
        steps += [self._policy] if self._policy is not None else []
        return v2.Compose(steps)


class Draws:
    """The random numbers of one epoch of a set of ``length`` images: row ``i`` is that of image ``i``."""

    def __init__(self, seed: int, epoch: int, length: int) -> None:
        generator = generator_for(seed, epoch, AUGMENT)
        self.epoch = epoch
        self.seeds = torch.randint(_SEEDS, (length,), generator=generator)
        self.shares = torch.rand((length, 3), generator=generator)


def _shifted(images: Tensor, draws: Draws, indices: Tensor, flip: bool) -> Tensor:
    """Each image moved by up to an eighth of its size over a black border, and mirrored or not; all in one gather."""
    count, _, height, width = images.shape
    shares = draws.shares[indices]
    rows = _window(shares[:, 0], height)
    columns = _window(shares[:, 1], width)
    if flip:
        mirrored = shares[:, 2] < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    border = [width // 8, height // 8]
    padded = v2.functional.pad(images, border)
    picked = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


def _window(share: Tensor, size: int) -> Tensor:
    """(N, size): positions in an image with its border, from a random first one on."""
    choices = 2 * (size // 8) + 1
    first = (share * choices).long().clamp_(max=choices - 1)
    return first[:, None] + torch.arange(size)


class _own_generator:
    """Within it torch's global generator may be seeded at will; afterwards it is where it was."""

    def __enter__(self) -> torch.Generator:
        self._state = torch.get_rng_state()
        return torch.default_generator

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self._state)


def _seeded(generator: torch.Generator, seed: int, transform: Any, image: Tensor) -> Tensor:
    generator.manual_seed(seed)
    result: Tensor = transform(image)
    return result


class Mixing:
    """Mixup (https://arxiv.org/abs/1710.09412) and CutMix (https://arxiv.org/abs/1905.04899) over a batch, by torchvision's v2.

    Args:
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of CutMix; 0 for none. With both, each batch goes through one of them.
        classes: how many there are.
        seed: of the run.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int, seed: int) -> None:
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not alpha >= 0:
                raise ValueError(f"{name} must be at least 0, got {alpha!r}")
        kinds = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
        kinds += [v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else []
        self._mix = v2.RandomChoice(kinds) if kinds else None
        self._seed = seed

    def __call__(self, images: Tensor, labels: Tensor, epoch: int, first: int) -> tuple[Tensor, Tensor]:
        """Mix a batch that begins with image ``first``: labels (N,) become float32 (N, classes)."""
        if self._mix is None:
            return images, labels
        with _own_generator() as generator:
            generator.set_state(generator_for(self._seed, epoch, MIX, first).get_state())
            mixed: tuple[Tensor, Tensor] = self._mix(images, labels)
        return mixed
