"""Fuse the tail of patched residual blocks: attention, addition and activation become one call, and one pass over memory.

A patched block is a :class:`torch.fx.GraphModule`, and what fuses is its graph: ``relu(se(x) + identity)`` becomes
``se(x, identity, "relu", True)``, where True says that ``x`` may be overwritten. No module is added, removed or moved, so
every state-dict key stays as it is.
"""

from __future__ import annotations

import copy
import inspect
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .hybrid.model import HybridModel
from .hybrid.probe import fake_tensors, input_shape_of, run_fake

_ADD_FUNCTIONS = (operator.add, operator.iadd, torch.add)
_ADD_METHODS = ("add", "add_")
_IN_PLACE_ADDS = (operator.iadd, "add_")

# What an epilogue block can apply last, under the names of the ops' ``post``.
_POST_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Hardswish: "hardswish",
}
_POST_FUNCTIONS: dict[Callable[..., Any], str] = {
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.silu: "silu",
    F.gelu: "gelu",
    F.hardswish: "hardswish",
}
_POST_METHODS = {"relu": "relu", "relu_": "relu"}

_MAKE_NEW_TENSORS = (nn.modules.batchnorm._BatchNorm, nn.modules.conv._ConvNd)

# Where a fused model keeps what :func:`unfuse` needs: an entry of its __dict__, which copies and pickles like any other.
_STATE = "_fused_tails"


@dataclass(frozen=True)
class FusedTail:
    """A fused place: ``post(module(x) + identity)`` in ``block`` is one call of ``module``. Both are dotted paths."""

    block: str
    module: str
    post: str


@dataclass(frozen=True)
class UntouchedTail:
    """A module that could take a tail, and why it did not. Its dotted path."""

    module: str
    reason: str


@dataclass(frozen=True)
class FuseReport:
    """What :func:`fuse` did: the places it fused, and those it left as they were."""

    fused: tuple[FusedTail, ...]
    untouched: tuple[UntouchedTail, ...]

    def summary(self) -> str:
        """A line for what was fused, and one for each place that was not."""
        if not self.fused and not self.untouched:
            return "nothing to fuse: the model has no block that takes a residual and an activation (such as SEBlock)"
        places = "1 tail" if len(self.fused) == 1 else f"{len(self.fused)} tails"
        lines = [f"fused {places} of {len(self.fused) + len(self.untouched)}"]
        lines += [f"{place.module}: {place.reason}" for place in self.untouched]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Call:
    """A node as plain values, to be made again: its kind, its target, what follows its first operand, and its name."""

    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str

    @classmethod
    def of(cls, node: fx.Node, operands: int) -> _Call:
        return cls(node.op, node.target, node.args[operands:], dict(node.kwargs), node.name)

    def make(self, graph: fx.Graph, *operands: fx.Node) -> fx.Node:
        return graph.create_node(self.op, self.target, (*operands, *self.args), self.kwargs, self.name)


@dataclass(frozen=True)
class _Tail:
    """A fused tail as it was: the names and calls that :func:`unfuse` writes back."""

    name: str
    add: _Call
    block_first: bool
    post: _Call | None


class _Refused(Exception):
    """A place that does not fuse; the message is the reason in the report."""


def fuse(model: nn.Module, *, example_input: Tensor | None = None) -> FuseReport:
    """Fuse, in place, the tail of every patched residual block: ``relu(se(x) + identity)`` becomes one call.

    The numbers, gradients, parameters and state-dict keys are those of the model before, up to rounding; training, scripting,
    exporting and compiling work as before. :func:`unfuse` takes it back. Fusing twice does no more than fusing once.

    Args:
        model: a patched model, or a model that contains one.
        example_input: an input the model takes. It is not computed with: it only tells shapes, because a residual that would be
            broadcast cannot be fused. By default the input the model was patched for, or (2, 3, 224, 224).

    Returns:
        The fused places, and for each other place the reason. A model with nothing to fuse is unchanged, with a warning.
    """
    blocks = [(name, module) for name, module in model.named_modules() if isinstance(module, fx.GraphModule)]
    candidates = [(name, block, node) for name, block in blocks for node in block.graph.nodes if _is_epilogue(block, node)]
    shapes = _probe_shapes(model, [block for _, block, _ in candidates], example_input) if candidates else {}
    tails: dict[str, _Tail] = dict(vars(model).get(_STATE, {}))
    fused, untouched, reached = [], [], set()
    already = any(_is_fused(node) for _, _, node in candidates)
    for name, block, node in candidates:
        module = f"{name}.{node.target}".removeprefix(".")
        reached.add(id(block.get_submodule(str(node.target))))
        try:
            tail, post = _fuse_tail(block, node, shapes)
        except _Refused as reason:
            untouched.append(UntouchedTail(module, str(reason)))
        else:
            tails[module] = tail
            fused.append(FusedTail(name, module, post))
    for module, child in model.named_modules():
        if _takes_tail(child) and id(child) not in reached:
            untouched.append(UntouchedTail(module, "it is not called by the graph of a patched block"))
    for block in {id(block): block for _, block, _ in candidates}.values():
        block.recompile()
    vars(model)[_STATE] = tails
    report = FuseReport(tuple(fused), tuple(untouched))
    if not fused and not already:
        warnings.warn(f"fuse: {report.summary()}", stacklevel=2)
    return report


