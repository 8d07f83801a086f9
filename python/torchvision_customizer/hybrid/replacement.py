"""What the rules of ``replace`` share: what is asked for, what comes of it, and how tensors go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import registry

# The names under which blocks ask for the number of channels that they keep.
CHANNELS = ("channels", "dim", "num_features", "num_channels")
# What a convolution or a pool does besides, and the value that means that it does not; None where no value does.
_GEOMETRY = {
    "kernel_size": None,
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
    "padding_mode": "zeros",
    "ceil_mode": False,
    "return_indices": False,
    "divisor_override": None,
}
# Parameters that the function in evaluation mode does not depend on.
_NOT_IN_EVALUATION = {"momentum", "inplace", "drop_prob", "scale_by_keep"}


@dataclass(frozen=True)
class Replacement:
    """A module that takes the place of another one, which is untouched.

    Attributes:
        module: the new one, in the mode of the old one, on its device and of its type.
        carried: names of the tensors of the old one that go on in the new one and mean the same there. They are the same
            objects, but for a parameter that becomes a buffer or the reverse, which is copied.
        exact: whether the function is the same in evaluation mode, to the bit.
        note: one sentence on what becomes of the function.
    """

    module: nn.Module
    carried: tuple[str, ...]
    exact: bool
    note: str


@dataclass
class Request:
    """What was asked for, and the steps that all rules share."""

    old: nn.Module
    name: str
    params: dict[str, Any]
    channels: int | None
    device: torch.device | None
    dtype: torch.dtype | None

    def __post_init__(self) -> None:
        self.block: type[nn.Module] = registry.get(self.name)
        self.accepted = registry.parameters_of(self.block) or {}
        self.old_name = type(self.old).__name__
        tensors = [*self.old.parameters(), *self.old.buffers()]
        for tensor in (tensor for tensor in tensors if tensor.is_floating_point()):
            self.device, self.dtype = tensor.device, tensor.dtype
            break

    def refusal(self, reason: str) -> ValueError:
        return ValueError(f"'{self.name}' cannot take the place of {self.old_name}: {reason}")

    def make(self, settings: Mapping[str, Any]) -> nn.Module:
        """The block, with ``settings`` where ``params`` say nothing else, in the mode of the old module."""
        arguments = {**settings, **self.params}
        missing = [key for key, p in self.accepted.items() if p.default is p.empty and key not in arguments]
        if missing:
            raise self.refusal(f"it needs {', '.join(missing)}, which the old module does not say; give it in params")
        place = {"device": self.device, "dtype": self.dtype}
        arguments |= {key: value for key, value in place.items() if key in self.accepted}
        try:
            with self.device or nullcontext():
                module = self.block(**arguments)
        except (RuntimeError, TypeError, ValueError) as error:
            raise self.refusal(str(error).strip().splitlines()[0]) from error
        if self.dtype is not None and "dtype" not in self.accepted:
            _convert(module, self.dtype)
        return module.train(self.old.training)

    def geometry(self) -> dict[str, Any]:
        """What the old module does of ``_GEOMETRY``, in the block's parameters; refused where the block cannot do it."""
        kept = {}
        for key, nothing in _GEOMETRY.items():
            value = single(getattr(self.old, key, nothing))
            if key == "stride" and value is None:  # as LPPool2d keeps it
                value = single(self.old.kernel_size)
            if key in self.accepted:
                kept[key] = value
            elif value != nothing and key != "kernel_size":
                raise self.refusal(f"it has no {key}, and that of the old module is {value!r}")
        return kept


def single(value: Any) -> Any:
    """3 for (3, 3): blocks may take nothing but a number."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def alike(old: nn.Module, module: nn.Module, keys: Iterable[str]) -> bool:
    """Whether two modules have kept the same under each of ``keys``, as far as evaluation depends on it."""
    for key in {*keys} - _NOT_IN_EVALUATION:
        if not (hasattr(old, key) and hasattr(module, key)):
            return False
        was, now = getattr(old, key), getattr(module, key)
        # Whether a tensor goes on is known already; here counts whether there is one.
        if isinstance(was, Tensor) != isinstance(now, Tensor) or not (isinstance(was, Tensor) or was == now):
            return False
    return True


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """``module.to(dtype)`` with new tensors: fake ones cannot be converted in place."""
    for part in module.modules():
        for key, parameter in part._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                part._parameters[key] = nn.Parameter(parameter.detach().to(dtype), parameter.requires_grad)
        for key, buffer in part._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                part._buffers[key] = buffer.to(dtype)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def carry(old: nn.Module, module: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Put those tensors of ``old`` into ``module`` that have the same name and shape there; their names."""
    mine, theirs = tensors_of(module), tensors_of(old)
    carried = [name for name in names if name in mine and mine[name].shape == theirs[name].shape]
    for name in carried:
        path, _, key = name.rpartition(".")
        holder, tensor = module.get_submodule(path), theirs[name]
        if isinstance(mine[name], nn.Parameter):
            is_parameter = isinstance(tensor, nn.Parameter)
            holder._parameters[key] = cast(nn.Parameter, tensor) if is_parameter else nn.Parameter(tensor.detach().clone())
        else:
            holder._buffers[key] = tensor.detach().clone() if isinstance(tensor, nn.Parameter) else tensor
    return tuple(carried)


def sentence(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def full_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
