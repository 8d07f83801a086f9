"""``tvc train``: a recipe, or a patched backbone, on a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._model import Named, check_named, model_options, open_recipe, saved_folder
from ._output import json_option, print_json

if TYPE_CHECKING:
    from ..recipe.schema import AnyRecipe


@click.command(
    short_help="Train a model.",
    help="Train the model of a recipe, a patched backbone, or a model that was saved or trained before, as the section "
    "training of its recipe says. FOLDER, with the checkpoints, the history and an evaluation of the best epoch's model, is "
    "what build and export take as --recipe, and evaluate as MODEL. Runs under torchrun and accelerate launch, too.",
)
@model_options
@click.option("--data", "dataset", metavar="NAME|FOLDER", help="A classification set of torchvision, or a folder of images.")
@click.option("--data-dir", metavar="FOLDER", help="Where the set is looked for first. [default: ./data]")
@click.option("--download", is_flag=True, help="Download a set that is nowhere into --data-dir.")
@click.option(
    "--output", "-o", required=True, metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path), help="Where to."
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --output, if there is one.")
@click.option("--epochs", type=click.IntRange(min=1), help="How often the images are gone through.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images to a batch, of each process.")
@click.option("--optimizer", metavar="NAME", help="A class of torch.optim.")
@click.option("--scheduler", metavar="NAME", help="cosine, step, onecycle, constant or none.")
@click.option("--augment", metavar="NAME", help="none, basic, randaugment or trivialaugment.")
@click.option("--precision", metavar="NAME", help="fp32, bf16 or fp16.")
@click.option("--seed", type=click.IntRange(min=0), help="Of everything that is random. [default: 0]")
@click.option("--workers", type=click.IntRange(min=0), help="Processes that load images.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many images of each split.")
@click.option("--input-size", type=click.IntRange(min=1), help="Height and width of the images. [default: the model's]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, …")
@click.option("--checkpoint-every", type=click.IntRange(min=1), help="Updates of the weights between checkpoints in an epoch.")
@click.option("--keep", type=click.IntRange(min=1), default=3, show_default=True, help="Checkpoints to keep, besides the best.")
@click.option("--tracker", metavar="NAME", help="tensorboard, or another tracker of accelerate.")
@json_option
def train(
    named: Named,
    dataset: str | None,
    data_dir: str | None,
    download: bool,
    output: Path,
    resume: bool,
    limit: int | None,
    input_size: int | None,
    device: str,
    checkpoint_every: int | None,
    keep: int,
    tracker: str | None,
    as_json: bool,
    **overrides: Any,
) -> None:
    check_named(named.recipe, named.backbone)
    folder = None if named.recipe is None else saved_folder(named.recipe)
    file = named.recipe if folder is None else str(folder / "recipe.yaml")
    config = None if file is None else open_recipe(file, named.changes).config
    from ..train.config import fit_options, trainer_options
    from ..train.folder import (
        DATA_DIR,
        check_classes,
        data_for,
        note_training,
        training_with,
        write_evaluation,
        write_history,
    )

    section = None if config is None else config.training
    training = training_with(section, {"dataset": dataset, "data_dir": data_dir, **overrides})
    if training.dataset is None:
        raise click.UsageError("nothing says what to train on: name a set or a folder of images with --data")
    from ..train.launch import processes
    from ..train.sets import open_set

    state = processes(device)
    with state.main_process_first():  # it downloads, and the others find what it has downloaded
        found = open_set(training.dataset, training.data_dir or DATA_DIR, download)
    classes = _classes(config, folder, named.num_classes, len(found.classes))
    import torch

    torch.manual_seed(training.seed or 0)  # weights that are new are drawn here
    model, _ = replace(named, num_classes=classes).build()
    from ..deploy.known import known_classes
    from ..hybrid import HybridModel, load

    if isinstance(model, HybridModel) and model._hybrid_state.library is None:
        raise click.UsageError("a composed model that is patched cannot be loaded again; put the block into the stages")
    if folder is not None and isinstance(model, HybridModel) and training.freeze_backbone:
        model.freeze_backbone(training.unfreeze_stages)
    data = data_for(model, found, training, size=input_size, limit=limit, pin_memory=state.device.type == "cuda")
    if folder is not None:
        check_classes(known_classes(model), data, str(named.recipe))
    note_training(model, training, data)
    from ..train.evaluation import evaluate
    from ..train.trainer import Trainer

    trainer = Trainer(model, device, **trainer_options(training))
    if state.is_main_process and not as_json:
        click.echo(_headline(model, data, training))
    try:
        metrics = trainer.fit(
            data.train,
            data.val,
            **fit_options(training),
            output=output,
            resume=resume,
            checkpoint_every=checkpoint_every,
            keep=keep,
            tracker=tracker,
            verbose=not as_json,
        )
    except (KeyboardInterrupt, FileExistsError) as stop:
        raise type(stop)(str(stop).replace("resume=True", "--resume")) from None
    if not state.is_main_process:
        return
    best = load(output).to(trainer.device)
    split, loader = ("test", data.test) if data.test is not None else ("validation", data.val)
    evaluation = None if loader is None else evaluate(best, loader, classes=data.classes)
    files = [*write_history(metrics, output), *(write_evaluation(evaluation, output) if evaluation else ())]
    if as_json:
        values = {"output": str(output), "split": split, "evaluation": evaluation and evaluation.to_dict()}
        print_json({**values, "metrics": metrics.to_dict(), "files": [str(file) for file in files]})
        return
    if evaluation is not None:
        click.echo(f"The model of the best epoch, on the {split} images:\n{evaluation.summary()}")
    click.echo(f"Saved to {output}: tvc evaluate {output}, or tvc export --recipe {output} --output model.pt")


def _classes(config: AnyRecipe | None, folder: Path | None, asked: int | None, found: int) -> int | None:
    """Classes of a new last layer, or None where the model has one for so many already."""
    if asked is not None and asked < found:
        raise click.BadParameter(f"the data has {found} classes, got {asked}", param_hint="--num-classes")
    if folder is not None:
        return asked
    head = None if config is None else config.head
    present = None if head is None else head.num_classes
    return asked if asked is not None else (None if present == found else found)


def _headline(model: Any, data: Any, training: Any) -> str:
    parameters = [p for p in model.parameters() if p.requires_grad]
    counts = [f"{len(data.train.dataset):,} images for training"]
    if data.val is not None:
        counts.append(f"{len(data.val.dataset):,} for validation")
    shape = "×".join(map(str, data.input_shape))
    return (
        f"{data.name} in {data.source}: {', '.join(counts)}, {len(data.classes)} classes, {shape}\n"
        f"{sum(p.numel() for p in parameters):,} parameters are trained for {training.epochs} epochs"
    )
