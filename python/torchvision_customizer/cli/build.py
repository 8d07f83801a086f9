"""``tvc build``: a model as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._model import Named, model_options
from ._output import json_option, print_json


@click.command(
    short_help="Build a model, and save it as a folder.",
    help="Build the model of a recipe, or a patched backbone, and save it as a folder with its recipe, its weights and the "
    "versions of what made them. torchvision_customizer.load makes the model anew from it.",
)
@model_options
@click.option(
    "--output", "-o", required=True, metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path), help="Where to."
)
@json_option
def build(
    named: Named,
    output: Path,
    as_json: bool,
) -> None:
    model, read = named.build()
    from ..hybrid import HybridModel, save

    folder = save(model, output)
    for warning in read.warnings if read is not None else ():
        click.echo(f"Warning: {warning}", err=True)
    if as_json:
        print_json({"output": str(folder), **_values(model)})
        return
    if isinstance(model, HybridModel):
        click.echo(str(model.report))
    else:
        channels, height, width = read.input_shape if read is not None else (3, 224, 224)
        click.echo(model.explain((channels, height, width)))
    click.echo(f"Saved to {folder}")


def _values(model: Any) -> dict[str, Any]:
    parameters = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {
        "class": type(model).__name__,
        "parameters": sum(count for count, _ in parameters),
        "trainable": sum(count for count, trainable in parameters if trainable),
        "modifications": list(getattr(model, "modifications", ())),
    }
