"""``tvc benchmark``: whole models and single ops, against the same in plain PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._output import console, json_option, print_json

if TYPE_CHECKING:
    from ..bench.results import Run
    from ..bench.suite import Selection
    from ..bench.tables import Table, Verdict


class CommaList(click.ParamType):
    """Values with commas between them, each of a type of its own."""

    name = "list"

    def __init__(self, item: click.ParamType) -> None:
        self.item = item

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(self.item.convert(part.strip(), param, ctx) for part in value.split(","))


class Shape(click.ParamType):
    """C×H×W, written 256x56x56."""

    name = "CxHxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        parts = value.split("x")
        if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
            self.fail(f"a shape is written as channels x height x width, as in 256x56x56, got '{value}'", param, ctx)
        channels, height, width = map(int, parts)
        return channels, height, width
