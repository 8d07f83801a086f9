"""The names that a recipe can use, without torch: ``catalogue.json``, and how it is made.

Importing torch takes longer than checking a recipe. So the names of blocks and of their parameters, of backbones, their weights and
their modules are written down, and ``python -m torchvision_customizer.recipe.catalogue`` writes them anew; a test compares. Where
torch is loaded, blocks are looked up in the registry, which has those of the user, too; with another torchvision than the one that
the file was made with, a backbone that the file does not have is looked up there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

FILE = Path(__file__).with_name("catalogue.json")


@dataclass(frozen=True)
class Block:
    """A registered block: the name it is listed by, its category, and the parameters it takes, or None where it takes any."""

    name: str
    category: str
    parameters: tuple[str, ...] | None


@cache
def _written() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def blocks() -> Mapping[str, Block]:
    """Every block by every name."""
    return _registered() if f"{__package__.rpartition('.')[0]}.blocks" in sys.modules else _written_blocks()


@cache
def _written_blocks() -> dict[str, Block]:
    found = {}
    for name, facts in _written()["blocks"].items():
        parameters = facts["parameters"]
        block = Block(name, facts["category"], None if parameters is None else tuple(parameters))
        found.update(dict.fromkeys((name, *facts["aliases"]), block))
    return found


def _registered() -> dict[str, Block]:
    from .. import registry

    found = {}
    for name in registry.list():
        info, parameters = registry.info(name), registry.parameters_of(registry.get(name))
        block = Block(name, info["category"], None if parameters is None else tuple(parameters))
        found.update(dict.fromkeys((name, *info["aliases"]), block))
    return found


def names_of(category: str) -> list[str]:
    """Every name of the blocks of a category, with the short ones that stems, stages and heads know."""
    return [*_written()["short"].get(category, ()), *(name for name, block in blocks().items() if block.category == category)]


def patterns() -> Mapping[str, tuple[str, ...] | None]:
    """The patterns of a stage, each with the options that it takes besides those that all take, or None where it takes any."""
    if f"{__package__.rpartition('.')[0]}.compose.patterns" in sys.modules:
        return make_patterns()
    return {name: None if options is None else tuple(options) for name, options in _written()["patterns"].items()}


def optimizers() -> list[str]:
    """The classes of ``torch.optim``."""
    return list(_written()["optimizers"])


def backbones() -> list[str]:
    """torchvision's classifiers."""
    return list(_written()["backbones"] if _is_of_this_torchvision() else _live_backbones())


def weights_of(backbone: str) -> tuple[str, list[str]]:
    """The enum of a backbone's weights, and its members."""
    facts = _written()["backbones"].get(backbone)
    if facts is None:
        from .._torchvision import models

        enum = models.get_model_weights(backbone)
        return enum.__name__, [member.name for member in enum]
    return facts["weights"], list(facts["members"])


def modules_of(backbone: str) -> dict[str, tuple[str, ...]] | None:
    """The path of every module of a backbone, with its class and those it is derived from; None where they are not known."""
    facts = _written()["backbones"].get(backbone)
    if facts is None:
        return None
    modules = _written()["modules"]

    def walk(index: int, path: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        classes, children = modules[index]
        yield path, tuple(classes.split())
        for child, below in children.items():
            yield from walk(below, f"{path}.{child}" if path else child)

    return dict(walk(facts["modules"], ""))


@cache
def _is_of_this_torchvision() -> bool:
    try:
        return version("torchvision").partition("+")[0] == _written()["torchvision"]
    except PackageNotFoundError:
        return True


@cache
def _live_backbones() -> list[str]:
    from ..hybrid.backbones import list_backbones

    return list_backbones()


# ---- making the file ----


def make() -> dict[str, Any]:
    """The content of the file, from what is installed."""
    import torch

    from .._torchvision import models
    from ..hybrid.backbones import list_backbones
    from ..hybrid.builder import without_memory

    outlines = _Outlines()
    found = {}
    for name in list_backbones():
        enum = models.get_model_weights(name)
        members = [member.name for member in enum]
        found[name] = {"weights": enum.__name__, "members": members, "modules": outlines.add(without_memory(name, {}))}
    return {
        "torchvision": version("torchvision").partition("+")[0],
        "blocks": make_blocks(),
        "short": make_short_names(),
        "patterns": make_patterns(),
        "optimizers": sorted(name for name, each in vars(torch.optim).items() if isinstance(each, type) and name != "Optimizer"),
        "backbones": found,
        "modules": outlines.modules,
    }


def make_blocks() -> dict[str, Any]:
    """The part of the file that the registry makes."""
    from .. import registry

    return {
        name: {
            "category": registry.info(name)["category"],
            "aliases": registry.info(name)["aliases"],
            "parameters": None if (known := registry.parameters_of(registry.get(name))) is None else list(known),
        }
        for name in registry.list()
    }


def make_short_names() -> dict[str, list[str]]:
    """The part of the file that ``layers`` makes: names of norms, pools and activations that are none of the registry."""
    from ..blocks import _by_name

    return {"norm": ["none", *_by_name._NORMS], "pooling": ["none", "flatten", *_by_name._POOLS], "activation": ["none"]}


def make_patterns() -> dict[str, tuple[str, ...] | None]:
    """The part of the file that the composer makes."""
    from ..compose import patterns as composer

    known = {name: composer._patterns[name] for name in composer.list_patterns()}
    return {name: None if pattern.takes_all else tuple(pattern.options()) for name, pattern in known.items()}


class _Outlines:
    """Trees of modules, each different one written once: the blocks of a ResNet are few."""

    def __init__(self) -> None:
        self.modules: list[Any] = []
        self.known: dict[str, int] = {}

    def add(self, module: nn.Module) -> int:
        from ..hybrid.target import type_names

        entry = [" ".join(type_names(module)), {child: self.add(below) for child, below in module._modules.items() if below is not None}]
        key = json.dumps(entry)
        if key not in self.known:
            self.known[key] = len(self.modules)
            self.modules.append(entry)
        return self.known[key]


def written(content: Mapping[str, Any]) -> str:
    """The file as text: one line for each entry, so that a change shows as one."""
    lines = []
    for key, value in content.items():
        if isinstance(value, dict) and value:
            entries = ",\n".join(f"  {json.dumps(name)}: {json.dumps(item)}" for name, item in value.items())
            lines.append(f"{json.dumps(key)}: {{\n{entries}\n}}")
        elif isinstance(value, list) and value and not isinstance(value[0], str):
            entries = ",\n".join(f"  {json.dumps(item)}" for item in value)
            lines.append(f"{json.dumps(key)}: [\n{entries}\n]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(written(make()), encoding="utf-8")
    print(f"wrote {FILE}")