def unfuse(model: nn.Module) -> nn.Module:
    """Take back what :func:`fuse` did to ``model``: the graphs are as they were. Without it, nothing happens.

    Args:
        model: the model given to :func:`fuse`, or a copy of it.

    Returns:
        The same model.
    """
    tails: dict[str, _Tail] = vars(model).pop(_STATE, {})
    for name, block in model.named_modules():
        if not isinstance(block, fx.GraphModule):
            continue
        graph = copy.deepcopy(block.graph)  # a copy has the names of erased nodes to give again
        calls = [(node, tails.get(f"{name}.{node.target}".removeprefix("."))) for node in graph.nodes if _is_fused(node)]
        for node, tail in calls:
            if tail is not None:
                _unfuse_tail(graph, node, tail)
        if any(tail is not None for _, tail in calls):
            block.graph = graph
    return model


def _takes_tail(module: nn.Module) -> bool:
    """Whether a block takes the tail: ``forward(x, residual=None, post="none", inplace=False)``."""
    return list(inspect.signature(type(module).forward).parameters)[1:5] == ["x", "residual", "post", "inplace"]


def _is_fresh(block: fx.GraphModule, x: fx.Node) -> bool:
    """Whether nobody but the tail holds ``x``, so that it may be overwritten: it comes from a layer that makes a new tensor."""
    if x.op != "call_module" or len(x.users) > 1:
        return False
    module = block.get_submodule(str(x.target))
    return isinstance(module, _MAKE_NEW_TENSORS) and not module._forward_hooks


