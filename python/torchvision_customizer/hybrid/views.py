"""A model as stem, stages and head: views of its modules, found out by running it on fake tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PatchError
from .backbones import Family, find_family
from .probe import Trail, fake_tensors, hooks_set_aside, run_fake
from .target import resolve


@dataclass(frozen=True)
class Stage:
    """A part of a model that works at one resolution.

    Attributes:
        paths: of its modules, in the order in which they run.
        channels: of its output.
        stride: how many pixels of the image are one position of the output, along its height; None where a sequence of tokens
            has no height.
        shape: of the output for one image.
        channel_dim: where the channels are in a batch of outputs, 1 or -1.
    """

    paths: tuple[str, ...]
    channels: int
    stride: int | None
    shape: tuple[int, ...]
    channel_dim: int

    def __str__(self) -> str:
        names = self.paths[0] if len(self.paths) == 1 else f"{self.paths[0]} to {self.paths[-1]}"
        stride = f", stride {self.stride}" if self.stride else ""
        return f"{names}: {self.channels} channels{stride}"


@dataclass(frozen=True)
class Anatomy:
    """Paths of what comes before the stages, the stages, and paths of what comes after them."""

    stem: tuple[str, ...]
    stages: tuple[Stage, ...]
    head: tuple[str, ...]

    @property
    def parts(self) -> tuple[tuple[str, tuple[str, ...], Stage | None], ...]:
        """Stem, stages and head in order: what each is called, its paths, and the stage that it is."""
        stages = [(f"stage {number}", stage.paths, stage) for number, stage in enumerate(self.stages)]
        return ("stem", self.stem, None), *stages, ("head", self.head, None)


@dataclass(frozen=True)
class _Unit:
    path: str
    shape: tuple[int, ...]  # of a batch of outputs
    channel_dim: int
    has_parameters: bool
    size: tuple[int, ...]  # of the map; of a sequence of tokens, that of the map that it was

    @property
    def is_map(self) -> bool:
        return math.prod(self.size) > 1


def anatomy_of(model: nn.Module, input_shape: tuple[int, ...]) -> Anatomy:
    """Stem, stages and head of a model.

    Of torchvision's families it is known where the stages begin and end; of any other model they are what gives maps, and
    what follows the last of it is the head. All that runs at one resolution is one stage, in the order in which the stages end.

    Raises:
        ValueError: the model has no stages: it gives no maps.
    """
    family = find_family(model)
    body = _body(model, family) if family else []
    units = _measure(model, input_shape, body)
    inside = [unit for unit in units if (unit.path in body if family else unit.is_map)]
    while inside and not inside[-1].has_parameters:
        inside.pop()
    if not inside:
        raise ValueError(f"{type(model).__name__} has no stages: none of its modules gives maps")
    order = [unit.path for unit in units]
    if family and not family.grouped:
        groups = [[unit] for unit in inside]
    else:
        by_size: dict[tuple[int, ...], list[_Unit]] = {}
        for unit in inside:
            by_size.setdefault(unit.size, []).append(unit)
        groups = sorted(by_size.values(), key=lambda group: order.index(group[-1].path))
    if not family:
        groups = [group for group in groups if any(unit.has_parameters for unit in group)]
    first = min(order.index(group[0].path) for group in groups)
    last = order.index(groups[-1][-1].path)
    stages = tuple(_stage(group, input_shape) for group in groups)
    return Anatomy(tuple(order[:first]), stages, tuple(order[last + 1 :]))


def _body(model: nn.Module, family: Family) -> list[str]:
    found: dict[str, nn.Module] = {}
    for glob in family.body:
        try:
            found.update(resolve(model, glob))
        except PatchError:  # a smaller member of the family
            continue
    return list(found)


def _measure(model: nn.Module, input_shape: tuple[int, ...], body: list[str]) -> list[_Unit]:
    """The modules that run one after the other, with what they give; lists and sequences of them are looked into."""
    order: dict[str, tuple[tuple[int, ...], int]] = {}
    with fake_tensors() as mode, hooks_set_aside(model):
        trail = Trail(model)

        def note(path: str, module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                order[path] = tuple(output.shape), trail.channel_dim(output)

        started: list[str] = []
        for path, module in model.named_modules():
            if path:
                module.register_forward_pre_hook(lambda *_, path=path: started.append(path))
                module.register_forward_hook(partial(note, path))
        run_fake(mode, model, input_shape)
    ran = {path: index for index, path in reversed(list(enumerate(started)))}

    def walk(path: str, module: nn.Module) -> Iterator[_Unit]:
        holds_body = any(inner.startswith(f"{path}.") for inner in body)
        if path in order and (path in body or not (holds_body or type(module).forward is nn.Sequential.forward)):
            has_parameters = any(True for _ in module.parameters())
            yield _Unit(path, *order[path], has_parameters, _map_size(*order[path], input_shape))
        else:
            for name, child in module.named_children():
                yield from walk(f"{path}.{name}", child)

    units = [unit for name, child in model.named_children() for unit in walk(name, child)]
    return sorted(units, key=lambda unit: ran[unit.path])


def _map_size(shape: tuple[int, ...], channel_dim: int, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    size = shape[2:] if channel_dim == 1 else shape[1:-1]
    if len(size) != 1 or len(input_shape) != 3:
        return size
    _, height, width = input_shape
    for more in (0, 1, 2):  # tokens for the classes, of a model and of its teacher
        tokens = size[0] - more
        rows = math.isqrt(max(tokens, 0) * height // width)
        if rows > 1 and tokens % rows == 0 and rows * width == tokens // rows * height:
            return rows, tokens // rows
    return size


def _stage(units: list[_Unit], input_shape: tuple[int, ...]) -> Stage:
    last = units[-1]
    stride = round(input_shape[1] / last.size[0]) if len(last.size) > 1 else None
    shape = last.shape[1:]
    return Stage(tuple(unit.path for unit in units), last.shape[last.channel_dim], stride, shape, last.channel_dim)


def view(model: nn.Module, paths: tuple[str, ...]) -> nn.Sequential:
    """Modules of a model under the last parts of their paths; they are the model's own, not copies."""
    found = nn.Sequential()
    for path in paths:
        name = path.replace(".", "_") if path.rpartition(".")[2] in found._modules else path.rpartition(".")[2]
        found._modules[name] = model.get_submodule(path)
    return found


def stage_outputs(model: nn.Module, stages: tuple[Stage, ...], x: Tensor) -> list[Tensor]:
    """What each stage gives for a batch of images, with channels second: (N, C, H, W), or (N, C, L) of tokens."""
    outputs: dict[str, Tensor] = {}

    def keep(path: str, module: nn.Module, args: Any, output: Tensor) -> None:
        outputs[path] = output

    handles = [model.get_submodule(stage.paths[-1]).register_forward_hook(partial(keep, stage.paths[-1])) for stage in stages]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return [torch.movedim(outputs[stage.paths[-1]], stage.channel_dim, 1) for stage in stages]
