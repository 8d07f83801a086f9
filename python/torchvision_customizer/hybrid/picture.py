"""A picture of a model: its stages in a row, the blocks of each in a column, and what patches have put in, in colour."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .model import HybridModel
from .opened import original_class
from .outline import new_modules
from .views import anatomy_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of Okabe's and Ito's colours, as in the pictures of the benchmarks.
_NEW, _STAGE, _EDGE, _TEXT, _QUIET = "#E69F00", "#EAF3FA", "#0072B2", "#222222", "#555555"
_DOTS = 150
_LETTERS, _HEADING, _HEADLINE = 7.5, 9.0, 11.0  # in points
# In inches.
_ROW, _GAP, _PAD, _HEADER, _TITLE, _WIDEST = 0.24, 0.3, 0.1, 0.62, 0.75, 17.0


@dataclass(frozen=True)
class _Row:
    path: str
    class_name: str
    is_new: bool
    inside: tuple[str, ...]  # new modules in it, in words


@dataclass(frozen=True)
class _Column:
    title: str
    lines: tuple[str, ...]
    rows: tuple[_Row, ...]

    @property
    def shared(self) -> str:
        """The part of their paths that all rows have."""
        levels = zip(*(row.path.split(".")[:-1] for row in self.rows), strict=False)
        return ".".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels))

    @property
    def heading(self) -> str:
        return f"{self.title}: {self.shared}" if self.shared else self.title

    def label(self, row: _Row) -> str:
        return f"{row.path.removeprefix(f'{self.shared}.')}  {row.class_name}"

    @cached_property
    def width(self) -> float:
        rows = [_width(self.label(row)) + sum(_width(text) + 2 * _PAD for text in row.inside) for row in self.rows]
        header = max(_width(self.heading, _HEADING), *map(_width, self.lines))
        return max(header, *(row + 2 * _PAD for row in rows)) + 2 * _PAD

    @property
    def height(self) -> float:
        return _HEADER + len(self.rows) * _ROW + _PAD


def draw(model: HybridModel, path: str | os.PathLike[str]) -> Path:
    """Draw a model into a picture; the ending of ``path`` says of which kind (png, svg, pdf).

    Args:
        model: patched or not; it is not touched.
        path: the file.

    Returns:
        The file.

    Raises:
        ImportError: matplotlib is not installed; the message says what to install.
        FileNotFoundError: there is no such folder.
        ValueError: the model has no stages, or matplotlib does not know the kind of file.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError("plots need matplotlib: pip install 'torchvision-customizer[plot]'") from error
    file = Path(path)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"draw: there is no folder {file.parent}")
    lines = _broken(_columns(model))
    title = _title(model)
    widths = [sum(column.width + _GAP for column in line) for line in lines]
    width = max(*widths, _width(title, _HEADLINE) + _GAP) + _GAP
    height = _TITLE + sum(max(column.height for column in line) + _GAP for line in lines)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)  # no window, and no state of pyplot's
    # One unit is an inch, so that what fits its box fits in every picture.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    _draw_title(axes, title, bool(new_modules(model)))
    top = _TITLE
    for line in lines:
        left = _GAP
        for column in line:
            _draw_column(axes, column, left, top)
            left += column.width + _GAP
            if column is not lines[-1][-1]:
                arrow: dict[str, Any] = {"arrowstyle": "->", "color": _QUIET}
                axes.annotate("", (left - 0.04, top + 0.3), (left - _GAP + 0.04, top + 0.3), arrowprops=arrow)
        top += max(column.height for column in line) + _GAP
    figure.savefig(file, dpi=_DOTS)
    return file


def _columns(model: HybridModel) -> list[_Column]:
    anatomy = anatomy_of(model, model._hybrid_state.input_shape)
    new = new_modules(model)
    found = []
    for title, paths, stage in anatomy.parts:
        channels = "" if stage is None else str(stage).rpartition(": ")[2]
        parameters = {p: p.numel() for path in paths for p in model.get_submodule(path).parameters()}
        size = f"{sum(parameters.values()):,} parameters"
        rows = tuple(row for path in paths for row in _rows(path, model.get_submodule(path), new))
        if rows:
            found.append(_Column(title, (channels, size) if channels else (size,), rows))
    return found


