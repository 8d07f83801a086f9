"""Pictures of a run. Colours are Okabe's and Ito's, which colour-blind readers can tell apart; markers differ too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .results import ModelResult, OpResult, Run
from .suite import (
    AOTI,
    COMPILED,
    EAGER,
    FLOOR,
    FUSED,
    IDENTITY,
    INFERENCE,
    LIMIT,
    PLAIN_AOTI,
    PLAIN_SCRIPTED,
    SCRIPTED,
    SUITE,
    TIMM,
    UNPATCHED,
)
from .sweep import AXES, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .networks import Shape

COLOURS = {
    UNPATCHED: "#555555",
    FLOOR: "#555555",
    EAGER: "#E69F00",
    COMPILED: "#56B4E9",
    SCRIPTED: "#CC79A7",
    FUSED: "#0072B2",
    TIMM: "#009E73",
    LIMIT: "#555555",
    INFERENCE: "#56B4E9",
    IDENTITY: "#BBBBBB",
    PLAIN_SCRIPTED: "#E2B8CC",
    "pt2": "#56B4E9",
    PLAIN_AOTI: "#A5D8C6",
    AOTI: "#009E73",
    "onnx": "#F0C060",
    "onnx, translated": "#D55E00",
}
MARKERS = {LIMIT: "_", EAGER: "s", TIMM: "v", COMPILED: "^", SCRIPTED: "D", FUSED: "o"}
LABELS = {
    LIMIT: "limit: the op's memory accesses, no more",
    EAGER: "plain PyTorch",
    TIMM: "timm",
    COMPILED: "torch.compile",
    SCRIPTED: "TorchScript",
    FUSED: "fused",
}
LIBRARY_LABELS = {FUSED: "fuse", INFERENCE: "fuse(inference=True)", IDENTITY: "without attention"}
MODEL_LABELS = {
    EAGER: "plain PyTorch",
    COMPILED: "torch.compile",
    FUSED: "fused",
    INFERENCE: "fused, for inference",
    SCRIPTED: "fused, frozen TorchScript",
}
EXPORTED_LABELS = {
    FUSED: "fused",
    PLAIN_SCRIPTED: "TorchScript of plain PyTorch, frozen",
    SCRIPTED: "TorchScript, frozen",
    "pt2": "exported program",
    PLAIN_AOTI: "AOTInductor, references",
    AOTI: "AOTInductor, fused ops",
    "onnx": "onnxruntime",
    "onnx, translated": "onnxruntime, ops translated",
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
    if run.exported:
        _draw_exported(figure, run.exported, title)
    elif run.library:
        _draw_models(figure, run.library, title, LIBRARY_LABELS, EAGER, "the model as it is")
    elif run.models:
        _draw_models(figure, run.models, title, MODEL_LABELS, UNPATCHED, "the unpatched model")
    elif any(result.axis for result in run.ops):
        _draw_sweep(figure, run.ops, title)
    elif run.ops:
        _draw_ops(figure, run.ops, title)
    else:
        raise ValueError("there is nothing to draw: the run has no results")
    figure.text(0.99, 0.005, _footer(run), ha="right", va="bottom", fontsize=7, color="#555555")
    figure.savefig(path, dpi=_DOTS)


def _footer(run: Run) -> str:
    m = run.machine
    both = run.ops and not any(result.axis for result in run.ops)
    layouts = "filled: channels_last and tokens, open: NCHW; " if both else ""
    return f"{layouts}{m['device']}, {m['threads']} threads, torch {m['torch']}, {m['date'][:10]}"


def _bare(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)


def _draw_models(
    figure: Figure, results: Sequence[ModelResult], title: str, labels: Mapping[str, str], base: str, base_name: str
) -> None:
    """Bars: the time of each variant in times of ``base``."""
    variants = [v for v in labels if any(v in r.seconds for r in results)]
    height = 0.8 / max(len(variants), 1)
    figure.set_size_inches(8.5, 1.6 + 0.22 * len(results) * (len(variants) + 1))
    axes = figure.subplots()
    for index, result in enumerate(results):
        for place, variant in enumerate(v for v in variants if v in result.seconds):
            ratio = result.ratio(variant, base)
            y = index + (place + 0.5) * height - 0.4
            axes.barh(y, ratio.median, height * 0.88, color=_colour(variant))
            axes.plot([ratio.low, ratio.high], [y, y], color="black", linewidth=1)
            text = f"{labels[variant]}: {ratio.median:.2f}×, {result.median(variant) * 1e3:.1f} ms"
            # On white: the line of the unpatched model must not cross it.
            white = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            axes.text(max(ratio.median, ratio.high) + 0.015, y, text, va="center", fontsize=8, bbox=white, zorder=3)
    axes.axvline(1, color=COLOURS[UNPATCHED], linewidth=1.2, linestyle="--", zorder=2)
    axes.set_yticks(range(len(results)), [_model_name(r, base) for r in results], fontsize=9)
    axes.invert_yaxis()
    right = max(r.ratio(v, base).high for r in results for v in variants if v in r.seconds)
    axes.set_xlim(0, max(1.0, right) * 1.45)  # with room for the words at a bar's end
    axes.set_xlabel(f"time, in times of {base_name} (dashed); black: quartiles")
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    _bare(axes)


def _draw_exported(figure: Figure, results: Sequence[ModelResult], title: str) -> None:
    """Bars in times of the first variant, which all results have."""
    base = next(iter(results[0].seconds))
    variants = dict.fromkeys(v for r in results for v in r.seconds if v != base)
    labels = {variant: EXPORTED_LABELS.get(variant, variant) for variant in variants}
    name = "the model in plain PyTorch" if base == EAGER else base
    _draw_models(figure, results, title, labels, base, name)


def _colour(variant: str) -> str:
    """That of the variant, or of the format of a file, which its name begins with."""
    return COLOURS.get(variant) or COLOURS[variant.partition(":")[0]]


def _model_name(result: ModelResult, base: str) -> str:
    case = result.case
    name = f"{' '.join((case.backbone, *case.patches))}, " if case.exported or not case.patches else ""
    return f"{name}batch {case.batch}, {case.dtype}\n{'eager' if base == EAGER else base} {result.median(base) * 1e3:.1f} ms"


def _draw_sweep(figure: Figure, results: Sequence[OpResult], title: str) -> None:
    """A row for each op, a panel for each axis: the time of a call, both axes logarithmic."""
    rows = list(dict.fromkeys(_kind(r) for r in results))
    columns = [axis for axis in AXES if any(r.axis == axis for r in results)]
    figure.set_size_inches(4.2 * len(columns), 1.4 + 2.9 * len(rows))
    grid: Any = figure.subplots(len(rows), len(columns), squeeze=False, sharey="row", sharex="col")
    for line, row in zip(grid, rows, strict=True):
        for axes, axis in zip(line, columns, strict=True):
            points = [
                r for r in results if r.axis == axis and row == (r.case.entry, r.case.direction, r.case.dtype, r.case.layout)
            ]
            points.sort(key=lambda r: value_of(axis, r.case))
            _draw_axis(axes, axis, points)
            axes.set_title("" if axis != columns[0] else f"{row[0]}\n{', '.join(row[1:])}", fontsize=9, loc="left")
        line[0].set_ylabel("time of a call, µs")
    units = {"batch": "batch, samples", "channels": "channels", "resolution": "resolution, height = width in positions"}
    for axes, axis in zip(grid[-1], columns, strict=True):
        axes.set_xlabel(f"{units[axis]}\n({_fixed(axis, results)})", fontsize=9)
    _legend(figure, grid, title, ncols=4)


def _kind(result: OpResult) -> tuple[str, str, str, str]:
    case = result.case
    return case.entry, case.direction, case.dtype, case.layout


def _draw_axis(axes: Axes, axis: str, points: Sequence[OpResult]) -> None:
    for variant, label in {FLOOR: "floor: the bytes moved once", **LABELS}.items():
        shown = [r for r in points if variant in r.seconds]
        if shown:
            axes.plot(
                [value_of(axis, r.case) for r in shown],
                [r.median(variant) * 1e6 for r in shown],
                marker=MARKERS.get(variant, ""),
                linestyle=":" if variant == LIMIT else "-",
                markersize=4,
                linewidth=1.2,
                color=COLOURS[variant],
                label=label,
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    values = sorted({value_of(axis, r.case) for r in points})
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(_decades())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(color="#DDDDDD", linewidth=0.6)
    _bare(axes)


def _decades() -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1.0, 2.0, 5.0))


def _fixed(axis: str, results: Sequence[OpResult]) -> str:
    """What does not grow along an axis."""
    case = next(r.case for r in results if r.axis == axis)
    parts = {"batch": f"batch {case.batch}", "channels": f"{case.shape[0]} channels", "resolution": _positions(case.shape)}
    return ", ".join(text for name, text in parts.items() if name != axis)


def _positions(shape: Sequence[int]) -> str:
    return f"{'×'.join(map(str, shape[1:]))} positions"


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
            base = EAGER if row[1] == "training" else FLOOR  # of a whole step there is no floor
            _draw_op(axes, shown, shapes, base)
            axes.set_title(f"{row[0]}\n{row[1]}, {dtype}, {row[2]} cache", fontsize=9, loc="left")
        line[0].set_ylabel("time / plain PyTorch" if row[1] == "training" else "time / floor")
    names = [f"{'×'.join(map(str, shape))}, batch {batch}" for shape, batch in shapes]
    for axes in grid[-1]:
        axes.set_xticks(range(len(shapes)), names, rotation=50, ha="right", rotation_mode="anchor", fontsize=8)
    _legend(figure, grid, title, ncols=3 if len(dtypes) == 1 else 4)


def _legend(figure: Figure, grid: Any, title: str, ncols: int) -> None:
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(),
        handles.keys(),
        title=title,
        title_fontproperties={"weight": "bold", "size": 11},
        alignment="left",
        ncols=ncols,
        loc="outside upper left",
        frameon=False,
        fontsize=9,
    )


def _draw_op(axes: Axes, results: Sequence[OpResult], shapes: Sequence[tuple[Shape, int]], base: str) -> None:
    for number, (variant, marker) in enumerate(MARKERS.items()):
        for filled in (True, False):
            points = [
                (shapes.index((r.case.shape, r.case.batch)) + 0.13 * (number - 2.5), r.ratio(variant, base).median)
                for r in results
                if (r.case.layout != "nchw") == filled and variant in r.seconds and base in r.seconds
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
    axes.axhline(
        1, color=COLOURS[FLOOR], linewidth=1, label="1: floor, the bytes moved once" if base == FLOOR else "1: plain PyTorch"
    )
    bound = SUITE[results[0].case.entry].bounds.floor if results else None
    if bound is not None and results[0].case.direction == "forward":
        axes.axhline(bound, color=COLOURS[FUSED], linewidth=1, linestyle="--", label="asked of fused")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    _bare(axes)
