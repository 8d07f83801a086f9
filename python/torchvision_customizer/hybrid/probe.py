"""A forward without computing: shapes, types and FLOPs are found out by running the model on fake tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

DEFAULT_INPUT = (3, 224, 224)


@contextmanager
def fake_tensors() -> Iterator[FakeTensorMode]:
    """Within it, tensors have shape, type and device, but no values, and nothing is computed."""
    # A module may hold plain tensors that are neither parameters nor buffers; they come in as they are.
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        yield mode


def run_fake(mode: FakeTensorMode, model: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """The model's output, fake, for a batch of two: a norm in training mode refuses one value a channel.

    Parameters and buffers are fake for the duration of the call. Without that, buffers would be changed for real: fake
    tensors stop nothing that a module does in place to a real tensor (``num_batches_tracked`` of a norm in training mode).
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    like = next((tensor for tensor in tensors.values() if tensor.is_floating_point()), torch.empty(0))
    x = torch.empty(2, *input_shape, device=like.device, dtype=like.dtype)
    return functional_call(model, {name: mode.from_tensor(tensor) for name, tensor in tensors.items()}, (x,))


@contextmanager
def hooks_set_aside(model: nn.Module) -> Iterator[None]:
    """Within it, the model's own hooks are not called: they are not made for fake tensors, and nobody asked for a forward."""
    kept = [(module, module._forward_hooks, module._forward_pre_hooks) for module in model.modules()]
    for module, _, _ in kept:
        module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, hooks, pre_hooks in kept:
            module._forward_hooks, module._forward_pre_hooks = hooks, pre_hooks


def input_shape_of(example_input: Tensor | tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of one sample of an example: a batch of inputs, or the shape of a batch."""
    if example_input is None:
        return DEFAULT_INPUT
    return tuple(example_input.shape if isinstance(example_input, Tensor) else example_input)[1:]


def count_flops(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """FLOPs of a forward for one sample, two for each multiply-add, as torch counts; by module path, ``""`` is the model."""
    with fake_tensors() as mode, hooks_set_aside(model), FlopCounterMode(display=False) as counter:
        run_fake(mode, model, input_shape)
    root = type(model).__name__
    counts = {name.removeprefix(root).removeprefix("."): sum(ops.values()) for name, ops in counter.flop_counts.items()}
    counts[""] = counter.get_total_flops()
    return {name: count // 2 for name, count in counts.items()}
