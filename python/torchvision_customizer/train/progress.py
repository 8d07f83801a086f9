"""What one sees of a training: a bar on a terminal, and a line for each epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

# To read the loss on a GPU is to wait for it, and a person does not read faster.
_SECONDS_BETWEEN_LOOKS = 0.5


class Progress:
    """A bar with loss, accuracy, images/s and the time left of an epoch; nothing where stdout is no terminal.

    Args:
        epochs: of the whole training.
        verbose: whether anything is shown at all.
    """

    def __init__(self, epochs: int, verbose: bool) -> None:
        self._epochs = epochs
        self._verbose = verbose
        self._bar: Any = None
        self._task: Any = None
        self._images = 0
        self._start = self._looked = 0.0

    def __enter__(self) -> Progress:
        if self._verbose and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self._bar = Bar(*columns, TimeRemainingColumn(), refresh_per_second=4)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, epoch: int, batches: int, done: int) -> None:
        """An epoch begins, or goes on after ``done`` of its batches."""
        if self._bar is None:
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        text = f"epoch {epoch + 1}/{self._epochs}"
        self._task = self._bar.add_task(text, total=batches, completed=done, text="")
        self._images, self._start = 0, time.perf_counter()
        self._looked = self._start

    def advance(self, images: int, look: Callable[[], tuple[float, float]]) -> None:
        """A batch is done; ``look`` gives loss and accuracy of the epoch until now, and is not called each time."""
        if self._bar is None:
            return
        self._images += images
        now = time.perf_counter()
        if now - self._looked < _SECONDS_BETWEEN_LOOKS:
            self._bar.advance(self._task)
            return
        self._looked = now
        loss, accuracy = look()
        speed = self._images / (now - self._start)
        self._bar.update(self._task, advance=1, text=f"loss {loss:.4f}  accuracy {accuracy:.2%}  {speed:,.0f} images/s")

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self._verbose:
            print(text, flush=True)
