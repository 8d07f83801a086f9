"""How the commands name a model: a recipe, a backbone or a saved folder, and patches to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ._complete import complete_backbones, complete_recipes

if TYPE_CHECKING:
    from ..compose import VisionModel
    from ..errors import PatchError
    from ..hybrid import HybridModel
    from ..recipe import Recipe

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
        click.option(
            "--weights", help="A name of torchvision's weights, DEFAULT, a file, or none. [default: the recipe's, else none]"
        ),
        patch_option,
    ):
        command = option(command)
    return command


def recipe_option(command: F) -> F:
    """Give a command the option ``recipe``."""
    return click.option(
        "--recipe",
        "--yaml",
        "-y",
        metavar="NAME|FILE",
        shell_complete=complete_recipes,
        help="A shipped recipe, a recipe's file, or the folder of a model that was saved or trained.",
    )(command)


def changes_option(command: F) -> F:
    """Give a command the option ``changes``, for :func:`parse_changes`."""
    return click.option(
        "--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Of a recipe, as in stages[1].blocks=4. Repeatable."
    )(command)


@dataclass(frozen=True)
class Named:
    """How a model was named: the values of :func:`model_options`, which are the arguments of :func:`named_model`."""

    recipe: str | None
    changes: tuple[str, ...]
    backbone: str | None
    patch: tuple[str, ...]
    weights: str | None
    num_classes: int | None

    def build(self, *, random_weights: bool = False) -> tuple[HybridModel | VisionModel, Recipe | None]:
        """The model, and the recipe it is of; see :func:`named_model`."""
        return named_model(
            self.recipe,
            self.changes,
            self.backbone,
            self.patch,
            self.weights,
            self.num_classes,
            random_weights=random_weights,
        )

    def given(self) -> list[str]:
        """The options that have a value, as they are typed."""
        typed = {field.name: f"--{field.name.replace('_', '-')}" for field in fields(self)} | {"changes": "--set"}
        return [option for name, option in typed.items() if getattr(self, name) not in (None, ())]


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name a model; it gets them as one argument ``named``, a :class:`Named`."""

    @wraps(command)
    def with_named(*args: Any, **values: Any) -> Any:
        return command(*args, named=Named(**{field.name: values.pop(field.name) for field in fields(Named)}), **values)

    backbone = click.option(
        "--backbone", metavar="NAME", shell_complete=complete_backbones, help="A torchvision classifier; see list-backbones."
    )
    return recipe_option(changes_option(backbone(build_options(with_named))))


def parse_changes(texts: Sequence[str], num_classes: int | None = None) -> dict[str, Any]:
    """The values of ``--set``, and of ``--num-classes``, as the ``changes`` that a recipe is read with.

    Raises:
        click.BadParameter: a value has no field; the message says which of them it is.
    """
    from ..recipe.reading import read_value
    from ..recipe.yaml_loader import with_classes

    found: dict[str, Any] = {}
    for number, text in enumerate(texts, start=1):
        field, separator, value = (part.strip() for part in text.partition("="))
        if not (field and separator):
            raise click.BadParameter(f"expected FIELD=VALUE, got '{text}'", param_hint=f"--set {number}")
        found[field] = read_value(value or "null", f"--set {text}")
    return {**found, **with_classes(num_classes)}


def open_recipe(recipe: str, changes: Sequence[str] = (), num_classes: int | None = None) -> Recipe:
    """Read what ``--recipe`` names, with the changes of ``--set``.

    Raises:
        click.BadParameter: a value of ``--set`` has no field.
        RecipeError: there is no such recipe, or something in it is wrong.
    """
    from ..recipe import Recipe

    return Recipe.from_yaml(recipe, parse_changes(changes, num_classes))


