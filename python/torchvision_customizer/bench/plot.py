"""Pictures of a run. Colours are Okabe's and Ito's, which colour-blind readers can tell apart; markers differ too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .results import ModelResult, OpResult, Run
from .suite import SUITE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "unpatched": "#555555",
    "floor": "#555555",
    "eager": "#E69F00",
    "compile": "#56B4E9",
    "torchscript": "#CC79A7",
    "fused": "#0072B2",
}
MARKERS = {"eager": "s", "compile": "^", "torchscript": "D", "fused": "o"}
LABELS = {
    "eager": "plain PyTorch",
    "compile": "torch.compile",
    "torchscript": "TorchScript",
    "fused": "fused",
}
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
        _draw_models(figure, run.models)
    elif run.ops:
        _draw_ops(figure, run.ops)
    else:
        raise ValueError("there is nothing to draw: the run has no results")
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    figure.text(0.99, 0.005, _footer(run), ha="right", va="bottom", fontsize=7, color="#555555")
    figure.savefig(path, dpi=_DOTS)


def _footer(run: Run) -> str:
    m = run.machine
    return f"{m['device']}, {m['threads']} threads, torch {m['torch']}, {m['date'][:10]}"


def _bare(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)


def _draw_models(figure: Figure, results: Sequence[ModelResult]) -> None:
    """Bars: the time of each variant in times of the unpatched model."""
    variants = [v for v in LABELS if any(v in r.seconds for r in results)]
    height = 0.8 / max(len(variants), 1)
    figure.set_size_inches(8.5, 1.3 + 0.26 * len(results) * (len(variants) + 1))
    axes = figure.subplots()
    for index, result in enumerate(results):
        for place, variant in enumerate(v for v in variants if v in result.seconds):
            ratio = result.ratio(variant, "unpatched")
            y = index + (place + 0.5) * height - 0.4
            axes.barh(y, ratio.median, height * 0.9, color=COLOURS[variant], label=LABELS[variant] if index == 0 else None)
            axes.plot([ratio.low, ratio.high], [y, y], color="black", linewidth=1)
            text = f" {ratio.median:.2f}×  {result.median(variant) * 1e3:.1f} ms"
            axes.text(max(ratio.high, ratio.median), y, text, va="center", fontsize=8)
    axes.axvline(1, color=COLOURS["unpatched"], linewidth=1.2, linestyle="--")
    names = [
        f"batch {r.case.batch}, {r.case.dtype}\n{'training step' if r.case.training else 'inference'}"
        f"\n({r.median('unpatched') * 1e3:.1f} ms unpatched)"
        for r in results
    ]
    axes.set_yticks(range(len(results)), names, fontsize=9)
    axes.invert_yaxis()
    right = max(r.ratio(v, "unpatched").high for r in results for v in variants if v in r.seconds)
    axes.set_xlim(0, right * 1.25)
    axes.set_xlabel("time, in times of the unpatched torchvision model (dashed)")
    axes.legend(ncols=len(variants), loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9, borderaxespad=0.2)
    _bare(axes)


def _draw_ops(figure: Figure, results: Sequence[OpResult]) -> None:
    """A panel for each op, direction and type: times over the floor, by shape."""
    panels = list(dict.fromkeys((r.case.entry, r.case.direction, r.case.cache) for r in results))
    dtypes = list(dict.fromkeys(r.case.dtype for r in results))
    shapes = list(dict.fromkeys((r.case.shape, r.case.batch) for r in results))
    figure.set_size_inches(max(4.0, 1.6 + 0.32 * len(shapes)) * len(dtypes), 1.2 + 2.6 * len(panels))
    grid: Any = figure.subplots(len(panels), len(dtypes), squeeze=False, sharex=True, sharey="row")
    for row, panel in zip(grid, panels, strict=True):
        for axes, dtype in zip(row, dtypes, strict=True):
            shown = [r for r in results if (r.case.entry, r.case.direction, r.case.cache) == panel and r.case.dtype == dtype]
            _draw_op(axes, shown, shapes)
            entry, direction, cache = panel
            axes.set_title(f"{entry}, {direction}, {dtype}, {cache} cache", fontsize=9, loc="left")
        row[0].set_ylabel("times the floor")
    for axes in grid[-1]:
        axes.set_xticks(
            range(len(shapes)), [f"{b}×{'×'.join(map(str, s))}" for s, b in shapes], rotation=60, ha="right", fontsize=7
        )
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), ncols=len(handles), loc="outside upper right", frameon=False, fontsize=8)


def _draw_op(axes: Axes, results: Sequence[OpResult], shapes: Sequence[tuple[tuple[int, int, int], int]]) -> None:
    for variant, marker in MARKERS.items():
        for layout, filled in (("channels_last", True), ("nchw", False)):
            points = [
                (shapes.index((r.case.shape, r.case.batch)), r.ratio(variant, "floor").median)
                for r in results
                if r.case.layout == layout and variant in r.seconds and "floor" in r.seconds
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    marker,
                    markersize=5,
                    markerfacecolor=COLOURS[variant] if filled else "white",
                    markeredgecolor=COLOURS[variant],
                    label=f"{LABELS[variant]}{'' if filled else ' (NCHW)'}",
                )
    axes.axhline(1, color=COLOURS["floor"], linewidth=1)
    bound = SUITE[results[0].case.entry].bounds.floor if results else None
    if bound is not None and results[0].case.direction == "forward":
        axes.axhline(bound, color=COLOURS["fused"], linewidth=1, linestyle="--")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    _bare(axes)
