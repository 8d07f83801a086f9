"""Drawings as SVG, made from the library itself: blocks from their graphs, activations from their values, models as
``tvc inspect --plot`` draws them, and the package from its own imports.

Inline drawings take the colours of the page, light or dark.
"""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Iterable
from html import escape
from pathlib import Path

import torch
from torch import fx, nn

import torchvision_customizer as tvc
from torchvision_customizer.hybrid.picture import draw
from torchvision_customizer.hybrid.places import NoPlace, graph_of

PACKAGE = Path(__file__).parents[1] / "python" / "torchvision_customizer"

# Pictures of patched models: file, model, patches.
MODELS = {
    "resnet50-se.svg": ("resnet50", {"layer*": {"inject": "se"}}),
    "swin_t-eca.svg": ("swin_t", {"*": {"inject": "eca"}}),
    "vgg11_bn-se.svg": ("vgg11_bn", {"features": {"inject": "se"}}),
    "squeezenet1_1-cbam.svg": ("squeezenet1_1", {"*": {"inject": "cbam"}}),
    "mobilenet_v3_small-swaps.svg": (
        "mobilenet_v3_small",
        {"type:Hardswish": {"replace": "gelu"}, "avgpool": {"replace": "gem"}},
    ),
}


def of_models() -> dict[str, str]:
    """The picture of each model, by the path that pages use."""
    import matplotlib

    found = {}
    with tempfile.TemporaryDirectory() as folder, matplotlib.rc_context({"svg.hashsalt": "tvc", "svg.fonttype": "path"}):
        for name, (backbone, patches) in MODELS.items():
            model = tvc.HybridBuilder().from_torchvision(backbone, weights=None, patches=patches, verbose=False)
            found[f"drawings/{name}"] = draw(model, Path(folder) / name).read_text(encoding="utf-8")
    return found


# ---- blocks ----

_ROW, _LETTER, _PAD = 40, 7.2, 14
_FUNCTIONS = {"iadd": "add", "imul": "mul", "getitem": "", "matmul": "@", "truediv": "/", "sub": "-"}


# Blocks that are one op: what happens in it.
_FUSED = {
    "SEBlock": "x -> mean: over positions, (N, C) -> fc1, activation: (N, C / reduction) -> fc2, gate: (N, C) -> "
    "x * gate: (N, C, *)",
    "ECABlock": "x -> mean: over positions, (N, C) -> conv1d, gate: along the channels -> x * gate: (N, C, *)",
    "CBAMBlock": "x -> mean and max: over positions, (N, C) -> mlp, gate: of both, added -> y = x * gate: (N, C, H, W) -> "
    "mean and max: over channels, (N, 2, H, W) -> conv2d, gate: (N, 1, H, W) -> y * gate: (N, C, H, W)",
    "GeM": "x -> max(x, eps) ^ p: (N, C, H, W) -> mean: over positions -> ^ (1 / p): (N, C, 1, 1)",
    "DropPath": "x -> mask: one draw for each sample -> x * mask: divided by the probability to keep",
}


def graph(block: nn.Module) -> str:
    """What a block computes: its children and functions, each below what it needs; nothing where there is no graph to show."""
    if (fused := _FUSED.get(type(block).__name__)) is not None:
        return steps(fused)
    try:
        nodes = [node for node in graph_of(block).nodes if node.op != "get_attr"]
    except NoPlace:
        return ""
    nodes = [node for node in nodes if node.op in ("call_module", "output") or node.users]
    depth: dict[fx.Node, int] = {}
    for node in nodes:
        depth[node] = 1 + max((depth[source] for source in node.all_input_nodes if source in depth), default=-1)
    labels = {node: _label(block, node) for node in nodes}
    if not 3 <= len(nodes) <= 24:
        return ""
    rows = [[node for node in nodes if depth[node] == level] for level in range(max(depth.values()) + 1)]
    widths = {node: _LETTER * len(labels[node]) + _PAD for node in nodes}
    width = max(sum(widths[node] + _PAD for node in row) for row in rows) + 60
    middle, place = width / 2, {}
    for level, row in enumerate(rows):
        left = middle - sum(widths[node] + _PAD for node in row) / 2 + _PAD / 2
        for node in row:
            place[node] = (left + widths[node] / 2, 22 + level * _ROW)
            left += widths[node] + _PAD
    parts = []
    for node in nodes:
        for source in (source for source in node.all_input_nodes if source in place):
            parts.append(_edge(place[source], place[node], depth[node] - depth[source], width))
    for node in nodes:
        parts.append(_node(place[node], widths[node], labels[node], "leaf" if node.op == "call_module" else "plain"))
    return _svg(width, len(rows) * _ROW + 4, parts, f"The graph of {type(block).__name__}")


def _label(block: nn.Module, node: fx.Node) -> str:
    if node.op in ("placeholder", "output"):
        return str(node.target)
    if node.op == "call_module":
        return f"{node.target}: {_short(block.get_submodule(str(node.target)))}"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return _FUNCTIONS.get(name, name) or "item"


def _short(module: nn.Module) -> str:
    name = type(module).__name__
    if isinstance(module, nn.Conv2d):
        size = "×".join(map(str, module.kernel_size))
        return f"{name} {size}, {module.in_channels}→{module.out_channels}" + (
            f", groups {module.groups}" if module.groups > 1 else ""
        )
    if isinstance(module, nn.Linear):
        return f"{name} {module.in_features}→{module.out_features}"
    return name


