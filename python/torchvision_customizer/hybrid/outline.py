"""A model as a tree of values: what each module is, gives and costs, and where a patch can go."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from .model import HybridState
from .opened import Followed, original_class
from .places import NoPlace, graph_as_it_runs, graph_of, places_in, stage_ends
from .probe import count_flops, fake_tensors, hooks_set_aside, input_shape_of, run_fake


@dataclass(frozen=True)
class ModuleOutline:
    """A module, and those in it.

    Attributes:
        path: ``""`` is the model.
        class_name: of its class before it was patched.
        shape: of its output for one sample, or None where it does not run, or gives something else than one tensor.
        parameters: how many it has.
        flops: of one sample, two for each multiply-add.
        new: whether a patch or a new head has put it in, or it is part of what has.
        places: what ``at`` of an injection can be, for a block; for a plain stack (VGG) ``auto``, the end of each stage.
        children: the modules in it; none below the depth that was asked for.
        graph: how it runs them, each a leaf; None of a module of torch, and where its forward cannot be written as a graph.
    """

    path: str
    class_name: str
    shape: tuple[int, ...] | None
    parameters: int
    flops: int
    new: bool
    places: tuple[str, ...]
    children: tuple[ModuleOutline, ...]
    graph: fx.Graph | None = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(".")[2]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values: dict[str, Any] = {"path": self.path, "class": self.class_name}
        values |= {"shape": None if self.shape is None else list(self.shape)}
        values |= {"parameters": self.parameters, "flops": self.flops, "new": self.new, "places": list(self.places)}
        return {**values, "children": [child.to_dict() for child in self.children]}


def new_modules(model: nn.Module) -> dict[str, str]:
    """The modules that patches and a new head have put in, by path: the block, or the last part of a head's path.

    None of a model that was never patched.
    """
    state: HybridState = getattr(model, "_hybrid_state", HybridState())
    head = [layer.path for layer in state.head.layers] if state.head is not None and state.head.is_new else []
    return {edit.child_path: edit.block for edit in state.edits} | {path: path.rpartition(".")[2] for path in head}


def outline(model: nn.Module, depth: int = 3, input_shape: tuple[int, ...] | None = None) -> ModuleOutline:
    """Describe a model, run on fake tensors.

    Args:
        model: it is not touched.
        depth: how many levels of modules below the model.
        input_shape: of one sample; by default what the model was built for.
    """
    input_shape = input_shape or input_shape_of(None, model)
    shapes: dict[str, tuple[int, ...] | None] = {}

    def keep(path: str, module: nn.Module, args: Any, output: Any) -> None:
        shapes[path] = tuple(output.shape[1:]) if isinstance(output, Tensor) else None

    with fake_tensors() as mode, hooks_set_aside(model):
        for path, module in model.named_modules():
            module.register_forward_hook(partial(keep, path))
        run_fake(mode, model, input_shape)
    flops = count_flops(model, input_shape)
    new = new_modules(model)

    def describe(path: str, module: nn.Module, levels: int, in_new: bool = False) -> ModuleOutline:
        prefix = f"{path}." if path else ""
        is_new = in_new or path in new
        graph, places = _graph_and_places(path, module)
        children = [(f"{prefix}{name}", child) for name, child in module.named_children()] if levels else []
        return ModuleOutline(
            path=path,
            class_name=original_class(module).__name__,
            shape=shapes.get(path),
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            flops=flops.get(path, 0),
            new=is_new,
            places=places,
            children=tuple(
                describe(child_path, child, levels - 1, is_new or (isinstance(module, Followed) and child is module.after))
                for child_path, child in children
            ),
            graph=graph,
        )

    return describe("", model, depth)


def _graph_and_places(path: str, module: nn.Module) -> tuple[fx.Graph | None, tuple[str, ...]]:
    graph: fx.Graph | None = None
    places: tuple[str, ...] = ()
    try:
        if path:  # the model itself is no block, and offers no place
            graph = graph_of(module)
            places = places_in(module, graph)
    except NoPlace:
        pass
    # A stack of torch's own layers has no blocks; DenseNet, which has pools between its blocks, is none.
    if path and all(_of_torch(child) for child in module.children()) and stage_ends(path, module):
        places = ("auto",)
    return (graph_as_it_runs(module) if graph is None and not _of_torch(module) else graph), places


def _of_torch(module: nn.Module) -> bool:
    return original_class(module).__module__.partition(".")[0] == "torch"
