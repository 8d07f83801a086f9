"""What a page says of a model, as plain values: modules in a list, how they run each other, parts, edits and the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..compose import VisionModel
from ..hybrid.model import HybridModel
from ..hybrid.opened import original_class
from ..hybrid.outline import ModuleOutline, new_modules, outline
from ..hybrid.probe import input_shape_of
from ..hybrid.saving import composed_recipe
from ..hybrid.views import anatomy_of
from ..recipe.builder import ABOUT
from ..recipe.yaml_loader import as_yaml
from .flow import flow
from .timing import module_seconds

# All of a model: no network has modules in modules this deep.
_ALL_LEVELS = 100


def model_contents(
    model: nn.Module,
    input_shape: tuple[int, ...] | None = None,
    *,
    time: bool = False,
    runs: int = 5,
    marks: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A model as the values of a page.

    Args:
        model: patched or not; it is not touched.
        input_shape: of one sample; by default what the model was built for.
        time: whether each module is timed, too.
        runs: how many runs are timed.
        marks: signs of modules, by path; by default ``+`` of what patches and a new head have put in.

    Returns:
        ``name class input_shape parameters flops before timed parts edits recipe modules``. ``modules`` is in the order of
        the model, which is the first; ``children`` are indices of it. Parameters, FLOPs and seconds of a module are those
        with the modules in it.

    Raises:
        ValueError: a model on ``meta`` cannot be timed.
    """
    about = model.__dict__.get(ABOUT, {})
    shape = input_shape or tuple(about.get("input_shape", ())) or input_shape_of(None, model)
    root = outline(model, _ALL_LEVELS, shape)
    seconds = module_seconds(model, shape, runs) if time else {}
    modules = {module["path"]: module for module in _modules(model, root, seconds, marks, new_modules(model))}
    index = {path: number for number, path in enumerate(modules)}
    for module in modules.values():
        module["children"] = [index[path] for path in module["children"]]
    report = model.report if isinstance(model, HybridModel) else None
    return {
        "name": about.get("name") or (report.backbone if report else original_class(model).__name__),
        "class": root.class_name,
        "input_shape": list(shape),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops": root.flops,
        "before": {"parameters": report.parameters_before, "flops": report.flops_before} if report else None,
        "timed": {"runs": runs, "device": _device(model), "threads": torch.get_num_threads()} if time else None,
        "parts": _parts(model, shape, modules),
        "edits": model.modifications if isinstance(model, HybridModel) else [],
        "recipe": _recipe(model),
        "modules": list(modules.values()),
    }


def _modules(
    model: nn.Module,
    module: ModuleOutline,
    seconds: Mapping[str, float],
    marks: Mapping[str, str] | None,
    new: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    mark = ("+" if module.new else "") if marks is None else marks.get(module.path, "")
    yield {
        "path": module.path,
        "class": module.class_name,
        "shape": None if module.shape is None else list(module.shape),
        "parameters": module.parameters,
        "flops": _flops(module),
        **({"seconds": _seconds(module, seconds)} if seconds else {}),
        "mark": mark,
        "block": new.get(module.path),
        "places": list(module.places),
        "flow": flow(model.get_submodule(module.path), module.graph),
        "children": [child.path for child in module.children],
    }
    for child in module.children:
        yield from _modules(model, child, seconds, marks, new)


# A list of modules is never run itself, and costs what is in it.


def _flops(module: ModuleOutline) -> int:
    return module.flops or sum(map(_flops, module.children))


def _seconds(module: ModuleOutline, seconds: Mapping[str, float]) -> float | None:
    inside = [value for child in module.children if (value := _seconds(child, seconds)) is not None]
    return seconds.get(module.path, sum(inside) if inside else None)


def _parts(model: nn.Module, shape: tuple[int, ...], modules: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Stem, stages and head, where the model has stages."""
    try:
        parts = anatomy_of(model, shape).parts
    except ValueError:
        return []
    found = []
    for title, paths, stage in parts:
        parameters = {p: p.numel() for path in paths for p in model.get_submodule(path).parameters()}
        found.append(
            {
                "title": title,
                "text": "" if stage is None else str(stage).rpartition(": ")[2],
                "paths": list(paths),
                "parameters": sum(parameters.values()),
                "flops": sum(modules[path]["flops"] for path in paths),
            }
        )
    return [part for part in found if part["paths"]]


def _recipe(model: nn.Module) -> str | None:
    """What makes the model anew, or None of a model that this package did not make."""
    if isinstance(model, VisionModel) and not getattr(model, "modifications", ()):
        try:
            recipe = composed_recipe(model)
        except ValueError:  # a part is no stem, stage or head
            return None
    elif isinstance(model, HybridModel):
        recipe = model.recipe
    else:
        return None
    return as_yaml(recipe)


def _device(model: nn.Module) -> str:
    return str(next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu")))
