"""The names that a recipe can use, without torch: ``catalogue.json``, and how it is made.

Importing torch takes longer than checking a recipe. So the names of blocks and of their parameters, of backbones, their weights
and their modules are written down, and ``python -m torchvision_customizer.recipe.catalogue`` writes them anew; a test compares.
Where torch is loaded, blocks are looked up in the registry, which has those of the user, too; with another torchvision than the
one that the file was made with, the names of backbones are looked up there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
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
    """A registered block: the name it is listed by, and the parameters it takes, or None where it takes any."""

    name: str
    parameters: tuple[str, ...] | None


@cache
def _written() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def _is_loaded(module: str) -> bool:
    return f"{__package__.rpartition('.')[0]}.{module}" in sys.modules


def block_names() -> list[str]:
    """Every name of every block."""
    if _is_loaded("blocks"):
        from .. import registry

        return [name for category in registry.categories() for name in registry.names(category)]
    return list(_by_name())


def listed_blocks() -> dict[str, str]:
    """The shipped blocks by the names that they are listed by, with their categories."""
    return {name: facts["category"] for name, facts in _written()["blocks"].items()}


def find_block(name: str) -> Block:
    """The block of a name that is one of ``block_names``."""
    if _is_loaded("blocks"):
        from .. import registry

        parameters = registry.parameters_of(registry.get(name))
        return Block(registry.canonical_name(name), None if parameters is None else tuple(parameters))
    block = _by_name()[name]
    parameters = _written()["blocks"][block]["parameters"]
    return Block(block, None if parameters is None else tuple(parameters))


def names_of(category: str) -> list[str]:
    """Every name of the blocks of a category, with the short ones that stems, stages and heads know."""
    short = _written()["short"].get(category, ())
    if _is_loaded("blocks"):
        from .. import registry

        return [*short, *registry.names(category)]
    return [*short, *(name for name, block in _by_name().items() if _written()["blocks"][block]["category"] == category)]


@cache
def _by_name() -> dict[str, str]:
    """The name that each block is listed by, by every name that it has."""
    return {name: block for block, facts in _written()["blocks"].items() for name in (block, *facts["aliases"])}


def patterns() -> list[str]:
    """The patterns of a stage."""
    if _is_loaded("compose.patterns"):
        from ..compose import list_patterns

        return list_patterns()
    return list(_written()["patterns"])


def options_of(pattern: str) -> tuple[str, ...] | None:
    """The options that a pattern takes besides those that all take, or None where it takes any."""
    if _is_loaded("compose.patterns"):
        return make_patterns((pattern,))[pattern]
    options = _written()["patterns"][pattern]
    return None if options is None else tuple(options)


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
        "optimizers": sorted(
            name for name, each in vars(torch.optim).items() if isinstance(each, type) and name != "Optimizer"
        ),
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

    more = {"norm": ["none"], "pooling": ["none", "flatten"], "activation": ["none"]}
    return {category: [*names, *_by_name._SHORT.get(category, ())] for category, names in more.items()}


def make_patterns(names: Iterable[str] | None = None) -> dict[str, tuple[str, ...] | None]:
    """The part of the file that the composer makes."""
    from ..compose import patterns as composer

    known = {name: composer._patterns[name] for name in names or composer.list_patterns()}
    return {name: None if pattern.takes_all else tuple(pattern.options()) for name, pattern in known.items()}


class _Outlines:
    """Trees of modules, each different one written once: the blocks of a ResNet are few."""

    def __init__(self) -> None:
        self.modules: list[Any] = []
        self.known: dict[str, int] = {}

    def add(self, module: nn.Module) -> int:
        from ..hybrid.target import type_names

        entry = [
            " ".join(type_names(module)),
            {child: self.add(below) for child, below in module._modules.items() if below is not None},
        ]
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
