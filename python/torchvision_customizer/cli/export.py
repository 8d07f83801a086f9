"""``tvc export``: a patched model as a file that runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._model import Named, model_options, open_model
from ._output import json_option, print_json, print_table

if TYPE_CHECKING:
    from torch import nn

    from ..deploy import ExportReport, Preprocessing


def _known_format(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    from ..deploy import FORMATS
    from ..errors import nearest

    if value not in FORMATS:
        raise click.BadParameter(f"must be one of {', '.join(FORMATS)}, got '{value}'{nearest(value, FORMATS)}")
    return value


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        return tuple(float(number) for number in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected numbers with commas between them, got '{value}'") from None


@click.command(
    short_help="Write a model to a file that needs no Python.",
    help="Write a model to a file that runs without this package, and prove in a fresh process that it gives the same numbers. "
    "What is not said here is as the section 'export' of the model's recipe says.",
)
@model_options
@click.option("--model", metavar="FOLDER", help="A folder that torchvision_customizer.save has written, in place of a name.")
@click.option("--output", required=True, metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Where to.")
@click.option("--format", "file_format", callback=_known_format, help="torchscript, pt2, aoti or onnx. [default: torchscript]")
@click.option("--fuse/--no-fuse", "fuse_first", default=True, show_default=True, help="Fuse the tails of patched blocks first.")
@click.option(
    "--fused/--portable",
    default=None,
    help="Keep the tvc ops, which need libtvc_ops; or put plain PyTorch in their place. [default: fused; portable for onnx]",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="The one batch size that the file takes. [default: any]")
@click.option("--dynamic-size/--static-size", default=None, help="Any height and width, or those given. [default: given]")
@click.option(
    "--dtype", type=click.Choice(["fp32", "fp16", "bf16", "fp64"]), help="Of weights and input. [default: the model's]"
)
@click.option("--channels-last/--channels-first", default=None, help="The layout of weights and input. [default: first]")
@click.option("--fold-norms/--keep-norms", default=None, help="Fold norms into convolutions. [default: keep]")
@click.option("--opset", type=click.IntRange(min=1), help="Of onnx.")
@click.option("--verify/--no-verify", "verified", default=None, help="Compare in a fresh process. [default: verify]")
@click.option(
    "--input-size", type=click.IntRange(min=1), help="Height and width of the input. [default: the recipe's, else 224]"
)
@click.option("--mean", callback=_numbers, metavar="R,G,B", help="Of the images, for the metadata. [default: the weights']")
@click.option("--std", callback=_numbers, metavar="R,G,B", help="Likewise.")
@click.option(
    "--resize", type=click.IntRange(min=1), help="The shorter side of an image before the input is cut from its centre."
)
@click.option("--no-preprocessing", is_flag=True, help="Say nothing of images in the metadata.")
@click.option(
    "--classes",
    "classes_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Names of the outputs for the metadata, one a line. [default: the weights']",
)
@json_option
def export(
    named: Named,
    model: str | None,
    output: Path,
    file_format: str | None,
    fuse_first: bool,
    fused: bool | None,
    batch_size: int | None,
    dynamic_size: bool | None,
    dtype: str | None,
    channels_last: bool | None,
    fold_norms: bool | None,
    opset: int | None,
    verified: bool | None,
    input_size: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: int | None,
    no_preprocessing: bool,
    classes_file: Path | None,
    as_json: bool,
) -> None:
    made = _make(model, named)
    import torch

    from ..deploy import FORMATS
    from ..deploy import export as write
    from ..deploy.formats import OPTIONS
    from ..deploy.known import known_shape, said_in_recipe
    from ..fusion import fuse

    said = dict(said_in_recipe(made))
    format = file_format or said.get("format", "torchscript")
    given = {
        "fused": fused,
        "dynamic_batch": None if batch_size is None else False,
        "dynamic_size": dynamic_size,
        "dtype": dtype,
        "channels_last": channels_last,
        "fold_norms": fold_norms,
        "opset": opset,
        "verify": verified,
    }
    # Of the recipe, what the chosen format has no option for is meant for another.
    foreign = OPTIONS - FORMATS[format].options
    options: dict[str, Any] = {key: said[key] for key in given if said.get(key) is not None and key not in foreign}
    options |= {key: value for key, value in given.items() if value is not None}
    if classes_file is not None:
        options["classes"] = classes_file.read_text(encoding="utf-8").splitlines()
    channels, *size = known_shape(made)
    size = size if input_size is None else [input_size, input_size]
    parameter = next(made.parameters())
    example = torch.zeros(batch_size or 1, channels, *size, dtype=parameter.dtype)
    tails = fuse(made, example_input=example) if fuse_first and (named.patch or named.backbone is None) else None
    report = write(
        made,
        output,
        format,
        example,
        preprocessing=_preprocessing(made, size[-1], mean, std, resize, no_preprocessing),
        **options,
    )
    if as_json:
        print_json({"fused": None if tails is None else len(tails.fused), **_values(report)})
        return
    if tails is not None:
        click.echo(tails.summary())
    click.echo(report.summary())
    if report.verification is not None:
        print_table(
            f"In a fresh process, loaded in {report.verification.load_seconds:.2f} s",
            ("input", "of", "largest difference", "allowed", "file, ms an image", "eager, ms an image"),
            [
                (
                    "x".join(map(str, c.input_shape)),
                    c.inputs,
                    f"{c.difference:.2e}",
                    f"{c.limit:.2e}",
                    f"{c.file_ms / c.input_shape[0]:.1f}",
                    f"{c.eager_ms / c.input_shape[0]:.1f}",
                )
                for c in report.verification.comparisons
            ],
            right=("largest difference", "allowed", "file, ms an image", "eager, ms an image"),
        )


def _make(model: str | None, named: Named) -> nn.Module:
    """The model that the options name."""
    if model is None:
        made, read = named.build()
        if read is None and named.weights is None:
            click.echo("Warning: the weights are random; --weights DEFAULT takes torchvision's.", err=True)
        return made
    wrong = next((option for option in named.given() if option != "--patch"), None)
    if wrong is not None:
        raise click.UsageError(f"{wrong} says how a model is built, and --model {model} is one that was saved")
    # In full, so that it is taken for a folder whatever its name.
    return open_model(str(Path(model).expanduser().resolve()), named.patch, hint="--model")


def _preprocessing(
    model: nn.Module,
    size: int,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: int | None,
    nothing: bool,
) -> Preprocessing | None:
    """What the metadata say of images: as given, and else as is known of the model."""
    from dataclasses import replace

    from ..deploy import Preprocessing
    from ..deploy.known import known_preprocessing

    if nothing:
        if mean or std or resize:
            raise click.UsageError("--no-preprocessing contradicts --mean, --std and --resize")
        return None
    known = known_preprocessing(model)
    if known is None:
        if mean is None and std is None and resize is None:
            return None
        if mean is None or std is None:
            raise click.UsageError("--mean and --std are both needed: nothing is known of the images of this model")
        return Preprocessing(size, mean, std, resize or size)
    if resize is None:
        resize = known.resize if size == known.crop else round(size * known.resize / known.crop)
    return replace(known, crop=size, resize=resize, mean=mean or known.mean, std=std or known.std)


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
                    "inputs": c.inputs,
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
