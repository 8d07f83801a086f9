"""The story of this package, on half of Fashion-MNIST's classes: ``python examples/fine_tune.py``

A small ResNet is trained. Attention is put into it: it is still the same function, right and wrong on the same images. It is
fine-tuned, and gets better. It is exported, and the file, in which there is no Python, is as good.

The images are those of Debian's package dataset-fashion-mnist; without it torchvision downloads them into ./data.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import torchvision_customizer as tvc
from torchvision_customizer.train.exported import open_classifier
from torchvision_customizer.train.sets import Images, InMemory, OpenedSet, open_set


def half(found: OpenedSet, count: int | None) -> OpenedSet:
    """The first half of a set's classes, and at most so many of their images for training and for the test."""
    kept = len(found.classes) // 2

    def some(images: Images | None) -> InMemory:
        assert isinstance(images, InMemory)
        chosen = (images.labels < kept).nonzero().flatten()[:count]
        return InMemory(images.images[chosen], images.labels[chosen])

    return replace(found, train=some(found.train), test=some(found.test), classes=found.classes[:kept])


def story(found: OpenedSet, folder: Path, epochs: tuple[int, int], format: str = "torchscript") -> dict[str, float]:
    """Train, patch, fine-tune, export; the test accuracy after each.

    Args:
        found: grey images of 28×28.
        folder: where checkpoints and the file go.
        epochs: of the training, and of the fine-tuning.
        format: of the file.
    """
    data = tvc.open_data(found, batch_size=64, val_fraction=0.1, seed=0)
    small = tvc.Template.resnet(18, in_channels=1, channel_scale=0.25).set_stem(kernel=3, pool=False)
    model = small.build(num_classes=len(data.classes))
    tvc.Trainer(model, "cpu", seed=0, channels_last=True).fit(data.train, data.val, epochs[0], lr=5e-4, scheduler="onecycle")
    trained = tvc.evaluate(model, data.test)

    patched = tvc.apply(tvc.plan(model, {"layer*": {"inject": "se"}}, example_input=(1, *data.input_shape)))
    unchanged = tvc.evaluate(patched, data.test)
    assert torch.equal(unchanged.confusion, trained.confusion)

    tvc.Trainer(patched, "cpu", seed=1, channels_last=True).fit(
        data.train, data.val, epochs[1], lr=1e-3, optimizer="adamw", output=folder / "fine-tuned"
    )
    best = tvc.load(folder / "fine-tuned")
    tuned = tvc.evaluate(best, data.test, classes=data.classes)
    print(tuned.summary())

    example = torch.zeros(1, *data.input_shape)
    tvc.fuse(best, example_input=example)
    report = tvc.export(best, folder / "model.pt", format, example, classes=data.classes, preprocessing=data.transform)
    exported = tvc.evaluate(open_classifier(report.path), data.test)
    assert torch.equal(exported.confusion, tuned.confusion)
    stages = {"trained": trained, "patched": unchanged, "fine-tuned": tuned, "exported": exported}
    return {name: evaluation.top1 for name, evaluation in stages.items()}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="./data")
    parser.add_argument("--images", type=int, default=6000, help="of each split")
    parser.add_argument("--epochs", type=int, nargs=2, default=(3, 3), help="of the training, and of the fine-tuning")
    options = parser.parse_args(words)
    found = half(open_set("fashion_mnist", options.data_dir, download=True), options.images)
    with tempfile.TemporaryDirectory() as folder:
        for name, accuracy in story(found, Path(folder), tuple(options.epochs)).items():
            print(f"{name:>12}: {accuracy:.2%} of the test images are right")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="torchvision's library does not fit")
    main()
