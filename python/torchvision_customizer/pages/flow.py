"""How a module runs the modules in it, as a small graph that can be drawn."""

from __future__ import annotations

import operator
from itertools import pairwise
from typing import Any

import torch
from torch import fx, nn

from ..hybrid.opened import Followed, original_class

INPUT, OUTPUT = -1, -2

_SIGNS: dict[Any, str] = dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), "+")
_SIGNS |= dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), "×")
_SIGNS |= dict.fromkeys((torch.cat, torch.concat, torch.concatenate), "concat")
# What gives numbers and no tensors; what is made of nothing but such is not drawn either.
_OF_SHAPES = frozenset({"size", "dim", "numel"})
_ATTRIBUTES_WITH_TENSORS = frozenset({"T", "mT", "data"})


def flow(module: nn.Module, graph: fx.Graph | None) -> dict[str, Any] | None:
    """What runs in a module, and what each step takes; None where that is not known.

    Args:
        module: it is not touched.
        graph: its forward with its children as leaves, or None where there is none.

    Returns:
        ``nodes``, each with ``module``, the path within this one, or ``op``, the name of a function; and ``edges``, pairs of
        indices of them, of which ``INPUT`` is what the module is given, and ``OUTPUT`` what it gives.
    """
    if isinstance(module, Followed):
        return _chain([{"op": original_class(module).__name__}, {"module": "after"}])
    if type(module).forward is nn.Sequential.forward:
        return _chain([{"module": name} for name in module._modules])
    return None if graph is None else _drawn(module, graph)


def _chain(nodes: list[dict[str, str]]) -> dict[str, Any]:
    steps = [INPUT, *range(len(nodes)), OUTPUT]
    return {"nodes": nodes, "edges": [list(pair) for pair in pairwise(steps)]}


def _drawn(module: nn.Module, graph: fx.Graph) -> dict[str, Any]:
    nodes: list[dict[str, str]] = []
    edges: dict[tuple[int, int], None] = {}
    holders: dict[str, int] = {}  # of modules whose parameters are used, and which are not called
    places: dict[fx.Node, tuple[int, ...]] = {}  # where each value comes from; from nowhere, if it is no tensor
    modules = dict(module.named_modules())

    def new(**node: str) -> tuple[int]:
        nodes.append(node)
        return (len(nodes) - 1,)

    for node in graph.nodes:
        sources = tuple(dict.fromkeys(place for value in node.all_input_nodes for place in places[value]))
        if node.op == "placeholder":
            places[node] = (INPUT,)
            continue
        if node.op == "output":
            edges |= dict.fromkeys((source, OUTPUT) for source in sources)
            continue
        if node.op == "call_module":
            places[node] = new(module=str(node.target))
        elif node.op == "get_attr":
            holder, _, name = str(node.target).rpartition(".")
            if holder:
                if holder not in holders:
                    (holders[holder],) = new(module=holder)
                places[node] = (holders[holder],)
            else:  # a table of positions is no step, a scale that is trained is
                places[node] = new(op=name) if name in modules[""]._parameters else ()
        elif _gives_numbers(node, sources) or not node.users:
            places[node] = ()
            continue
        elif node.target is operator.getitem or node.target is getattr:
            places[node] = sources
            continue
        else:
            places[node] = new(op=_name(node.target))
        (place,) = places[node] or (None,)
        if place is not None:
            edges |= dict.fromkeys((source, place) for source in sources)
    return {"nodes": nodes, "edges": [list(edge) for edge in edges]}


def _gives_numbers(node: fx.Node, sources: tuple[int, ...]) -> bool:
    if node.target is getattr:
        return node.args[1] not in _ATTRIBUTES_WITH_TENSORS
    return not sources or (node.op == "call_method" and node.target in _OF_SHAPES)


def _name(target: Any) -> str:
    if target in _SIGNS:
        return _SIGNS[target]
    return str(target if isinstance(target, str) else getattr(target, "__name__", target)).strip("_")
