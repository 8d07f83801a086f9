"""Names of building blocks: register, get, list, info, categories.

The shipped blocks are imported on the first question, so that importing this module costs nothing (no torch).
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import nearest

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T", bound="type[nn.Module]")

#: The names under which blocks ask for the number of channels.
CHANNEL_PARAMETERS = ("channels", "in_channels", "out_channels", "dim", "num_features", "num_channels")


@dataclass(frozen=True)
class _Entry:
    name: str
    category: str
    block: type[nn.Module]
    aliases: tuple[str, ...]
    paper: str | None
    example: Mapping[str, Any]
    example_shape: tuple[int, ...]

    def is_redefined_by(self, block: type[nn.Module]) -> bool:
        """A module that is reloaded, or a notebook cell that is run again, defines the same class once more."""
        return (self.block.__module__, self.block.__qualname__) == (block.__module__, block.__qualname__)


_entries: dict[str, _Entry] = {}
_holders: dict[str, _Entry] = {}  # by every name and alias


def _load_shipped() -> None:
    importlib.import_module(f"{__package__}.blocks")


def register(
    name: str,
    category: str = "other",
    aliases: Iterable[str] = (),
    *,
    paper: str | None = None,
    example: Mapping[str, Any] | None = None,
    example_shape: tuple[int, ...] = (2, 32, 5, 7),
) -> Callable[[T], T]:
    """Class decorator that makes a block known under ``name``, under ``aliases``, and under the name of its class.

    Args:
        name: the name that ``list`` shows, and that a patch's new modules bear.
        category: for instance ``attention``.
        aliases: other names.
        paper: address of the paper.
        example: arguments to try the block with, besides the numbers of channels; the shared tests make it with them.
        example_shape: shape of a batch to try it on, with the number of channels second, unless ``example`` has it.

    Raises:
        ValueError: a name is taken by another class; the message names its module.
    """

    def decorate(block: T) -> T:
        _load_shipped()
        others = tuple(dict.fromkeys((*aliases, block.__name__)))
        entry = _Entry(name, category, block, others, paper, dict(example or {}), tuple(example_shape))
        known_as = (name, *entry.aliases)
        for wanted in known_as:
            holder = _holders.get(wanted)
            if holder is not None and not holder.is_redefined_by(block):
                raise ValueError(
                    f"cannot register {block.__module__}.{block.__qualname__} as '{wanted}': "
                    f"{holder.block.__module__}.{holder.block.__qualname__} holds that name"
                )
        _entries[name] = entry
        _holders.update(dict.fromkeys(known_as, entry))
        return block

    return decorate


def _find(name: str) -> _Entry:
    _load_shipped()
    if name not in _holders:
        raise ValueError(f"unknown block '{name}'{nearest(name, _holders) or '; known: ' + ', '.join(sorted(_entries))}")
    return _holders[name]


def canonical_name(name: str) -> str:
    """The name under which the block that ``name`` stands for is listed (``SEBlock`` is ``se``).

    Raises:
        ValueError: unknown name; the message has the nearest one.
    """
    return _find(name).name


def check_parameters(name: str, params: Iterable[str]) -> None:
    """Check that the constructor of the block ``name`` takes each of ``params``.

    Raises:
        ValueError: unknown block or parameter; the message has the nearest name.
    """
    entry = _find(name)
    accepted = parameters_of(entry.block)
    for parameter in params:
        if accepted is not None and parameter not in accepted:
            hint = nearest(parameter, accepted)
            raise ValueError(f"block '{entry.name}' has no parameter '{parameter}'{hint} (it takes {', '.join(accepted)})")


def parameters_of(block: type[nn.Module]) -> dict[str, inspect.Parameter] | None:
    """The named parameters of a block's constructor, or None where it takes any."""
    from torch import nn  # there is a block, so torch is imported already

    if block.__init__ in (nn.Module.__init__, nn.Identity.__init__):
        return {}  # written (*args, **kwargs), and none of them means anything
    parameters = inspect.signature(block).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return None
    return {key: p for key, p in parameters.items() if p.kind is not inspect.Parameter.VAR_POSITIONAL}


