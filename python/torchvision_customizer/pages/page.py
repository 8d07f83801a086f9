"""Writes the pages: a frame, a style and a script from the files beside this one, and the values as JSON."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn

from ..hybrid.diff import Change, ModelDiff, ModuleChange, diff
from ..recipe.yaml_loader import write_text
from .contents import model_contents

_STYLE, _SCRIPTS = "page.css", ("layout.js", "graph.js", "table.js", "page.js")
# So that no text can end the script element that the values are in. JSON has these signs in strings only.
_ESCAPED = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


def model_page(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    input_shape: tuple[int, ...] | None = None,
    time: bool = False,
    runs: int = 5,
) -> Path:
    """Write a page on a model: its graph, with patched places marked, a table of its modules, and its recipe.

    The file needs nothing else, and no network.

    Args:
        model: any model of images, patched or not; it is not touched.
        path: the file; one that exists is replaced.
        input_shape: (C, H, W) of an image; by default what the model was built for.
        time: whether each module is timed, too, in evaluation mode, on the model's device.
        runs: how many runs are timed; the page shows their median.

    Returns:
        The file.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: fewer than one run, or a model on ``meta``, which takes no time.
    """
    contents = model_contents(model, input_shape, time=time, runs=runs)
    file = Path(path).expanduser()
    write_text(file, page(contents["name"], {"kind": "model", "models": [contents]}))
    return file


def diff_page(
    a: nn.Module,
    b: nn.Module,
    path: str | os.PathLike[str],
    *,
    input_shape: tuple[int, ...] | None = None,
    names: tuple[str, str] | None = None,
) -> Path:
    """Write a page on what differs between two models: the graphs of both with marks, tables of changes and of modules.

    Args:
        a: the first model; it is not touched, and neither is
        b: the second. Values are compared where neither is on ``meta``; see ``diff``.
        path: the file; one that exists is replaced.
        input_shape: (C, H, W) of an image; by default what each model was built for.
        names: what the models are called; by default as they call themselves.

    Returns:
        The file.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    found = diff(a, b)
    models = [model_contents(model, input_shape, marks=_marks(found, model)) for model in (a, b)]
    for model, name in zip(models, names or (), strict=False):
        model["name"] = name
    changes = [
        {"mark": change.mark, "path": change.path, "text": str(change), "kind": kind, "parameters": _more(change)}
        for kind, of_kind in (("module", found.modules), ("tensor", found.tensors))
        for change in of_kind
    ]
    title = f"{models[0]['name']} and {models[1]['name']}"
    file = Path(path).expanduser()
    write_text(file, page(title, {"kind": "diff", "models": models, "changes": changes}))
    return file


def _more(change: Change) -> int | None:
    """How many parameters more the second model has by a change, or None where it is no module."""
    return None if not isinstance(change, ModuleChange) else -change.parameters if change.mark == "-" else change.parameters


def _marks(found: ModelDiff, model: nn.Module) -> dict[str, str]:
    """The signs of a model's modules: of those that differ, and ``~`` of those whose own tensors do."""
    tensors = {change.path.rpartition(".")[0]: "~" for change in found.tensors}
    marks = tensors | {change.path: change.mark for change in found.modules}
    return {path: marks[path] for path, _ in model.named_modules() if path in marks}


def page(title: str, values: Mapping[str, Any]) -> str:
    """The text of a page.

    Args:
        title: of the window, as plain text.
        values: what the page shows, as plain values. Names in it are shown and never run: they are in JSON, the script puts
            them in as text, and the page runs no other script than its own, by its hash.
    """
    folder = files(__package__)
    style = folder.joinpath(_STYLE).read_text(encoding="utf-8")
    script = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    versions = {name: version(name) for name in ("torchvision-customizer", "torch", "torchvision")}
    data = json.dumps({**values, "versions": versions}, allow_nan=False, separators=(",", ":"))
    frame = folder.joinpath("page.html").read_text(encoding="utf-8")
    pieces = {
        "title": html.escape(title),
        "style": style,
        "style-hash": _hash(style),
        "script": script,
        "script-hash": _hash(script),
        "data": data.translate(_ESCAPED),
    }
    # In one pass from the left: what has been put in may have anything in it.
    found: list[str] = []
    for part in frame.split("{{"):
        name, closed, rest = part.partition("}}")
        found += [pieces[name], rest] if closed else [part]
    return "".join(found)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
