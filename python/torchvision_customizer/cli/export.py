"""``tvc export``: a patched model as a file that runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._model import model_options, named_model
from ._output import json_option, print_json, print_table

if TYPE_CHECKING:
    from ..deploy import ExportReport


def _known_format(_: click.Context, __: click.Parameter, value: str) -> str:
    from ..deploy import FORMATS
    from ..errors import nearest

    if value not in FORMATS:
        raise click.BadParameter(f"must be one of {', '.join(FORMATS)}, got '{value}'{nearest(value, FORMATS)}")
    return value


@click.command(
    short_help="Write a model to a file that needs no Python.",
    help="Write a patched model to a file that runs without this package, and prove in a fresh process that it gives the same "
    "numbers.",
)
@model_options
@click.option("--output", required=True, metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Where to.")
@click.option(
    "--format", "file_format", default="torchscript", show_default=True, callback=_known_format, help="The format of the file."
)
@click.option("--fuse/--no-fuse", "fused", default=True, show_default=True, help="Fuse the tails of patched blocks first.")
@click.option("--verify/--no-verify", "verified", default=True, show_default=True, help="Compare in a fresh process.")
@click.option(
    "--input-size", type=click.IntRange(min=1), help="Height and width to verify with. [default: the recipe's, else 224]"
)
@json_option
def export(
    recipe: str | None,
    changes: tuple[str, ...],
    backbone: str | None,
    patch: tuple[str, ...],
    weights: str | None,
    num_classes: int | None,
    output: Path,
    file_format: str,
    fused: bool,
    verified: bool,
    input_size: int | None,
    as_json: bool,
) -> None:
    model, read = named_model(recipe, changes, backbone, patch, weights, num_classes)
    if read is None and weights is None:
        click.echo("Warning: the weights are random; --weights DEFAULT takes torchvision's.", err=True)
    import torch

    from ..deploy import export as write
    from ..fusion import fuse

    shape = (3, 224, 224) if read is None else read.input_shape
    example = torch.zeros(1, *shape if input_size is None else (shape[0], input_size, input_size))
    tails = fuse(model, example_input=example) if fused and (patch or read is not None) else None
    report = write(model, output, file_format, example, verified)
    if as_json:
        print_json({"fused": None if tails is None else len(tails.fused), **_values(report)})
        return
    if tails is not None:
        click.echo(tails.summary())
    click.echo(report.summary())
    if report.verification is not None:
        print_table(
            f"In a fresh process, loaded in {report.verification.load_seconds:.2f} s",
            ("input", "largest difference", "allowed", "file, ms", "eager, ms"),
            [
                (
                    "x".join(map(str, c.input_shape)),
                    f"{c.difference:.2e}",
                    f"{c.limit:.2e}",
                    f"{c.file_ms:.1f}",
                    f"{c.eager_ms:.1f}",
                )
                for c in report.verification.comparisons
            ],
            right=("largest difference", "allowed", "file, ms", "eager, ms"),
        )


def _values(report: ExportReport) -> dict[str, Any]:
    verification = report.verification
    return {
        "path": str(report.path),
        "format": report.format,
        "bytes": report.bytes,
        "ops": list(report.ops),
        "libraries": [str(library) for library in report.libraries],
        "verification": verification
        and {
            "passed": verification.passed,
            "largest_difference": verification.largest_difference,
            "load_seconds": verification.load_seconds,
            "comparisons": [
                {
                    "input_shape": list(c.input_shape),
                    "difference": c.difference,
                    "limit": c.limit,
                    "file_ms": c.file_ms,
                    "eager_ms": c.eager_ms,
                }
                for c in verification.comparisons
            ],
        },
    }
