"""What training holds in memory: what autograd saves between forward and backward, and the most that is allocated at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        saved: what autograd keeps for the backward, each storage once, without parameters.
        peak: the most that forward and backward have allocated at once, on top of what was there before.
    """

    saved: int
    peak: int


def memory_of(
    forward: Callable[[], Tensor],
    backward: Callable[[Tensor], object],
    parameters: Iterable[Tensor],
    device: torch.device,
) -> Memory:
    """Measure one forward and backward.

    Args:
        forward: gives what ``backward`` takes.
        backward: the gradients.
        parameters: what is there with or without autograd, and not counted.
        device: where the tensors are.
    """
    backward(forward())  # what is allocated only once is there from now on

    def step() -> None:
        backward(forward())

    return Memory(saved_bytes(forward, parameters), peak_bytes(step, device))


def saved_bytes(forward: Callable[[], object], parameters: Iterable[Tensor] = ()) -> int:
    """Bytes of the storages that autograd saves in a forward, each counted once, without those of ``parameters``."""
    uncounted = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    saved: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in uncounted:
            saved[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = forward()  # held until all is counted: freed memory would be given out again at the same address
    del out
    return sum(saved.values())


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """The most that ``step`` has allocated at once, on top of what was there before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    assert found.profiler is not None and found.profiler.kineto_results is not None
    allocated = largest = 0
    # The allocator's own events, in the order of time: what was allocated, or, negative, freed.
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            largest = max(largest, allocated)
    return largest
