"""Activations that a forward calls as functions: which they are, and which modules call them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ..patches import TYPE_PREFIX

# The functions and methods that do what a module of this type does.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "ReLU": (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
    "ReLU6": (F.relu6,),
    "LeakyReLU": (F.leaky_relu, F.leaky_relu_),
    "ELU": (F.elu, F.elu_),
    "GELU": (F.gelu,),
    "SiLU": (F.silu,),
    "Mish": (F.mish,),
    "Hardswish": (F.hardswish,),
    "Hardsigmoid": (F.hardsigmoid,),
    "Sigmoid": (F.sigmoid, torch.sigmoid, torch.sigmoid_, "sigmoid", "sigmoid_"),
    "Tanh": (F.tanh, torch.tanh, torch.tanh_, "tanh", "tanh_"),
}


def functions_of(target: str) -> frozenset[Any]:
    """The functions that a target such as ``type:ReLU`` stands for besides modules; those of any other target are none."""
    name = target.removeprefix(TYPE_PREFIX).strip() if target.startswith(TYPE_PREFIX) else ""
    return frozenset(_FUNCTIONS.get(name, ()))


@contextmanager
def modules_that_call(model: nn.Module, functions: frozenset[Any]) -> Iterator[tuple[dict[str, None], set[str]]]:
    """Within it, it is noted as the model runs which modules call one of ``functions`` in their own forward, and which run."""
    methods = {getattr(torch.Tensor, name) for name in functions if isinstance(name, str)}
    wanted = methods | {function for function in functions if not isinstance(function, str)}
    callers: dict[str, None] = {}
    running: list[str] = []
    ran: set[str] = set()

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in wanted and running:
                callers.setdefault(running[-1])
            return func(*args, **(kwargs or {}))

    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, path=path: running.append(path)))
        handles.append(module.register_forward_hook(lambda *_: ran.add(running.pop())))
    try:
        with Watch():
            yield callers, ran
    finally:
        for handle in handles:
            handle.remove()