def _edge(start: tuple[float, float], end: tuple[float, float], rows: int, width: float) -> str:
    (x0, y0), (x1, y1) = (start[0], start[1] + 12), (end[0], end[1] - 12)
    if rows == 1 or abs(x0 - x1) > 60:
        bend = (y1 - y0) / 2
        return (
            f'<path class="edge" d="M{x0:.0f},{y0:.0f} C{x0:.0f},{y0 + bend:.0f} {x1:.0f},{y1 - bend:.0f} {x1:.0f},{y1:.0f}"/>'
        )
    side, middle = width - 8, (y0 + y1) / 2  # around what stands between
    down = f"M{x0:.0f},{y0 - 12:.0f} C{side:.0f},{y0 - 12:.0f} {side:.0f},{y0 + 12:.0f} {side:.0f},{middle:.0f}"
    return f'<path class="edge" d="{down} C{side:.0f},{y1:.0f} {side:.0f},{y1 + 12:.0f} {x1 + 8:.0f},{y1 + 12:.0f}"/>'


def _node(place: tuple[float, float], width: float, label: str, kind: str) -> str:
    x, y = place
    return (
        f'<rect class="{kind}" x="{x - width / 2:.0f}" y="{y - 12:.0f}" width="{width:.0f}" height="24" rx="4"/>'
        f'<text x="{x:.0f}" y="{y + 4:.0f}">{escape(label)}</text>'
    )


def _svg(width: float, height: float, parts: Iterable[str], title: str, kind: str = "drawing") -> str:
    """One line, which Markdown leaves alone."""
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    head = f'<svg class="{kind}" role="img" aria-label="{escape(title)}" {size} xmlns="http://www.w3.org/2000/svg">'
    return f'<div class="drawing-box">{head}{"".join(parts)}</svg></div>'


def curve(activation: nn.Module) -> str:
    """The values of an activation from -4 to 4."""
    x = torch.linspace(-4, 4, 161)
    with torch.no_grad():
        y = activation(x.view(1, 1, -1).expand(1, 32, -1) if any(True for _ in activation.parameters()) else x).reshape(
            -1, 161
        )[0]
    points = " ".join(
        f"{(a + 4) * 30:.1f},{(4 - b) * 15:.1f}" for a, b in zip(x.tolist(), y.clamp(-4, 4).tolist(), strict=True)
    )
    ends = "".join(f'<text class="small" x="{x}" y="72">{end}</text>' for x, end in ((10, -4), (232, 4)))
    axes = f'<path class="axis" d="M0,60 H240 M120,0 V120"/>{ends}'
    return _svg(
        240,
        120,
        [axes, f'<polyline class="curve" points="{points}"/>'],
        f"{type(activation).__name__} from -4 to 4",
        "drawing curve",
    )


# ---- the package ----

# From what users call to what everything stands on.
LAYERS = (
    ("cli",),
    ("recipe", "templates", "pages", "bench"),
    ("deploy", "train"),
    ("hybrid", "compose", "fusion"),
    ("blocks", "layers", "utils"),
    ("ops", "registry", "patches", "errors"),
)


def imports() -> dict[str, set[str]]:
    """Which parts of the package import which, at the top of a file or within a function."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.level == 0:
                continue
            base = own[: len(own) - node.level]
            targets = [base + tuple(node.module.split("."))] if node.module else [(*base, alias.name) for alias in node.names]
            found.setdefault(own[0], set()).update(target[0] for target in targets if target and target[0] != own[0])
    return found


def structure(_: str) -> str:
    """The parts of the package in layers, with what each imports."""
    known = imports()
    there = (path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
    parts_there = [name for name in there if not name.startswith("_")]
    layers = [[name for name in layer if name in parts_there] for layer in LAYERS]
    missing = set(parts_there) - {name for layer in layers for name in layer}
    assert not missing, f"docs/_drawings.py: LAYERS does not know {sorted(missing)}"
    place = {}
    width = 640
    for level, layer in enumerate(layers):
        for index, name in enumerate(layer):
            place[name] = (width * (index + 0.5) / len(layer), 30 + 72 * level)
    drawn = []
    for name, targets in known.items():
        for target in sorted(targets & place.keys()) if name in place else ():
            (x0, y0), (x1, y1) = place[name], place[target]
            if y1 > y0:
                drawn.append(f'<path class="edge faint" d="M{x0:.0f},{y0 + 14:.0f} L{x1:.0f},{y1 - 14:.0f}"/>')
    drawn += [_node((x, y), _LETTER * len(name) + 30, name, "leaf") for name, (x, y) in place.items()]
    low = 30 + 72 * len(layers)
    drawn.append(f'<path class="edge" d="M{place["ops"][0]:.0f},{low - 58:.0f} V{low - 14:.0f}"/>')
    drawn.append(
        _node(
            (width / 2, low), width - 40, "libtvc_ops.so: csrc/schema.cpp, csrc/cpu    libtvc_ops_cuda.so: csrc/cuda", "plain"
        )
    )
    return _svg(width, low + 30, drawn, "The parts of the package, and what each imports")


def steps(text: str) -> str:
    """``a -> b -> c``, as boxes one below the other; what follows a colon is said beside the box."""
    rows = [row.partition(": ") for row in text.split(" -> ")]
    letters = max(len(name) for name, _, _ in rows)
    left = _LETTER * letters + 40
    width = left + 7 * max(len(about) for _, _, about in rows) + 10
    parts = []
    for index, (name, _, about) in enumerate(rows):
        y = 22 + index * _ROW
        if index:
            parts.append(_edge((left / 2, y - _ROW), (left / 2, y), 1, width))
        parts.append(_node((left / 2, y), left - 20, name, "leaf"))
        parts.append(f'<text class="about" x="{left:.0f}" y="{y + 4}">{escape(about)}</text>')
    return _svg(width, len(rows) * _ROW + 4, parts, ", then ".join(name for name, _, _ in rows))
