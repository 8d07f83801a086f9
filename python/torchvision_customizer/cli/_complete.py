"""What shells complete, without importing torch: names that ``tvc completion`` has written into the shell's environment."""

from __future__ import annotations

import os
from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

#: Names separated by spaces, by the variable that holds them.
BACKBONES, BLOCKS = "_TVC_BACKBONES", "_TVC_BLOCKS"


def complete_backbones(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of backbones."""
    return _beginning_with(incomplete, [BACKBONES])


def complete_blocks(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of blocks."""
    return _beginning_with(incomplete, [BLOCKS])


def complete_models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of backbones; folders, where none begins so."""
    return _beginning_with(incomplete, [BACKBONES]) or [CompletionItem(incomplete, type="dir")]


def complete_models_and_blocks(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of backbones and of blocks; folders, where none begins so."""
    return _beginning_with(incomplete, [BACKBONES, BLOCKS]) or [CompletionItem(incomplete, type="dir")]


def _beginning_with(incomplete: str, variables: Iterable[str]) -> list[CompletionItem[str]]:
    names = dict.fromkeys(name for variable in variables for name in os.environ.get(variable, "").split())
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
