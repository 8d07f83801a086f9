"""accelerate: that it is there, and an ``Accelerator`` of the wanted kind."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

_MISSING = "Trainer needs accelerate, which is not installed: pip install torchvision-customizer[train]"


def processes(device: str | torch.device = "auto") -> PartialState:
    """The processes that train together, and the device of this one.

    Raises:
        ImportError: accelerate is not installed.
        ValueError: a device that is not there, or another one than that of this process of several.
    """
    try:
        from accelerate import PartialState
        from accelerate.state import AcceleratorState
    except ModuleNotFoundError as error:
        if error.name != "accelerate":
            raise
        raise ImportError(_MISSING) from None
    wanted = None if device == "auto" else torch.device(device)
    if wanted is not None and wanted.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {wanted} is asked for, and torch finds no GPU")
    cpu = wanted is not None and wanted.type == "cpu"
    if PartialState._shared_state and PartialState().num_processes == 1 and PartialState()._cpu != cpu:
        # accelerate keeps the first device for the life of a process; transformers' Trainer starts it anew, too.
        AcceleratorState._reset_state(reset_partial_state=True)
    state = PartialState(cpu=cpu)
    several = wanted is not None and wanted.index is not None and state.num_processes > 1
    if wanted is not None and (wanted.type != state.device.type or (several and wanted != state.device)):
        raise ValueError(f"device {wanted} is asked for, and accelerate runs on {state.device}")
    return state


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU that is named by its number the present one, which is what accelerate takes."""
    return torch.cuda.device(device) if device.type == "cuda" and device.index is not None else nullcontext()


def make_accelerator(device: torch.device, precision: str, compile: bool, output: Any, tracker: Any) -> Accelerator:
    """An ``Accelerator``; one that was made before, of another kind, must not be used any more.

    Raises:
        ImportError: a tracker that is not installed.
        ValueError: an unknown tracker.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    processes(device)
    AcceleratorState._reset_state()
    mixed = "no" if precision == "fp32" else precision
    names = [tracker] if isinstance(tracker, str) else list(tracker or ())
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=mixed,
        dynamo_backend="inductor" if compile else None,
        log_with=names or None,
        project_dir=output,
    )
    if len(accelerator.log_with) < len(names):
        raise ImportError(f"one of the trackers {', '.join(map(str, names))} is not installed")
    return accelerator