def get(name: str, **kwargs: Any) -> Any:
    """The class of a block, or, given arguments, an instance of it.

    ``get("se")`` is the class, ``get("se", channels=64)`` a module.

    Raises:
        ValueError: unknown name or parameter, with the nearest one; or a value that the block refuses.
        TypeError: a parameter without a default is missing.

    Examples:
        >>> from torchvision_customizer import registry
        >>> registry.get("se", channels=64, reduction=8)
        SEBlock(
          activation=relu, gate=sigmoid, init=paper
          (fc1): Linear(in_features=64, out_features=8, bias=True)
          (fc2): Linear(in_features=8, out_features=64, bias=True)
        )
        >>> registry.get("sse")
        Traceback (most recent call last):
        ValueError: unknown block 'sse', did you mean 'se'?
    """
    entry = _find(name)
    if not kwargs:
        return entry.block
    check_parameters(name, kwargs)
    return entry.block(**kwargs)


def list(category: str | None = None) -> builtins.list[str]:
    """Names of the blocks, sorted; of one category where one is given.

    Raises:
        ValueError: unknown category, with the nearest one.

    Examples:
        >>> from torchvision_customizer import registry
        >>> registry.list("regularization")
        ['drop_block', 'drop_path', 'dropout', 'dropout_2d', 'layer_scale']
    """
    known = categories()
    if category is not None and category not in known:
        raise ValueError(f"unknown category '{category}'{nearest(category, known)} (known: {', '.join(known)})")
    return sorted(entry.name for entry in _entries.values() if category in (None, entry.category))


def names(category: str | None = None) -> dict[str, str]:
    """Every name and alias of the blocks, of one category where one is given, and the name that the block is listed under."""
    _load_shipped()
    return {name: entry.name for name, entry in _holders.items() if category in (None, entry.category)}


def categories() -> builtins.list[str]:
    """Categories of the blocks, sorted."""
    _load_shipped()
    return sorted({entry.category for entry in _entries.values()})


def _describe(parameter: inspect.Parameter) -> str:
    kind = inspect.formatannotation(parameter.annotation).strip("'") if parameter.annotation is not parameter.empty else ""
    return kind if parameter.default is parameter.empty else f"{kind} = {parameter.default!r}".strip()


def _signature(block: type[nn.Module], parameters: Mapping[str, inspect.Parameter]) -> str:
    """The call of a constructor, in one line."""
    texts = []
    for key, parameter in parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in texts:
            texts.append("*")
        description = _describe(parameter)
        typed = parameter.annotation is not parameter.empty
        texts.append(f"{key}: {description}" if typed else key + description.replace("= ", "=", 1))
    return f"{block.__name__}({', '.join(texts)})"


def _plain(text: str) -> str:
    """A line of a docstring without its marks: ``SEBlock`` for ``:class:`SEBlock```."""
    return re.sub(r"(:\w+:)?`{1,2}([^`]*)`{1,2}", r"\2", text)


def info(name: str) -> dict[str, Any]:
    """What is known of a block: ``name category description signature parameters aliases paper example example_shape``.

    ``signature`` is the call of its constructor in one line; ``parameters`` maps each parameter to its type and default, as
    written; ``example`` has arguments to try the block with, besides the numbers of channels, and ``example_shape`` is the
    shape of a batch to try it on, whose second number is that of the channels, unless ``example`` has them.

    Raises:
        ValueError: unknown name, with the nearest one.
    """
    entry = _find(name)
    parameters = parameters_of(entry.block) or {}
    return {
        "name": entry.name,
        "category": entry.category,
        "description": _plain((inspect.getdoc(entry.block) or "").partition("\n")[0]),
        "signature": _signature(entry.block, parameters),
        "parameters": {key: _describe(parameter) for key, parameter in parameters.items()},
        "aliases": [*entry.aliases],
        "paper": entry.paper,
        "example": {**entry.example},
        "example_shape": entry.example_shape,
    }


def example(name: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    """What a block can be tried with.

    Returns:
        Arguments of its constructor, channels among them, and the shape of a batch for it.

    Raises:
        ValueError: unknown name, with the nearest one.
    """
    entry = _find(name)
    accepted = parameters_of(entry.block) or {}
    channels = {key: entry.example_shape[1] for key in CHANNEL_PARAMETERS if key in accepted}
    return {**channels, **entry.example}, entry.example_shape
