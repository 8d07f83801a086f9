"""Chains, branches and shortcuts of pieces, and the functions behind ``>> + * |``."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .measure import Signal, channels_of, shapes_after
from .piece import FixedSequential, Piece, connect, connect_all, title_of


class Sequential(Piece, FixedSequential):  # type: ignore[misc]  # torch's + and * mean less
    """Modules one after another, each built for the channels that the one before it gives.

    Args:
        *layers: pieces and other modules, which are used themselves where they are built already; or one list of them.

    Raises:
        ValueError: there are none, or one gives other channels than the next takes.
    """

    def __init__(self, *layers: nn.Module | Iterable[nn.Module]) -> None:
        super().__init__()
        self._fill(layers[0] if len(layers) == 1 and not isinstance(layers[0], nn.Module) else layers, None)

    def _fill(self, layers: Iterable[Any], signal: Signal | None) -> None:
        modules, given = connect_all(layers, signal)
        if not modules:
            raise ValueError(f"{type(self).__name__} needs at least one module")
        for number, module in enumerate(modules):
            self.add_module(str(number), module)
        self.in_channels = signal.channels if signal is not None else input_channels(modules[0])
        self.out_channels = given.channels if given is not None else None

    def _connect(self, signal: Signal | None) -> tuple[Piece, Signal | None]:
        modules, given = connect_all(self, signal)
        if all(new is old for new, old in zip(modules, self, strict=True)):
            return self, given
        return Sequential(*modules).train(self.training), given

    def _again(self) -> Sequential:
        return Sequential(*(_again(module) for module in self))

    def _parts(self) -> list[nn.Module]:
        return [part for module in self for part in _parts_of(module)]

    def _rows(self) -> list[tuple[str, nn.Module]]:
        return list(self.named_children())


class BranchedModule(Piece):
    """Modules side by side: each gets the input, and their outputs are concatenated.

    Args:
        modules: pieces and other modules. All take the same channels, which need be known to one of them only.
        concat_dim: dimension of the concatenation; 1 is that of the channels.

    Raises:
        ValueError: they take different channels, or give maps that cannot be concatenated.
    """

    def __init__(self, modules: Sequence[nn.Module], concat_dim: int = 1) -> None:
        super().__init__()
        known = {title_of(module): channels for module in modules if (channels := input_channels(module)) is not None}
        if len(set(known.values())) > 1:
            takes = ", ".join(f"{title} takes {channels}" for title, channels in known.items())
            raise ValueError(f"branches have one input, and these take different channels: {takes}")
        giver, channels = next(iter(known.items()), ("", None))
        self._fill(modules, concat_dim, Signal(channels, True, f"the input of {giver}") if channels is not None else None)

    def _fill(self, modules: Sequence[nn.Module], concat_dim: int, signal: Signal | None) -> None:
        branches: list[nn.Module] = []
        for module in modules:
            built, _ = connect(module, signal)
            branches.append(copy.deepcopy(built) if any(built is other for other in branches) else built)
        if not branches:
            raise ValueError("branches: there are none")
        self.branches = nn.ModuleList(branches)
        self.concat_dim = concat_dim
        self.in_channels = signal.channels if signal is not None else None
        self.out_channels = None
        if not self.is_open() and self.in_channels is not None:
            self.out_channels = self._measured(self.in_channels)

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for branch in self.branches:
            outputs.append(branch(x))
        return torch.cat(outputs, self.concat_dim)

    def extra_repr(self) -> str:
        return f"concat_dim={self.concat_dim}"

    def _measured(self, channels: int) -> int:
        shapes = shapes_after(list(self.branches), channels)
        try:
            together = torch.cat([torch.empty(shape, device="meta") for shape in shapes], self.concat_dim)
        except (RuntimeError, IndexError) as error:
            titles = [title_of(branch) for branch in self.branches]
            gives = ", ".join(f"{title} gives {_show(shape)}" for title, shape in zip(titles, shapes, strict=True))
            raise ValueError(f"branches cannot be concatenated on dimension {self.concat_dim}: {gives}") from error
        return together.shape[1]

    def _connect(self, signal: Signal | None) -> tuple[Piece, Signal | None]:
        piece = self
        if signal is not None and signal.channels is not None and signal.channels != self.in_channels:
            piece = BranchedModule.__new__(BranchedModule)
            Piece.__init__(piece)
            piece._fill(list(self.branches), self.concat_dim, signal)
            piece.train(self.training)
        known = piece.out_channels is not None
        return piece, Signal(piece.out_channels, True, title_of(piece)) if known else None

    def _again(self) -> BranchedModule:
        return BranchedModule([_again(module) for module in self.branches], self.concat_dim)


class ResidualWrapper(Piece):
    """A module and a shortcut around it: ``module(x) + projection(x)``.

    Args:
        module: a piece or another module.
        projection: what the shortcut goes through; without it the shortcut is the input itself.

    Raises:
        ValueError: the two cannot be added.
    """

    def __init__(self, module: nn.Module, projection: nn.Module | None = None) -> None:
        super().__init__()
        channels = input_channels(module)
        self._fill(module, projection, Signal(channels, True, "the input") if channels is not None else None)

    def _fill(self, module: nn.Module, projection: nn.Module | None, signal: Signal | None) -> None:
        self.module, given = connect(module, signal)
        self.projection = nn.Identity() if projection is None else connect(projection, signal)[0]
        self.in_channels = signal.channels if signal is not None else None
        self.out_channels = given.channels if given is not None else None
        if self.in_channels is None or self.is_open():
            return
        shapes = shapes_after([self.module, self.projection], self.in_channels)
        if shapes[0] != shapes[1]:
            shortcut = title_of(self.projection) if projection is not None else "the shortcut"
            raise ValueError(
                f"residual: {title_of(self.module)} gives {_show(shapes[0])} and {shortcut} {_show(shapes[1])}, which cannot "
                f"be added; give a projection that does, such as nn.Conv2d({self.in_channels}, {shapes[0][1]}, 1, stride=…)"
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x) + self.projection(x)
        return out

    def _connect(self, signal: Signal | None) -> tuple[Piece, Signal | None]:
        piece = self
        if signal is not None and signal.channels is not None and signal.channels != self.in_channels:
            piece = ResidualWrapper.__new__(ResidualWrapper)
            Piece.__init__(piece)
            projection = None if isinstance(self.projection, nn.Identity) else self.projection
            piece._fill(self.module, projection, signal)
            piece.train(self.training)
        known = piece.out_channels is not None
        return piece, Signal(piece.out_channels, True, title_of(piece)) if known else None

    def _again(self) -> ResidualWrapper:
        return ResidualWrapper(_again(self.module))  # after itself there is nothing to project


def compose(*modules: nn.Module) -> Piece:
    """Copies of modules one after another: the function behind ``>>`` and ``+``.

    Chains among them are taken apart. What ends with a head, and has its parameters, is a
    :class:`~torchvision_customizer.VisionModel`; its stem goes up to the last stem, or is the first module where there is none.

    Raises:
        ValueError: one gives other channels than the next takes; the message names both.
    """
    from .head import HEADS
    from .model import VisionModel
    from .stem import STEMS

    parts = [copy.deepcopy(part) for module in modules for part in _parts_of(module)]
    chain = Sequential(*parts)
    if len(chain) < 2 or not isinstance(chain[-1], HEADS) or chain.is_open():
        return chain
    layers = list(chain)
    end = max((number for number, layer in enumerate(layers[:-1], 1) if isinstance(layer, STEMS)), default=1)
    stem = layers[0] if end == 1 else Sequential(*layers[:end])
    return VisionModel(stem, layers[end:-1], layers[-1])


def repeat(module: nn.Module, n: int) -> Piece:
    """A module ``n`` times one after another, each with parameters of its own: the function behind ``*``.

    The first takes the stride, and the others keep the resolution and the channels that it gives, with fresh parameters. Of a
    module that is no piece there are ``n`` copies, with the parameters that it has.

    Raises:
        ValueError: ``n`` is no integer of at least 1, or the module cannot follow itself.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"repeat: how often must be an integer of at least 1, got {n!r}")
    return compose(Sequential(module), *(Sequential(_again(module)) for _ in range(n - 1)))


