"""Running a module on fake tensors: they have shape, type and device, but no values, and nothing is computed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call


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
    # Detached: torch's counter of FLOPs asks tensors that need gradients for a history, which a view of a parameter lacks here.
    fake: dict[str, Tensor] = {name: mode.from_tensor(tensor.detach()) for name, tensor in tensors.items()}
    return functional_call(model, fake, (x,))


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
