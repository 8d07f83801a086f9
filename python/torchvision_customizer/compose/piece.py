"""What stems, stages and heads share: channels that flow from left to right, operators, and arguments that can be read back."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ..errors import nearest
from .measure import DoesNotRun, Signal, measure, output_shape


class Unbuilt(nn.Module):
    """Stands where the layers of a piece will be. It has no parameters, and running it is an error that says what to do."""

    def __init__(self, title: str, argument: str) -> None:
        super().__init__()
        self.problem = (
            f"{title} has no parameters yet, since its input channels are not known; write it to the right of a piece that "
            f"gives them (Stem(64) >> {title}), or give {argument}"
        )

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError(self.problem)


class Piece(nn.Module):
    """A module that can be written in a chain.

    ``a >> b`` and ``a + b`` are one after the other, ``a * 3`` three times one after the other, ``a | b`` side by side, with
    their outputs concatenated. Every operator makes copies: its operands stay as they are, and what is used twice becomes two
    independent modules. One operand may be any module. ``*`` binds closer than ``+``, that closer than ``>>``, and ``|`` least.

    Attributes:
        in_channels: channels of the input, or None where they are not known, or may be any.
        out_channels: channels of the output, or None where they are not known yet.
    """

    if TYPE_CHECKING:
        in_channels: int | None
        out_channels: int | None

    def is_open(self) -> bool:
        """Whether a part of it has no parameters yet, because its input channels are not known."""
        return any(isinstance(module, Unbuilt) for module in self.modules())

    def count_parameters(self, trainable_only: bool = False) -> int:
        """How many parameters it has, or how many of them are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable_only)

    def explain(self, input_shape: tuple[int, int, int] | None = None) -> str:
        """A table: of each part what it is, its channels, how many pixels one position of its output is, and its parameters.

        Args:
            input_shape: (C, H, W) of an image; by default of one of 224×224, and of the channels that it takes.

        Raises:
            ValueError: it does not take such an image.
        """
        from .explaining import explain  # which reads pieces

        return explain(self, input_shape)

    def get_config(self) -> dict[str, Any]:
        """What it is made of, as plain values.

        Raises:
            ValueError: it has a part that is no stem, stage or head.
        """
        raise ValueError(f"{title_of(self)} cannot be written as plain values")

    def __rshift__(self, right: nn.Module) -> Piece:
        return _operate(self, right)

    def __rrshift__(self, left: nn.Module) -> Piece:
        return _operate(left, self)

    def __add__(self, right: nn.Module) -> Piece:
        return _operate(self, right)

    def __radd__(self, left: nn.Module) -> Piece:
        return _operate(left, self)

    def __mul__(self, times: int) -> Piece:
        from .operators import repeat

        return repeat(self, times) if isinstance(times, int) else NotImplemented

    def __rmul__(self, times: int) -> Piece:
        return self * times

    def __or__(self, right: nn.Module) -> Piece:
        return _branch(self, right)

    def __ror__(self, left: nn.Module) -> Piece:
        return _branch(left, self)

    def _connect(self, signal: Signal | None) -> tuple[Piece, Signal | None]:
        """What it becomes to the right of what gives ``signal``, which is not known where that is None; and what it gives."""
        raise NotImplementedError

    def _again(self) -> Piece:
        """What follows it where it is repeated: the same, without parameters, and keeping the resolution."""
        raise ValueError(f"{title_of(self)} cannot be repeated")

    def _parts(self) -> list[nn.Module]:
        """What it contributes to a chain: itself, or its links where it is a chain."""
        return [self]

    def _rows(self) -> list[tuple[str, nn.Module]]:
        """The parts that :meth:`explain` shows, and their names."""
        return [("", self)]


def _operate(left: object, right: object) -> Piece:
    from .operators import compose

    return compose(left, right) if isinstance(left, nn.Module) and isinstance(right, nn.Module) else NotImplemented


def _branch(left: object, right: object) -> Piece:
    from .operators import branch

    return branch(left, right) if isinstance(left, nn.Module) and isinstance(right, nn.Module) else NotImplemented


class FixedSequential(nn.Sequential):
    """A sequence of layers that fit each other: it is not changed in place. A slice of it is an ``nn.Sequential``."""

    def __getitem__(self, index: Any) -> Any:
        layers = list(self)
        return nn.Sequential(*layers[index]) if isinstance(index, slice) else layers[index]

    def _fixed(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{title_of(self)} is not changed in place, since its layers fit each other; write another one, with >>"
        )

    append = insert = extend = pop = _fixed
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _fixed