def named_model(
    recipe: str | None,
    changes: Sequence[str],
    backbone: str | None,
    patch: Sequence[str] = (),
    weights: str | None = None,
    num_classes: int | None = None,
    *,
    random_weights: bool = False,
) -> tuple[HybridModel | VisionModel, Recipe | None]:
    """Build what :func:`model_options` names, and say of which recipe.

    Args:
        recipe: a shipped recipe, a file, or the folder of a saved or trained model, whose weights are taken; or
        backbone: a name of ``tvc list-backbones``.
        changes: values of ``--set``, for a recipe.
        patch: values of ``--patch``, on top of those of a recipe.
        weights: a name of torchvision's weights, ``DEFAULT``, a file, or ``none``; by default those of the recipe.
        num_classes: classes of the new last layer, or None for those that there are.
        random_weights: whether the weights of a recipe do not matter to the command, and are not loaded unless asked for.

    Raises:
        click.UsageError: not one of recipe and backbone.
        click.BadParameter: an unknown backbone, or a patch or change that cannot be read or carried out; it says which.
        RecipeError: there is no such recipe, or something in it is wrong.
        WeightsError: weights that cannot be found or read, or do not fit.
    """
    check_named(recipe, backbone)
    if recipe is None:
        assert backbone is not None
        if changes:
            raise click.UsageError("--set changes fields of a recipe, and there is none; name one with --recipe")
        return build_model(backbone, patch, weights, num_classes), None
    patches = parse_patches(patch)
    from ..errors import PatchError
    from ..recipe import build_recipe

    model: HybridModel | VisionModel
    if (folder := saved_folder(recipe)) is not None:
        from ..hybrid import load

        for option, value in (("--set", changes), ("--weights", weights), ("--num-classes", num_classes)):
            if value not in ((), None):
                raise click.UsageError(f"{option} is for a recipe, and {recipe} is a model that was made already")
        model, read = load(recipe), open_recipe(str(folder / "recipe.yaml"))
    else:
        read = open_recipe(recipe, changes, num_classes)
        model = build_recipe(
            read, None if weights is None and random_weights else ... if weights is None else _weights(weights)
        )
    if not patches:
        return model, read
    from ..hybrid import apply, plan

    try:
        return apply(plan(model, patches, example_input=(1, *read.input_shape))), read
    except PatchError as error:
        raise _at_its_option(error, patch) from error


def check_named(recipe: str | None, backbone: str | None) -> None:
    """That one of the two is given.

    Raises:
        click.UsageError: neither, or both.
    """
    if (recipe is None) == (backbone is None):
        got = "neither" if recipe is None else f"both '{recipe}' and '{backbone}'"
        raise click.UsageError(f"expected one of --recipe and --backbone, got {got}")


def as_hybrid(model: HybridModel | VisionModel, shape: tuple[int, ...] | None) -> HybridModel:
    """A composed model as one that has a report, and can be unpatched; for images of a shape, by default its own."""
    from ..hybrid import HybridBuilder, HybridModel
    from ..recipe.builder import ABOUT

    if isinstance(model, HybridModel):
        return model
    shape = shape or tuple(model.__dict__[ABOUT]["input_shape"])
    return HybridBuilder().from_module(model, (1, *shape))


def _weights(text: str | None) -> str | None:
    return None if text is None or text.lower() == "none" else text


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
        return HybridBuilder().from_torchvision(name, weights=_weights(weights), patches=patches, num_classes=num_classes)
    except PatchError as error:
        raise _at_its_option(error, patch) from error


def is_folder(source: str) -> bool:
    """Whether a model is named as a saved folder, and not as a backbone.

    What ``save`` or ``Trainer.fit`` has written is one, whatever its name; so is anything with a separator, for the error to
    say what it lacks.
    """
    path = Path(source).expanduser()
    return (path / "recipe.yaml").is_file() or (path / "best" / "recipe.yaml").is_file() or path.name != source


def saved_folder(recipe: str) -> Path | None:
    """The folder of the saved model, or of a training's best one, that ``--recipe`` names; None where it names a recipe."""
    if not Path(recipe).expanduser().is_dir():
        return None
    from ..recipe import list_templates

    if recipe in list_templates():
        return None
    from ..hybrid.saving import model_folder

    return model_folder(recipe)


def open_model(source: str, patch: Sequence[str] = (), hint: str = "MODEL") -> HybridModel | VisionModel:
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
