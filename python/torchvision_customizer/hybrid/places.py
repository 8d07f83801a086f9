"""Places within a block: its graph, its residual branch, and the edge on which a module is put."""

from __future__ import annotations

import copy
import inspect
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

import torch
from torch import fx, nn

from ..errors import nearest
from .opened import OpenedBlock, original_class

_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_CONCATENATIONS = {torch.cat, torch.concat, torch.concatenate}
_UNTRACEABLE = (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, NotImplementedError)
_IN_PLACE = {operator.iadd, operator.isub, operator.imul, operator.itruediv}


class NoPlace(Exception):
    """A module that does not offer a place; the message says why, beginning with a verb."""


class BlockTracer(fx.Tracer):
    """Traces one module, with all of its children as leaves."""

    def __init__(self, absent: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.absent = absent  # arguments that are None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        return function, [None if isinstance(arg, fx.Proxy) and arg.node.target in self.absent else arg for arg in args]

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        graph = super().trace(root, concrete_args)
        # With ``from __future__ import annotations`` types are text, which TorchScript cannot read in a graph's code.
        try:
            types = get_type_hints(type(root).forward) if isinstance(root, nn.Module) else {}
        except NameError:
            types = {}
        for node in graph.nodes:
            if isinstance(node.type, str):
                node.type = types.get("return" if node.op == "output" else str(node.target))
        return graph


def graph_of(block: nn.Module) -> fx.Graph:
    """The graph of a block's own forward; a new one at each call.

    Tracing writes ``out += identity`` as ``out + identity``. That is as well: ``out`` may then be what a new module has saved
    for its backward.

    Raises:
        NoPlace: the block is a module of torch itself, or its forward cannot be written as a graph.
    """
    if isinstance(block, OpenedBlock):
        return copy.deepcopy(block.graph)
    if original_class(block).__module__.partition(".")[0] == "torch":
        raise NoPlace("is a module of torch, not a block (wrap puts a block behind any module)")
    try:
        graph, reads_mode = _trace(block, training=False)
        differs = reads_mode and str(_trace(block, training=True)[0]) != str(graph)
    except _UNTRACEABLE as error:
        raise NoPlace(f"cannot be opened: {str(error).splitlines()[0]}") from error
    if differs:
        raise NoPlace("cannot be opened: its forward reads self.training")
    # To the tracer an argument is never None: what a block does where it is, would be lost.
    for name, parameter in inspect.signature(block.forward).parameters.items():
        if parameter.default is None and not _does_the_same_without(block, graph, name):
            raise NoPlace(f"cannot be opened: its forward does something else where '{name}' is given")
    return graph


def graph_as_it_runs(block: nn.Module) -> fx.Graph | None:
    """The graph of a block in its present mode, to be looked at; None where its forward cannot be written as one.

    Unlike that of ``graph_of`` it may be of what does something else in training, as GoogLeNet with its auxiliary heads does.
    """
    try:
        return _trace(block, block.training)[0]
    except (*_UNTRACEABLE, AttributeError, AssertionError, LookupError):
        return None


def _trace(block: nn.Module, training: bool) -> tuple[fx.Graph, bool]:
    """The graph of a block in one mode, and whether its forward asks for the mode; tracing takes its time."""
    asked = []

    def mode(_: nn.Module) -> bool:
        asked.append(True)
        return training

    clone = _shallow_copy(block)
    kind = type(block)
    clone.__class__ = type(kind.__name__, (kind,), {"training": property(mode), "__module__": kind.__module__})
    return BlockTracer().trace(clone), bool(asked)


def _shallow_copy(block: nn.Module) -> nn.Module:
    """A copy with the same children, which can be changed, and whose forward can run, without touching the block.

    Tracing runs what is done to buffers: timm's norms count their batches.
    """
    clone = copy.copy(block)
    clone._buffers = copy.deepcopy(block._buffers)
    return clone


def _does_the_same_without(block: nn.Module, graph: fx.Graph, argument: str) -> bool:
    try:
        without = BlockTracer(frozenset((argument,))).trace(_shallow_copy(block))
    except (*_UNTRACEABLE, AttributeError, AssertionError):
        return False

    def steps(graph: fx.Graph) -> list[tuple[Any, ...]]:
        nodes = [node for node in graph.nodes if node.op != "placeholder"]
        return [(n.op, n.target, *fx.node.map_arg((n.args, n.kwargs), name)) for n in nodes]

    def name(node: fx.Node) -> str | None:
        return None if node.op == "placeholder" and node.target == argument else node.name

    return steps(graph) == steps(without)


@dataclass(frozen=True)
class Edge:
    """Where a module goes: the value that it takes, and the nodes that take its output instead; in words, too."""

    value: fx.Node
    consumers: tuple[fx.Node, ...]
    text: str


def concatenates(graph: fx.Graph) -> bool:
    """Whether a block concatenates, as those of Inception, SqueezeNet and DenseNet do."""
    return any(node.op == "call_function" and node.target in _CONCATENATIONS for node in graph.nodes)


def _depth(block: nn.Module, node: fx.Node) -> int:
    """How much a node computes: the layers in a module that it calls."""
    if node.op != "call_module":
        return 1
    try:
        module = block.get_submodule(str(node.target))
    except AttributeError:  # a new module, of which there is only a draft
        return 1
    return 0 if isinstance(module, nn.Identity) else sum(1 for child in module.modules() if not child._modules)


def residual_edges(block: nn.Module, graph: fx.Graph) -> list[Edge]:
    """The residual branch of each addition of a graph: the operand that is further from the graph's input.

    ResNet writes ``out += identity``, RegNet ``proj(x) + f(x)``, MobileNet ``x + conv(x)``. How far is counted in layers. An
    addition of operands that are equally far has no residual branch.
    """
    depths: dict[fx.Node, int] = {}
    edges = []
    for node in graph.nodes:
        depths_of_inputs = [depths[source] for source in node.all_input_nodes if source in depths]
        if node.op == "placeholder":
            depths[node] = 0
        elif depths_of_inputs:
            depths[node] = _depth(block, node) + max(depths_of_inputs)
        if node.target not in _ADDITIONS or node.op not in ("call_function", "call_method"):
            continue
        operands = [operand for operand in node.args[:2] if isinstance(operand, fx.Node) and operand in depths]
        if len(operands) == 2 and depths[operands[0]] != depths[operands[1]]:
            branch = max(operands, key=depths.__getitem__)
            edges.append(Edge(branch, (node,), f"residual, after {branch.target if branch.op == 'call_module' else branch}"))
    return edges


def find_edge(block: nn.Module, graph: fx.Graph, at: str) -> Edge:
    """The edge of a block's graph that ``at`` names.

    Raises:
        NoPlace: the block has no such edge, or a module on it would see a value that is changed in place.
    """
    name, _, index_text = at.rstrip("]").partition("[")
    index = int(index_text) if index_text else None
    if at == "auto" and not residual_edges(block, graph) and concatenates(graph):
        at = name = "output"
    if at == "auto" or name == "residual":
        edges = residual_edges(block, graph)
        if not edges:
            raise NoPlace("does not add a residual branch" + (" and does not concatenate" if at == "auto" else ""))
        if index is not None and index >= len(edges):
            raise NoPlace(f"has {len(edges)} residual branch{'es' if len(edges) > 1 else ''}, counted from 0")
        edge = edges[-1 if index is None else index]
    elif at == "input":
        value = next(node for node in graph.nodes if node.op == "placeholder")
        edge = Edge(value, tuple(value.users), "input")
    elif at == "output":
        output = next(iter(reversed(graph.nodes)))
        if not isinstance(output.args[0], fx.Node):
            raise NoPlace("returns several values")
        edge = Edge(output.args[0], (output,), "output")
    else:
        side, _, child = name.partition(":")
        edge = _edge_at_call(graph, side, child, index)
    _check_in_place(block, edge)
    return edge


def _edge_at_call(graph: fx.Graph, side: str, name: str, index: int | None) -> Edge:
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    if not calls:
        called = list(dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "call_module"))
        raise NoPlace(f"does not call '{name}'{nearest(name, called)} (it calls {', '.join(called)})")
    if len(calls) > 1 and index is None:
        raise NoPlace(f"calls '{name}' {len(calls)} times; write {side}:{name}[0] to {side}:{name}[{len(calls) - 1}]")
    if index is not None and index >= len(calls):
        raise NoPlace(f"calls '{name}' {len(calls)} times, counted from 0")
    call = calls[index or 0]
    text = f"{side} {name}" + ("" if index is None else f"[{index}]")
    if side == "after":
        return Edge(call, tuple(call.users), text)
    if not call.args or not isinstance(call.args[0], fx.Node):
        raise NoPlace(f"calls '{name}' without a tensor")
    return Edge(call.args[0], (call,), text)


