"""``tvc recipe``: what there is of recipes, and what is in one."""

from __future__ import annotations

import click

from ._model import changes_option, open_recipe
from ._output import json_option, print_json, print_table


@click.group(short_help="List and show recipes.", help="List the shipped recipes, and show what is in a recipe.")
def recipe() -> None:
    pass


@recipe.command("list", help="List the shipped recipes.")
@json_option
def list_recipes(as_json: bool) -> None:
    rows = descriptions()
    if as_json:
        print_json([{"name": name, "description": text} for name, text in rows])
    else:
        print_table(f"Recipes ({len(rows)})", ("name", "for what"), rows)


@recipe.command(
    help="Show a recipe: with all that it extends, and its macros filled in. RECIPE is a shipped one, or a file.",
)
@click.argument("name", metavar="RECIPE")
@changes_option
@click.option("--resolved", is_flag=True, help="Show for each value where it comes from.")
@json_option
def show(name: str, changes: tuple[str, ...], resolved: bool, as_json: bool) -> None:
    read = open_recipe(name, changes)
    if not resolved:
        values = read.to_dict()
        if as_json:
            print_json(values)
            return
        from ..recipe.yaml_loader import as_yaml

        click.echo(as_yaml(values), nl=False)
        return
    from ..recipe.nodes import shown

    origins = read.origins()
    if as_json:
        print_json([{"field": field, "value": value, "origin": origin} for field, value, origin in origins])
        return
    print_table(read.name, ("field", "value", "from"), [(field, shown(value), origin) for field, value, origin in origins])


def descriptions() -> list[tuple[str, str]]:
    """The shipped recipes, and the sentence of each."""
    from ..recipe import list_templates, load_yaml_config

    found = [(name, load_yaml_config(name, validate=False)) for name in list_templates()]
    return [(name, " ".join(str(config.get("description", "")).split())) for name, config in found]
