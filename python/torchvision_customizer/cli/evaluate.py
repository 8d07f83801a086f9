"""``tvc evaluate``: how right a trained model or an exported file is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._output import json_option, print_json, print_table

# More of them are for --json.
_MOST_CLASSES = 50


@click.command(
    short_help="Evaluate a model, or an exported file.",
    help="Count how often a model is right: top-1, top-5, by class, and what it takes for what. MODEL is a folder that tvc "
    "train or torchvision_customizer.save has written, or a file of tvc export. Images are prepared as in training; which they "
    "are, the model's recipe says, where it was trained here.",
)
@click.argument("model", metavar="MODEL", type=click.Path(exists=True, path_type=Path))
@click.option("--data", "dataset", metavar="NAME|FOLDER", help="A set or a folder. [default: that of the training]")
@click.option("--data-dir", metavar="FOLDER", help="Where the set is looked for first. [default: that of the training]")
@click.option("--split", type=click.Choice(["test", "val", "train"]), help="Which images. [default: test, else val]")
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True, help="Images to a batch.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes that load images.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many images.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, …")
@click.option("--plot", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Draw the confusion matrix.")
@json_option
def evaluate(
    model: Path,
    dataset: str | None,
    data_dir: str | None,
    split: str | None,
    batch_size: int,
    workers: int | None,
    limit: int | None,
    device: str,
    plot: Path | None,
    as_json: bool,
) -> None:
    from ..train.data import open_data
    from ..train.evaluation import evaluate as count
    from ..train.exported import open_classifier
    from ..train.folder import DATA_DIR, check_classes

    classifier = open_classifier(model, device)
    training = classifier.training
    name = dataset or training.dataset
    if name is None:
        raise click.UsageError(f"{model} does not say what it was trained on: name a set or a folder of images with --data")
    channels, size = classifier.input_shape[0], classifier.input_shape[-1]
    data = open_data(
        name,
        data_dir or (training.data_dir if dataset is None else None) or DATA_DIR,
        augment="none",
        transform=classifier.preprocessing,
        image_size=size,
        channels=channels,
        batch_size=batch_size,
        val_fraction=training.val_fraction,
        workers=workers,
        seed=training.seed or 0,
        limit=limit,
    )
    check_classes(classifier.classes, data, str(model))
    chosen = split or ("test" if data.test is not None else "val")
    loader = getattr(data, chosen)
    if loader is None:
        raise click.BadParameter(f"{data.name} has no images of its own for that", param_hint="--split")
    found = count(classifier, loader, classes=data.classes, device=classifier.device)
    if plot is not None:
        found.plot(plot)
    if as_json:
        print_json({"model": str(model), "data": data.name, "split": chosen, **found.to_dict()})
        return
    click.echo(found.summary())
    if len(found.classes) <= _MOST_CLASSES:
        _print_classes(found)


def _print_classes(found: Any) -> None:
    counts, taken = found.confusion.sum(1).tolist(), found.confusion.sum(0).tolist()
    rows = [
        (name, images, "" if share is None else f"{share:.2%}", times)
        for name, images, share, times in zip(found.classes, counts, found.per_class, taken, strict=True)
    ]
    print_table("By class", ("class", "images", "right", "taken for it"), rows, right=("images", "right", "taken for it"))
