"""What a module that is no piece takes and gives, found by running it on fake tensors, which computes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .._fake import fake_tensors, hooks_set_aside, run_fake

# Heights and widths that are tried: most modules take any, some only the one that they were made for.
_SIZES = ((224, 224), (112, 112), (56, 56), (28, 28), (14, 14), (7, 7), (32, 32), (16, 16), (8, 8), (4, 4), (2, 2), (1, 1))
_IMAGE_SIZES = ((224, 224), (32, 32), (28, 28), (64, 64))
# Besides a module's own numbers: what takes several of these takes any number of channels.
_ANY_CHANNELS = (1, 3, 5)
Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]
_DOES_NOT_RUN = (RuntimeError, TypeError, ValueError, AssertionError, IndexError, NotImplementedError)


@dataclass(frozen=True)
class Signal:
    """What goes from one piece to the next.

    Attributes:
        channels: how many, or None where they cannot be known.
        maps: whether it is maps (N, C, H, W), or vectors (N, C).
        giver: what gives it, as a message names it.
        problem: why the channels cannot be known.
        size: height and width of the maps, where they are known.
    """

    channels: int | None
    maps: bool
    giver: str
    problem: str = ""
    size: tuple[int, ...] | None = None


class DoesNotRun(ValueError):
    """A module does not take an input; the message is the first line of its own."""


def output_shape(module: nn.Module, input_shape: tuple[int, ...], hooks: Mapping[str, Hook] | None = None) -> tuple[int, ...]:
    """The shape of a module's output for a batch of two inputs of a shape; ``hooks``, by path, are called after their module.

    Raises:
        DoesNotRun: it does not take them, or gives no tensor.
    """
    try:
        with _quiet(), fake_tensors() as mode, hooks_set_aside(module):
            for path, hook in (hooks or {}).items():
                module.get_submodule(path).register_forward_hook(hook)
            output = run_fake(mode, module, input_shape)
    except _DOES_NOT_RUN as error:
        raise DoesNotRun(next(iter(str(error).strip().splitlines()), type(error).__name__)) from error
    if not isinstance(output, Tensor):
        raise DoesNotRun(f"it gives no tensor, but a {type(output).__name__}")
    return tuple(output.shape)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, torch does not log what fails on fake tensors: that a module does not run is an answer here."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addFilter(_drop)
    try:
        yield
    finally:
        logger.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return False


def shapes_after(
    modules: Sequence[nn.Module], channels: int, sizes: Iterable[tuple[int, ...]] = _SIZES
) -> list[tuple[int, ...]]:
    """The shapes of modules' outputs for one batch of two inputs of so many channels, of the first size that all take.

    Raises:
        DoesNotRun: they take none of the sizes.
    """
    problem: DoesNotRun | None = None
    for size in sizes:
        try:
            return [output_shape(module, (channels, *size)) for module in modules]
        except DoesNotRun as error:
            problem = problem or error
    raise problem or DoesNotRun("no size was tried")


def measure(module: nn.Module, signal: Signal | None, title: str) -> Signal | None:
    """What a module gives for what it is given.

    Args:
        module: any module.
        signal: what it is given, or None where that is not known: the module is asked then.
        title: what it is called in a message.

    Returns:
        None where it takes any number of channels, and that is not known.

    Raises:
        ValueError: it does not take what it is given.
    """
    if signal is None:
        taken = list(_channels_taken(module))
        if len(taken) > 1:
            return None
        if not taken:
            return Signal(None, True, title, "it takes no maps of the channels and sizes that were tried")
        signal = Signal(taken[0], True, "")
    if signal.channels is None:
        return signal
    sizes: Iterable[tuple[int, ...]] = ((),) if not signal.maps else _SIZES if signal.size is None else (signal.size,)
    shapes: list[tuple[int, ...]] = []  # for the first two sizes that it takes
    for size in sizes:
        try:
            shapes.append(output_shape(module, (signal.channels, *size)))
        except DoesNotRun as error:
            problem = error
        if len(shapes) == 2:
            break
    if not shapes:
        raise ValueError(f"{signal.giver} gives {signal.channels} channels, and {title} does not take them: {problem}")
    first, last = shapes[0], shapes[-1]
    if len(first) not in (2, 4):
        return Signal(None, True, title, f"it gives neither maps (N, C, H, W) nor vectors (N, C), but the shape {first}")
    if first[1] != last[1]:
        return Signal(None, True, title, "they depend on the height and width of its input")
    return Signal(first[1], len(first) == 4, title, size=first[2:] if first[2:] == last[2:] else None)


def channels_of(module: nn.Module) -> int | None:
    """How many channels a module takes, or None where it takes several numbers of them, or none."""
    taken = list(_channels_taken(module))
    return taken[0] if len(taken) == 1 else None


def _channels_taken(module: nn.Module) -> Iterator[int]:
    """Of the numbers that may be a module's input channels those that it runs with."""
    names = ("in_channels", "in_features", "num_features", "num_channels", "channels")
    numbers = {getattr(part, name, None) for part in module.modules() for name in names}
    numbers |= {size for parameter in module.parameters() for size in parameter.shape[:2]}
    for channels in sorted({*_ANY_CHANNELS, *(n for n in numbers if isinstance(n, int) and n > 0)}):
        try:
            shapes_after([module], channels, _IMAGE_SIZES)
        except DoesNotRun:
            continue
        yield channels
