"""Which classification sets there are, where they are looked for, and how their images are read.

torchvision's classes read what they can. IDX files, the format of MNIST and of its relatives, are read here: torchvision wants
them unpacked and in a folder of its own layout, Debian's ``dataset-fashion-mnist`` has them packed and in another one.
"""

from __future__ import annotations

import gzip
import hashlib
import inspect
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._torchvision import datasets
from .._torchvision import transforms as v2
from ..errors import nearest

#: Where Linux distributions put data sets, each in a folder of its own.
SYSTEM_FOLDER = Path("/usr/share/datasets")
IMAGE_FOLDER = "imagefolder"


@dataclass(frozen=True)
class InMemory:
    """Small images, all of one size: uint8 (N, C, H, W), and labels, int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images, uint8 (N, C, H, W), and their labels, int64."""
        chosen = torch.tensor(indices)
        return self.images[chosen], self.labels[chosen]


class Listed:
    """Images that one of torchvision's classes opens one at a time."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, indices: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Images, uint8 (3, H, W) each, and their labels, int64."""
        images, labels = zip(*(self.dataset[index] for index in indices), strict=True)
        return [v2.functional.pil_to_tensor(image.convert("RGB")) for image in images], torch.tensor([int(x) for x in labels])


Images = InMemory | Listed


@dataclass(frozen=True)
class OpenedSet:
    """What was found under a name: its splits, its classes, and the folder."""

    name: str
    train: Images
    val: Images | None
    test: Images | None
    classes: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class _Kind:
    """How the constructor of a torchvision class is told its splits; how many classes there are, where it does not say."""

    train: Mapping[str, Any]
    val: Mapping[str, Any] | None = None
    test: Mapping[str, Any] | None = None
    classes: int | None = None


def _split(train: str, val: str | None, test: str | None, classes: int | None = None, **others: Any) -> _Kind:
    """By an argument ``split``."""

    def arguments(name: str | None) -> Mapping[str, Any] | None:
        return None if name is None else {"split": name, **others}

    return _Kind({"split": train, **others}, arguments(val), arguments(test), classes)


_BY_FLAG = _Kind({"train": True}, None, {"train": False})
_WHOLE = _Kind({})

# The sets for classification of torchvision 0.28. An older one may lack some.
_KINDS: dict[str, _Kind] = {
    "CIFAR10": _BY_FLAG,
    "CIFAR100": _BY_FLAG,
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
    "Country211": _split("train", "valid", "test"),
    "DTD": _split("train", "val", "test"),
    "EMNIST": _Kind({"split": "balanced", "train": True}, None, {"split": "balanced", "train": False}),
    "EuroSAT": _WHOLE,
    "FER2013": _split("train", None, "test", 7),
    "FGVCAircraft": _split("train", "val", "test"),
    "FashionMNIST": _BY_FLAG,
    "Flowers102": _split("train", "val", "test", 102),
    "Food101": _split("train", None, "test"),
    "GTSRB": _split("train", None, "test", 43),
    "INaturalist": _Kind({"version": "2021_train"}, {"version": "2021_valid"}),
    "ImageNet": _split("train", "val", None),
    "Imagenette": _split("train", "val", None),
    "KMNIST": _BY_FLAG,
    "LFWPeople": _split("train", None, "test"),
    "MNIST": _BY_FLAG,
    "OxfordIIITPet": _split("trainval", None, "test"),
    "PCAM": _split("train", "val", "test", 2),
    "Places365": _split("train-standard", "val", None, small=True),
    "QMNIST": _BY_FLAG,
    "RenderedSST2": _split("train", "val", "test"),
    "SEMEION": _Kind({}, classes=10),
    "STL10": _split("train", None, "test"),
    "SUN397": _WHOLE,
    "SVHN": _split("train", None, "test", 10),
    "StanfordCars": _split("train", None, "test"),
    "USPS": _Kind({"train": True}, None, {"train": False}, classes=10),
}
# MD5 of the unpacked labels: Debian packs them anew, so that the sums torchvision knows are of no use.
_FASHION_LABELS = "9018921c3c673c538a1fc5bad174d6f9"
_IDX_SETS = ("FashionMNIST", "KMNIST", "MNIST")
# Letters, digits and traffic signs: their mirror images are something else.
NOT_MIRRORED = frozenset(
    ("EMNIST", "GTSRB", "KMNIST", "MNIST", "QMNIST", "RenderedSST2", "SEMEION", "SVHN", "USPS"),
)


def set_names() -> list[str]:
    """The classification sets of the installed torchvision."""
    return [name for name in _KINDS if hasattr(datasets, name)]