def _is_epilogue(block: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and _takes_tail(block.get_submodule(str(node.target)))


def _is_fused(node: fx.Node) -> bool:
    return node.op == "call_module" and len(node.args) == 4


def _fuse_tail(block: fx.GraphModule, node: fx.Node, shapes: dict[fx.Node, torch.Size]) -> tuple[_Tail, str]:
    """Fuse the tail of ``node``, or refuse: nothing is changed then."""
    if len(node.args) != 1 or node.kwargs:
        raise _Refused("it has a residual or an activation already")
    x = node.args[0]
    assert isinstance(x, fx.Node)
    if len(block.graph.find_nodes(op="call_module", target=node.target)) > 1:
        raise _Refused("it is called several times")
    _refuse_hooks(block.get_submodule(str(node.target)), "it")
    add = _only_user(node, "its output")
    identity, block_first = _addition(add, node)
    if node not in shapes or identity not in shapes:
        raise _Refused("its block was not reached by the forward that tells shapes")
    if shapes[node] != shapes[identity]:
        raise _Refused(f"the residual has shape {_show(shapes[identity])} and its output {_show(shapes[node])}")
    # The call moves down to the addition. What it reads must not be changed in between.
    if any(node < user < add for user in x.users if user is not node):
        raise _Refused("its input is used again before the addition")
    activation, post = _activation(block, add)
    if post not in ("none", "relu") and any(add < user for user in identity.users):
        raise _Refused(f"the residual is used again after the addition, and the gradient of {post} needs it unchanged")

    last = add if activation is None else activation
    tail = _Tail(node.name, _Call.of(add, 2), block_first, None if activation is None else _Call.of(activation, 1))
    graph = block.graph
    with graph.inserting_before(last):
        call = graph.call_module(str(node.target), (x, identity, post, _is_fresh(block, x)))
    call.meta = dict(last.meta)
    last.replace_all_uses_with(call)
    for gone in (activation, add, node):
        if gone is not None:
            graph.erase_node(gone)
    return tail, post


def _unfuse_tail(graph: fx.Graph, call: fx.Node, tail: _Tail) -> None:
    x, identity = call.args[:2]
    assert isinstance(x, fx.Node) and isinstance(identity, fx.Node)
    # Where a patch puts a block: right after what it works on.
    with graph.inserting_before(call) if x.op == "placeholder" else graph.inserting_after(x):
        node = graph.create_node("call_module", call.target, (x,), name=tail.name)
    with graph.inserting_before(call):
        last = tail.add.make(graph, *((node, identity) if tail.block_first else (identity, node)))
        if tail.post is not None:
            last = tail.post.make(graph, last)
    last.meta = dict(call.meta)
    call.replace_all_uses_with(last)
    graph.erase_node(call)


def _only_user(node: fx.Node, what: str) -> fx.Node:
    users = list(node.users)
    if len(users) != 1 or users[0].op == "output":
        where = "returned" if [user.op for user in users] == ["output"] else f"used in {len(users)} places"
        raise _Refused(f"{what} is {where}, and not only added to a residual")
    return users[0]


def _addition(add: fx.Node, node: fx.Node) -> tuple[fx.Node, bool]:
    """The other operand of an addition, and whether ``node`` is the first."""
    is_add = (add.op == "call_function" and add.target in _ADD_FUNCTIONS) or (
        add.op == "call_method" and add.target in _ADD_METHODS
    )
    if not is_add:
        raise _Refused(f"its output goes into {add.name}, which is no addition")
    if len(add.args) != 2 or add.kwargs:
        raise _Refused("the addition has a factor or an output tensor")
    block_first = add.args[0] is node
    identity = add.args[1 if block_first else 0]
    if not isinstance(identity, fx.Node) or identity is node:
        raise _Refused("what is added is no other tensor of the block")
    if add.target in _IN_PLACE_ADDS and not block_first:
        raise _Refused("the addition changes the residual in place")
    return identity, block_first


def _activation(block: fx.GraphModule, add: fx.Node) -> tuple[fx.Node | None, str]:
    """The activation that is the only user of an addition, and its name as a ``post``; else None and ``none``."""
    users = list(add.users)
    if len(users) != 1 or users[0].args[:1] != (add,) or len(users[0].args) > 1:
        return None, "none"
    (user,) = users
    post: str | None = None
    if user.op == "call_module":
        module = block.get_submodule(str(user.target))
        post = _POST_MODULES.get(type(module))
        if post is not None:
            _refuse_hooks(module, "the activation after it")
        if isinstance(module, nn.GELU) and module.approximate != "none":
            post = None
    elif user.op == "call_function" and callable(user.target) and user.kwargs.get("approximate", "none") == "none":
        post = _POST_FUNCTIONS.get(user.target)
    elif user.op == "call_method":
        post = _POST_METHODS.get(str(user.target))
    return (None, "none") if post is None else (user, post)


def _refuse_hooks(module: nn.Module, what: str) -> None:
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        raise _Refused(f"{what} has hooks, which would see other values")


def _show(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def _probe_shapes(model: nn.Module, blocks: list[fx.GraphModule], example_input: Tensor | None) -> dict[fx.Node, torch.Size]:
    """The shape of every node of ``blocks`` that is a tensor, by a forward of fake tensors, which computes nothing."""
    shapes: dict[fx.Node, torch.Size] = {}

    def run_with_shapes(block: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(block, fx.GraphModule)
        _ShapeRecorder(block, shapes).run(*args)

    input_shape = input_shape_of(example_input)
    if example_input is None and isinstance(model, HybridModel):
        input_shape = model._hybrid_state.input_shape
    hooks = [block.register_forward_pre_hook(run_with_shapes) for block in blocks]
    try:
        with fake_tensors() as mode:
            run_fake(mode, model, input_shape)
    except Exception as error:
        raise ValueError(
            f"fuse: the forward that tells shapes failed on an input of shape {_show((2, *input_shape))}; "
            f"give one that the model takes as example_input ({str(error).splitlines()[0]})"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


class _ShapeRecorder(fx.Interpreter):
    def __init__(self, block: fx.GraphModule, shapes: dict[fx.Node, torch.Size]) -> None:
        super().__init__(block)
        self._shapes = shapes

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self._shapes[n] = result.shape
        return result
