"""Which modules a target names: a dotted path, a glob by path segments, or a type."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from ..errors import PatchError, nearest
from .opened import original_class

TYPE_PREFIX = "type:"


def resolve(model: nn.Module, target: str) -> dict[str, nn.Module]:
    """The modules that ``target`` names, by path, in the order of the model.

    In a glob, ``*``, ``?`` and ``[...]`` stay within a path segment; the segment ``**`` stands for any number of segments.

    Raises:
        PatchError: nothing has that name; the message has the nearest one.
    """
    # With duplicates: a module that has two names answers to both.
    modules = {path: module for path, module in model.named_modules(remove_duplicate=False) if path}
    if target.startswith(TYPE_PREFIX):
        name = target.removeprefix(TYPE_PREFIX).strip()
        found = {path: module for path, module in modules.items() if name in _type_names(module)}
        known = sorted({original_class(module).__name__ for module in modules.values()})
        shown = known
    else:
        name = target
        pattern = target.split(".")
        found = {path: module for path, module in modules.items() if _matches(pattern, path.split("."))}
        known = sorted(modules, key=lambda path: (path.count("."), path))
        shown = [child for child, _ in model.named_children()]
    if not found:
        hint = nearest(name.replace("*", ""), known) or f" (it has {', '.join(shown)})"
        raise PatchError(f"no module of this {original_class(model).__name__} matches '{target}'{hint}")
    return found


def _type_names(module: nn.Module) -> list[str]:
    bases = original_class(module).__mro__
    return [base.__name__ for base in bases[: bases.index(nn.Module)]]


def _matches(pattern: Sequence[str], path: Sequence[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_matches(pattern[1:], path[start:]) for start in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _matches(pattern[1:], path[1:])