def find_set(name: str) -> str:
    """The set that a name means; case, ``-`` and ``_`` do not count.

    Raises:
        ValueError: there is no such set; the message has the nearest name.
    """
    plain = {known.lower(): known for known in set_names()}
    key = name.lower().replace("-", "").replace("_", "")
    if key not in plain:
        hint = nearest(key, plain.values())
        raise ValueError(f"there is no data set '{name}'{hint} (there are {', '.join(set_names())}, and folders of images)")
    return plain[key]


def open_set(name: str, data_dir: str | os.PathLike[str], download: bool = False) -> OpenedSet:
    """Open a torchvision set, or a folder of images.

    Args:
        name: of :func:`set_names`; a folder that holds ``train`` and ``val`` or ``test`` with a folder for each class, or the
            classes themselves; or ``imagefolder``, which is ``data_dir``.
        data_dir: where it is looked for first; then below ``/usr/share/datasets``.
        download: whether a set that is nowhere is downloaded into ``data_dir``.

    Raises:
        ValueError: there is no such set, or its files are damaged or those of another one.
        FileNotFoundError: it is nowhere; the message says where it was looked for, and how to get it.
        OSError: it could not be downloaded.
    """
    base = Path(data_dir).expanduser()
    if name.lower() == IMAGE_FOLDER:
        return _open_folder(base)
    if os.sep in name or (name not in _KINDS and Path(name).expanduser().is_dir()):
        return _open_folder(Path(name).expanduser())
    known = find_set(name)
    folders = list(_places(known, base))
    if known in _IDX_SETS:
        for folder in folders:
            if _idx_file(folder, "train", "images") is not None:
                return _open_idx(known, folder)
    failures: list[str] = []
    for folder in (place for place in folders if place.is_dir()):
        try:
            return _open_class(known, folder, download=False)
        except (
            RuntimeError,
            OSError,
        ) as error:  # what these classes say of files that are missing, damaged, or not to be written
            failures.append(str(error).partition("\n")[0].partition(". You can use")[0])
    if download:
        return _download(known, base)
    where = ", ".join(map(str, folders))
    said = f" (torchvision says: {'; '.join(dict.fromkeys(failures))})" if failures else ""
    raise FileNotFoundError(f"{known} was not found{said}; it was looked for in {where}; {_how_to_get(known, base)}")


def _places(name: str, base: Path) -> Sequence[Path]:
    """The folders in which a set is looked for, in order."""
    dashed = name.replace("MNIST", "-mnist").lstrip("-").lower()
    own = [base, base / name / "raw", base / name, base / dashed] if name in _IDX_SETS else [base, base / name, base / dashed]
    return list(dict.fromkeys([*own, SYSTEM_FOLDER / dashed]))


def _how_to_get(name: str, base: Path) -> str:
    ways = [f"download=True (--download) fetches it into {base}"] if _can_download(name) else []
    ways += ["Debian and Ubuntu have it: apt install dataset-fashion-mnist"] if name == "FashionMNIST" else []
    ways += [f"its files belong where torchvision.datasets.{name} looks for them, with root={base}"] if not ways else []
    return ", or ".join(ways)


def _can_download(name: str) -> bool:
    return "download" in inspect.signature(getattr(datasets, name)).parameters


def _download(name: str, base: Path) -> OpenedSet:
    if not _can_download(name):
        raise FileNotFoundError(f"{name} cannot be downloaded by torchvision; {_how_to_get(name, base)}")
    try:
        base.mkdir(parents=True, exist_ok=True)
        return _open_class(name, base, download=True)
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().replace("\n", " ")
        raise OSError(f"{name} could not be downloaded into {base}: {reason}") from error


def _open_class(name: str, root: Path, download: bool) -> OpenedSet:
    """By the torchvision class of that name."""
    kind, make = _KINDS[name], getattr(datasets, name)
    more = {"download": True} if download else {}
    splits = (kind.train, kind.val, kind.test)
    made = [None if arguments is None else make(root=str(root), **arguments, **more) for arguments in splits]
    train, val, test = (None if dataset is None else _in_memory(dataset) or Listed(dataset) for dataset in made)
    assert train is not None
    return OpenedSet(name, train, val, test, _classes(made[0], kind.classes), root)


def _classes(dataset: Any, count: int | None) -> tuple[str, ...]:
    if count is not None:
        return tuple(map(str, range(count)))
    for attribute in ("classes", "categories", "all_categories", "class_to_idx"):
        found = getattr(dataset, attribute, None)
        if found:
            return tuple(" / ".join(label) if isinstance(label, tuple) else str(label) for label in found)
    raise ValueError(f"{type(dataset).__name__} of this torchvision does not name its classes")


