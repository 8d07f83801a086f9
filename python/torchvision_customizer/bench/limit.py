"""``limit``: what moving an op's memory takes, and nothing else of it, by loads and stores of C++ on torch's own threads.

The floor is torch's own copy, which reads an activation once. An op that pools reads it at least twice, the second time from a
cache where it fits into one; the limit does the same. No kernel that makes the same passes can be much faster.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from .. import ops


@functools.cache
def _parallel_for() -> int:
    """The address of ``torch_parallel_for`` of torch's C shim."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    return ctypes.cast(library.torch_parallel_for, ctypes.c_void_p).value or 0


def reason_without(device: str) -> str | None:
    """Why there is no limit to measure, or None where there is one."""
    status = ops.native_status()
    if device != "cpu":
        return "it is measured on the CPU only"
    return None if status.cpu_loaded else f"no native library: {status.cpu_reason}"


def traffic(
    x: Tensor, residual: Tensor | None, reads: int, writes: bool, weights: Iterable[Tensor] = ()
) -> Callable[[], Tensor | None]:
    """A call that moves what an op moves.

    Args:
        x: the activation, dense and with batch first; read ``reads`` times, a sample at a time.
        residual: read with the last read of ``x``.
        reads: how often.
        writes: whether the last read of ``x`` writes an output, which is allocated in the call, as an op's is.
        weights: read once.
    """
    from .. import _native

    address, threads = _parallel_for(), torch.get_num_threads()
    size = x.numel() // x.size(0) * x.element_size()
    read_once = [(w.data_ptr(), w.numel() * w.element_size()) for w in weights]

    def call() -> Tensor | None:
        out = torch.empty_like(x) if writes else None
        _native.traffic(
            address,
            x.data_ptr(),
            0 if residual is None else residual.data_ptr(),
            0 if out is None else out.data_ptr(),
            x.size(0),
            size,
            reads,
            threads,
            read_once,
        )
        return out

    return call
