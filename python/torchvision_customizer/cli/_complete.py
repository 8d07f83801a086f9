"""What shells complete: names from the recipes' catalogue, for which torch is not imported."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem


def complete_backbones(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of backbones."""
    return _beginning_with(incomplete, _backbones())


def complete_blocks(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of blocks."""
    return _beginning_with(incomplete, _blocks())


def complete_models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of backbones; folders, where none begins so."""
    return _beginning_with(incomplete, _backbones()) or [CompletionItem(incomplete, type="dir")]


def complete_models_and_blocks(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of backbones and of blocks; folders, where none begins so."""
    return _beginning_with(incomplete, [*_backbones(), *_blocks()]) or [CompletionItem(incomplete, type="dir")]


def complete_categories(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Categories of blocks."""
    return _beginning_with(incomplete, sorted({*_blocks().values()}))


def complete_recipes(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of shipped recipes; files, where none begins so."""
    from ..recipe import list_templates

    return _beginning_with(incomplete, list_templates()) or [CompletionItem(incomplete, type="file")]


def _backbones() -> list[str]:
    from ..recipe.catalogue import backbones

    return backbones()


def _blocks() -> dict[str, str]:
    from ..recipe.catalogue import listed_blocks

    return listed_blocks()


def _beginning_with(incomplete: str, names: Iterable[str]) -> list[CompletionItem[str]]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
