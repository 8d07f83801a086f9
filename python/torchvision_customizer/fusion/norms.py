"""Fold batch norms into the convolutions before them, for inference.

Which norms can be folded is read off graphs: every module is traced by ``torch.fx`` with its children as leaves, from the model
down along the calls. A norm is folded where its input is the output of a convolution that nothing else uses.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..hybrid.places import BlockTracer
from .kinds import full_name
from .report import FoldedNorm, Untouched

_CONVS = {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d}
_NORMS = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}
# Of timm; a name, so that timm need not be imported. Other subclasses may make their weights anew at each call.
_TIMM_CONVS = {"timm.layers.conv2d_same.Conv2dSame"}
_TIMM_NORMS = {"timm.layers.norm_act.BatchNormAct2d"}

_CANNOT_TRACE = (
    fx.proxy.TraceError,
    TypeError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    AttributeError,
    AssertionError,
    LookupError,
)


class NormFolded(nn.Identity):
    """In the place of a norm that is in the weights of a convolution."""

    def train(self, mode: bool = True) -> Self:
        if mode:
            raise RuntimeError("this model is fused for inference, its norms are folded away: unfuse it before training")
        return super().train(mode)


class NormFoldedAct(NormFolded):
    """The same for timm's norm with an activation of its own, which stays."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, input: Tensor) -> Tensor:
        return self.act(input)


@dataclass
class Fold:
    """A convolution and its norm: where they are, and what they were."""

    conv_path: str
    norm_path: str
    conv: nn.Module
    norm: nn.Module


def find_norms(model: nn.Module) -> tuple[list[Fold], list[Untouched]]:
    """The norms that can be folded; and the others, with the reason. The model is not touched."""
    finder = _Finder(model)
    folds, untouched = [], []
    for path, module in model.named_modules():
        if _is_norm(module):
            fold = finder.fold_of(path, module)
            if isinstance(fold, Fold):
                folds.append(fold)
            else:
                untouched.append(Untouched(path, f"this norm is not folded: {fold}"))
    return folds, untouched


def fold_norms(model: nn.Module, folds: list[Fold]) -> list[FoldedNorm]:
    """Put a folded convolution in the place of each convolution, and what the norm does besides in the place of the norm."""
    for fold in folds:
        _put(model, fold.conv_path, _folded(fold.conv, fold.norm))
        act = getattr(fold.norm, "act", None)
        _put(model, fold.norm_path, (NormFolded() if act is None else NormFoldedAct(act)).train(False))
    return [FoldedNorm(fold.norm_path, fold.conv_path) for fold in folds]


def unfold_norms(model: nn.Module, folds: list[Fold]) -> None:
    """Put back what was there; on the device and in the type where the model is now."""
    for fold in folds:
        now = cast(nn.Conv2d, model.get_submodule(fold.conv_path))
        was = cast(nn.Conv2d, fold.conv).weight
        moved = was.device != now.weight.device or was.dtype != now.weight.dtype
        for path, module in ((fold.conv_path, fold.conv), (fold.norm_path, fold.norm)):
            if moved:
                module.to(device=now.weight.device, dtype=now.weight.dtype)
            _put(model, path, module)
            module.train(now.training)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module


def _folded(conv: Any, norm: Any) -> nn.Module:
    def wide(tensor: Tensor | None) -> Any:
        return None if tensor is None else tensor.to(torch.promote_types(tensor.dtype, torch.float32))

    with torch.no_grad():
        weight, bias = fuse_conv_bn_weights(
            wide(conv.weight),
            wide(conv.bias),
            wide(norm.running_mean),
            wide(norm.running_var),
            norm.eps,
            wide(norm.weight),
            wide(norm.bias),
            transpose=isinstance(conv, nn.modules.conv._ConvTransposeNd),
        )
    folded = copy.copy(conv)
    folded._parameters = {
        "weight": nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False),
        "bias": nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False),
    }
    return cast(nn.Module, folded)


def _is_conv(module: nn.Module) -> bool:
    return type(module) in _CONVS or full_name(type(module)) in _TIMM_CONVS


def _is_norm(module: nn.Module) -> bool:
    return type(module) in _NORMS or full_name(type(module)) in _TIMM_NORMS


class _Finder:
    """Traces a model, module by module, and keeps for each norm the place that its input comes from."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.names_of = Counter(map(id, self.modules.values()))
        self.calls_of: Counter[int] = Counter()
        # By norm: the path that its input comes from, and whether nothing else uses it.
        self.input_of: dict[int, tuple[str, bool]] = {}
        waiting, seen = deque([""]), set()
        while waiting:
            path = waiting.popleft()
            module = self.modules[path]
            if id(module) in seen:
                continue
            seen.add(id(module))
            waiting.extend(self._trace(path, module))

    def _trace(self, path: str, module: nn.Module) -> list[str]:
        """Note the calls in a module's forward; the paths of what it calls, or of its children where that is not known."""
        prefix = f"{path}." if path else ""
        children = [f"{prefix}{name}" for name, child in module.named_children()]
        graph = _graph(module) if children else None
        if graph is None:
            return children
        called = []
        for node in graph.nodes:
            if node.op != "call_module":
                continue
            called.append(f"{prefix}{node.target}")
            child = self.modules[called[-1]]
            self.calls_of[id(child)] += 1
            source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
            if _is_norm(child) and isinstance(source, fx.Node) and source.op == "call_module":
                self.input_of[id(child)] = f"{prefix}{source.target}", len(source.users) == 1
        return called

    def fold_of(self, path: str, norm: Any) -> Fold | str:
        """How a norm is folded, or why not."""
        if id(norm) not in self.input_of:
            known = self.calls_of[id(norm)] > 0
            return "its input comes from no module" if known else "the forward that calls it cannot be traced"
        source, alone = self.input_of[id(norm)]
        chain = [self.modules[source]]
        while chain[-1]._modules and type(chain[-1]).forward is nn.Sequential.forward:
            name, last = next(reversed(chain[-1]._modules.items()))
            assert last is not None
            source, chain = f"{source}.{name}", [*chain, last]
        conv = chain[-1]
        if not _is_conv(conv):
            return f"its input comes from {source}, which is {type(conv).__name__} and no plain convolution"
        if not alone:
            return f"the output of {source} is used elsewhere, too"
        if any(self.calls_of[id(module)] != 1 for module in (*chain, norm)):
            return f"{source} or the norm is called several times"
        for where, module in ((source, conv), (path, norm)):
            if self.names_of[id(module)] != self.names_of[id(self.modules[where.rpartition(".")[0]])]:
                return f"{where} has several names in the model"
        if norm.training:
            return "it is in training mode"
        if norm.running_mean is None or norm.running_var is None:
            return "it has no running statistics"
        if any(module._forward_hooks or module._forward_pre_hooks for module in (*chain, norm)):
            return f"{source} or the norm has hooks, which would see other values"
        return Fold(source, path, conv, norm)


def _graph(module: nn.Module) -> fx.Graph | None:
    """The graph of a module's forward with its children as leaves; None where it has none."""
    if isinstance(module, fx.GraphModule):
        return module.graph
    if full_name(type(module)).startswith("torch.nn.") and type(module).forward is not nn.Sequential.forward:
        return None
    try:
        return BlockTracer().trace(copy.copy(module))
    except _CANNOT_TRACE:
        return None
