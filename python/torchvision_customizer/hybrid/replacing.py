"""``replace``: the module that takes the place of another one, and what of the old one goes on in it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from .. import registry
from ..blocks import CoordConv, FrozenBatchNorm, GeM, GroupNorm, LayerNorm2d, PReLU, RMSNorm2d

_CHANNELS = ("channels", "dim", "num_features", "num_channels")
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
# Registered blocks that compute what the class of torch they extend computes, as long as their own parameters say nothing else.
_EXTENSIONS = (CoordConv, GroupNorm, PReLU)
# Parameters that say how tensors start: where one is given, these tensors start so, and are not the old ones.
_STARTS = {"init": None, "slope": "weight", "p": "p"}  # None: all of them

# Parameters that the function in evaluation mode does not depend on.
_NOT_IN_EVALUATION = ("momentum", "inplace", "drop_prob", "scale_by_keep")

# What norms normalise over, by full name, so that other libraries need not be imported.
_NORM_FAMILIES = {
    "torch.nn.modules.normalization.LayerNorm": "layer, channels last",
    "torch.nn.modules.normalization.RMSNorm": "rms, channels last",
    "torchvision.models.convnext.LayerNorm2d": "layer",
    "torchvision.ops.misc.FrozenBatchNorm2d": "batch",
    "timm.layers.norm.LayerNorm": "layer, channels last",
    "timm.layers.norm.LayerNorm2d": "layer",
    "timm.layers.norm.RmsNorm": "rms, channels last",
    "timm.layers.norm.RmsNorm2d": "rms",
}
_LIBRARIES = ("torch.nn.", "torchvision.", "timm.", __package__.partition(".")[0])
# Those that compute the same in another order, so that the last bit may differ.
_ROUNDED = {"torchvision.ops.misc.FrozenBatchNorm2d", "timm.layers.norm.RmsNorm", "timm.layers.norm.RmsNorm2d"}
_ACTIVATIONS = ("torch.nn.modules.activation.", "timm.layers.activations.", "timm.layers.activations_me.")
_NOT_ELEMENTWISE = (nn.GLU, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin, nn.MultiheadAttention)


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


def in_place_of(
    old: nn.Module,
    name: str,
    params: Mapping[str, Any],
    *,
    channels: int | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Replacement:
    """Make the block that takes the place of a module.

    What the old module says of itself (channels, kernel size, stride, epsilon …) is kept as far as ``params`` say nothing else.
    No value of a tensor is read, so that this works on fake and on meta tensors.

    Args:
        old: the module that goes; it is not changed.
        name: of the block, or an alias.
        params: arguments of the block.
        channels: of the tensor that reaches the place, for an old module that does not say.
        device: of that tensor, for an old module that has none itself.
        dtype: of that tensor, likewise.

    Raises:
        ValueError: an unknown block or parameter, with the nearest name; or a block that cannot stand there, with the reason.
    """
    name = registry.canonical_name(name)
    registry.check_parameters(name, params)
    for reserved in ("device", "dtype"):
        if reserved in params:
            raise ValueError(f"'{reserved}' is that of the place, and cannot be given")
    request = _Request(old, name, dict(params), channels, device, dtype)
    if any(is_lazy(tensor) for tensor in old.parameters()):
        raise request.refusal("it is lazy, and has no weights yet; run the model once")
    if type(old) is not nn.Identity and issubclass(request.block, type(old)):
        replacement = _same_class(request)
    elif request.block is nn.Identity:
        replacement = Replacement(
            nn.Identity(), (), isinstance(old, nn.Identity | _DropoutNd), f"{request.old_name} is left out"
        )
    else:
        rules = {"activation": _activation, "norm": _norm, "pooling": _pool}
        replacement = rules.get(registry.info(name)["category"], _block)(request)
    replacement.module.train(old.training)
    return replacement


@dataclass
class _Request:
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
        """The block, with ``settings`` where ``params`` say nothing else."""
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
        return module

    def geometry(self) -> dict[str, Any]:
        """What the old module does of ``_GEOMETRY``, in the block's parameters; refused where the block cannot do it."""
        kept = {}
        for key, nothing in _GEOMETRY.items():
            value = _single(getattr(self.old, key, nothing))
            if key == "stride" and value is None:  # as LPPool2d keeps it
                value = _single(self.old.kernel_size)
            if key in self.accepted:
                kept[key] = value
            elif value != nothing and key != "kernel_size":
                raise self.refusal(f"it has no {key}, and that of the old module is {value!r}")
        return kept

    def changes(self, settings: Mapping[str, Any], of: Collection[str]) -> bool:
        """Whether ``params`` say anything else than ``settings`` do of evaluation, among the parameters ``of``."""
        told = {key: _single(value) for key, value in self.params.items() if key in of and key not in _NOT_IN_EVALUATION}
        return any(key not in settings or value != settings[key] for key, value in told.items())


