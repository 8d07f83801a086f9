"""Which modules a target names: a dotted path, a glob by path segments, or a type."""

from __future__ import annotations

from torch import nn

from ..patches import matching
from .opened import original_class


def resolve(model: nn.Module, target: str) -> dict[str, nn.Module]:
    """The modules that ``target`` names, by path, in the order of the model; see ``patches.matching``.

    Raises:
        PatchError: nothing has that name; the message has the nearest one.
    """
    # With duplicates: a module that has two names answers to both.
    modules = dict(model.named_modules(remove_duplicate=False))
    found = matching(target, {path: type_names(module) for path, module in modules.items()})
    return {path: modules[path] for path in found}


def type_names(module: nn.Module) -> tuple[str, ...]:
    """The class of a module, as it was before it was opened, and those it is derived from."""
    bases = original_class(module).__mro__
    return tuple(base.__name__ for base in bases[: bases.index(nn.Module)])
