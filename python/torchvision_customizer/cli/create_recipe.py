"""``tvc create-recipe``: a recipe of one's own to begin with."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ._output import json_option, print_json


@click.command(
    short_help="Write a recipe to begin with.",
    help="Write a shipped recipe into a file of your own, with its comments. What is not given is asked for, on a terminal.",
)
@click.option("--template", "-t", metavar="NAME", help="A shipped recipe; see `tvc recipe list`.")
@click.option("--output", "-o", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Where to.")
@click.option("--num-classes", type=click.IntRange(min=0), help="Classes of the model.")
@click.option("--force", is_flag=True, help="Replace an old file.")
@json_option
def create_recipe(template: str | None, output: Path | None, num_classes: int | None, force: bool, as_json: bool) -> None:
    from ..recipe import create_recipe_from_template, list_templates

    if template is None or output is None:
        if as_json or not _is_terminal():
            missing = "--template" if template is None else "--output"
            raise click.UsageError(f"Missing option '{missing}'; it is asked for on a terminal only.")
        asked = template is None
        if template is None:
            _print_templates()
            template = str(click.prompt("Recipe", type=click.Choice(list_templates()), show_choices=False))
        if num_classes is None and asked:
            answer = click.prompt("Classes (empty: as in the recipe)", default="", show_default=False)
            num_classes = int(click.IntRange(min=0)(answer)) if answer else None
        if output is None:
            output = Path(click.prompt("File", default=f"{template}.yaml"))
    file = create_recipe_from_template(template, output, num_classes, overwrite=force)
    if as_json:
        print_json({"output": str(file), "template": template})
        return
    click.echo(f"Wrote {file}. Next: tvc validate {file}; tvc build --recipe {file} --output model")


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _print_templates() -> None:
    from ._output import print_table
    from .recipe import descriptions

    print_table("Recipes", ("name", "for what"), descriptions())
