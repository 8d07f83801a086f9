"""Modules that a patch has changed, and the way back.

``OpenedBlock`` is a block whose forward is a small graph, so that modules can be put on its edges. An ``Extension`` adds to the
class of one module, in place. Both keep every name that the original has.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, cast

from torch import Tensor, fx, nn
from torch.fx.graph_module import _format_import_block, _forward_from_src, reduce_graph_module
from torch.package.importer import sys_importer


class OpenedBlock(fx.GraphModule):
    """A block whose forward is a graph with the block's children as its leaves.

    Everything of the original is kept: children, parameters, buffers and hooks under their names and in their order, and plain
    attributes. ``opened_class`` is the class of the original and ``added`` names the children that are not of it.
    """

    opened_class: type[nn.Module]
    added: tuple[str, ...]

    __jit_ignored_attributes__: ClassVar[list[str]] = ["opened_class", "added"]

    @staticmethod
    def open(block: nn.Module, graph: fx.Graph, added: Mapping[str, nn.Module], class_prefix: str = "Patched") -> OpenedBlock:
        """A block that shares everything with ``block``, has the children ``added`` besides, and runs ``graph``."""
        opened_class = original_class(block)
        state = _module_state(block)
        state["_modules"] = {**block._modules, **added}
        state["opened_class"] = opened_class
        state["added"] = (*(block.added if isinstance(block, OpenedBlock) else ()), *added)
        return OpenedBlock._assemble(state, graph, f"{class_prefix}{opened_class.__name__}")

    @staticmethod
    def _assemble(state: Mapping[str, Any], graph: fx.Graph, class_name: str) -> OpenedBlock:
        # The constructor of GraphModule keeps only what its graph uses, in the graph's order; so it gets an empty graph first.
        opened = OpenedBlock(nn.Module(), fx.Graph(), class_name)
        opened.__dict__.update(state)
        opened.graph = graph
        return opened

    def close(self) -> nn.Module:
        """The original block, with the parameters as they are now."""
        block = self.opened_class.__new__(self.opened_class)
        state = _module_state(self)
        state["_modules"] = {name: child for name, child in self._modules.items() if name not in self.added}
        del state["opened_class"], state["added"]
        block.__dict__.update(state)
        return block

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenedBlock:
        state = copy.deepcopy({key: value for key, value in self.__dict__.items() if key != "_graph"}, memo)
        # Not through type(self): each GraphModule has a class of its own.
        return OpenedBlock._assemble(state, copy.deepcopy(self.graph), type(self).__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        # GraphModule stores its code, from which the graph is made anew: graphs have no format that lasts.
        _, arguments = super().__reduce__()
        return _load_opened, (*arguments, type(self).__name__)


_GRAPH_STATE = frozenset(fx.GraphModule(nn.Module(), fx.Graph()).__dict__) - frozenset(nn.Module().__dict__)


def _load_opened(body: dict[str, Any], import_block: str, class_name: str) -> OpenedBlock:
    graph = cast(fx.GraphModule, reduce_graph_module(dict(body), import_block)).graph
    return OpenedBlock._assemble(body, graph, class_name)


def _module_state(block: nn.Module) -> dict[str, Any]:
    """``block.__dict__`` without what belongs to its graph; the dictionaries in it are copied."""
    state = {
        key: copy.copy(value) if key.startswith("_") and isinstance(value, dict) else value
        for key, value in block.__dict__.items()
    }
    if isinstance(block, fx.GraphModule):
        state = {key: value for key, value in state.items() if key not in _GRAPH_STATE}
    return state


@contextmanager
def put_back_on_error(model: nn.Module) -> Iterator[None]:
    """If the body raises, every module of the model is of the class, and has the children and attributes, that it had before.

    Not so values of tensors; what loads them checks all of them first.
    """
    before = [(module, type(module), dict(module.__dict__), dict(module._modules)) for module in model.modules()]
    try:
        yield
    except BaseException:
        for module, kind, attributes, children in before:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._modules.clear()
            module._modules.update(children)
        raise


class Extension(nn.Module):
    """Base of mix-ins that give one module, in place, more than its class has; ``isinstance`` with the class holds on."""

    class_prefix: ClassVar[str]
    base_class: ClassVar[type[nn.Module]]
    mixin: ClassVar[type[Extension]]
    root_source: ClassVar[str | None] = None  # of a forward that open_root has made

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The extended class has no name that pickle (or deepcopy, which asks here too) could look up.
        return _new_extended, (self.mixin, self.base_class, self.root_source), self.__getstate__()


_extended_classes: dict[tuple[type[Extension], type[nn.Module]], type[Extension]] = {}


def _extended_class(mixin: type[Extension], base: type[nn.Module]) -> type[Extension]:
    key = mixin, base
    if key not in _extended_classes:
        # The module of the base: to torch.fx a convolution stays a leaf when it is followed by something.
        members: dict[str, Any] = {"__module__": base.__module__, "__doc__": mixin.__doc__, "mixin": mixin, "base_class": base}
        for listed in ("__jit_unused_properties__", "__jit_ignored_attributes__"):
            members[listed] = [*getattr(base, listed, ()), *getattr(mixin, listed, ())]
        # TorchScript reads the annotations of the first class that has any, and must find those of the base.
        members["__annotations__"] = next(filter(None, map(inspect.get_annotations, base.__mro__)), {})
        if "forward" in vars(mixin):
            # TorchScript compiles methods by their names, and does not know super().
            members["_original_forward"] = _renamed(base.forward, "_original_forward")
        extended: Any = type(mixin.class_prefix + base.__name__, (mixin, base), members)
        _extended_classes[key] = extended
    return _extended_classes[key]


def _new_extended(mixin: type[Extension], base: type[nn.Module], root_source: str | None) -> Extension:
    extended = _extended_class(mixin, base) if root_source is None else _root_class(mixin, base, root_source)
    return extended.__new__(extended)


def _renamed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    copied = types.FunctionType(function.__code__, function.__globals__, name, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    copied.__annotations__ = function.__annotations__
    return copied


def extend(module: nn.Module, mixin: type[Extension]) -> None:
    """Make ``module`` an instance of ``mixin`` too, in place."""
    module.__class__ = _extended_class(mixin, type(module))


def restore_class(module: Extension) -> None:
    """Undo ``extend``."""
    module.__class__ = cast("type[Extension]", module.base_class)


def open_root(model: nn.Module, graph: fx.Graph, added: Mapping[str, nn.Module]) -> None:
    """Let a model run ``graph``, with the children ``added`` besides, in place; it stays of its class.

    A block becomes a GraphModule; a model has to stay what it is, so its extended class gets a forward made of the graph.
    """
    code = graph.python_code("self")
    source = _format_import_block(code.globals, sys_importer) + code.src
    for name, module in added.items():
        model.add_module(name, module)
    extended = cast("type[Extension]", type(model))
    model.__class__ = _root_class(extended.mixin, extended.base_class, source)
    model._opened_children = (*getattr(model, "_opened_children", ()), *added)  # type: ignore[assignment]


def close_root(model: nn.Module) -> None:
    """Undo ``open_root``; nothing happens to a model that has its own forward."""
    for name in getattr(model, "_opened_children", ()):
        del model._modules[name]
    model.__dict__.pop("_opened_children", None)
    extended = cast("type[Extension]", type(model))
    model.__class__ = _extended_class(extended.mixin, extended.base_class)


def _root_class(mixin: type[Extension], base: type[nn.Module], source: str) -> type[Extension]:
    extended = _extended_class(mixin, base)
    members: dict[str, Any] = {
        "__module__": extended.__module__,
        "__annotations__": extended.__annotations__,
        "forward": _forward_from_src(source, {}, None),
        "root_source": source,
    }
    for listed in ("__jit_unused_properties__", "__jit_ignored_attributes__"):
        members[listed] = [*getattr(extended, listed), "root_source", "_opened_children"]
    return cast("type[Extension]", type(extended.__name__, (extended,), members))


class Followed(Extension):
    """Mix-in for a module whose output goes on through the children of ``after``.

    For modules that have no graph to open (a convolution, a norm): their own names stay as they are.
    """

    class_prefix = "Followed"
    __jit_ignored_attributes__: ClassVar[list[str]] = ["_original_forward"]
    after: nn.Sequential
    _original_forward: Callable[[Tensor], Tensor]

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.after(self._original_forward(input))
        return output


class OnTokens(Extension):
    """Mix-in for a new block at a place whose tensors have their channels last: (N, L, C) or (N, H, W, C).

    The block sees them as views, with channels second; a sequence of L tokens as an image of L×1. Nothing is copied: the fused
    ops read and write such strides as they are.
    """

    class_prefix = "Tokens"
    __jit_ignored_attributes__: ClassVar[list[str]] = ["_original_forward"]
    _original_forward: Callable[[Tensor], Tensor]

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 3:
            sequence: Tensor = self._original_forward(input.transpose(1, 2).unsqueeze(-1))
            return sequence.squeeze(-1).transpose(1, 2)
        image: Tensor = self._original_forward(input.movedim(-1, 1))
        return image.movedim(1, -1)


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before it was patched."""
    if isinstance(module, OpenedBlock):
        return module.opened_class
    if isinstance(module, Extension):
        return module.base_class
    return type(module)
