"""open_data: what is found where, what becomes of an image, and that the same images come in the same order."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import FASHION, fashion, write_cifar, write_folder, write_idx
from torch import Tensor

from torchvision_customizer._torchvision import datasets, models
from torchvision_customizer._torchvision import transforms as v2
from torchvision_customizer.deploy import Preprocessing
from torchvision_customizer.train import sets
from torchvision_customizer.train.data import Data, EpochSampler, open_data
from torchvision_customizer.train.transforms import AUGMENTATIONS, cut, normalise, preprocessing_of

# What torchvision has besides sets for classification; a new class of it belongs here or into the table.
NO_CLASSIFICATION = set(
    """
    CLEVRClassification CREStereo CarlaStereo CelebA Cityscapes CocoCaptions CocoDetection DatasetFolder ETH3DStereo
    FakeData FallingThingsStereo Flickr30k Flickr8k FlyingChairs FlyingThings3D HD1K HMDB51 ImageFolder InStereo2k
    Kinetics Kitti Kitti2012Stereo Kitti2015Stereo KittiFlow LFWPairs LSUN LSUNClass Middlebury2014Stereo MovingMNIST
    Omniglot PhotoTour SBDataset SBU SceneFlowStereo Sintel SintelStereo UCF101 VOCDetection VOCSegmentation
    VisionDataset WIDERFace
    """.split()  # noqa: SIM905
)


def epoch_of(loader: Any, epoch: int = 0) -> tuple[Tensor, Tensor]:
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


# Where sets are, and which there are.


@pytest.fixture(autouse=True)
def _only_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sets, "SYSTEM_FOLDER", tmp_path / "system")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["", "MNIST/raw", "MNIST", "mnist"])
def test_idx_files_work_as_they_are(tmp_path: Path, below: str, packed: bool) -> None:
    folder = write_idx(tmp_path / "data" / below, packed=packed)
    before = sorted(folder.iterdir())
    os.chmod(folder, 0o555)
    data = open_data("mnist", tmp_path / "data", batch_size=32, augment="none")
    os.chmod(folder, 0o755)
    assert (data.name, data.source, data.input_shape) == ("MNIST", str(folder), (1, 28, 28))
    assert data.val is not None and data.test is data.val
    assert (len(data.train.dataset), len(data.val.dataset), len(data.classes)) == (60, 30, 10)  # type: ignore[arg-type]
    assert sorted(folder.iterdir()) == before


def test_the_system_s_folder_comes_last(tmp_path: Path) -> None:
    write_idx(tmp_path / "system" / "fashion-mnist", packed=True)
    assert open_data("fashion-mnist", tmp_path / "data").source == str(tmp_path / "system" / "fashion-mnist")
    write_idx(tmp_path / "data")
    assert open_data("fashion-mnist", tmp_path / "data").source == str(tmp_path / "data")


def test_idx_images_are_those_that_torchvision_reads(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw", side=30)
    theirs = datasets.MNIST(str(tmp_path), train=False)
    images, labels = sets.open_set("mnist", tmp_path).test.take(range(30))  # type: ignore[union-attr]
    assert torch.equal(images[:, 0], theirs.data) and torch.equal(labels, theirs.targets)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-1], "is damaged: it says 60 bytes, and has 59"),
        (lambda data: b"\0\0\x08\x03" + data[4:], "is no IDX file of bytes with 1 dimension"),
        (lambda data: b"", "is no IDX file of bytes with 1 dimension"),
        (lambda data: data[:7] + bytes((59,)) + data[8:-1], "there are 60 images of train, and 59 labels"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, spoil: Any, message: str) -> None:
    file = write_idx(tmp_path) / "train-labels-idx1-ubyte"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        open_data("mnist", tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_packed_file_that_is_cut_off(tmp_path: Path) -> None:
    file = write_idx(tmp_path, packed=True) / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))} is damaged"):
        open_data("mnist", tmp_path)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    (write_idx(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no t10k-labels-idx1-ubyte, plain or as \.gz"):
        open_data("mnist", tmp_path)


@fashion
def test_fashion_mnist_is_not_taken_for_mnist() -> None:
    with pytest.raises(ValueError, match=f"{FASHION} has the files of FashionMNIST, not of MNIST"):
        open_data("mnist", FASHION)


@fashion
def test_the_real_fashion_mnist() -> None:
    data = open_data("fashion_mnist", FASHION, augment="none", batch_size=10_000)
    images, labels = epoch_of(data.train)
    assert images.shape == (60_000, 1, 28, 28) and images.dtype == torch.float32
    assert labels.bincount().tolist() == [6000] * 10
    assert abs(images.mean()) < 1e-3 and abs(images.std() - 1) < 1e-3  # so the table of means holds
    assert data.classes[0] == "T-shirt/top"


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_s_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    write_cifar(tmp_path, monkeypatch, classes)
    data = open_data(f"cifar{classes}", tmp_path, augment="none", limit=8, batch_size=4)
    assert data.input_shape == (3, 32, 32) and data.classes[9] == "class 9" and len(data.classes) == classes
    theirs = getattr(datasets, f"CIFAR{classes}")(str(tmp_path), train=True)
    dataset: Any = data.train.dataset
    for number, index in enumerate(dataset.indices.tolist()):
        image, label = theirs[index]
        mine, mine_label = dataset[number]
        assert mine_label == label
        mean, std = data.transform.mean, data.transform.std
        expected = v2.functional.normalize(v2.functional.to_dtype(v2.functional.pil_to_tensor(image), scale=True), mean, std)
        torch.testing.assert_close(mine, expected, atol=2e-6, rtol=1e-5)


def test_a_cifar_file_that_was_changed_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_cifar(tmp_path, monkeypatch) / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(FileNotFoundError, match=r"CIFAR10 was not found \(torchvision says: Dataset not found or corrupted\)"):
        open_data("cifar10", tmp_path)


def test_folders_of_images(tmp_path: Path) -> None:
    data = open_data(write_folder(tmp_path / "insects", ("train", "val", "test")), image_size=16, batch_size=5, workers=0)
    assert (data.name, data.classes, data.input_shape) == ("insects", ("ant", "bee", "cat"), (3, 16, 16))
    assert [len(loader.dataset) for loader in (data.train, data.val, data.test)] == [18, 18, 18]  # type: ignore[arg-type,union-attr]
    images, labels = epoch_of(data.val)
    assert images.shape == (18, 3, 16, 16) and labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    again = open_data("imagefolder", tmp_path / "insects", image_size=16, batch_size=5, workers=0)
    assert torch.equal(epoch_of(again.val)[0], images)


def test_a_folder_of_classes_alone_is_divided(tmp_path: Path) -> None:
    data = open_data(write_folder(tmp_path, ("all",)) / "all", image_size=8, val_fraction=0.5, workers=0)
    train, val = (set(loader.dataset.indices.tolist()) for loader in (data.train, data.val))  # type: ignore[union-attr,attr-defined]
    assert len(train) == len(val) == 9 and not train & val
    assert len(open_data(tmp_path / "all", workers=0).val.dataset) == 2  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "there is no folder"),
        (lambda folder: folder.mkdir(), "is no folder of images with a folder for each class"),
        (lambda folder: (folder / "empty").mkdir(parents=True), "is no folder of images with a folder for each class"),
        (lambda folder: (write_folder(folder) / "val" / "cat").rename(folder / "val" / "cow"), "'cat' is in one of them only"),
    ],
)
def test_folders_that_do_not_fit(tmp_path: Path, prepare: Any, message: str) -> None:
    prepare(tmp_path / "images")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_data(tmp_path / "images")


@pytest.mark.parametrize("name", sets.set_names())
def test_a_set_that_is_nowhere(tmp_path: Path, name: str) -> None:
    """Every one of the table is a class of torchvision that takes what the table says, and is missed where it is not."""
    kind, signature = sets._KINDS[name], inspect.signature(getattr(datasets, name))
    for arguments in (kind.train, kind.val, kind.test):
        if arguments is not None:
            signature.bind(root="x", **arguments)
    with pytest.raises(FileNotFoundError, match=f"{name} was not found") as caught:
        open_data(name, tmp_path / "data")
    assert f"looked for in {tmp_path / 'data'}, " in str(caught.value)
    assert "--download" in str(caught.value) or "belong where torchvision" in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_the_table_knows_what_torchvision_has() -> None:
    classes = {name for name in datasets.__all__ if inspect.isclass(getattr(datasets, name))}
    assert classes - NO_CLASSIFICATION - {*sets._KINDS} == set()
    assert not NO_CLASSIFICATION & {*sets._KINDS}
    assert {*sets.set_names()} >= {"MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"} and {*sets._KINDS} > sets.NOT_MIRRORED


def test_near_names() -> None:
    with pytest.raises(ValueError, match="there is no data set 'fasion_mnist', did you mean 'FashionMNIST'"):
        open_data("fasion_mnist")
    assert sets.find_set("CIFAR-100") == sets.find_set("cifar_100") == "CIFAR100"


def test_a_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(url: str, *_: Any, **__: Any) -> None:
        asked.append(url)
        raise RuntimeError("no network")

    monkeypatch.setattr(inspect.getmodule(datasets.CIFAR10), "download_and_extract_archive", refuse)
    with pytest.raises(OSError, match=f"CIFAR10 could not be downloaded into {tmp_path / 'new'}: no network"):
        open_data("cifar10", tmp_path / "new", download=True)
    assert len(asked) == 1
    with pytest.raises(FileNotFoundError):
        open_data("cifar10", tmp_path / "new")
    assert len(asked) == 1


def test_what_is_there_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch)
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: pytest.fail("it was there"))
    open_data("cifar10", tmp_path, download=True)


# Splits.


def test_what_is_held_out(tmp_path: Path) -> None:
    write_idx(tmp_path)

    def parts(**options: Any) -> list[Any]:
        data = open_data("mnist", tmp_path, **options)
        return [None if loader is None else len(loader.dataset) for loader in (data.train, data.val, data.test)]  # type: ignore[arg-type]

    assert parts() == [60, 30, 30]
    assert parts(val_fraction=0.0) == [60, None, 30]
    assert parts(val_fraction=0.25) == [45, 15, 30]
    assert parts(val_fraction=0.25, limit=10) == [10, 10, 10]
    first, second, other = (open_data("mnist", tmp_path, val_fraction=0.5, seed=seed).train.dataset for seed in (0, 0, 1))
    assert torch.equal(first.indices, second.indices) and not torch.equal(first.indices, other.indices)  # type: ignore[attr-defined]


# What becomes of an image.


def test_the_transforms_of_weights() -> None:
    """As torchvision's preset, for images of any size and of either orientation.

    But for one grey level: where it resizes, the preset rounds float32, and v2 rounds sums of integers.
    """
    weights = models.ResNet50_Weights.IMAGENET1K_V2
    own = preprocessing_of(weights)
    assert own.values() == {
        "resize": 232,
        "crop": 224,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bilinear",
        "antialias": True,
    }
    assert Preprocessing(**own.values()) == own
    for height, width in ((300, 260), (180, 400), (232, 232), (100, 90)):
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        level = 0.0 if min(height, width) == 232 else 1 / 255 / min(own.std)
        torch.testing.assert_close(
            normalise(cut(image[None], own), own)[0], weights.transforms()(image), atol=level + 1e-5, rtol=0
        )


def test_every_classifier_s_weights_have_them() -> None:
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            assert preprocessing_of(weights).crop >= 32
    with pytest.raises(ValueError, match="say nothing of how images are prepared"):
        preprocessing_of(models.segmentation.FCN_ResNet50_Weights.DEFAULT)


def test_weights_decide_size_and_channels(tmp_path: Path) -> None:
    write_idx(tmp_path)
    data = open_data("mnist", tmp_path, weights="ResNet18_Weights.DEFAULT", batch_size=4, limit=4)
    assert data.input_shape == (3, 224, 224) and data.transform.resize == 256
    assert epoch_of(data.train)[0].shape == (4, 3, 224, 224)
    assert open_data("mnist", tmp_path, weights="ResNet18_Weights.DEFAULT", image_size=112).transform.resize == 128
    with pytest.raises(ValueError, match="takes images of 3 channels, got channels=1"):
        open_data("mnist", tmp_path, weights="ResNet18_Weights.DEFAULT", channels=1)


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 28), (1, 32), (3, 20)])
def test_channels_and_size(tmp_path: Path, channels: int, size: int) -> None:
    write_idx(tmp_path)
    data = open_data("mnist", tmp_path, channels=channels, image_size=size, augment="none", batch_size=30)
    images, _ = epoch_of(data.val)
    assert data.input_shape == (channels, size, size) == tuple(images.shape[1:])
    raw = sets.open_set("mnist", tmp_path).test.images  # type: ignore[union-attr]
    expected = (v2.functional.resize(raw, [size], antialias=True).float() / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(images, expected.expand(-1, channels, -1, -1), atol=1e-5, rtol=1e-5)


def test_grey_images_of_coloured_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch)
    data = open_data("cifar10", tmp_path, channels=1, batch_size=40)
    assert epoch_of(data.val)[0].shape == (40, 1, 32, 32) and len(data.transform.mean) == 1


def test_basic_augmentation_shifts_and_mirrors(tmp_path: Path) -> None:
    """Each image is one of the 7 × 7 shifts of its original or of its mirror image, and all kinds come up."""
    folder = write_idx(tmp_path, train=200)
    seen = set()
    for name, kinds in (("fashion_mnist", 2), ("mnist", 1)):
        data = open_data(name, folder, batch_size=200)
        dataset: Any = data.train.dataset
        raw, _ = dataset.images.take(range(200))
        padded = torch.nn.functional.pad(raw, [3, 3, 3, 3])
        candidates = {
            (top, left, mirrored): normalise(shift.flip(-1) if mirrored else shift, data.transform)
            for top in range(7)
            for left in range(7)
            for mirrored in range(kinds)
            for shift in [padded[:, :, top : top + 28, left : left + 28]]
        }
        made, _ = dataset.__getitems__([(3, index) for index in range(200)])
        for index in range(200):
            found = [key for key, images in candidates.items() if torch.equal(images[index], made[index])]
            assert len(found) == 1
            seen.add((name, *found[0]))
    assert len(seen) > 100 and {key[3] for key in seen if key[0] == "fashion_mnist"} == {0, 1}


@pytest.mark.parametrize("augment", ["randaugment", "trivialaugment"])
def test_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augment: str) -> None:
    write_cifar(tmp_path, monkeypatch)
    basic, more = (open_data("cifar10", tmp_path, augment=name, batch_size=100) for name in ("basic", augment))
    first, second = epoch_of(basic.train)[0], epoch_of(more.train)[0]
    different = (first != second).flatten(1).any(1)
    assert 30 < different.sum() <= 100 and second.isfinite().all()
    assert torch.equal(epoch_of(basic.val)[0], epoch_of(more.val)[0])


def test_mixup_and_cutmix(tmp_path: Path) -> None:
    write_idx(tmp_path)
    plain, _ = epoch_of(open_data("mnist", tmp_path, batch_size=20).train)
    for options in ({"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}):
        data = open_data("mnist", tmp_path, batch_size=20, **options)
        images, labels = epoch_of(data.train)
        assert labels.shape == (60, 10) and labels.dtype == torch.float32
        torch.testing.assert_close(labels.sum(1), torch.ones(60))
        assert (images != plain).any()
        assert epoch_of(data.val)[1].dtype == torch.int64
        assert torch.equal(epoch_of(data.train, 0)[0], images) and not torch.equal(epoch_of(data.train, 1)[1], labels)


# The same images in the same order.


def opened(tmp_path: Path, kind: str, **options: Any) -> Data:
    if kind == "folder":
        folder = tmp_path if (tmp_path / "train").exists() else write_folder(tmp_path)
        return open_data(folder, image_size=16, batch_size=4, augment="randaugment", mixup=0.2, **options)
    folder = tmp_path if (tmp_path / "train-labels-idx1-ubyte").exists() else write_idx(tmp_path)
    return open_data("fashion_mnist", folder, batch_size=8, augment="trivialaugment", cutmix=0.5, **options)


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_an_epoch_depends_on_seed_and_epoch_alone(tmp_path: Path, kind: str) -> None:
    data = opened(tmp_path, kind, workers=0)
    state = torch.get_rng_state()
    epochs = [epoch_of(data.train, epoch) for epoch in range(3)]
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"
    torch.manual_seed(99)
    again = opened(tmp_path, kind, workers=0)
    for epoch in (2, 0, 1):
        for mine, before in zip(epoch_of(again.train, epoch), epochs[epoch], strict=True):
            assert torch.equal(mine, before)
    assert not torch.equal(epochs[0][0], epochs[1][0])
    assert not torch.equal(epoch_of(opened(tmp_path, kind, workers=0, seed=1).train)[0], epochs[0][0])


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_workers_change_nothing(tmp_path: Path, kind: str) -> None:
    """Workers that stay over epochs, too: the epoch comes to them with the index."""
    alone, shared = opened(tmp_path, kind, workers=0), opened(tmp_path, kind, workers=2)
    assert shared.train.persistent_workers
    for epoch in (0, 1):
        for mine, other in zip(epoch_of(alone.train, epoch), epoch_of(shared.train, epoch), strict=True):
            assert torch.equal(mine, other)


def test_an_epoch_can_be_entered_in_its_middle(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    data = opened(tmp_path, "memory", workers=0)
    data.train.sampler.set_epoch(5)  # type: ignore[attr-defined]
    whole = list(data.train)
    rest = list(accelerate.skip_first_batches(data.train, 3))
    assert len(rest) == len(whole) - 3
    for before, after in zip(whole[3:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_every_image_once(tmp_path: Path) -> None:
    sampler = EpochSampler(1000, seed=3)
    orders = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        pairs = list(sampler)
        assert {number for number, _ in pairs} == {epoch}
        orders.append([index for _, index in pairs])
        assert sorted(orders[-1]) == list(range(1000))
    assert len({tuple(order) for order in orders}) == 4 and len(sampler) == 1000
    assert [index for _, index in EpochSampler(1000, seed=4)] not in orders


# Arguments.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"augment": "randaugmnt"},
            "augment must be one of none, basic, randaugment, trivialaugment, got 'randaugmnt', did you",
        ),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and below 1"),
        ({"val_fraction": 0.001}, "leaves none for one of the two"),
        ({"mixup": -0.1}, "mixup must be at least 0"),
        ({"cutmix": float("nan")}, "cutmix must be at least 0"),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_idx(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        open_data("mnist", tmp_path, **options)
    assert "basic" in AUGMENTATIONS


def test_an_image_that_is_none(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "train" / "ant" / "0.png").write_text("no image")
    with pytest.raises(OSError, match=r"cannot identify image file .*train/ant/0\.png"):
        epoch_of(open_data(folder, image_size=8, workers=0).train)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "train" / "ant" / "0.png")
    epoch_of(open_data(folder, image_size=8, workers=0).train)
