"""Running statistics for norms whose input has changed: estimated anew from data, without training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .model import is_frozen


def calibrate(model: nn.Module, loader: Iterable[Any], batches: int | None = None) -> int:
    """Estimate the running statistics of a model's batch norms anew: the plain mean over batches.

    For a model in which something was replaced before its norms, or whose norms are new. Weights stay as they are. Norms
    normalise by the statistics of the batch meanwhile; everything else is in evaluation mode, so that the statistics are those
    of what inference sees. ``torch.optim.swa_utils.update_bn`` does not fit: it has dropout and stochastic depth drop, moves
    norms that are frozen, and leaves a model half-changed after an error.

    Args:
        model: on the device where it shall run.
        loader: batches: tensors, or tuples and lists whose first item is one.
        batches: how many of them at most; by default all.

    Returns:
        How many norms there were. Not among them are frozen ones: a ``FrozenBatchNorm``, or a norm whose parameters are all
        frozen.

    Raises:
        ValueError: there is no such norm, no batch, or a batch is something else. After an error, one of the model's own
            included, the statistics are what they were.
    """
    if batches is not None and batches < 1:
        raise ValueError(f"batches must be at least 1, got {batches!r}")
    tracking = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    norms = [norm for norm in tracking if not is_frozen(norm)]
    if not norms:
        found = f"its {len(tracking)} batch norms are frozen" if tracking else "it has no batch norm with running statistics"
        raise ValueError(f"nothing to calibrate in {type(model).__name__}: {found}")
    device, seen = next(norms[0].buffers()).device, 0
    with _estimating(model, norms), torch.no_grad():
        for batch in itertools.islice(loader, batches):
            model(_input_of(batch).to(device))
            seen += 1
        if not seen:
            raise ValueError("the loader has no batch to calibrate with")
    return len(norms)


def _input_of(batch: Any) -> Tensor:
    first = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(first, Tensor):
        raise ValueError(f"a batch must be a tensor, or a tuple that begins with one, got {type(first).__name__}")
    return first


@contextmanager
def _estimating(model: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    """Within it, ``norms`` gather means over batches, and they alone are in training mode. An error undoes all of it."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # the plain mean
            norm.reset_running_stats()
        yield
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for name, buffer in buffers.items():
                norm.get_buffer(name).copy_(buffer)
        raise
    finally:
        for module, mode in modes:
            module.training = mode
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
