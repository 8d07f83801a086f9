"""Recipes as files: read, build, check, merge and write them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import Problem, RecipeError, nearest
from . import sources
from .builder import AnyWeights, build_recipe
from .macros import expand as filled_in
from .merging import merge
from .nodes import Findings, node_of
from .reading import read_file, read_text
from .recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


def load_yaml_recipe(path: str | os.PathLike[str], num_classes: int | None = None, weights: AnyWeights = ...) -> nn.Module:
    """Build the model of a recipe's file, or of a shipped recipe by name.

    Args:
        path: the file, or the name.
        num_classes: classes, instead of those that the recipe says.
        weights: of the backbone, instead of those that the recipe says; None for random ones.

    Raises:
        RecipeError: something in the recipe is wrong; the message has all of it, each with file, line and column.
        PatchError, WeightsError, ValueError: a patch, weights or a stage that do not fit what is there.
    """
    return build_recipe(Recipe.from_yaml(path, with_classes(num_classes)), weights)


def with_classes(num_classes: int | None) -> dict[str, Any]:
    """The changes that give a recipe so many classes; ``num_classes`` of its top no longer counts then."""
    return {} if num_classes is None else {"head.num_classes": num_classes, "num_classes": None}


def load_yaml_config(path: str | os.PathLike[str], validate: bool = True, expand: bool = True) -> dict[str, Any]:
    """The plain values of a recipe's file, or of a shipped recipe by name.

    Args:
        path: the file, or the name.
        validate: whether to check them.
        expand: whether to merge what the recipe extends, and to fill in its macros; else they are as the file has them.

    Raises:
        RecipeError: the file cannot be read, or something in it is wrong.
    """
    if validate:
        recipe = Recipe.from_yaml(path)
        if expand:
            return recipe.to_dict()
    findings = Findings()
    source = sources.find(path)
    node = read_file(source.path, source.shown, findings)
    if expand:
        node, _ = filled_in(sources.with_parents(node, source, findings), findings)
    findings.raise_any()
    values: dict[str, Any] = node.plain()
    return values


def save_yaml_recipe(recipe: Recipe | Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a recipe into a file, which is there as a whole or not at all.

    Args:
        recipe: a recipe, or its plain values, which are checked.
        path: the file; an old one is replaced.

    Raises:
        RecipeError: something in the values is wrong.
    """
    values = recipe.to_dict() if isinstance(recipe, Recipe) else dict(recipe)
    if not isinstance(recipe, Recipe):
        Recipe.from_dict(values)
    target = Path(path).expanduser()
    write_text(target, as_yaml(values))
    return target


def as_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as the text of a file."""
    text: str = yaml.safe_dump(node_of(values).plain(), sort_keys=False, allow_unicode=True, width=120)
    return text


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all.

    Raises:
        FileNotFoundError: there is no folder for it.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(draft, 0o666 & ~umask)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def validate_recipe_config(config: Mapping[str, Any], strict: bool = True) -> list[str]:
    """Check the plain values of a recipe.

    Args:
        config: as a file has them; what they extend is a shipped recipe.
        strict: whether anything wrong is raised; else it is among what is returned.

    Returns:
        What is odd; and with ``strict=False``, what is wrong, first.

    Raises:
        RecipeError: something is wrong; the message has all of it.
    """
    try:
        return [str(warning) for warning in Recipe.from_dict(config).warnings]
    except RecipeError as error:
        if strict:
            raise
        return [str(problem) for problem in error.problems]


def expand_macros(config: Mapping[str, Any], macros: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Plain values with macros filled in.

    Args:
        config: with a section ``macros``, which the result lacks.
        macros: further ones; of two with one name, that of the config counts.

    Raises:
        RecipeError: an unknown macro, with the nearest name, or one that uses itself.
    """
    findings = Findings()
    own = config.get("macros") or {}
    node, _ = filled_in(node_of({**config, "macros": {**(macros or {}), **own}}), findings)
    findings.raise_any()
    values: dict[str, Any] = node.plain()
    return values


def merge_recipes(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a recipe over those of another, as ``extends`` does it: by key; lists as a whole; null takes away.

    ``stages`` of the second may be a mapping of changes by index or name.

    Raises:
        RecipeError: there is no such stage, or the short form of a part that must be written out cannot be read.
    """
    findings = Findings()
    merged = merge(node_of(base), node_of(override), findings)
    findings.raise_any()
    values: dict[str, Any] = merged.plain()
    return values


def list_templates() -> list[str]:
    """Names of the shipped recipes."""
    return list(sources.shipped())


def create_recipe_from_template(
    template: str, output: str | os.PathLike[str], num_classes: int | None = None, overwrite: bool = True
) -> Path:
    """Write a shipped recipe into a file of one's own, with its comments.

    Args:
        template: name of a shipped recipe.
        output: the file.
        num_classes: other classes than the recipe's.
        overwrite: whether an old file is replaced.

    Raises:
        RecipeError: there is no such recipe; the message has the nearest name.
        FileExistsError: the file is there, and ``overwrite`` is false.
    """
    known = sources.shipped()
    name = template.replace("-", "_")
    if name not in known:
        hint = nearest(name, known)
        raise RecipeError([Problem(None, "", f"there is no shipped recipe '{template}'{hint} (there are {', '.join(known)})")])
    target = Path(output).expanduser()
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; name another file")
    text = known[name].read_text(encoding="utf-8")
    if num_classes is not None:
        text = _with_classes(text, sources.Source(known[name], known[name].parent, known[name].name), num_classes)
    write_text(target, text)
    return target


def _with_classes(text: str, source: sources.Source, num_classes: int) -> str:
    """The text of a recipe with other classes: where it says how many, or at its end; written anew where neither does it."""
    for changed in (_in_place(text, source, num_classes), f"{text.rstrip()}\nhead:\n  num_classes: {num_classes}\n"):
        with contextlib.suppress(RecipeError):
            head = _read(changed, source).config.head
            if head is not None and head.num_classes == num_classes:
                return changed
    return as_yaml(_read(text, source).replace(with_classes(num_classes)).to_dict())


def _in_place(text: str, source: sources.Source, num_classes: int) -> str:
    """The text with another number where it has that of the classes, if it has it."""
    for field, value, mark in _read(text, source).marks():
        if field == "head.num_classes" and mark is not None and mark.source == source.shown and mark.line:
            lines = text.splitlines(keepends=True)
            line, start = lines[mark.line - 1], mark.column - 1
            if line.startswith(str(value), start):
                lines[mark.line - 1] = f"{line[:start]}{num_classes}{line[start + len(str(value)) :]}"
                return "".join(lines)
    return text


def _read(text: str, source: sources.Source) -> Recipe:
    findings = Findings()
    return Recipe.from_node(sources.with_parents(read_text(text, source.shown, findings), source, findings), findings)


def parse_recipe(recipe: Recipe) -> dict[str, Any]:
    """The parts of a recipe with every string written out as a mapping."""
    values = recipe.written_out()
    return {key: values[key] for key in ("backbone", "stem", "stages", "head") if key in values}
