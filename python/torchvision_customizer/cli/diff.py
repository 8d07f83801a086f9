"""``tvc diff``: what differs between two models."""

from __future__ import annotations

from pathlib import Path

import click

from ._complete import complete_models
from ._model import is_folder, open_model, patch_option
from ._output import html_option, json_option, print_json


@click.command(
    help="Show what differs between two models: modules, tensors and parameters. A and B are each the name of a torchvision "
    "classifier, or a folder that torchvision_customizer.save has written. Values are compared where both are folders: by a "
    "name alone, a model has no weights."
)
@click.argument("a", shell_complete=complete_models)
@click.argument("b", shell_complete=complete_models)
@patch_option
@click.option("--tree", is_flag=True, help="Print the branches that differ as a tree.")
@html_option
@json_option
def diff(a: str, b: str, patch: tuple[str, ...], tree: bool, html: Path | None, as_json: bool) -> None:
    from ..hybrid import diff as compare

    first, second = open_model(a, hint="A"), open_model(b, patch, hint="B")
    values = is_folder(a) and is_folder(b)
    if not values:  # the random weights of a backbone mean nothing
        first, second = first.to("meta"), second.to("meta")
    found = compare(first, second)
    if html is not None:
        from ..pages import diff_page

        diff_page(first, second, html, names=(a, f"{b} with {' '.join(patch)}" if patch else b))
    if as_json:
        print_json({**found.to_dict(), "values_compared": values})
    else:
        click.echo(found.tree() if tree else found)
        if html is not None:
            click.echo(f"Page: {html}")
