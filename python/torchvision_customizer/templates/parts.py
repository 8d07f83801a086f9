"""What templates are described by, as typed values: sizes of a network, and what is changed in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, ValidationError
from torch import nn

from ..errors import nearest

__all__ = [
    "Attention",
    "Changes",
    "Count",
    "Eighths",
    "Head",
    "Network",
    "OddCount",
    "Part",
    "Rate",
    "StagePlaces",
    "StrictBool",
    "Stride",
    "check",
    "divisible",
    "initialize",
    "shell",
]


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd, so that the padding is the same on both sides")
    return value


Count = Annotated[int, Field(ge=1, strict=True)]
OddCount = Annotated[int, Field(ge=1, strict=True), AfterValidator(_odd)]
# Torchvision rounds the widths of these families to multiples of eight, whatever it is given.
Eighths = Annotated[int, Field(ge=8, multiple_of=8, strict=True)]
Stride = Literal[1, 2]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Part(BaseModel):
    """Base of all that follows: unknown names are errors, and a value stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def changed(self, place: str, options: Mapping[str, Any]) -> Self:
        """The same with other values.

        Raises:
            ValueError: an option that there is not, with the nearest, or a value that it cannot have; begins with ``place``.
        """
        return check(place, type(self), {**self.model_dump(), **options})


P = TypeVar("P", bound=Part)


def check(place: str, kind: type[P], values: Mapping[str, Any]) -> P:
    """A part with these values.

    Raises:
        ValueError: the first thing that is wrong with them, in one sentence that begins with ``place``.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problem = error.errors()[0]
    path = ".".join(str(step) for step in problem["loc"])
    match problem["type"]:
        case "extra_forbidden" if len(problem["loc"]) == 1:
            options = list(kind.model_fields)
            raise ValueError(f"{place} has no option '{path}'{nearest(path, options)} (options: {', '.join(options)})")
        case "value_error":
            where = f"{place}.{path}: " if path else f"{place}: "
            raise ValueError(where + problem["msg"].removeprefix("Value error, ") + (_got(problem) if path else ""))
        case _:
            raise ValueError(f"{place}.{path}: {problem['msg'][0].lower()}{problem['msg'][1:]}{_got(problem)}")


def _got(problem: Mapping[str, Any]) -> str:
    return "" if problem["type"] == "missing" else f", got {problem['input']!r}"


class Attention(Part):
    """A block that is put into a stage: what, with which arguments, behind what, and how it starts."""

    type: str
    after: Literal["block", "conv", "stage"] = "block"
    params: dict[str, Any] = {}
    init: Literal["identity", "paper"] = "identity"


class Changes(Part):
    """What is changed in a stage, or, without ``attention``, in all of the network."""

    attention: tuple[Attention, ...] = ()
    activation: str | None = None
    norm: str | None = None


class Head(Part):
    """What comes before the last layer, besides what the family has there."""

    hidden: tuple[Count, ...] = ()
    dropout: Rate = 0.0


@dataclass(frozen=True)
class StagePlaces:
    """Where a stage is in a network.

    Attributes:
        paths: of the modules that it consists of.
        blocks: targets of the blocks in it.
        at: where in a block attention goes; None: behind it.
        end: path of the module whose output is the stage's.
    """

    paths: tuple[str, ...]
    blocks: tuple[str, ...]
    at: str | None
    end: str

    def holds(self, path: str) -> bool:
        return any(f"{path}.".startswith(f"{own}.") for own in self.paths)


class Network(Part):
    """The sizes of a family's network; ``make`` makes it, of torchvision's blocks and with torchvision's names.

    Attributes:
        family: its name.
        activations: class names of the activations in it, but for gates.
        last_layer: path of the layer whose outputs are the classes.
        without_shape: fields that change no tensor's shape. Torchvision's functions take them under the same names.
        dropout_field: the field that ``use_dropout`` sets; None where a network has no dropout of its own.
    """

    family: ClassVar[str]
    activations: ClassVar[tuple[str, ...]]
    last_layer: ClassVar[str]
    without_shape: ClassVar[tuple[str, ...]] = ()
    dropout_field: ClassVar[str | None] = None

    stem: Part
    stages: tuple[Part, ...]

    def make(self) -> nn.Module:
        """The network with random weights, as torchvision starts it, for 1000 classes."""
        raise NotImplementedError

    def places(self) -> tuple[StagePlaces, ...]:
        """Where the stages are in it."""
        raise NotImplementedError

    def scaled(self, factor: float) -> Self:
        """The same with widths ``factor`` times as large."""
        raise NotImplementedError

    @property
    def has_norms(self) -> bool:
        return True

    def difference(self, other: Network) -> str | None:
        """The first place at which another network of this family has tensors of other shapes, or None."""
        return _difference(self._shapes(), other._shapes(), "")

    def _shapes(self) -> dict[str, Any]:
        return self.model_dump(exclude=set(self.without_shape))


def _difference(own: Any, other: Any, path: str) -> str | None:
    if isinstance(own, dict) and isinstance(other, dict):
        found = (_difference(own[key], other[key], f"{path}.{key}" if path else key) for key in own)
        return next((place for place in found if place), None)
    if isinstance(own, tuple) and isinstance(other, tuple) and len(own) == len(other):
        found = (_difference(a, b, f"{path}[{index}]") for index, (a, b) in enumerate(zip(own, other, strict=True)))
        return next((place for place in found if place), None)
    return None if own == other else f"{path} ({own!r} in place of {other!r})"


def shell(kind: Callable[..., nn.Module], *args: Any, **options: Any) -> Any:
    """A model of torchvision of which only the class, the forward and what has no tensors is wanted."""
    with torch.device("meta"):
        return kind(*args, **options)


def initialize(model: nn.Module, mode: str = "fan_out", linear: Callable[[nn.Linear], object] | None = None) -> None:
    """Start convolutions, and where ``linear`` is given linear layers, as torchvision's classes do. Norms do so themselves."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")  # type: ignore[arg-type]
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear is not None:
            linear(module)
            nn.init.zeros_(module.bias)


def divisible(width: float) -> int:
    """A width rounded to a multiple of eight, and to no less than nine tenths of it.

    Source: Sandler et al.: MobileNetV2, https://arxiv.org/abs/1801.04381 (its reference code)
    """
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded
