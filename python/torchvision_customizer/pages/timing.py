"""How long each module of a model takes, by hooks around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.benchmark import timer

from ..hybrid.probe import hooks_set_aside

WARM_UP_RUNS = 2


def module_seconds(model: nn.Module, input_shape: tuple[int, ...], runs: int = 5) -> dict[str, float]:
    """Seconds that each module takes of a forward of one random sample, with the modules in it; by path, ``""`` is the model.

    The model runs in evaluation mode, where it is and in its type. It is the median of some runs; a module that is called
    several times takes all of them together. The hooks take some microseconds at each module: this finds what is slow in a
    model, and ``tvc benchmark`` compares models.

    Args:
        model: its modes and hooks are as before afterwards; its own hooks do not run.
        input_shape: of one sample.
        runs: how many, after two that do not count.

    Raises:
        ValueError: fewer than one run, or the model is on ``meta`` and has nothing to run with.
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, got {runs}")
    like = next((tensor for tensor in [*model.parameters(), *model.buffers()] if tensor.is_floating_point()), torch.empty(0))
    if like.is_meta:
        raise ValueError(f"this {type(model).__name__} is on meta: it has no values to run with, and takes no time")
    x = torch.randn(1, *input_shape, device=like.device, dtype=like.dtype)
    started: list[float] = []
    seconds: dict[str, float] = {}

    def start(*_: Any) -> None:
        started.append(timer())  # it waits for an accelerator to finish

    def stop(path: str, *_: Any) -> None:
        seconds[path] = seconds.get(path, 0.0) + timer() - started.pop()

    found: dict[str, list[float]] = {}
    with hooks_set_aside(model), _in_evaluation(model), torch.no_grad():
        for path, module in model.named_modules():
            module.register_forward_pre_hook(start)
            module.register_forward_hook(partial(stop, path))
        for number in range(WARM_UP_RUNS + runs):
            seconds.clear()
            model(x)
            if number >= WARM_UP_RUNS:
                for path, value in seconds.items():
                    found.setdefault(path, []).append(value)
    return {path: median(values) for path, values in found.items()}


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
