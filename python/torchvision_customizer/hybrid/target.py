"""Which modules a target names: a dotted path, a glob by path segments, or a type."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from ..errors import PatchError, nearest
from .opened import original_class

TYPE_PREFIX = "type:"


def is_exact(target: str) -> bool:
    """Whether a target names one module, so that a place must be there; globs and types pass over modules that offer none."""
    return not target.startswith(TYPE_PREFIX) and not any(character in target for character in "*?[")


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
        known = {type_name for module in modules.values() for type_name in _type_names(module)}
        kind = f"is a '{name}'"
    else:
        pattern = target.split(".")
        name = target
        found = {path: module for path, module in modules.items() if _matches(pattern, path.split("."))}
        known = set(modules)
        kind = f"matches '{name}'" if not is_exact(target) else f"is called '{name}'"
    if not found:
        model_name = original_class(model).__name__
        children = ", ".join(child for child, _ in model.named_children())
        hint = nearest(name.replace("*", ""), sorted(known, key=lambda path: (path.count("."), path)))
        raise PatchError(f"no module of this {model_name} {kind}{hint or f' (it has {children})'}")
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