def _check_in_place(block: nn.Module, edge: Edge) -> None:
    """A value that several nodes use, one of them in place, is not what it was when the new module comes to see it."""
    if len(edge.consumers) == len(edge.value.users):
        return
    for user in edge.value.users:
        if _changes_in_place(block, user, edge.value):
            raise NoPlace(f"changes the value at '{edge.text}' in place (in '{user.name}') while other parts use it")


def _changes_in_place(block: nn.Module, user: fx.Node, value: fx.Node) -> bool:
    if not user.args or user.args[0] is not value:
        return False
    if user.op == "call_module":
        return bool(getattr(block.get_submodule(str(user.target)), "inplace", False))
    name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
    return user.target in _IN_PLACE or bool(user.kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__"))


def places_in(block: nn.Module, graph: fx.Graph) -> tuple[str, ...]:
    """What ``at`` can be for a block of this graph: one that adds a residual branch, or concatenates; nothing for any other."""
    residual = len(residual_edges(block, graph))
    if not residual and not concatenates(graph):
        return ()
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    children = [name if count == 1 else f"{name}[{index}]" for name, count in calls.items() for index in range(count)]
    places = ["residual"] if residual == 1 else [f"residual[{index}]" for index in range(residual)]
    places += ["input", "output", *(f"{side}:{child}" for child in children for side in ("before", "after"))]
    return tuple(at for at in places if _offers(block, graph, at))


def _offers(block: nn.Module, graph: fx.Graph, at: str) -> bool:
    try:
        find_edge(block, graph, at)
    except NoPlace:
        return False
    return True


def stage_ends(path: str, stack: nn.Module) -> dict[str, nn.Module]:
    """The last layer of each stage of a plain stack (VGG, AlexNet), before its pool; none where there is no such stack."""
    if type(stack).forward is not nn.Sequential.forward:
        return {}
    ends: dict[str, nn.Module] = {}
    last: tuple[str, nn.Module] | None = None
    has_convolution = False
    for name, layer in stack.named_children():
        if isinstance(layer, nn.modules.pooling._MaxPoolNd | nn.modules.pooling._AvgPoolNd):
            if has_convolution and last is not None:
                ends[last[0]] = last[1]
            has_convolution = False
        has_convolution |= isinstance(layer, nn.modules.conv._ConvNd)
        last = f"{path}.{name}", layer
    if ends and has_convolution and last is not None:
        ends[last[0]] = last[1]
    return ends


def insert(graph: fx.Graph, edge: Edge, name: str) -> fx.Node:
    """Put a call of the child ``name`` on an edge."""
    after = edge.value
    while after.op == "placeholder" and after.next.op == "placeholder":
        after = after.next
    with graph.inserting_after(after):
        call = graph.call_module(name, (edge.value,))
    for consumer in edge.consumers:
        consumer.replace_input_with(edge.value, call)
    return call
