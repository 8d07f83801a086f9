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
    backbones = []
    for name in names:
        weights = list(models.get_model_weights(name))
        parameters = weights[0].meta["num_params"] if weights else None
        backbones.append({"name": name, "parameters": parameters, "weights": [weight.name for weight in weights]})
    if as_json:
        print_json(backbones)
        return
    rows = [
        (
            backbone["name"],
            "" if backbone["parameters"] is None else f"{backbone['parameters'] / 1e6:.1f} M",
            ", ".join(backbone["weights"]),
        )
        for backbone in backbones
    ]
    print_table(f"Backbones ({len(rows)})", ("name", "parameters", "weights"), rows, right=("parameters",))


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) if set(pattern) & set("*?[") else pattern in name