class WrittenPiece(Piece, FixedSequential):  # type: ignore[misc]  # torch's + and * mean less
    """A piece that is written as a call, keeps the arguments of it, and is its layers one after another.

    A constructor calls ``_keep(locals())``, and adds its layers where it knows its input channels, or else one ``Unbuilt``.
    """

    # TorchScript reads annotations of a class as those of attributes, and takes few.
    if TYPE_CHECKING:
        _arguments: dict[str, Any]

    type_name = ""  # what a recipe calls it
    channels_argument = "in_channels"
    takes_maps = True
    gives_maps = True

    def _keep(self, values: Mapping[str, Any]) -> None:
        """Note the arguments that are not the defaults."""
        self._arguments = {}
        for name, parameter in _parameters(type(self)).items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self._arguments |= values[name]
            elif name in values and values[name] != parameter.default:
                self._arguments[name] = values[name]

    def _leave_open(self) -> None:
        self.unbuilt = Unbuilt(title_of(self), self.channels_argument)

    def _finish(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        if device is not None or dtype is not None:
            self.to(device=device, dtype=dtype)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """A piece of the arguments of its constructor.

        Raises:
            ValueError: an unknown argument, with the nearest one; or a value that the constructor refuses.
        """
        known = _parameters(cls)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
            for key in arguments:
                if key not in known:
                    raise ValueError(
                        f"{cls.__name__} has no argument '{key}'{nearest(key, known)} (it takes {', '.join(known)})"
                    )
        return cls(**arguments)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments that are not its defaults, as plain values, and ``type``.

        ``device`` and ``dtype`` are not among them, and neither are channels that came from the left.
        """
        arguments = {key: value for key, value in self._arguments.items() if key not in ("device", "dtype")}
        return {"type": self.type_name} | {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items()}

    def _connect(self, signal: Signal | None) -> tuple[Piece, Signal | None]:
        piece = self
        if signal is not None:
            piece = self._after(signal)
        known = piece.out_channels is not None
        return piece, Signal(piece.out_channels, piece.gives_maps, title_of(piece)) if known else None

    def _after(self, signal: Signal) -> Self:
        given = self.channels_argument in self._arguments
        if signal.channels is None:
            if given:
                return self
            raise ValueError(
                f"the channels that {signal.giver} gives cannot be known ({signal.problem}); give {self.channels_argument} to "
                f"{title_of(self)}"
            )
        if self.takes_maps and not signal.maps:
            raise ValueError(
                f"{signal.giver} gives vectors (N, {signal.channels}), and {title_of(self)} takes maps (N, C, H, W)"
            )
        if given:
            if not self._takes(signal.channels, signal):
                wanted = self._arguments[self.channels_argument]
                raise ValueError(f"{signal.giver} gives {signal.channels} channels, and {title_of(self)} takes {wanted}")
            return self
        return self if self.in_channels == signal.channels else self._built(self._needed(signal.channels, signal))

    def _takes(self, channels: int, signal: Signal) -> bool:
        return self.in_channels == channels

    def _needed(self, channels: int, signal: Signal) -> int:
        """The value of the argument for what is given."""
        return channels

    def _built(self, channels: int) -> Self:
        piece = type(self)(**{**self._arguments, self.channels_argument: channels})
        piece._arguments = self._arguments
        return piece.train(self.training)

    def _changed(self, *gone: str, **changes: Any) -> Self:
        """The same with other arguments, and its input channels not given."""
        kept = {key: value for key, value in self._arguments.items() if key not in (*gone, self.channels_argument)}
        return type(self)(**{**kept, **changes}).train(self.training)

    def extra_repr(self) -> str:
        return _written(self)


def _parameters(piece: type[nn.Module]) -> dict[str, inspect.Parameter]:
    return dict(list(inspect.signature(piece.__init__).parameters.items())[1:])


def _written(piece: WrittenPiece) -> str:
    first = next(iter(_parameters(type(piece))))
    return ", ".join(f"{value!r}" if key == first else f"{key}={value!r}" for key, value in piece._arguments.items())


def title_of(module: nn.Module) -> str:
    """A module as a message names it: ``Stage(128, blocks=2)``."""
    if isinstance(module, WrittenPiece):
        return f"{type(module).__name__}({_written(module)})"
    return type(module).__name__ if list(module.children()) else repr(module)


def connect(module: nn.Module, signal: Signal | None) -> tuple[nn.Module, Signal | None]:
    """What a module becomes to the right of what gives ``signal``, which is not known where that is None; and what it gives.

    Raises:
        ValueError: it takes something else; the message names both.
    """
    if not isinstance(module, Piece):
        return module, measure(module, signal, title_of(module))
    piece, given = module._connect(signal)
    if given is None or not given.maps or signal is None or signal.size is None or signal.channels is None or piece.is_open():
        return piece, given
    try:
        shape = output_shape(piece, (signal.channels, *signal.size))
    except DoesNotRun as error:
        gives = "×".join(map(str, (signal.channels, *signal.size)))
        raise ValueError(f"{signal.giver} gives {gives}, and {title_of(piece)} does not take that: {error}") from error
    return piece, replace(given, size=shape[2:])


def connect_all(modules: Iterable[nn.Module], signal: Signal | None) -> tuple[list[nn.Module], Signal | None]:
    """Connect modules in a row. One that comes twice is copied, so that no parameters are shared."""
    connected: list[nn.Module] = []
    for module in modules:
        if not isinstance(module, nn.Module):
            raise ValueError(f"a chain is of modules, got {module!r}")
        if any(module is other for other in connected):
            module = copy.deepcopy(module)
        module, signal = connect(module, signal)
        connected.append(module)
    return connected, signal
