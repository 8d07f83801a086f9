"""``tvc list-blocks``: the building blocks a patch can name."""

from __future__ import annotations

import click

from ._output import json_option, print_json, print_table


@click.command(help="List the building blocks that a patch can name.")
@click.option("--category", metavar="NAME", help="Only the blocks of this category.")
@json_option
def list_blocks(category: str | None, as_json: bool) -> None:
    from .. import registry

    blocks = [registry.info(name) for name in registry.list(category)]
    if as_json:
        print_json([{key: info[key] for key in ("name", "category", "description", "aliases")} for info in blocks])
        return
    rows = [(info["name"], info["category"], ", ".join(info["aliases"]), info["description"]) for info in blocks]
    print_table(f"Blocks ({len(blocks)})", ("name", "category", "aliases", "what it is"), rows)
