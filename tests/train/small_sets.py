"""Small data sets in the files of the originals, as their authors wrote them."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchvision_customizer._torchvision import datasets

FASHION = Path("/usr/share/datasets/fashion-mnist")
fashion = pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")


def write_idx(folder: Path, train: int = 60, test: int = 30, packed: bool = False, side: int = 28) -> Path:
    """MNIST's four files. Images of a class are of the same brightness, so that a net learns them fast."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("t10k", test)):
        images, labels = _images(count, side, 1)
        for what, array in (("images", images[..., 0]), ("labels", labels.astype(np.uint8))):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            content = bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()
            name = f"{split}-{what}-idx{array.ndim}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch, classes: int = 10, train: int = 100, test: int = 40) -> Path:
    """CIFAR's pickled batches below ``folder``, as torchvision expects them.

    torchvision unpickles nothing but files whose MD5 it knows. Those written here are made known to it, so that this check is
    made of them, too.
    """
    kind = {10: datasets.CIFAR10, 100: datasets.CIFAR100}[classes]
    base = folder / kind.base_folder
    base.mkdir(parents=True, exist_ok=True)
    key = "labels" if classes == 10 else "fine_labels"
    for field, count in (("train_list", train), ("test_list", test)):
        names = [name for name, _ in getattr(kind, field)]
        each = count // len(names)
        sums = []
        for number, name in enumerate(names):
            images, labels = _images(each, 32, 3, classes, first=number * each)
            batch = {"data": images.transpose(0, 3, 1, 2).reshape(each, -1), key: labels.tolist()}
            sums.append([name, _write(base / name, batch)])
        monkeypatch.setattr(kind, field, sums)
    names = {kind.meta["key"]: [f"class {number}" for number in range(classes)]}
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": _write(base / kind.meta["filename"], names)})
    return folder


def write_folder(folder: Path, splits: tuple[str, ...] = ("train", "val"), count: int = 6) -> Path:
    """A folder of images with three classes, of different sizes and modes."""
    for split in splits:
        for number, name in enumerate(("ant", "bee", "cat")):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                shape = (20 + 3 * index, 30, 3) if index % 2 else (24, 22)
                pixels = np.full(shape, 40 + 80 * number + index, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


def _images(count: int, side: int, channels: int, classes: int = 10, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(first + count)
    labels = (first + np.arange(count)) % classes
    noise = random.integers(0, 30, (count, side, side, channels), dtype=np.uint8)
    return (noise + 22 * (labels % 10)[:, None, None, None]).astype(np.uint8), labels


def _write(file: Path, content: object) -> str:
    data = pickle.dumps(content, protocol=2)
    file.write_bytes(data)
    return hashlib.md5(data).hexdigest()
