"""Loss and accuracy: of a batch, of an epoch, of a loader."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .batches import Batches, split_batch

if TYPE_CHECKING:
    from accelerate import Accelerator

# The weight of the auxiliary heads of GoogLeNet (https://arxiv.org/abs/1409.4842), and of the one of Inception v3.
_AUXILIARY = {2: 0.3, 1: 0.4}

Criterion = Callable[[Any, Tensor], Tensor]


def outputs_of(output: Any) -> tuple[Tensor, ...]:
    """What a model gives: logits, and after them those of auxiliary heads."""
    return (output,) if isinstance(output, Tensor) else tuple(part for part in output if part is not None)


def loss_of(outputs: tuple[Tensor, ...], targets: Tensor, criterion: Criterion) -> Tensor:
    """The loss, in which auxiliary heads count for less."""
    logits, *others = outputs
    loss = criterion(logits, targets)
    for other in others:
        loss = loss + _AUXILIARY.get(len(others), 0.3) * criterion(other, targets)
    return loss


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """Which predictions are right. Targets are classes, or a probability for each class."""
    return logits.argmax(1) == (targets.argmax(1) if targets.ndim == logits.ndim else targets)


def new_sums(device: torch.device) -> Tensor:
    """Loss times images, right predictions, predictions, images: in float64 where the device has it."""
    return torch.zeros(4, device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)


@torch.no_grad()
def add_to(
    sums: Tensor, loss: Tensor, outputs: tuple[Tensor, ...], targets: Tensor, criterion: Criterion, counted: int
) -> None:
    """Add a batch of which the first ``counted`` images count; ``loss`` is that of all of it."""
    if counted == 0:
        return
    if counted < len(targets):
        outputs, targets = tuple(output[:counted] for output in outputs), targets[:counted]
        loss = loss_of(outputs, targets, criterion)
    right = hits(outputs[0], targets)
    sums[0] += loss.detach() * counted
    sums[1] += right.sum()
    sums[2] += right.numel()
    sums[3] += counted


def averages(sums: Tensor) -> tuple[float, float]:
    """Mean loss over images, and accuracy as a share; NaN where there is nothing."""
    loss, right, predictions, images = sums.tolist()
    return loss / images if images else math.nan, right / predictions if predictions else math.nan


@torch.no_grad()
def evaluate(
    accelerator: Accelerator, model: nn.Module, batches: Batches, criterion: Criterion, layout: Any
) -> tuple[float, float]:
    """Mean loss over the images of all processes, and accuracy. The training flags are as before afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    sums = new_sums(accelerator.device)
    try:
        for batch in batches.epoch(0):
            images, targets = split_batch(batch)
            with accelerator.autocast():
                logits = outputs_of(model(in_layout(layout, images)))[:1]
            logits = (logits[0].float(),)
            add_to(sums, loss_of(logits, targets, criterion), logits, targets, criterion, len(images))
    finally:
        for module in training:
            module.training = True
    return averages(accelerator.reduce(sums, "sum"))


def in_layout(layout: Any, images: Tensor) -> Tensor:
    """Images (N, C, H, W) in a memory format; others as they are."""
    return images if layout is None or images.ndim != 4 else images.contiguous(memory_format=layout)
