"""What one sees of a training run: numbers for each epoch, a picture of them, and a file that grows line by line."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of Okabe's and Ito's colours, as in the pictures of the benchmarks.
_TRAIN, _VAL, _BEST = "#E69F00", "#0072B2", "#555555"
_DOTS = 150
_COLUMNS = ("train_losses", "train_accs", "val_losses", "val_accs", "epoch_times", "learning_rates")
_NAMES = ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time", "learning_rate")


class TrainingMetrics:
    """The numbers of a run, epoch by epoch.

    Accuracies are shares, from 0 to 1; epochs count from 0; times are in seconds. Where there was no validation, its lists hold
    None.

    Attributes:
        train_losses: mean loss over the training images.
        train_accs: share of them that was right.
        val_losses: the same of the validation images.
        val_accs: the same.
        epoch_times: how long each epoch took.
        learning_rates: the highest of the optimizer's at its end, or None.
    """

    def __init__(self) -> None:
        self.train_losses: list[float] = []
        self.train_accs: list[float] = []
        self.val_losses: list[float | None] = []
        self.val_accs: list[float | None] = []
        self.epoch_times: list[float] = []
        self.learning_rates: list[float | None] = []

    def __len__(self) -> int:
        return len(self.train_losses)

    @property
    def best_epoch(self) -> int | None:
        """That of the highest validation accuracy, the first of equals; without validation that of the lowest loss."""
        accuracies = [(accuracy, -epoch) for epoch, accuracy in enumerate(self.val_accs) if accuracy is not None]
        if accuracies:
            return -max(accuracies)[1]
        losses = [(loss, epoch) for epoch, loss in enumerate(self.train_losses) if loss == loss]
        return min(losses)[1] if losses else None

    @property
    def best_val_acc(self) -> float | None:
        """The highest validation accuracy, or None where there was no validation."""
        return max((accuracy for accuracy in self.val_accs if accuracy is not None), default=None)

    def update(
        self,
        epoch: int,
        train_loss: float,
        train_acc: float,
        val_loss: float | None = None,
        val_acc: float | None = None,
        epoch_time: float = 0.0,
        learning_rate: float | None = None,
    ) -> bool:
        """Note the numbers of an epoch. Those of this epoch and of later ones that are there already are forgotten.

        Returns:
            Whether it is the best epoch so far.

        Raises:
            ValueError: an epoch before it is missing.
        """
        if not 0 <= epoch <= len(self):
            raise ValueError(f"the next epoch is {len(self)}, got {epoch}")
        numbers = (train_loss, train_acc, val_loss, val_acc, epoch_time, learning_rate)
        for column, number in zip(_COLUMNS, numbers, strict=True):
            values = getattr(self, column)
            del values[epoch:]
            values.append(None if number is None else float(number))
        return self.best_epoch == epoch

    def summary(self) -> str:
        """A few lines."""
        if not len(self):
            return "No epoch was trained."
        total = sum(self.epoch_times)
        lines = [f"{len(self)} epoch{'s' if len(self) > 1 else ''} in {total:.1f} s, {total / len(self):.1f} s each"]
        lines.append(f"training: loss {self.train_losses[-1]:.4f}, accuracy {self.train_accs[-1]:.2%}")
        best, last_loss, last = self.best_val_acc, self.val_losses[-1], self.val_accs[-1]
        if last is not None and last_loss is not None:
            lines.append(f"validation: loss {last_loss:.4f}, accuracy {last:.2%}")
        if best is not None and self.best_epoch is not None:
            lines.append(f"best validation accuracy: {best:.2%}, after epoch {self.best_epoch + 1}")
        else:
            lines.append("there was no validation")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, the best epoch among them."""
        columns = {column: list(getattr(self, column)) for column in _COLUMNS}
        return {**columns, "best_val_acc": self.best_val_acc, "best_epoch": self.best_epoch}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_dict`` has given.

        Raises:
            ValueError: it is something else.
        """
        metrics = cls()
        columns = [values.get(column) for column in _COLUMNS]
        if not all(isinstance(column, list) for column in columns) or len({len(column or ()) for column in columns}) != 1:
            raise ValueError(f"the metrics of a run are lists of equal length under {', '.join(_COLUMNS)}")
        for name, column in zip(_COLUMNS, columns, strict=True):
            setattr(metrics, name, list(column or ()))
        return metrics

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write the numbers to a file that ``from_json`` reads."""
        return write_whole(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read what ``to_json`` has written.

        Raises:
            ValueError: it is something else.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} holds no metrics of a run: {error}") from error

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write a table with a line for each epoch; what was not measured is empty."""
        stream = io.StringIO()
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("epoch", *_NAMES))
        columns = [getattr(self, column) for column in _COLUMNS]
        table.writerows((epoch, *row) for epoch, row in enumerate(zip(*columns, strict=True)))
        return write_whole(path, stream.getvalue())

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw loss and accuracy over the epochs; the ending of ``path`` says as what (png, svg, pdf).

        Raises:
            ImportError: matplotlib is not installed; the message says what to install.
            ValueError: there is no epoch to draw.
        """
        if not len(self):
            raise ValueError("there is nothing to draw: no epoch was trained")
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise ImportError("plots need matplotlib: pip install 'torchvision-customizer[plot]'") from error
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        FigureCanvasAgg(figure)  # no window, and no state of pyplot's
        left, right = figure.subplots(1, 2)
        self._draw(left, "loss", self.train_losses, self.val_losses)
        percent = [[None if value is None else 100 * value for value in values] for values in (self.train_accs, self.val_accs)]
        self._draw(right, "accuracy, %", *percent)
        best, epoch = self.best_val_acc, self.best_epoch
        if best is not None and epoch is not None:
            right.plot([epoch + 1], [100 * best], "o", markersize=9, markerfacecolor="none", markeredgecolor=_BEST)
            right.set_title(f"best validation accuracy: {best:.2%}, after epoch {epoch + 1}", fontsize=9, loc="left")
        target = Path(path)
        figure.savefig(target, dpi=_DOTS)
        return target

    def _draw(self, axes: Axes, label: str, train: list[Any], val: list[Any]) -> None:
        from matplotlib.ticker import MaxNLocator

        for name, values, colour, mark in (("training", train, _TRAIN, "s-"), ("validation", val, _VAL, "o-")):
            points = [(epoch, value) for epoch, value in enumerate(values, start=1) if value is not None]
            if points:
                axes.plot(*zip(*points, strict=True), mark, color=colour, label=name, markersize=3 if len(points) > 1 else 6)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)


class MetricsFile:
    """A file of JSON lines, one for each thing that happened, that can be read while the run goes on.

    Args:
        path: the file; it is gone on with where it is there.
        resume_step: that from which the run goes on: lines of later steps, which will come again, and a torn last line are
            dropped. By default whatever is there is replaced.
    """

    def __init__(self, path: str | os.PathLike[str], resume_step: int | None = None) -> None:
        self.path = Path(path)
        kept = "" if resume_step is None else "".join(_lines_until(self.path, resume_step))
        write_whole(self.path, kept)
        self._stream: TextIO = self.path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a line, and hand it to the operating system."""
        self._stream.write(json.dumps(dict(record)) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lines_until(path: Path, step: int) -> list[str]:
    if not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            continue  # torn when the process was killed
        if line.endswith("\n") and record.get("step", 0) <= step:
            kept.append(line)
    return kept


def write_whole(path: str | os.PathLike[str], text: str) -> Path:
    """Write a file that is there as a whole or as it was before."""
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target


def _umask() -> int:
    """What the process takes from the rights of a new file; it can only be read by setting it."""
    current = os.umask(0o022)
    os.umask(current)
    return current
