"""``tvc schema``: recipes as a JSON schema, for editors."""

from __future__ import annotations

from pathlib import Path

import click

from ._output import json_option, print_json


@click.command(
    short_help="Print the JSON schema of recipes.",
    help="Print the JSON schema of recipes, with which an editor completes and checks them while they are written: for "
    "instance, '# yaml-language-server: $schema=recipe.schema.json' as the first line of a recipe.",
)
@click.option("--output", "-o", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write it into a file.")
@json_option
def schema(output: Path | None, as_json: bool) -> None:
    from ..recipe import recipe_schema

    if output is None:
        print_json(recipe_schema())
        return
    import json

    from ..recipe.yaml_loader import write_text

    write_text(output, json.dumps(recipe_schema(), indent=2) + "\n")
    if as_json:
        print_json({"output": str(output)})
    else:
        click.echo(f"Wrote {output}")
