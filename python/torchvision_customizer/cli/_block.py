"""What ``tvc inspect`` shows of a building block."""

from __future__ import annotations

from typing import Any

import click

from ._output import console, print_json, print_table


def show_block(name: str, as_json: bool) -> None:
    """Print what is known of a block, and what its example gives, which is run for that."""
    from .. import registry

    info = registry.info(name)
    tried = _try(info["name"])
    if as_json:
        print_json({**info, "example_shape": list(info["example_shape"]), "tried": tried})
        return
    from rich.text import Text

    console().print(Text(f"{info['name']}: {info['description']}"))
    for key, value in (("category", info["category"]), ("aliases", ", ".join(info["aliases"])), ("paper", info["paper"])):
        if value:
            console().print(Text(f"  {key:<8}  {value}"))
    if info["parameters"]:
        click.echo()
        print_table("Parameters", ("name", "type", "default"), [_row(*item) for item in info["parameters"].items()])
    given, *made = ("×".join(map(str, shape)) for shape in (info["example_shape"], *tried["output_shapes"]))
    click.echo(f"\nExample\n  {tried['code']}")
    click.echo(f"  gives {' and '.join(made)} for {given}, and has {tried['parameters']:,} parameters")


def _row(name: str, description: str) -> tuple[str, str, str]:
    kind, separator, default = description.rpartition("= ")
    return (name, kind.strip() or "-", default) if separator else (name, description or "-", "required")


def _try(name: str) -> dict[str, Any]:
    """The line that makes and runs a block, and what came of it."""
    import torch

    from .. import registry

    arguments, shape = registry.example(name)
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    block = registry.get(name)(**arguments)
    with torch.no_grad():
        out = block(torch.randn(shape))
    return {
        "code": f"torchvision_customizer.registry.get({name!r})({given})(torch.randn{shape})",
        "parameters": sum(parameter.numel() for parameter in block.parameters()),
        "output_shapes": [list(tensor.shape) for tensor in (out if isinstance(out, tuple) else (out,))],
    }
