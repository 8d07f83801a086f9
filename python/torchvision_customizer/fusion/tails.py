"""Fuse the tail of residual blocks: attention or drop path, addition and activation become one call, and one pass over memory.

A patched block is a :class:`torch.fx.GraphModule`, and what fuses is its graph: ``relu(se(x) + identity)`` becomes
``se(x, identity, "relu", True)``, where True says that ``x`` may be overwritten. A block of a library is opened for it, as a
patch would. No module is added, removed or moved, so every state-dict key stays as it is.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..blocks._parts import Residual, takes_tail
from ..hybrid.model import HybridModel
from ..hybrid.opened import OpenedBlock
from ..hybrid.places import NoPlace, graph_of
from ..hybrid.probe import fake_tensors, hooks_set_aside, input_shape_of, run_fake
from .fresh import is_fresh
from .kinds import Fused, NotFusable, find_act, is_fusable, refuse_hooks
from .report import FusedTail, Untouched

_ADD_FUNCTIONS = (operator.add, operator.iadd, torch.add)
_ADD_METHODS = ("add", "add_")
_IN_PLACE_ADDS = (operator.iadd, "add_")

# What an epilogue block can apply last, under the names of the ops' ``post``; modules are in kinds.py.
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

# What a forward of fake tensors raises where the input does not fit the model.
_DOES_NOT_RUN = (RuntimeError, TypeError, ValueError, AssertionError, IndexError, NotImplementedError)


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
class Tail:
    """A fused tail as it was: the names and calls that unfusing writes back."""

    name: str
    add: _Call
    block_first: bool
    post: _Call | None


@dataclass
class Opened:
    """A residual block as a graph: that of a patched block itself, or a draft of one for a block of a library."""

    path: str
    block: nn.Module
    graph: fx.Graph
    shapes: dict[fx.Node, torch.Size] = field(default_factory=dict)

    @property
    def is_draft(self) -> bool:
        return not isinstance(self.block, fx.GraphModule)

    def calls(self) -> list[fx.Node]:
        """The calls of modules that take a tail, or will when they are fused."""
        return [node for node in self.graph.nodes if node.op == "call_module" and _may_take_tail(self.module(node))]

    def module(self, node: fx.Node) -> nn.Module:
        return self.block.get_submodule(str(node.target))


def _may_take_tail(module: nn.Module) -> bool:
    return is_fusable(module) or takes_tail(module)


def find_blocks(model: nn.Module) -> tuple[list[Opened], list[Untouched]]:
    """The blocks with calls that may take a tail, opened where they are not; and those that cannot be opened."""
    found, untouched = [], []
    for path, block in model.named_modules():
        if isinstance(block, fx.GraphModule):
            opened = Opened(path, block, block.graph)
        elif path and any(map(_may_take_tail, block.children())) and not _is_of_torch(block):
            try:
                opened = Opened(path, block, graph_of(block))
            except NoPlace as reason:
                untouched.append(Untouched(path, f"the tail of this block stays: it {reason}"))
                continue
        else:
            continue
        if opened.calls():
            found.append(opened)
    return found, untouched


def _is_of_torch(block: nn.Module) -> bool:
    return type(block).__module__.partition(".")[0] == "torch"


def fuse_tails(
    model: nn.Module, blocks: Sequence[Opened], tails: dict[str, tuple[Tail, ...]]
) -> tuple[list[FusedTail], list[Untouched], list[str], list[str]]:
    """Fuse what can be fused, in place.

    Args:
        model: the model.
        blocks: what :func:`find_blocks` found in it, with shapes.
        tails: the fused tails of each block, by path, in the order of its graph; those of this call come in.

    Returns:
        The fused tails; those that are not, with the reason; the paths of the blocks that were opened for it; and those of
        modules that take a tail in the block's own forward.
    """
    fused, untouched, opened, written, reached = [], [], [], [], set()
    names = [module for _, module in model.named_modules(remove_duplicate=False)]
    for found in sorted(blocks, key=lambda found: found.path.count(".")):
        before = dict(zip(filter(_is_fused, found.graph.nodes), tails.get(found.path, ()), strict=True))
        done = dict(before)
        for node in found.calls():
            module, path = found.module(node), f"{found.path}.{node.target}".removeprefix(".")
            reached.add(id(module))
            if not takes_tail(module):
                continue  # it stayed what it was, which the report says
            if isinstance(found.block, Residual):
                written.append(path)
                continue
            try:
                if found.is_draft and sum(other is found.block for other in names) > 1:
                    raise NotFusable("its block has several names in the model, and cannot be opened under one of them")
                call, tail, post = _fuse_tail(found, node)
            except NotFusable as reason:
                # A block of a library may stand anywhere: only where an addition follows is there a tail.
                if not isinstance(module, Fused) or any(map(_is_addition, node.users)) or _is_fused(node):
                    untouched.append(Untouched(path, str(reason)))
            else:
                done[call] = tail
                fused.append(FusedTail(found.path, path, post))
        if len(done) == len(before):
            continue
        tails[found.path] = tuple(done[node] for node in found.graph.nodes if node in done)
        if isinstance(found.block, fx.GraphModule):
            found.block.recompile()
        else:
            opened.append(found.path)
            new = OpenedBlock.open(found.block, found.graph, {}, "Fused")
            parent, _, name = found.path.rpartition(".")
            model.get_submodule(parent)._modules[name] = new
    for path, child in model.named_modules():
        if takes_tail(child) and not isinstance(child, Fused) and id(child) not in reached:
            untouched.append(Untouched(path, "it is not called by the graph of a patched block"))
    return fused, untouched, opened, written


def unfuse_tails(model: nn.Module, tails: dict[str, tuple[Tail, ...]], opened: Iterable[str]) -> None:
    """Undo :func:`fuse_tails`."""
    modules = dict(model.named_modules())
    for path in sorted(opened, key=lambda path: path.count(".")):
        block = modules.get(path)
        if isinstance(block, OpenedBlock):
            parent, _, name = path.rpartition(".")
            model.get_submodule(parent)._modules[name] = block.close()
    for path, of_block in tails.items():
        block = modules.get(path)
        if path in opened or not isinstance(block, fx.GraphModule):
            continue
        graph = copy.deepcopy(block.graph)  # a copy has the names of erased nodes to give again
        for call, tail in zip(list(filter(_is_fused, graph.nodes)), of_block, strict=True):
            _unfuse_tail(graph, call, tail)
        block.graph = graph


def _is_fused(node: fx.Node) -> bool:
    # MaxViT's modules, too, are called with four values, but with no activation among them.
    return node.op == "call_module" and len(node.args) == 4 and isinstance(node.args[2], str)


def _fuse_tail(found: Opened, node: fx.Node) -> tuple[fx.Node, Tail, str]:
    """Fuse the tail of ``node``, or refuse: nothing is changed then."""
    if len(node.args) != 1 or node.kwargs:
        raise NotFusable("it has a residual or an activation already")
    x = node.args[0]
    assert isinstance(x, fx.Node)
    refuse_hooks(found.module(node), "it")
    add = _only_user(node, "its output")
    identity, block_first = _addition(add, node)
    shapes = found.shapes
    if node not in shapes or identity not in shapes:
        raise NotFusable("its block was not reached by the forward that tells shapes")
    if shapes[node] != shapes[identity]:
        raise NotFusable(f"the residual has shape {_show(shapes[identity])} and its output {_show(shapes[node])}")
    # The call moves down to the addition. What it reads must not be changed in between.
    if any(node < user < add for user in x.users if user is not node):
        raise NotFusable("its input is used again before the addition")
    activation, post = _activation(found, add)
    if post not in ("none", "relu") and any(add < user for user in identity.users):
        raise NotFusable(f"the residual is used again after the addition, and the gradient of {post} needs it unchanged")

    last = add if activation is None else activation
    tail = Tail(node.name, _Call.of(add, 2), block_first, None if activation is None else _Call.of(activation, 1))
    graph = found.graph
    with graph.inserting_before(last):
        call = graph.call_module(str(node.target), (x, identity, post, is_fresh(found.block, x)))
    call.meta = dict(last.meta)
    shapes[call] = shapes[node]
    last.replace_all_uses_with(call)
    for gone in (activation, add, node):
        if gone is not None:
            graph.erase_node(gone)
    return call, tail, post


def _unfuse_tail(graph: fx.Graph, call: fx.Node, tail: Tail) -> None:
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
        raise NotFusable(f"{what} is {where}, and not only added to a residual")
    return users[0]


def _is_addition(node: fx.Node) -> bool:
    functions = _ADD_METHODS if node.op == "call_method" else _ADD_FUNCTIONS
    return node.op in ("call_function", "call_method") and node.target in functions


def _addition(add: fx.Node, node: fx.Node) -> tuple[fx.Node, bool]:
    """The other operand of an addition, and whether ``node`` is the first."""
    if not _is_addition(add):
        raise NotFusable(f"its output goes into {add.name}, which is no addition")
    if len(add.args) != 2 or add.kwargs:
        raise NotFusable("the addition has a factor or an output tensor")
    block_first = add.args[0] is node
    identity = add.args[1 if block_first else 0]
    if not isinstance(identity, fx.Node) or identity is node:
        raise NotFusable("what is added is no other tensor of the block")
    if add.target in _IN_PLACE_ADDS and not block_first:
        raise NotFusable("the addition changes the residual in place")
    return identity, block_first


def _activation(found: Opened, add: fx.Node) -> tuple[fx.Node | None, str]:
    """The activation that is the only user of an addition, and its name as a ``post``; else None and ``none``."""
    users = list(add.users)
    if len(users) != 1 or users[0].args[:1] != (add,) or len(users[0].args) > 1:
        return None, "none"
    (user,) = users
    post: str | None = None
    if user.op == "call_module":
        module = found.module(user)
        post = find_act(module)
        if post == "none":
            post = None
        if post is not None:
            refuse_hooks(module, "the activation after it")
    elif user.op == "call_function" and callable(user.target) and user.kwargs.get("approximate", "none") == "none":
        post = _POST_FUNCTIONS.get(user.target)
    elif user.op == "call_method":
        post = _POST_METHODS.get(str(user.target))
    return (None, "none") if post is None else (user, post)


def _show(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


class DoesNotRun(ValueError):
    """The forward that tells shapes failed."""


def probe_shapes(model: nn.Module, blocks: Sequence[Opened], example_input: Tensor | None) -> None:
    """Note the shape of every node of ``blocks`` that is a tensor, by a forward of fake tensors, which computes nothing.

    Raises:
        DoesNotRun: the model does not take the input.
    """
    input_shape = input_shape_of(example_input)
    if example_input is None and isinstance(model, HybridModel):
        input_shape = model._hybrid_state.input_shape
    try:
        with hooks_set_aside(model), fake_tensors() as mode:
            for found in blocks:
                found.block.register_forward_pre_hook(_ShapeRecorder(found).hook, with_kwargs=True)
            run_fake(mode, model, input_shape)
    except _DOES_NOT_RUN as error:
        raise DoesNotRun(
            f"fuse: the forward that tells shapes failed on an input of shape {_show((2, *input_shape))}; "
            f"give one that the model takes as example_input ({str(error).strip().splitlines()[0]})"
        ) from error


class _ShapeRecorder(fx.Interpreter):
    def __init__(self, found: Opened) -> None:
        super().__init__(found.block, graph=found.graph)
        self._shapes = found.shapes

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = [str(node.target) for node in self.graph.nodes if node.op == "placeholder"]
        self.run(*args, *(kwargs[name] for name in names[len(args) :] if name in kwargs))

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self._shapes[n] = result.shape
        return result
