"""A model as a tree of values: what each module is, gives and costs, and where a patch can go."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from .model import HybridModel
from .opened import Followed, original_class
from .places import places_of, stage_ends
from .probe import count_flops, fake_tensors, hooks_set_aside, run_fake


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
    """

    path: str
    class_name: str
    shape: tuple[int, ...] | None
    parameters: int
    flops: int
    new: bool
    places: tuple[str, ...]
    children: tuple[ModuleOutline, ...]

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


def new_modules(model: HybridModel) -> tuple[str, ...]:
    """Paths of the modules that patches and a new head have put in."""
    state = model._hybrid_state
    head = [layer.path for layer in state.head.layers] if state.head is not None and state.head.is_new else []
    return (*(edit.child_path for edit in state.edits), *head)


def outline(model: HybridModel, depth: int = 3) -> ModuleOutline:
    """Describe a model, run on fake tensors.

    Args:
        model: it is not touched.
        depth: how many levels of modules below the model.
    """
    input_shape = model._hybrid_state.input_shape
    shapes: dict[str, tuple[int, ...] | None] = {}

    def keep(path: str, module: nn.Module, args: Any, output: Any) -> None:
        shapes[path] = tuple(output.shape[1:]) if isinstance(output, Tensor) else None

    with fake_tensors() as mode, hooks_set_aside(model):
        for path, module in model.named_modules():
            module.register_forward_hook(partial(keep, path))
        run_fake(mode, model, input_shape)
    flops = count_flops(model, input_shape)
    new = set(new_modules(model))

    def describe(path: str, module: nn.Module, levels: int, in_new: bool = False) -> ModuleOutline:
        prefix = f"{path}." if path else ""
        is_new = in_new or path in new
        children = [(f"{prefix}{name}", child) for name, child in module.named_children()] if levels else []
        return ModuleOutline(
            path=path,
            class_name=original_class(module).__name__,
            shape=shapes.get(path),
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            flops=flops.get(path, 0),
            new=is_new,
            places=_places(path, module) if path else (),
            children=tuple(
                describe(child_path, child, levels - 1, is_new or (isinstance(module, Followed) and child is module.after))
                for child_path, child in children
            ),
        )

    return describe("", model, depth)


def _places(path: str, module: nn.Module) -> tuple[str, ...]:
    # A stack of torch's own layers has no blocks; DenseNet, which has pools between its blocks, is none.
    is_plain = all(original_class(child).__module__.partition(".")[0] == "torch" for child in module.children())
    return ("auto",) if is_plain and stage_ends(path, module) else places_of(module)