def _single(value: Any) -> Any:
    """3 for (3, 3): blocks may take nothing but a number."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """``module.to(dtype)`` with new tensors: fake ones cannot be converted in place."""
    for part in module.modules():
        for key, parameter in part._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                part._parameters[key] = nn.Parameter(parameter.detach().to(dtype), parameter.requires_grad)
        for key, buffer in part._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                part._buffers[key] = buffer.to(dtype)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _carry(old: nn.Module, module: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Put those tensors of ``old`` into ``module`` that have the same name and shape there; their names."""
    mine, theirs = _tensors(module), _tensors(old)
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


def _sentence(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _same_class(request: _Request) -> Replacement:
    """The same class, or one that extends it, with other parameters: tensors of equal shape go on."""
    old, tensors = request.old, _tensors(request.old)
    if type(old) is request.block and not request.params:
        module = copy.deepcopy(old, {id(tensor): tensor for tensor in tensors.values()})
        return Replacement(module, tuple(tensors), True, f"{request.old_name} stays as it is")
    settings = _settings(old, request.accepted)
    if request.channels is not None:
        settings |= {key: request.channels for key in _CHANNELS if key in request.accepted and not hasattr(old, key)}
    module = request.make(settings)
    fresh = {tensor for key, tensor in _STARTS.items() if key in request.params}
    carried = _carry(old, module, [key for key in tensors if key not in fresh and None not in fresh])
    anew = [key for key in tensors if key not in carried]
    of_old = registry.parameters_of(type(old)) or {}
    known = {*settings, *request.params, *tensors, "device", "dtype"}
    unread = [key for key in of_old if key in request.accepted and key not in known]
    extends = type(old) is not request.block
    if extends and isinstance(module, CoordConv) and "weight" in carried:
        nn.init.zeros_(module.coord_weight)
    computes_the_same = not extends or request.block in _EXTENSIONS
    exact = computes_the_same and not anew and not unread and not request.changes(settings, of_old)
    note = _sentence(
        "the same function, until training moves it" if exact else f"{request.old_name} with other parameters",
        f"new: {', '.join(anew)}" if anew else "",
        f"{', '.join(unread)} could not be read off the old module, and have their defaults" if unread else "",
    )
    return Replacement(module, carried, exact, note)


def _settings(old: nn.Module, accepted: Collection[str]) -> dict[str, Any]:
    """The arguments that a module was made with, as far as it has kept them under their names."""
    settings = {}
    for key in accepted:
        value = getattr(old, key, None)
        if key == "bias" and hasattr(old, key):
            if getattr(old, "weight", None) is not None:
                settings[key] = value is not None
        elif hasattr(old, key) and not isinstance(value, Tensor | nn.Module):
            settings[key] = _single(value)
    return settings


def _full_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _is_of(category: str, module: nn.Module) -> bool:
    return any(registry.get(name) is type(module) for name in registry.list(category))


def _activation(request: _Request) -> Replacement:
    old = request.old
    known = _full_name(old).startswith(_ACTIVATIONS) or _is_of("activation", old) or isinstance(old, nn.Identity)
    if not known or isinstance(old, _NOT_ELEMENTWISE):
        raise request.refusal("an activation goes where an element-wise activation is")
    return Replacement(request.make({}), (), False, f"{request.old_name} gives way to another function: fine-tune")


def _norm_family(old: nn.Module) -> str | None:
    """What a norm normalises over; None where that is not known, as of a class that has a forward of its own."""
    known = next((cls for cls in type(old).__mro__ if cls.__module__.startswith(_LIBRARIES)), None)
    if known is None or type(old).forward is not known.forward:
        return None
    for classes, family in (
        ((_BatchNorm, FrozenBatchNorm), "batch"),
        (_InstanceNorm, "instance"),
        (nn.GroupNorm, "group"),
        (LayerNorm2d, "layer"),
        (RMSNorm2d, "rms"),
    ):
        if isinstance(old, classes):
            return family
    return _NORM_FAMILIES.get(_full_name(old))


_NEW_FAMILIES = {
    nn.BatchNorm2d: "batch",
    FrozenBatchNorm: "batch",
    nn.InstanceNorm2d: "instance",
    GroupNorm: "group",
    LayerNorm2d: "layer",
    RMSNorm2d: "rms",
    nn.LayerNorm: "layer, channels last",
    nn.RMSNorm: "rms, channels last",
}


def _norm(request: _Request) -> Replacement:
    """Scale and shift go on; epsilon and statistics, too, where both normalise over the same."""
    old, block = request.old, request.block
    family = _norm_family(old)
    if family is None and not isinstance(old, nn.Identity):
        raise request.refusal("a norm goes where a norm of torch, torchvision or timm is")
    parts = [name for name, _ in old.named_children()]
    if parts:
        raise request.refusal(f"it would lose what that does besides ({', '.join(parts)})")
    new_last = "normalized_shape" in request.accepted
    if family is not None and family.endswith("last") != new_last:
        here, can = ("second", "layer_norm_2d and rms_norm_2d") if new_last else ("last", "layer_norm and rms_norm")
        raise request.refusal(f"the channels come {here} there; {can} can stand there")
    if block in (nn.BatchNorm2d, nn.InstanceNorm2d) and type(old).__name__.endswith(("1d", "3d")):
        raise request.refusal("it takes (N, C, H, W) only; group_norm, layer_norm_2d and frozen_batch_norm take any (N, C, *)")
    if block is FrozenBatchNorm and family == "batch" and getattr(old, "running_mean", None) is None:
        raise request.refusal("the old one has no running statistics that could be frozen")
    same = family is not None and family == _NEW_FAMILIES.get(block)
    settings = _norm_settings(request, same)
    module = request.make(settings)
    tensors = _tensors(old)
    carried = _carry(old, module, [name for name in tensors if same or name in ("weight", "bias")])
    complete = len(carried) == len(tensors) and _full_name(old) not in _ROUNDED
    exact = same and complete and not request.changes(settings, request.params)
    return Replacement(module, carried, exact, _norm_note(request, module, carried, exact))


def _norm_settings(request: _Request, same_family: bool) -> dict[str, Any]:
    """The arguments of a norm that the old one decides."""
    old, accepted = request.old, request.accepted
    settings: dict[str, Any] = {}
    channels = _norm_channels(old) or request.channels
    for key in _CHANNELS:
        if channels is not None and request.params.get(key, channels) != channels:
            raise request.refusal(f"there are {channels} channels there, and {key} is {request.params[key]!r}")
        settings[key] = channels
    settings["normalized_shape"] = getattr(old, "normalized_shape", request.channels)
    settings = {key: value for key, value in settings.items() if value is not None}
    if not isinstance(old, nn.Identity):
        settings |= dict.fromkeys(("affine", "elementwise_affine"), getattr(old, "weight", None) is not None)
    if same_family:
        kept = ("eps", "momentum", "track_running_stats", "num_groups")
        settings |= {key: getattr(old, key) for key in kept if hasattr(old, key)}
    return {key: value for key, value in settings.items() if key in accepted}


def _norm_channels(old: nn.Module) -> int | None:
    """The channels of a norm with channels first."""
    for key in ("num_features", "num_channels"):
        if hasattr(old, key):
            return int(getattr(old, key))
    weight = getattr(old, "weight", None)
    shape = getattr(old, "normalized_shape", None if weight is None else weight.shape)
    return None if shape is None else int(shape[0])


def _norm_note(request: _Request, module: nn.Module, carried: tuple[str, ...], exact: bool) -> str:
    if exact:
        return "the same function in evaluation mode"
    old = request.old
    lost = [name for name in ("weight", "bias") if getattr(old, name, None) is not None and name not in carried]
    has_statistics = getattr(old, "running_mean", None) is not None
    return _sentence(
        f"{request.old_name} gives way to {type(module).__name__}: fine-tune",
        f"its {' and '.join(lost)} {'is' if len(lost) == 1 else 'are'} dropped" if lost else "",
        "its statistics are dropped" if has_statistics and "running_mean" not in carried else "",
        "the new statistics are 0 and 1: calibrate"
        if getattr(module, "running_mean", None) is not None and "running_mean" not in carried
        else "",
    )


def _pool(request: _Request) -> Replacement:
    """Window or output size stay."""
    old, block = request.old, request.block
    if not (_full_name(old).startswith("torch.nn.modules.pooling.") or _is_of("pooling", old)):
        raise request.refusal("a pool goes where a pool is")
    if block is GeM:
        size = _single(getattr(old, "output_size", None))
        if size != 1:
            gives = "has a window" if size is None else f"gives {size}"
            raise request.refusal(f"it pools all of space to one position, and the old one {gives}")
        request.geometry()  # refuses indices, which a pool to one position may give, too
        mean = isinstance(old, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d)
        module = request.make({"p": 1.0} if mean else {})
        starts = mean and request.params.get("p", 1) == 1
        note = "starts as the mean of max(x, eps), which is the old one where no input is negative"
        return Replacement(module, (), False, note if starts else f"{request.old_name} gives way to GeM: fine-tune")
    if type(old).__name__.endswith(("1d", "3d")):
        raise request.refusal("it takes (N, C, H, W) only")
    if isinstance(old, GeM) and old.flatten:
        raise request.refusal("the old one flattens its output")
    size = 1 if isinstance(old, GeM) else getattr(old, "output_size", None)
    if ("output_size" in request.accepted) != (size is not None):
        mine, its = ("a window", "an output size") if size is not None else ("an output size", "a window")
        raise request.refusal(f"it has {mine}, and the old one {its}")
    settings = request.geometry() | ({} if size is None else {"output_size": size})
    return Replacement(request.make(settings), (), False, f"{request.old_name} gives way to another pool: fine-tune")


def _block(request: _Request) -> Replacement:
    """Any other block: it is told the channels, and what a convolution does besides."""
    old, accepted = request.old, request.accepted
    inputs, outputs = _widths(request)
    settings: dict[str, Any] = {}
    if isinstance(old, _ConvNd):
        if type(old) is not nn.Conv2d:
            raise request.refusal("it goes where a plain Conv2d is, which that is not")
        geometry = request.geometry()
        if "in_channels" in accepted:
            settings |= geometry
            settings |= {"bias": old.bias is not None} if "bias" in accepted else {}
            settings |= {"in_channels": inputs, "out_channels": outputs}
    elif isinstance(old, nn.Linear):
        settings |= {"in_features": inputs, "out_features": outputs}
    elif inputs is not None:
        settings["in_channels"] = inputs
    if not {"out_channels", "out_features"} & {*accepted} and None not in (inputs, outputs) and inputs != outputs:
        raise request.refusal(f"it keeps the number of channels, and the old one makes {outputs} of {inputs}")
    settings |= {key: inputs for key in _CHANNELS if inputs is not None}
    module = request.make({key: value for key, value in settings.items() if key in accepted})
    return Replacement(module, (), False, f"{request.old_name} gives way to new weights: fine-tune")


def _widths(request: _Request) -> tuple[int | None, int | None]:
    """Channels that reach the old module and leave it, as far as they are known."""
    old = request.old
    if isinstance(old, _ConvNd):
        return old.in_channels, old.out_channels
    if isinstance(old, nn.Linear):
        return old.in_features, old.out_features
    if _norm_family(old) is not None:
        channels = _norm_channels(old)
        return channels, channels
    return request.channels, None