def branch(*modules: nn.Module, concat_dim: int = 1) -> BranchedModule:
    """Copies of modules side by side, their outputs concatenated: the function behind ``|``. Branches of branches are one.

    Raises:
        ValueError: they take different channels, or give maps that cannot be concatenated.
    """
    flat: list[nn.Module] = []
    for module in modules:
        is_same = isinstance(module, BranchedModule) and module.concat_dim == concat_dim
        flat += module.branches if is_same and isinstance(module, BranchedModule) else [module]
    return BranchedModule([copy.deepcopy(module) for module in flat], concat_dim)


def residual(module: nn.Module, projection: nn.Module | None = None) -> ResidualWrapper:
    """A copy of a module with a shortcut around it; see :class:`ResidualWrapper`."""
    return ResidualWrapper(copy.deepcopy(module), copy.deepcopy(projection))


def _again(module: nn.Module) -> nn.Module:
    return module._again() if isinstance(module, Piece) else copy.deepcopy(module)


def _parts_of(module: nn.Module) -> list[nn.Module]:
    return module._parts() if isinstance(module, Piece) else [module]


def input_channels(module: nn.Module) -> int | None:
    """How many channels a module takes, or None where they are not known, or may be any."""
    return module.in_channels if isinstance(module, Piece) else channels_of(module)


def _show(shape: Sequence[int]) -> str:
    return f"({', '.join(['N', *map(str, shape[1:])])})"
