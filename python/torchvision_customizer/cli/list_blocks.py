"""``tvc list-blocks``: the building blocks that are registered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from ._complete import complete_categories
from ._output import console, json_option, print_json

if TYPE_CHECKING:
    from rich.text import Text


@click.command(help="List the building blocks: those that a patch, a recipe or registry.get can name.")
@click.option("--category", metavar="NAME", shell_complete=complete_categories, help="Only the blocks of this category.")
@click.option(
    "--filter",
    "pattern",
    metavar="TEXT",
    help="Only blocks with TEXT in a name, an alias or the description, or with a name that matches it where it has * or ?.",
)
@json_option
def list_blocks(category: str | None, pattern: str | None, as_json: bool) -> None:
    from .. import registry
    from ..errors import nearest

    infos = [registry.info(name) for name in registry.list(category)]
    found = [info for info in infos if pattern is None or _matches(info, pattern.lower())]
    if pattern is not None and not found:
        known = [name for info in infos for name in (info["name"], *info["aliases"])]
        raise ValueError(f"no block matches '{pattern}'{nearest(pattern, known)}")
    if as_json:
        keys = ("name", "category", "description", "aliases", "signature", "paper")
        print_json([{key: info[key] for key in keys} for info in found])
        return
    _print(found)


def _matches(info: Mapping[str, Any], pattern: str) -> bool:
    names = [name.lower() for name in (info["name"], *info["aliases"])]
    if set(pattern) & set("*?["):
        return any(fnmatchcase(name, pattern) for name in names)
    return any(pattern in text for text in (*names, info["description"].lower()))


def _print(infos: list[dict[str, Any]]) -> None:
    """A table with a section for each category; what is long stands below what is short, so that 80 columns do."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Blocks ({len(infos)})", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name and aliases", overflow="fold")
    table.add_column("what it is, its arguments, its paper", overflow="fold")
    for category in sorted({info["category"] for info in infos}):
        table.add_section()
        members = [info for info in infos if info["category"] == category]
        table.add_row(Text(f"{category} ({len(members)})", style="bold"), "")
        for info in members:
            names = Text("\n").join([Text(info["name"], style="bold"), *(Text(f"  {alias}") for alias in info["aliases"])])
            table.add_row(names, Text("\n").join(_about(info)))
    console().print(table)


def _about(info: Mapping[str, Any]) -> Iterator[Text]:
    from rich.text import Text

    yield Text(info["description"])
    if arguments := ", ".join(_arguments(info["parameters"])):
        yield Text(f"({arguments})", style="dim")
    if info["paper"]:
        yield Text(info["paper"], style="dim")


def _arguments(parameters: Mapping[str, str]) -> Iterator[str]:
    """Each with its default, without what ``tvc inspect`` shows besides: types, and where the parameters are made."""
    for name, description in parameters.items():
        if name not in ("device", "dtype"):
            _, separator, default = description.rpartition("= ")
            yield f"{name}={default}" if separator else name
