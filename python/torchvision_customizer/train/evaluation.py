"""How right a classifier is: top-1, top-5, by class, and what it takes for what."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

_TOP = 5
_DOTS = 150


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        count: images.
        loss: mean over the images.
        top1: share of images whose class got the highest score.
        top5: share of images whose class was among the five highest; None where there are no more than five classes.
        confusion: int64 (classes, classes): how many images of the class of a row were taken for that of a column.
        classes: their names.
    """

    count: int
    loss: float
    top1: float
    top5: float | None
    confusion: Tensor
    classes: tuple[str, ...]

    @property
    def per_class(self) -> list[float | None]:
        """For each class the share of its images that was right, or None where it has no image."""
        rows = zip(self.confusion.diagonal().tolist(), self.confusion.sum(1).tolist(), strict=True)
        return [right / count if count else None for right, count in rows]

    def most_confused(self, count: int = 3) -> list[tuple[str, str, int]]:
        """What is mistaken most often: a class, what it is taken for, and how many times."""
        wrong = self.confusion.clone()
        wrong.fill_diagonal_(0)
        values, places = wrong.flatten().sort(descending=True, stable=True)
        size = len(self.classes)
        pairs = zip(values[:count].tolist(), places[:count].tolist(), strict=True)
        return [(self.classes[place // size], self.classes[place % size], value) for value, place in pairs if value]

    def summary(self) -> str:
        """A few lines."""
        top5 = "" if self.top5 is None else f", top-5 {self.top5:.2%}"
        lines = [f"{self.count} images: accuracy {self.top1:.2%}{top5}, loss {self.loss:.4f}"]
        known = [(share, name) for share, name in zip(self.per_class, self.classes, strict=True) if share is not None]
        if known:
            worst, best = min(known), max(known)
            lines.append(f"by class from {worst[0]:.2%} ({worst[1]}) to {best[0]:.2%} ({best[1]})")
        mistakes = [f"{count} of {true} for {taken}" for true, taken, count in self.most_confused()]
        if mistakes:
            lines.append(f"most often mistaken: {', '.join(mistakes)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "count": self.count,
            "loss": self.loss,
            "top1": self.top1,
            "top5": self.top5,
            "classes": list(self.classes),
            "per_class": self.per_class,
            "confusion": self.confusion.tolist(),
        }

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw the confusion matrix, each row as shares of its class; the ending of ``path`` says as what (png, svg, pdf).

        Raises:
            ImportError: matplotlib is not installed; the message says what to install.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise ImportError("plots need matplotlib: pip install 'torchvision-customizer[plot]'") from error
        size = len(self.classes)
        side = min(14.0, 2.5 + 0.42 * size)
        figure = Figure(figsize=(side + 0.8, side), layout="constrained")
        FigureCanvasAgg(figure)  # no window, and no state of pyplot's
        axes = figure.subplots()
        shares = 100 * self.confusion.double() / self.confusion.sum(1, keepdim=True).clamp(min=1)
        image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=100)
        figure.colorbar(image, ax=axes, label="of the images of a class, %", shrink=0.8)
        # Names and numbers are for what can be read.
        if size <= 40:
            axes.set_xticks(range(size), self.classes, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
            axes.set_yticks(range(size), self.classes, fontsize=8)
        if size <= 20:
            for row, column in ((row, column) for row in range(size) for column in range(size)):
                share = float(shares[row, column])
                if share >= 0.05:
                    shown, colour = (f"{share:.0f}" if share >= 10 else f"{share:.1f}"), "white" if share > 50 else "black"
                    axes.text(column, row, shown, ha="center", va="center", fontsize=7, color=colour)
        axes.set_xlabel("taken for")
        axes.set_ylabel("class")
        axes.set_title(f"accuracy {self.top1:.2%} on {self.count:,} images", fontsize=10, loc="left")
        target = Path(path)
        figure.savefig(target, dpi=_DOTS)
        return target


def evaluate(
    model: Callable[[Tensor], Any],
    loader: Iterable[Any],
    *,
    classes: Sequence[str] | None = None,
    criterion: nn.Module | None = None,
    device: torch.device | str | None = None,
    accelerator: Accelerator | None = None,
) -> Evaluation:
    """Look at all images of a loader once.

    Under accelerate every image counts once, in however many processes and however uneven the last batches are, and every
    process gets the same result.

    Args:
        model: what gives scores (N, classes): a module, which is in evaluation mode meanwhile, or any function. Of more outputs
            than one the first counts.
        loader: batches of images and labels; with ``accelerator`` as it has prepared it.
        classes: their names; by default their numbers.
        criterion: of scores and labels, a mean over the images it is given; by default cross-entropy.
        device: where the images go; by default where the model is. With ``accelerator`` they are there already.
        accelerator: that of the run.

    Raises:
        ValueError: there is no image, or there are more classes than names.
    """
    module = model if isinstance(model, nn.Module) else nn.Identity()
    if device is None and accelerator is None:
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
    tally = _Tally(criterion or F.cross_entropy)
    with _evaluating(module), torch.inference_mode():
        for images, labels in loader:
            if accelerator is None:
                images, labels = images.to(device), labels.to(device)
            scores = model(images)
            scores = scores if isinstance(scores, Tensor) else scores[0]
            if accelerator is not None:
                scores, labels = accelerator.gather_for_metrics((scores, labels))
            tally.add(scores.float(), labels)
    return tally.result(classes)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; every module has its own flag back afterwards, frozen norms in a training model too."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Tally:
    """Sums over batches."""

    def __init__(self, criterion: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._criterion = criterion
        self._count = 0
        self._loss = torch.zeros((), dtype=torch.float64)
        self._top = torch.zeros((), dtype=torch.int64)
        self._confusion = torch.zeros(0, 0, dtype=torch.int64)

    def add(self, scores: Tensor, labels: Tensor) -> None:
        if not len(labels):
            return
        if not self._count:
            size = scores.shape[1]
            self._loss, self._top = self._loss.to(scores.device), self._top.to(scores.device)
            self._confusion = torch.zeros(size, size, dtype=torch.int64, device=scores.device)
        size = len(self._confusion)
        true = labels.argmax(1) if labels.dim() == 2 else labels
        if int(true.max()) >= size:
            raise ValueError(f"the model tells {size} classes apart, and an image is of class {int(true.max())}")
        self._count += len(labels)
        self._loss += self._criterion(scores, labels).double() * len(labels)
        if size > _TOP:
            self._top += (scores.topk(_TOP, dim=1).indices == true[:, None]).sum()
        self._confusion += torch.bincount(true * size + scores.argmax(1), minlength=size * size).view(size, size)

    def result(self, names: Sequence[str] | None) -> Evaluation:
        if not self._count:
            raise ValueError("there is nothing to evaluate: the loader has no image")
        confusion = self._confusion.cpu()
        size = len(confusion)
        names = [str(number) for number in range(size)] if names is None else names
        if len(names) != size:
            raise ValueError(f"the model tells {size} classes apart, and there are {len(names)} names")
        right = int(confusion.diagonal().sum())
        top = int(self._top) / self._count if size > _TOP else None
        return Evaluation(self._count, float(self._loss) / self._count, right / self._count, top, confusion, tuple(names))
