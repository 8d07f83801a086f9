"""What a docstring says under ``Args`` are the arguments that there are: one that is taken away is missed here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import torchvision_customizer as tvc

# Their other arguments are those of from_torchvision, and their docstrings say so.
PARTLY = {"HybridBuilder.from_timm", "HybridBuilder.from_module"}


def described() -> Iterator[tuple[str, Callable[..., Any], str]]:
    """Public functions, classes and methods whose docstring has ``Args``; of a class, those of its constructor."""
    things = {name: getattr(tvc, name) for name in tvc.__all__ if name not in ("__version__", "registry", "ops")}
    things |= {f"registry.{name}": getattr(tvc.registry, name) for name in ("register", "get", "list", "info")}
    things |= {f"ops.{name}": getattr(tvc.ops, name) for name in tvc.ops.__all__ if callable(getattr(tvc.ops, name))}
    for name, thing in things.items():
        yield name, thing, (vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__) or ""
        for key, method in vars(thing).items() if inspect.isclass(thing) else ():
            if not key.startswith("_") and (isinstance(method, (classmethod, staticmethod)) or inspect.isfunction(method)):
                yield f"{name}.{key}", getattr(thing, key), method.__doc__ or ""


CASES = [
    pytest.param(thing, doc, name in PARTLY, id=name)
    for name, thing, doc in described()
    if "\nArgs:\n" in inspect.cleandoc(doc)
]


@pytest.mark.parametrize(("thing", "documentation", "partly"), CASES)
def test_arguments(thing: Callable[..., Any], documentation: str, partly: bool) -> None:
    section = re.split(r"\n(?=\S)", inspect.cleandoc(documentation).partition("\nArgs:\n")[2])[0]
    written = re.findall(r"^    \*{0,2}(\w+): ", section, re.MULTILINE)
    there = [name for name in inspect.signature(thing).parameters if name not in ("self", "device", "dtype")]
    written = [name for name in written if name not in ("device", "dtype")]
    assert ({*written} < {*there}) if partly else (written == there)


def test_a_method_takes_what_its_function_does() -> None:
    method = inspect.signature(tvc.HybridModel.parameter_groups).parameters
    assert [*method][1:] == [*inspect.signature(tvc.parameter_groups).parameters][1:]


def test_there_are_many() -> None:
    assert len(CASES) > 100
