"""What was measured on, as results state it: no host name, no path."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

import torch

from .. import ops
from .timing import measure, spread

_CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_CPU_INFO = Path("/proc/cpuinfo")
#: Taken for the last-level cache where the system does not tell its size.
ASSUMED_CACHE = 64 << 20


def cpu_name() -> str:
    """The processor, as its maker calls it."""
    if _CPU_INFO.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", _CPU_INFO.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return re.sub(r"\((R|TM)\)", "", found[1]).strip()
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """The processor, or the accelerator."""
    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()


def machine_kind(device: str = "cpu") -> str:
    """A name for a folder: the processor and how many of its cores there are, or the accelerator."""
    name = device_name(device) if device == "cuda" else f"{cpu_name()} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


@functools.cache
def last_level_cache(device: torch.device | str = "cpu") -> int:
    """Bytes of the largest cache that is shared by all, or ``ASSUMED_CACHE`` where the system does not tell."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties().L2_cache_size)
    sizes = [_bytes((index / "size").read_text()) for index in _CPU_CACHES.glob("index*") if (index / "size").is_file()]
    return max(sizes, default=ASSUMED_CACHE)


def _bytes(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    text = text.strip()
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


@functools.cache
def copy_bandwidth(device: str, threads: int) -> tuple[float, str]:
    """GB/s of copying memory far beyond the caches, reads and writes both counted, and how it was measured."""
    size = 4 * last_level_cache(device)
    if device == "cpu" and ops.native_status().cpu_loaded:
        from .. import _native

        return float(_native.copy_bandwidth(size, threads, 9)), "memcpy between two buffers"
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    seconds = measure({"copy": lambda: target.copy_(source)}).seconds["copy"]
    return 2 * size / spread(seconds).median / 1e9, "Tensor.copy_ between two buffers"


def describe(device: str = "cpu") -> dict[str, str]:
    """What a result must be read with: date, machine, versions, and who answered for the ops."""
    status = ops.native_status()
    bandwidth, method = copy_bandwidth(device, torch.get_num_threads())
    loaded, reason = (status.cuda_loaded, status.cuda_reason) if device == "cuda" else (status.cpu_loaded, status.cpu_reason)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device_name(device),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "last-level cache": f"{last_level_cache(device) / 2**20:.1f} MiB",
        "copy bandwidth": f"{bandwidth:.1f} GB/s ({method}; reads and writes counted)",
        "copy_gb_s": f"{bandwidth:.3f}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "torchvision-customizer": _version("torchvision-customizer"),
        "ops": f"native, {status.instruction_set if device == 'cpu' else 'CUDA'}" if loaded else f"reference: {reason}",
        "denormals": "flushed to zero",
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
