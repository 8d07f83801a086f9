"""Pictures of a run. Colours are Okabe's and Ito's, which colour-blind readers can tell apart; markers differ too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .results import ModelResult, OpResult, Run
from .suite import COMPILED, EAGER, FLOOR, FUSED, SCRIPTED, SUITE, UNPATCHED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    UNPATCHED: "#555555",
    FLOOR: "#555555",
    EAGER: "#E69F00",
    COMPILED: "#56B4E9",
    SCRIPTED: "#CC79A7",
    FUSED: "#0072B2",
}
MARKERS = {EAGER: "s", COMPILED: "^", SCRIPTED: "D", FUSED: "o"}
LABELS = {EAGER: "plain PyTorch", COMPILED: "torch.compile", SCRIPTED: "TorchScript", FUSED: "fused"}
MODEL_LABELS = {EAGER: "plain PyTorch", COMPILED: "torch.compile", FUSED: "fused", SCRIPTED: "fused, frozen TorchScript"}
_DOTS = 150


def draw(run: Run, path: Path, title: str) -> None:
    """Draw a run into a PNG file.

    Raises:
        ImportError: matplotlib is not installed; the message says what to install.
        ValueError: the run has nothing to draw.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ModuleNotFoundError as error:
        raise ImportError("plots need matplotlib: pip install 'torchvision-customizer[plot]'") from error
    figure = Figure(layout=ConstrainedLayoutEngine(rect=(0, 0.03, 1, 0.97)))
    FigureCanvasAgg(figure)  # no window, and no state of pyplot's
    if run.models:
        _draw_models(figure, run.models, title)
    elif run.ops:
        _draw_ops(figure, run.ops, title)
    else:
        raise ValueError("there is nothing to draw: the run has no results")
    figure.text(0.99, 0.005, _footer(run), ha="right", va="bottom", fontsize=7, color="#555555")
    figure.savefig(path, dpi=_DOTS)


def _footer(run: Run) -> str:
    m = run.machine
    layouts = "filled: channels_last, open: NCHW; " if run.ops else ""
    return f"{layouts}{m['device']}, {m['threads']} threads, torch {m['torch']}, {m['date'][:10]}"


def _bare(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)


def _draw_models(figure: Figure, results: Sequence[ModelResult], title: str) -> None:
    """Bars: the time of each variant in times of the unpatched model."""
    variants = [v for v in MODEL_LABELS if any(v in r.seconds for r in results)]
    height = 0.8 / max(len(variants), 1)
    figure.set_size_inches(8.5, 1.6 + 0.22 * len(results) * (len(variants) + 1))
    axes = figure.subplots()
    for index, result in enumerate(results):
        for place, variant in enumerate(v for v in variants if v in result.seconds):
            ratio = result.ratio(variant, UNPATCHED)
            y = index + (place + 0.5) * height - 0.4
            axes.barh(y, ratio.median, height * 0.88, color=COLOURS[variant])
            axes.plot([ratio.low, ratio.high], [y, y], color="black", linewidth=1)
            text = f"{MODEL_LABELS[variant]}: {ratio.median:.2f}×, {result.median(variant) * 1e3:.1f} ms"
            axes.text(0.01, y, text, va="center", fontsize=8, color="white" if variant == FUSED else "black")
    axes.axvline(1, color=COLOURS[UNPATCHED], linewidth=1.2, linestyle="--")
    names = [f"batch {r.case.batch}, {r.case.dtype}\nunpatched {r.median(UNPATCHED) * 1e3:.1f} ms" for r in results]
    axes.set_yticks(range(len(results)), names, fontsize=9)
    axes.invert_yaxis()
    right = max(r.ratio(v, UNPATCHED).high for r in results for v in variants if v in r.seconds)
    axes.set_xlim(0, right * 1.03)
    axes.set_xlabel("time, in times of the unpatched model (dashed); black: quartiles")
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    _bare(axes)


def _draw_ops(figure: Figure, results: Sequence[OpResult], title: str) -> None:
    """A row of panels for each op, direction and cache, a column for each type: times over the floor, by shape."""
    rows = list(dict.fromkeys((r.case.entry, r.case.direction, r.case.cache) for r in results))
    dtypes = list(dict.fromkeys(r.case.dtype for r in results))
    shapes = list(dict.fromkeys((r.case.shape, r.case.batch) for r in results))
    figure.set_size_inches(max(5.0, 1.2 + 0.42 * len(shapes)) * len(dtypes), 2.0 + 2.4 * len(rows))
    grid: Any = figure.subplots(len(rows), len(dtypes), squeeze=False, sharex=True, sharey="row")
    for line, row in zip(grid, rows, strict=True):
        for axes, dtype in zip(line, dtypes, strict=True):
            shown = [r for r in results if (r.case.entry, r.case.direction, r.case.cache) == row and r.case.dtype == dtype]
            _draw_op(axes, shown, shapes)
            axes.set_title(f"{row[0]}\n{row[1]}, {dtype}, {row[2]} cache", fontsize=9, loc="left")
        line[0].set_ylabel("time / floor")
    names = [f"{'×'.join(map(str, shape))}, batch {batch}" for shape, batch in shapes]
    for axes in grid[-1]:
        axes.set_xticks(range(len(shapes)), names, rotation=50, ha="right", rotation_mode="anchor", fontsize=8)
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(),
        handles.keys(),
        title=title,
        title_fontproperties={"weight": "bold", "size": 11},
        alignment="left",
        ncols=3 if len(dtypes) == 1 else 6,
        loc="outside upper left",
        frameon=False,
        fontsize=9,
    )


def _draw_op(axes: Axes, results: Sequence[OpResult], shapes: Sequence[tuple[tuple[int, int, int], int]]) -> None:
    for number, (variant, marker) in enumerate(MARKERS.items()):
        for layout, filled in (("channels_last", True), ("nchw", False)):
            points = [
                (shapes.index((r.case.shape, r.case.batch)) + 0.16 * (number - 1.5), r.ratio(variant, FLOOR).median)
                for r in results
                if r.case.layout == layout and variant in r.seconds and FLOOR in r.seconds
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    marker,
                    markersize=5,
                    markerfacecolor=COLOURS[variant] if filled else "white",
                    markeredgecolor=COLOURS[variant],
                    label=LABELS[variant],
                )
    axes.axhline(1, color=COLOURS[FLOOR], linewidth=1, label="floor: the bytes moved once")
    bound = SUITE[results[0].case.entry].bounds.floor if results else None
    if bound is not None and results[0].case.direction == "forward":
        axes.axhline(bound, color=COLOURS[FUSED], linewidth=1, linestyle="--", label="asked of fused")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    _bare(axes)
