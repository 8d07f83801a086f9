"""fit_mnist, fit_cifar10, fit_cifar100 and quick_train, on small sets in the files of the originals."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from small_sets import write_cifar, write_idx
from torch import nn

import torchvision_customizer as tvc
from torchvision_customizer._torchvision import datasets
from torchvision_customizer.train.presets import channels_of, open_small_set

pytest.importorskip("accelerate")


def net(channels: int, classes: int) -> nn.Module:
    recipe = {"stem": "simple(16)", "stages": ["conv(32) | downsample"], "input_shape": [channels, 32, 32]}
    return tvc.build_recipe({**recipe, "head": f"linear({classes})"})


@pytest.mark.parametrize("channels", [1, 3])
def test_fit_mnist(tmp_path: Path, channels: int) -> None:
    write_idx(tmp_path, train=200, test=50, packed=channels == 3)
    trainer = tvc.Trainer(net(channels, 10), device="cpu", seed=0)
    metrics = trainer.fit_mnist(epochs=4, batch_size=20, lr=0.01, data_dir=str(tmp_path), verbose=False)
    assert len(metrics) == 4 and metrics.best_val_acc is not None and metrics.best_val_acc > 0.6
    data = open_small_set(trainer.model, "mnist", 50, tmp_path)
    assert data.input_shape == (channels, 32, 32)
    assert trainer.evaluate(data.val) == (pytest.approx(metrics.val_losses[-1]), metrics.val_accs[-1])


@pytest.mark.parametrize("classes", [10, 100])
def test_fit_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    write_cifar(tmp_path, monkeypatch, classes, train=200, test=100)
    trainer = tvc.Trainer(net(3, classes), device="cpu", seed=0)
    options = {"batch_size": 20, "lr": 0.01, "data_dir": str(tmp_path), "verbose": False}
    metrics = getattr(trainer, f"fit_cifar{classes}")(epochs=4, augment=False, **options)
    assert len(metrics) == 4 and metrics.train_losses[3] < metrics.train_losses[0]
    if classes == 10:
        assert metrics.best_val_acc is not None and metrics.best_val_acc > 0.4


def test_the_calls_of_version_2_1() -> None:
    for name, epochs, batch_size in (("fit_mnist", 5, 64), ("fit_cifar10", 10, 128), ("fit_cifar100", 20, 128)):
        parameters = inspect.signature(getattr(tvc.Trainer, name)).parameters
        assert [*parameters][1:5] == ["epochs", "batch_size", "lr", "data_dir"]
        assert [p.default for p in parameters.values()][1:5] == [epochs, batch_size, 1e-3, "./data"]
        assert ("augment" in parameters) == (name != "fit_mnist")
    parameters = inspect.signature(tvc.quick_train).parameters
    assert [*parameters][:7] == ["model", "dataset", "epochs", "lr", "batch_size", "device", "verbose"]
    assert [p.default for p in parameters.values()][1:7] == ["cifar10", 5, 1e-3, 128, "auto", True]


def test_quick_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_idx(tmp_path, train=60, test=20)
    metrics = tvc.quick_train(net(1, 10), "mnist", epochs=1, batch_size=20, device="cpu", data_dir=str(tmp_path))
    assert len(metrics) == 1 and "best validation accuracy" in capsys.readouterr().out
    with pytest.raises(ValueError, match="must be one of mnist, cifar10, cifar100, got 'cifar', did you mean 'cifar10'"):
        tvc.quick_train(net(1, 10), "cifar")


def test_augment_as_in_2_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch)
    names = {value: _augmentation(tmp_path, value) for value in (True, False, "randaugment")}
    assert names == {True: "basic", False: "none", "randaugment": "randaugment"}


def _augmentation(folder: Path, value: bool | str) -> str:
    dataset: Any = open_small_set(nn.Conv2d(3, 4, 3), "cifar10", 10, folder, value).train.dataset
    return dataset.augmentation.name


def test_the_set_is_downloaded_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: write_cifar(tmp_path, monkeypatch))
    assert len(open_small_set(nn.Conv2d(3, 4, 3), "cifar10", 10, tmp_path).train.dataset) == 100  # type: ignore[arg-type]


def test_the_channels_that_a_model_takes() -> None:
    assert [channels_of(model) for model in (net(1, 2), net(3, 2), nn.Conv2d(7, 1, 1), nn.Linear(1, 1))] == [1, 3, 3, 3]
    assert torch.is_tensor(net(1, 2)(torch.zeros(1, 1, 32, 32)))