def _in_memory(dataset: Any) -> InMemory | None:
    """The images of a set that holds them all in one array, or None."""
    data = getattr(dataset, "data", None)
    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if not isinstance(data, np.ndarray | Tensor) or labels is None:
        return None
    images = torch.as_tensor(data)
    if images.dtype != torch.uint8 or images.dim() not in (3, 4):
        return None
    if images.dim() == 3:
        images = images[:, None]
    elif images.shape[-1] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    numbers = torch.as_tensor(labels).long()
    return InMemory(
        images.contiguous(), numbers[:, 0] if numbers.dim() == 2 else numbers
    )  # QMNIST: the first column is the class


# IDX: http://yann.lecun.com/exdb/mnist/


def _idx_file(folder: Path, split: str, what: str) -> Path | None:
    """The file of a split, plain or packed, or None."""
    stem = f"{split}-{what}-idx{3 if what == 'images' else 1}-ubyte"
    return next((folder / name for name in (stem, f"{stem}.gz") if (folder / name).is_file()), None)


def _open_idx(name: str, folder: Path) -> OpenedSet:
    _check_whose(name, folder)
    train, test = _read_split(folder, "train"), _read_split(folder, "t10k")
    return OpenedSet(name, train, None, test, _classes(getattr(datasets, name), None), folder)


def _check_whose(name: str, folder: Path) -> None:
    """All these sets have files of the same names: refuse those of another one, where they are known."""
    file = _idx_file(folder, "train", "labels")
    digests = set() if file is None else {hashlib.md5(data).hexdigest() for data in (file.read_bytes(), _content(file))}
    for other in _IDX_SETS:
        known = {_FASHION_LABELS} if other == "FashionMNIST" else set()
        known |= {md5 for resource, md5 in getattr(datasets, other).resources if resource == "train-labels-idx1-ubyte.gz"}
        if other != name and digests & known:
            raise ValueError(f"{folder} has the files of {other}, not of {name}")


def _read_split(folder: Path, split: str) -> InMemory:
    parts = []
    for what, dimensions in (("images", 3), ("labels", 1)):
        file = _idx_file(folder, split, what)
        if file is None:
            raise FileNotFoundError(f"{folder} has no {split}-{what}-idx{dimensions}-ubyte, plain or as .gz")
        parts.append(read_idx(file, dimensions))
    images, labels = parts
    if len(images) != len(labels):
        raise ValueError(f"{folder}: there are {len(images)} images of {split}, and {len(labels)} labels")
    return InMemory(images[:, None], labels.long())


def read_idx(file: Path, dimensions: int) -> Tensor:
    """Read an IDX file of bytes, plain or packed by gzip.

    Raises:
        ValueError: it is none, has another number of dimensions, or is cut off.
    """
    content = _content(file)
    head = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < head:
        raise ValueError(f"{file} is no IDX file of bytes with {dimensions} dimension{'s' if dimensions > 1 else ''}")
    shape = [int(size) for size in np.frombuffer(content, ">u4", dimensions, 4)]
    if len(content) - head != np.prod(shape):
        size = "×".join(map(str, shape))
        raise ValueError(f"{file} is damaged: it says {size} bytes, and has {len(content) - head}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=head).reshape(shape)


def _content(file: Path) -> bytes:
    try:
        return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


# Folders of images.


_VAL_NAMES, _TEST_NAMES = ("val", "valid", "validation"), ("test",)


def _open_folder(folder: Path) -> OpenedSet:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    if not (folder / "train").is_dir():
        whole = _image_folder(folder)
        return OpenedSet(folder.name, Listed(whole), None, None, tuple(whole.classes), folder)
    train = _image_folder(folder / "train")
    others: list[Listed | None] = []
    for names in (_VAL_NAMES, _TEST_NAMES):
        place = next((folder / name for name in names if (folder / name).is_dir()), None)
        other = None if place is None else _image_folder(place)
        if other is not None and other.classes != train.classes:
            odd = sorted({*other.classes} ^ {*train.classes})[0]
            raise ValueError(f"{place} and {folder / 'train'} have different classes: '{odd}' is in one of them only")
        others.append(None if other is None else Listed(other))
    return OpenedSet(folder.name, Listed(train), others[0], others[1], tuple(train.classes), folder)


def _image_folder(folder: Path) -> Any:
    """torchvision's ``ImageFolder``, which says itself what it misses."""
    make: Callable[..., Any] = datasets.ImageFolder
    try:
        return make(str(folder))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} is no folder of images with a folder for each class: {error}") from error
