"""What templates change by patches: activations, norms and attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .. import registry
from .parts import Attention, Changes, Network, StagePlaces

_Patches = dict[str, list[Any]]


def patches_of(network: Network, everywhere: Changes, stages: Sequence[Changes]) -> list[dict[str, Any]]:
    """What is changed, as plans that follow each other: a stage may have another norm than the network has then.

    What is put in goes with the last of them: it stands behind modules that make way.
    """
    if everywhere == Changes() and all(stage == Changes() for stage in stages):
        return []
    with torch.device("meta"):
        draft = dict(network.make().named_modules())
    of_network = _replacements_in_all(network, everywhere, draft)
    of_stages = _replacements_in_stages(network, everywhere, stages, draft)
    parts = [part for part in (of_network, of_stages) if part] or [{}]
    for place, stage in zip(network.places(), stages, strict=True):
        for attention in stage.attention:
            for target, operation in _placed(attention, place, draft):
                parts[-1].setdefault(target, []).append(operation)
    return [
        {target: operations[0] if len(operations) == 1 else operations for target, operations in part.items()} for part in parts
    ]


def _kinds(network: Network, what: str) -> tuple[str, ...]:
    return ("BatchNorm2d",) if what == "norm" else network.activations


def _replacements_in_all(network: Network, everywhere: Changes, draft: Mapping[str, nn.Module]) -> _Patches:
    found: _Patches = {}
    for what in ("norm", "activation"):
        wanted = getattr(everywhere, what)
        for kind in _kinds(network, what) if wanted is not None else ():
            if not _is_kind(kind, wanted) and any(type(module).__name__ == kind for module in draft.values()):
                found[f"type:{kind}"] = [_replaced(wanted)]
    return found


def _replacements_in_stages(
    network: Network, everywhere: Changes, stages: Sequence[Changes], draft: Mapping[str, nn.Module]
) -> _Patches:
    found: _Patches = {}
    for place, stage in zip(network.places(), stages, strict=True):
        for what in ("norm", "activation"):
            wanted, usual = getattr(stage, what), getattr(everywhere, what)
            for path, module in draft.items() if wanted not in (None, usual) else ():
                kind = type(module).__name__
                # What is as published stays, unless the whole network has another.
                if place.holds(path) and kind in _kinds(network, what) and not (usual is None and _is_kind(kind, wanted)):
                    found[path] = [_replaced(wanted)]
    return found


def _is_kind(kind: str, block: str) -> bool:
    return registry.get(block).__name__ == kind


def _replaced(block: str) -> dict[str, Any]:
    return {"remove": True} if block == "identity" else {"replace": block}


def _placed(attention: Attention, place: StagePlaces, draft: Mapping[str, nn.Module]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The patches that put a block into a stage, each as (its target, the operation)."""
    spec: dict[str, Any] = {"type": attention.type}
    spec |= {"params": attention.params} if attention.params else {}
    spec |= {"init": attention.init} if attention.init != "identity" else {}
    if attention.after == "stage" or (attention.after == "block" and place.at is None):
        yield place.end, {"wrap": spec}
    elif attention.after == "block":
        for target in place.blocks:
            yield target, {"inject": {**spec, "at": place.at}}
    else:
        for path, module in draft.items():
            if place.holds(path) and isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
                yield path, {"wrap": spec}