def _rows(path: str, module: nn.Module, new: Mapping[str, str]) -> list[_Row]:
    """The blocks of a module: itself, or its children where it only holds blocks one behind the other.

    ``new`` has what is written of new modules, by path.
    """
    plain = original_class(module) in (nn.Sequential, nn.ModuleDict)
    stacked = isinstance(module, nn.ModuleDict) or type(module).forward is nn.Sequential.forward
    # RegNet's stages are of a class of their own, and so is a convolution with its norm, which holds layers of torch.
    holds_blocks = any(original_class(child).__module__.partition(".")[0] != "torch" for child in module.children())
    if path not in new and stacked and (plain or holds_blocks):
        return [row for name, child in module.named_children() for row in _rows(f"{path}.{name}", child, new)]
    names = Counter(name for inner, name in new.items() if inner.startswith(f"{path}."))
    inside = tuple(name if count == 1 else f"{name} ×{count}" for name, count in names.items())
    return [_Row(path, original_class(module).__name__, path in new, inside)]


def _broken(columns: list[_Column]) -> list[list[_Column]]:
    """Columns in lines that are not wider than a page."""
    lines: list[list[_Column]] = [[]]
    for column in columns:
        if lines[-1] and sum(other.width + _GAP for other in [*lines[-1], column]) > _WIDEST:
            lines.append([])
        lines[-1].append(column)
    return lines


def _title(model: HybridModel) -> str:
    report = model.report
    size = "×".join(map(str, report.input_shape))
    costs = f"{report.parameters_after / 1e6:.2f} M parameters, {report.flops_after / 1e9:.2f} GFLOPs for one sample of {size}"
    return f"{report.backbone}: {costs}"


def _draw_title(axes: Axes, title: str, changed: bool) -> None:
    axes.text(_GAP, 0.32, title, fontsize=_HEADLINE, fontweight="bold", color=_TEXT, va="center")
    legend = "put in by a patch, or a new head" if changed else "nothing is changed"
    if changed:
        _box(axes, _GAP, 0.5, 0.2, 0.14, _NEW)
    axes.text(_GAP + 0.28 * changed, 0.57, legend, fontsize=_LETTERS, color=_QUIET, va="center_baseline")


def _draw_column(axes: Axes, column: _Column, left: float, top: float) -> None:
    _box(axes, left, top, column.width, column.height, _STAGE, _EDGE)
    axes.text(left + _PAD, top + 0.15, column.heading, fontsize=_HEADING, fontweight="bold", color=_TEXT, va="center")
    for index, line in enumerate(column.lines):
        axes.text(left + _PAD, top + 0.33 + 0.15 * index, line, fontsize=_LETTERS, color=_QUIET, va="center")
    for index, row in enumerate(column.rows):
        y = top + _HEADER + index * _ROW
        _box(axes, left + _PAD, y, column.width - 2 * _PAD, _ROW - 0.04, _NEW if row.is_new else "white", _QUIET)
        _write(axes, left + 1.5 * _PAD, y, column.label(row))
        right = left + column.width - 1.25 * _PAD
        for text in reversed(row.inside):
            width = _width(text) + _PAD
            _box(axes, right - width, y + 0.03, width, _ROW - 0.1, _NEW)
            _write(axes, right - width + _PAD / 2, y, text)
            right -= width + _PAD / 2


def _box(axes: Axes, x: float, y: float, width: float, height: float, colour: str, edge: str = "none") -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=edge, linewidth=0.6))


def _write(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(x, y + (_ROW - 0.04) / 2, text, fontsize=_LETTERS, color=_TEXT, va="center_baseline")


@cache
def _width(text: str, size: float = _LETTERS) -> float:
    """How wide a text is, in inches, with room for the rounding of letters to whole dots."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    weight = "normal" if size == _LETTERS else "bold"
    width: float = TextPath((0, 0), text, size=size, prop=FontProperties(weight=weight)).get_extents().x1
    return 1.05 * width / 72
