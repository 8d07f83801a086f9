"""A forward without computing: shapes, types and FLOPs are found out by running the model on fake tensors."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .._fake import fake_tensors as fake_tensors
from .._fake import hooks_set_aside as hooks_set_aside
from .._fake import run_fake as run_fake
from .backbones import find_family

DEFAULT_INPUT = (3, 224, 224)


_CHANNELS_SECOND = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.MultiheadAttention)


class Trail:
    """Which layers ran, so that it can be told where the channels of a tensor are: with a convolution second, with a linear
    layer last.

    The shape alone does not say it: Swin's blocks hand on (N, H, W, C), and ResNet's (N, C, H, W).
    """

    def __init__(self, model: nn.Module) -> None:
        self._steps: list[tuple[int, torch.Size, torch.Size]] = []
        for module in model.modules():
            dim = _channel_dim(module)
            if dim is not None:
                module.register_forward_hook(partial(self._note, dim))

    def _note(self, dim: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, tuple):  # nn.MultiheadAttention
            output = output[0]
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            self._steps.append((dim, args[0].shape, output.shape))

    def channel_dim(self, x: Tensor) -> int:
        """1 or -1: as of the last layer that gave such a shape, or else of the last that took one.

        Where no layer did, a map may have become a sequence of tokens, perhaps with some more for the classes, or have had
        its channels moved.
        """
        for taken_or_given in (2, 1):
            for step in reversed(self._steps):
                if step[taken_or_given] == x.shape:
                    return step[0]
        if self._steps:
            _, _, given = self._steps[-1]
            moved = (given[0], *given[2:], given[1])
            if len(given) == 4 and x.size(-1) == given[1] != x.size(1) and (x.dim() == 3 or x.shape == moved):
                return -1
        return 1


def _channel_dim(module: nn.Module) -> int | None:
    # torchvision's and timm's LayerNorm2d are LayerNorms, with channels second all the same.
    if isinstance(module, _CHANNELS_SECOND) or type(module).__name__.endswith("2d"):
        return 1
    return -1 if isinstance(module, _CHANNELS_LAST) else None


def input_shape_of(example_input: Tensor | tuple[int, ...] | None, model: nn.Module | None = None) -> tuple[int, ...]:
    """The shape of one sample of an example: a batch of inputs, or the shape of a batch.

    Without an example, of what the model or its family says that it takes, and at last of an image of 224×224.
    """
    if example_input is not None:
        return tuple(example_input.shape if isinstance(example_input, Tensor) else example_input)[1:]
    remembered = getattr(getattr(model, "_hybrid_state", None), "input_shape", None)
    if remembered is not None:
        return tuple(remembered)
    size = getattr(model, "image_size", None)  # torchvision's ViT takes no other
    if isinstance(size, int):
        return 3, size, size
    timm_config = getattr(model, "pretrained_cfg", None)
    if timm_config is not None:
        return tuple(timm_config["input_size"])
    family = find_family(model) if model is not None else None
    return (3, family.input_size, family.input_size) if family else DEFAULT_INPUT


def sample_of(calls: list[tuple[tuple[Any, ...], Any]]) -> tuple[int, ...] | None:
    """The shape of one sample of what a module is given, where that is one tensor."""
    args = calls[0][0] if calls else ()
    return tuple(args[0].shape[1:]) if len(args) == 1 and isinstance(args[0], Tensor) else None


def count_flops(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """FLOPs of a forward for one sample, two for each multiply-add, as torch counts; by module path, ``""`` is the model."""
    return count_flops_and_positions(model, input_shape)[0]


def count_flops_and_positions(
    model: nn.Module, input_shape: tuple[int, ...], paths: Iterable[str] = ()
) -> tuple[dict[str, int], dict[str, int]]:
    """``count_flops``, and for some modules how many positions in space their outputs have, where they run."""
    positions: dict[str, int] = {}

    def note(path: str, module: nn.Module, args: Any, output: Tensor) -> None:
        positions[path] = output.shape[2:].numel()

    with fake_tensors() as mode, hooks_set_aside(model), FlopCounterMode(display=False) as counter:
        for path in paths:
            model.get_submodule(path).register_forward_hook(partial(note, path))
        run_fake(mode, model, input_shape)
    root = type(model).__name__
    counts = {name.removeprefix(root).removeprefix("."): sum(ops.values()) for name, ops in counter.flop_counts.items()}
    counts[""] = counter.get_total_flops()
    return {name: count // 2 for name, count in counts.items()}, positions
