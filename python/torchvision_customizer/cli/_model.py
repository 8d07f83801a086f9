"""How the commands name a model: a backbone or a saved folder, and patches to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ._complete import complete_backbones

if TYPE_CHECKING:
    from ..errors import PatchError
    from ..hybrid import HybridModel

F = TypeVar("F", bound=Callable[..., Any])


def patch_option(command: F) -> F:
    """Give a command the option ``patch``, for :func:`parse_patches`."""
    return click.option(
        "--patch",
        multiple=True,
        metavar="TARGET=OP:BLOCK",
        help="For instance 'layer4=inject:se', or 'layer*={inject: {type: se, params: {reduction: 8}}}'. Repeatable.",
    )(command)


def build_options(command: F) -> F:
    """Give a command what says how a backbone is built: ``patch``, ``weights`` and ``num_classes``."""
    for option in (
        click.option("--num-classes", type=click.IntRange(min=0), help="Classes of the new last layer; 0 gives features."),
        click.option("--weights", help="A name of torchvision's weights, DEFAULT, or a file. [default: random weights]"),
        patch_option,
    ):
        command = option(command)
    return command


def model_options(command: F) -> F:
    """Give a command the options that name a model: ``backbone``, ``patch``, ``weights`` and ``num_classes``.

    They are the arguments of :func:`build_model`, under the same names.
    """
    backbone = click.option(
        "--backbone",
        required=True,
        metavar="NAME",
        shell_complete=complete_backbones,
        help="A torchvision classifier; see list-backbones.",
    )
    return backbone(build_options(command))


def parse_patches(texts: Sequence[str]) -> dict[str, Any]:
    """The values of ``--patch`` as the ``patches`` of the library; one target named twice gets both, in order.

    Raises:
        click.BadParameter: a value has no target or no operation, or is no YAML; the message says which of them it is.
    """
    return {
        target: operations[0][1] if len(operations) == 1 else [operation for _, operation in operations]
        for target, operations in _read_patches(texts).items()
    }


def _read_patches(texts: Sequence[str]) -> dict[str, list[tuple[int, Any]]]:
    """For each target its operations, each with the number of the ``--patch`` that it stands in."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for number, text in enumerate(texts, start=1):
        place = f"--patch {number}"
        target, separator, value = (part.strip() for part in text.partition("="))
        if not (target and separator and value):
            raise click.BadParameter(f"expected TARGET=OP:BLOCK, got '{text}'", param_hint=place)
        operation = _operation(value, place)
        operations = operation if isinstance(operation, list) and operation else [operation]
        found.setdefault(target, []).extend((number, each) for each in operations)
    return found


def _operation(value: str, place: str) -> Any:
    if value[0] in "{[":
        import yaml

        try:
            return yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise click.BadParameter(f"no YAML: {value} ({str(error).splitlines()[0]})", param_hint=place) from error
    name, _, block = (part.strip() for part in value.partition(":"))
    if not (name and block):
        raise click.BadParameter(f"expected OP:BLOCK or {{OP: …}} after the '=', got '{value}'", param_hint=place)
    return {name: block}


def build_model(
    backbone: str,
    patch: Sequence[str] = (),
    weights: str | None = None,
    num_classes: int | None = None,
    hint: str = "--backbone",
) -> HybridModel:
    """Build what :func:`model_options` names.

    Args:
        backbone: a name of ``tvc list-backbones``.
        patch: values of ``--patch``.
        weights: a name of torchvision's weights, ``DEFAULT``, a file, or None for random weights.
        num_classes: classes of the new last layer, or None to keep it.
        hint: what the command calls ``backbone``.

    Raises:
        click.BadParameter: an unknown backbone, or a patch that cannot be read or carried out; the message says which.
        WeightsError: weights that cannot be found or read, or do not fit.
    """
    patches = parse_patches(patch)
    from ..errors import PatchError
    from ..hybrid import HybridBuilder
    from ..hybrid.backbones import check_backbone

    try:
        name = check_backbone(backbone)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=hint) from error
    try:
        return HybridBuilder().from_torchvision(name, weights=weights, patches=patches, num_classes=num_classes)
    except PatchError as error:
        raise _at_its_option(error, patch) from error


def is_folder(source: str) -> bool:
    """Whether a model is named as a saved folder, and not as a backbone.

    What ``save`` has written is one, whatever its name; so is anything with a separator, for the error to say what it lacks.
    """
    path = Path(source).expanduser()
    return (path / "recipe.yaml").is_file() or path.name != source


def open_model(source: str, patch: Sequence[str] = (), hint: str = "MODEL") -> HybridModel:
    """Build a backbone with random weights, or load a saved folder; and patch it.

    Args:
        source: a name of ``tvc list-backbones``, or a folder that ``save`` has written.
        patch: values of ``--patch``.
        hint: what the command calls ``source``.

    Raises:
        click.BadParameter: as :func:`build_model`.
        WeightsError: a folder that is no saved model, or a damaged one.
    """
    if not is_folder(source):
        return build_model(source, patch, hint=hint)
    patches = parse_patches(patch)
    from ..errors import PatchError
    from ..hybrid import apply, load, plan

    model = load(source)
    try:
        return apply(plan(model, patches)) if patches else model
    except PatchError as error:
        raise _at_its_option(error, patch) from error


def _at_its_option(error: PatchError, texts: Sequence[str]) -> click.BadParameter:
    """The library's error, with its place in ``patches`` said as the number of the ``--patch`` that it stands in."""
    message = str(error)
    for target, operations in _read_patches(texts).items():
        for index, (number, _) in enumerate(operations):
            place = f"patches[{target!r}]" + (f"[{index}]" if len(operations) > 1 else "")
            if message.startswith(place):
                return click.BadParameter(message.removeprefix(place).lstrip(":. "), param_hint=f"--patch {number}")
    return click.BadParameter(message, param_hint="--patch")
