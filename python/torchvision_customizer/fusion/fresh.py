"""Whether a value is held by nobody else, so that the next module may overwrite it."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn

from ..blocks import CBAMBlock, DropPath, ECABlock, SEBlock
from .kinds import Fused

_ATTENTION = (CBAMBlock, ECABlock, SEBlock)
_MAKE_NEW_TENSORS = (nn.modules.batchnorm._BatchNorm, nn.modules.conv._ConvNd, nn.Linear, *_ATTENTION)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU)
_HAND_ON = (nn.Identity, nn.modules.dropout._DropoutNd, DropPath)

_NEW, _HANDED_ON, _UNKNOWN = range(3)


def is_fresh(block: nn.Module, x: fx.Node) -> bool:
    """Whether ``x`` comes from a layer that makes a new tensor, and has one user."""
    if x.op != "call_module" or len(x.users) > 1:
        return False
    output = _output_of(block.get_submodule(str(x.target)))
    if output == _HANDED_ON and len(x.args) == 1 and isinstance(x.args[0], fx.Node):
        return is_fresh(block, x.args[0])
    return output == _NEW


def mark_overwriting(model: nn.Module) -> None:
    """Let fused blocks in a ``Sequential`` overwrite their input, where the layer before them makes it."""
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for parent in model.modules():
        if type(parent).forward is not nn.Sequential.forward:
            continue
        before: list[nn.Module] = []
        for child in filter(None, parent._modules.values()):  # not children(), which leaves out repeated ones
            if isinstance(child, Fused) and names[id(child)] == names[id(parent)] and _output_of_all(before) == _NEW:
                vars(child)["fused_overwrites"] = True
            before.append(child)


def _output_of_all(modules: list[nn.Module]) -> int:
    outputs = map(_output_of, reversed(modules))
    return next((output for output in outputs if output != _HANDED_ON), _HANDED_ON)


def _output_of(module: nn.Module) -> int:
    """Whether a module makes a new tensor, or may hand on the one that it is given."""
    if module._forward_hooks or module._forward_pre_hooks:
        return _UNKNOWN
    if type(module) is nn.Sequential or type(module).forward is nn.Sequential.forward:
        return _output_of_all([child for child in module._modules.values() if child is not None])
    if isinstance(module, _ACTIVATIONS):
        return _HANDED_ON if getattr(module, "inplace", False) else _NEW
    if isinstance(module, _HAND_ON):
        return _HANDED_ON
    if isinstance(module, Fused):
        return _NEW if module.makes_new_tensor else _HANDED_ON
    return _NEW if isinstance(module, _MAKE_NEW_TENSORS) else _UNKNOWN
