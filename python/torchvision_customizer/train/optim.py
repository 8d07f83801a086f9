"""Optimizers and learning-rate schedules by name. Schedules step once for each update of the weights."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from ..errors import nearest
from ..hybrid import parameter_groups

#: The schedules of ``Trainer.fit``.
SCHEDULERS = ("cosine", "step", "onecycle", "constant", "none")

# What version 2.1 gave them.
_DEFAULTS: dict[str, dict[str, float]] = {"adamw": {"weight_decay": 0.01}, "sgd": {"momentum": 0.9, "weight_decay": 5e-4}}


def make_optimizer(
    model: nn.Module,
    name: str = "adam",
    lr: float = 1e-3,
    *,
    momentum: float | None = None,
    weight_decay: float | None = None,
    layer_decay: float | None = None,
) -> torch.optim.Optimizer:
    """An optimizer over the trainable parameters of a model.

    Norms, biases and all other vectors are not decayed (see ``parameter_groups``).

    Args:
        model: it is not touched.
        name: a class of ``torch.optim``; case does not count.
        lr: learning rate, of the last level where there is a ``layer_decay``.
        momentum: by default 0.9 for SGD, and the optimizer's own for others.
        weight_decay: by default 5e-4 for SGD, 0.01 for AdamW, and none for others.
        layer_decay: factor from one level of the model to the one before it.

    Raises:
        ValueError: an unknown name, an option that the optimizer does not have, or a model without trainable parameters.
    """
    known = _optimizers()
    kind = known.get(name.lower())
    if kind is None:
        raise ValueError(f"unknown optimizer '{name}'{nearest(name, known)} (known: {', '.join(known)})")
    options = dict(_DEFAULTS.get(name.lower(), {}))
    given = {"momentum": momentum, "weight_decay": weight_decay}
    options |= {key: value for key, value in given.items() if value is not None}
    takes = inspect.signature(kind).parameters
    for key in options:
        if key not in takes:
            raise ValueError(f"{kind.__name__} has no {key}")
    decay = options.pop("weight_decay", 0.0)
    groups = parameter_groups(model, lr, decay, 1.0 if layer_decay is None else layer_decay)
    if "weight_decay" not in takes:
        for group in groups:
            del group["weight_decay"]
    return kind(groups, lr=lr, **options)


def make_scheduler(
    name: str | None,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    steps_per_epoch: int,
    *,
    warmup_epochs: float = 0.0,
    min_lr: float = 0.0,
    step_size: int | None = None,
    gamma: float | None = None,
) -> LRScheduler | None:
    """A schedule of the learning rates, each group's by the same factor.

    Args:
        name: ``cosine`` falls to ``min_lr``; ``step`` is multiplied by ``gamma`` after every ``step_size`` epochs;
            ``onecycle`` rises to ten times the rate and falls to almost nothing (torch's ``OneCycleLR``); ``constant`` stays.
            With None or ``none`` and no warm-up there is no schedule.
        optimizer: its rates are the highest ones, but for ``onecycle``.
        epochs: how long the schedule is.
        steps_per_epoch: updates of the weights in an epoch.
        warmup_epochs: in which the rate rises in a line from almost nothing, before the schedule; for ``onecycle`` its own
            rise, by default three tenths of all.
        min_lr: of ``cosine``, where it ends; for groups with a smaller rate the same share of it.
        step_size: of ``step``, by default a third of the epochs, and one at the least.
        gamma: of ``step``, by default 0.1.

    Raises:
        ValueError: an unknown name, an option of another schedule, or a warm-up that is not shorter than the whole.
    """
    kind = "none" if name is None else name.lower()
    if kind not in SCHEDULERS:
        raise ValueError(f"unknown scheduler '{name}'{nearest(kind, SCHEDULERS)} (known: {', '.join(SCHEDULERS)})")
    for option, value, owner in (("min_lr", min_lr, "cosine"), ("step_size", step_size, "step"), ("gamma", gamma, "step")):
        if value and kind != owner:
            raise ValueError(f"{option} is of the scheduler {owner}, and this is {kind}")
    if warmup_epochs and warmup_epochs >= epochs:
        raise ValueError(f"warmup_epochs must be less than the {epochs} epochs of training, got {warmup_epochs:g}")
    base = max(group["lr"] for group in optimizer.param_groups)
    if min_lr > base:
        raise ValueError(f"min_lr must be at most lr, which is {base:g}, got {min_lr:g}")
    total = max(1, epochs * steps_per_epoch)
    warmup = round(warmup_epochs * steps_per_epoch)
    if kind == "onecycle":
        rates = [10 * group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps=total, pct_start=warmup / total if warmup else 0.3)
    after: Callable[[int], float]
    if kind == "cosine":
        after = partial(_cosine, total=total - warmup, floor=min_lr / base)
    elif kind == "step":
        length = (step_size or max(1, epochs // 3)) * steps_per_epoch
        after = partial(_steps, first=warmup, length=length, gamma=0.1 if gamma is None else gamma)
    elif kind == "constant" or warmup:
        after = _constant
    else:
        return None
    return LambdaLR(optimizer, partial(_factor, warmup=warmup, after=after))


def _factor(step: int, warmup: int, after: Callable[[int], float]) -> float:
    return (step + 1) / (warmup + 1) if step < warmup else after(step - warmup)


def _cosine(step: int, total: int, floor: float) -> float:
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(step / total, 1.0))) / 2


def _steps(step: int, first: int, length: int, gamma: float) -> float:
    return float(gamma ** ((first + step) // length))


def _constant(step: int) -> float:
    return 1.0


def _optimizers() -> dict[str, type[Any]]:
    """The classes of ``torch.optim`` by their names in lower case."""
    return {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
