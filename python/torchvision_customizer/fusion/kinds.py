"""The kinds of blocks that ``fuse`` replaces: one registered function each.

A block keeps its place, its children and its parameters, and is given another class in place: one whose ``forward`` calls the
op. So state-dict keys stay, optimizers go on working, and the way back is the class that it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from .report import FusedBlock, Untouched


class NotFusable(Exception):
    """A block or a place that is left as it is; the message is the reason in the report."""


class Fused(nn.Module):
    """Base of the classes that a fused block has.

    ``forward(x, residual=None, post="none", inplace=False)`` takes the tail of a residual block, as the blocks of this package
    do. The attributes that :func:`fuse` sets begin with ``fused_``: they are none of the original. ``fused_overwrites`` says
    that nobody else holds the input, so that it may be overwritten where no gradient is asked for.
    """

    __jit_ignored_attributes__: ClassVar[list[str]] = ["fused_from", "makes_new_tensor"]
    makes_new_tensor: ClassVar[bool] = True  # whether its output is ever a tensor of its own, and not the one it was given

    def extra_repr(self) -> str:
        values = {key: value for key, value in vars(self).items() if key.startswith("fused_") and key != "fused_from"}
        return ", ".join(f"{key.removeprefix('fused_')}={value}" for key, value in values.items())


@dataclass(frozen=True)
class Form:
    """The fused form of one block: its class, and the values of the attributes that the class reads (without ``fused_``)."""

    fused_class: type[Fused]
    options: dict[str, Any] = field(default_factory=dict)


Examine = Callable[[Any], Form]
_kinds: dict[str, Examine] = {}


def fusable(*classes: str) -> Callable[[Examine], Examine]:
    """Decorator of a function that makes a kind of block known to :func:`fuse`.

    The function is given a block, and returns its fused :class:`Form`, or raises :class:`NotFusable` with the reason. It must
    look at all that the op has no option for.

        @fusable("some_library.layers.SqueezeExcite")
        def _squeeze_excite(block):
            return Form(FusedSqueezeExcitation, {"act": act_of(block.act), "gate": gate_of(block.gate)})

    Args:
        classes: full names of classes, module and all, so that the library need not be imported. A subclass is no such
            block: it may compute something else.

    Raises:
        ValueError: a class is known already.
    """

    def decorate(examine: Examine) -> Examine:
        for name in classes:
            if name in _kinds:
                raise ValueError(f"{name} is a kind that fuse knows already")
            _kinds[name] = examine
        return examine

    return decorate


def fusable_kinds() -> list[str]:
    """The full names of the classes that :func:`fuse` replaces."""
    return sorted(_kinds)


def full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def is_fusable(module: nn.Module) -> bool:
    """Whether ``fuse`` may replace a block; its options can still stand against it."""
    return full_name(type(module)) in _kinds


def form_of(module: nn.Module) -> Form:
    """The fused form of a block of a known kind.

    Raises:
        NotFusable: what stands against it.
    """
    for part in module.modules():
        refuse_hooks(part, "it" if part is module else "a part of it")
    return _kinds[full_name(type(module))](module)


def refuse_hooks(module: nn.Module, what: str) -> None:
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        raise NotFusable(f"{what} has hooks, which would see other values")


def fuse_blocks(model: nn.Module) -> tuple[list[FusedBlock], list[Untouched]]:
    """Give every block of a known kind its fused class, in place."""
    fused, untouched = [], []
    for path, module in list(model.named_modules()):
        kind = full_name(type(module))
        if kind in _kinds:
            try:
                form = form_of(module)
            except NotFusable as reason:
                untouched.append(Untouched(path, str(reason)))
            else:
                options = {"overwrites": False, **form.options}
                vars(module).update({f"fused_{key}": value for key, value in options.items()}, fused_from=type(module))
                module.__class__ = form.fused_class
                fused.append(FusedBlock(path, kind))
        elif isinstance(module, Fused):
            untouched.append(Untouched(path, "it is fused already"))
        elif base := next((full_name(base) for base in type(module).__mro__ if full_name(base) in _kinds), None):
            untouched.append(Untouched(path, f"its class {type(module).__name__} is derived from {base}, and may differ"))
    return fused, untouched


def restore_blocks(model: nn.Module) -> None:
    """Undo :func:`fuse_blocks`."""
    for module in model.modules():
        if isinstance(module, Fused):
            module.__class__ = vars(module)["fused_from"]
            for key in [key for key in vars(module) if key.startswith("fused_")]:
                del vars(module)[key]


# The names that the ops have for activations and gates. Classes of other libraries are known by their full names.
_ACTS = {
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.Hardswish": "hardswish",
    "torch.nn.modules.linear.Identity": "none",
    "timm.layers.activations.GELU": "gelu",
    "timm.layers.activations.Swish": "silu",
}
_GATES = {
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Hardsigmoid": "hard_sigmoid",
    "timm.layers.activations.Sigmoid": "sigmoid",
}


def find_act(module: nn.Module) -> str | None:
    """The name that the ops have for an activation, or None."""
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return None
    return _ACTS.get(full_name(type(module)))


def act_of(module: nn.Module, what: str = "its activation") -> str:
    """The name that the ops have for an activation.

    Raises:
        NotFusable: they have none.
    """
    act = find_act(module)
    if act is None:
        raise NotFusable(f"{what} is {type(module).__name__}; the op has {_listed(_ACTS.values())}")
    return act


def gate_of(module: nn.Module) -> str:
    """The name that the ops have for a gate.

    Raises:
        NotFusable: they have none.
    """
    gate = _GATES.get(full_name(type(module)))
    if gate is None:
        raise NotFusable(f"its gate is {type(module).__name__}; the op has {_listed(_GATES.values())}")
    return gate


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def check_pointwise(conv: nn.Module, name: str) -> None:
    """Check that a layer is a plain 1×1 convolution, which is a matrix product.

    Raises:
        NotFusable: it is not.
    """
    # Not a subclass: a parametrized layer is one, and computes its weight anew at each call.
    if type(conv) is not nn.Conv2d:
        raise NotFusable(f"its {name} is {type(conv).__name__}, and no plain Conv2d")
    if conv.kernel_size != (1, 1) or conv.stride != (1, 1) or conv.padding not in ((0, 0), "valid") or conv.groups != 1:
        raise NotFusable(f"its {name} is no 1×1 convolution over all channels")
