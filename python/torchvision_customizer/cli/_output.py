"""What every command prints with: ``--json``, ``--html``, and tables that fit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])

# A pipe has no width of its own. Tables take what they need, and nothing below this is folded.
WIDTH_OF_A_PIPE = 200


def json_option(command: F) -> F:
    """Give a command ``--json``, passed to it as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else on stdout.")(command)


def html_option(command: F) -> F:
    """Give a command the option ``html``, a path or None."""
    return click.option(
        "--html",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write a page with the network as a graph and its modules as a table; it opens without a network.",
    )(command)


def print_json(value: Any) -> None:
    """Print a value of plain Python types; anything else is an error of the caller."""
    click.echo(json.dumps(value, indent=2))


def console() -> Console:
    """A rich console on stdout, as wide as the terminal, or wide enough for a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_PIPE, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> None:
    """Print a table.

    Args:
        title: the line above it.
        columns: headings.
        rows: cells, each shown by ``str``.
        right: headings of the columns that are set flush right.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console().print(table)
