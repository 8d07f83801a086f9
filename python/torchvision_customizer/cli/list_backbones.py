"""``tvc list-backbones``: the models that can be patched."""

from __future__ import annotations

from fnmatch import fnmatchcase

import click

from ._output import json_option, print_json, print_table


@click.command(help="List the backbones that can be patched, with the weights that torchvision has for them.")
@click.option("--filter", "pattern", metavar="TEXT", help="Only names that contain TEXT, or match it where it has * or ?.")
@json_option
def list_backbones(pattern: str | None, as_json: bool) -> None:
    from .._torchvision import models
    from ..errors import nearest
    from ..hybrid.backbones import list_backbones as names_of_backbones

    known = names_of_backbones()
    names = [name for name in known if pattern is None or _matches(name, pattern.lower())]
    if not names:
        raise ValueError(f"no backbone matches '{pattern}'{nearest(str(pattern), known)}")
    found = [(name, list(models.get_model_weights(name))) for name in names]
    if as_json:
        print_json([{"name": name, "weights": [weight.name for weight in weights]} for name, weights in found])
        return
    rows = [(name, ", ".join(weight.name for weight in weights)) for name, weights in found]
    print_table(f"Backbones ({len(rows)})", ("name", "weights"), rows)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) if set(pattern) & set("*?[") else pattern in name
