"""Where recipes come from: the shipped ones by name, files, and what they extend."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import Problem, RecipeError, nearest
from .merging import merge
from .nodes import Findings, Node
from .reading import read_file

_SUFFIXES = (".yaml", ".yml")
_MAX_LEVELS = 16


def shipped_folder() -> Path:
    """The folder of the shipped recipes: in an installed package its own, in a clone the one at the top."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def shipped() -> dict[str, Path]:
    """The shipped recipes by name."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}


@dataclass(frozen=True)
class Source:
    """A recipe's file; what it extends must lie below ``root``, the folder of the recipe that was asked for."""

    path: Path
    root: Path
    shown: str


def find(recipe: str | os.PathLike[str]) -> Source:
    """A recipe by its file, or one of the shipped ones by name.

    Raises:
        RecipeError: there is none; the message has the nearest name.
    """
    text = os.fspath(recipe)
    path = Path(text).expanduser()
    if isinstance(recipe, os.PathLike) or path.name != text or text.endswith(_SUFFIXES) or path.is_file():
        return _file(path)
    name = text.replace("-", "_")
    if name in shipped():
        return _of_name(name)
    known = [*shipped(), *(entry.name for entry in Path().glob("*.y*ml"))]
    listed = ", ".join(shipped())
    raise RecipeError(
        [Problem(None, "", f"there is no recipe '{text}'{nearest(text, known)} (shipped: {listed}; or name a file)")]
    )


def _file(path: Path) -> Source:
    try:
        found = path.is_file()
    except ValueError:  # a null character
        found = False
    if not found:
        folder = path.parent if path.parent.is_dir() else None
        known = [entry.name for entry in folder.iterdir() if entry.name.endswith(_SUFFIXES)] if folder else []
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise RecipeError([Problem(str(path), "", f"{what}{nearest(path.name, known)}")])
    return Source(path, path.parent.resolve(), str(path))


def _of_name(name: str) -> Source:
    path = shipped()[name]
    return Source(path, path.parent.resolve(), f"recipes/{path.name}")


def read(source: Source, findings: Findings) -> Node:
    """A recipe with all that it extends merged below it."""
    return with_parents(read_file(source.path, source.shown, findings), source, findings)


def with_parents(node: Node, source: Source | None, findings: Findings) -> Node:
    """A recipe with all that it extends merged below it; ``source`` is None for one that is no file."""
    chain, files = [node], [] if source is None else [source.path.resolve()]
    while (extends := chain[-1].value.get("extends")) is not None and extends.value is not None:
        if not isinstance(extends.value, str):
            findings.add(extends.mark, ("extends",), f"must be the name of a recipe, or a file, got {extends.kind}")
            break
        source = _parent(extends, source, findings)
        if source is None:
            break
        resolved = source.path.resolve()
        if resolved in files or len(files) >= _MAX_LEVELS:
            circle = " -> ".join(file.name for file in (*files, resolved))
            what = f"a circle: {circle}" if resolved in files else f"more than {_MAX_LEVELS} levels"
            findings.add(extends.mark, ("extends",), f"makes {what}")
            break
        files.append(resolved)
        try:
            chain.append(read_file(source.path, source.shown, findings))
        except RecipeError as error:
            findings.problems += [(extends.mark, problem) for problem in error.problems]
            break
    findings.raise_any()
    merged = chain.pop()
    while chain:
        merged = merge(merged, chain.pop(), findings)
    return Node({key: item for key, item in merged.value.items() if key != "extends"}, node.mark)


def _parent(extends: Node, child: Source | None, findings: Findings) -> Source | None:
    """What ``extends`` names, or None where that is a problem."""
    text: str = extends.value
    name = text.replace("-", "_")
    if name in shipped():
        return _of_name(name)
    if child is None:
        known = ", ".join(shipped())
        findings.add(
            extends.mark, ("extends",), f"there is no shipped recipe '{text}'{nearest(text, shipped())} (there are {known})"
        )
        return None
    path = Path(text if text.endswith(_SUFFIXES) else f"{text}.yaml")
    candidate = child.path.parent / path
    try:
        resolved = candidate.resolve()
        inside = not path.is_absolute() and resolved.is_relative_to(child.root)
        found = resolved.is_file()
    except (ValueError, OSError, RuntimeError):  # a null character, or links in a circle
        inside, found = True, False
    if not inside:
        findings.add(
            extends.mark, ("extends",), f"'{text}' is outside of {child.root}; a recipe extends files below its own folder"
        )
        return None
    if not found:
        files = [entry.name for entry in child.path.parent.glob("*.y*ml")]
        hint = nearest(text, [*shipped(), *files])
        findings.add(extends.mark, ("extends",), f"there is no shipped recipe and no file '{text}'{hint}")
        return None
    return Source(candidate, child.root, os.path.join(os.path.dirname(child.shown), str(path)))
