"""``replace``: the module that takes the place of another one, and what of the old one goes on in it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from .. import registry
from ..blocks import CoordConv, GeM, GroupNorm, PReLU
from .replacement import CHANNELS, Replacement, Request, alike, carry, full_name, sentence, single, tensors_of
from .replacing_norms import norm_channels, norm_family, replace_norm

__all__ = ["Replacement", "in_place_of"]

# Registered blocks that compute what the class of torch they extend computes, as long as their own parameters say nothing else.
_EXTENSIONS = (CoordConv, GroupNorm, PReLU)
# Parameters that say how tensors start: where one is given, these tensors start so, and are not the old ones.
_STARTS = {"init": None, "slope": "weight", "p": "p"}  # None: all of them

_ACTIVATIONS = ("torch.nn.modules.activation.", "timm.layers.activations.", "timm.layers.activations_me.")
_NOT_ELEMENTWISE = (nn.GLU, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin, nn.MultiheadAttention)


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
    request = Request(old, name, dict(params), channels, device, dtype)
    if any(is_lazy(tensor) for tensor in old.parameters()):
        raise request.refusal("it is lazy, and has no weights yet; run the model once")
    if type(old) is not nn.Identity and issubclass(request.block, type(old)):
        return _same_class(request)
    if request.block is nn.Identity:
        exact = isinstance(old, nn.Identity | _DropoutNd)
        return Replacement(request.make({}), (), exact, f"{request.old_name} is left out")
    rules = {"activation": _activation, "norm": replace_norm, "pooling": _pool}
    return rules.get(registry.info(name)["category"], _block)(request)


def _same_class(request: Request) -> Replacement:
    """The same class, or one that extends it, with other parameters: tensors of equal shape go on."""
    old, tensors = request.old, tensors_of(request.old)
    if type(old) is request.block and not request.params:
        module = copy.deepcopy(old, {id(tensor): tensor for tensor in tensors.values()})
        return Replacement(module, tuple(tensors), True, f"{request.old_name} stays as it is")
    extends = type(old) is not request.block
    if extends:
        request.geometry()  # refuses a padding mode, which CoordConv has not
    settings = _settings(old, request.accepted)
    if request.channels is not None:
        settings |= {key: request.channels for key in CHANNELS if key in request.accepted and not hasattr(old, key)}
    module = request.make(settings)
    fresh = {tensor for key, tensor in _STARTS.items() if key in request.params}
    carried = carry(old, module, [key for key in tensors if key not in fresh and None not in fresh])
    anew = [key for key in tensors if key not in carried]
    of_old = registry.parameters_of(type(old)) or {}
    known = {*settings, *request.params, *tensors, "device", "dtype"}
    unread = [key for key in of_old if key in request.accepted and key not in known]
    if extends and isinstance(module, CoordConv) and "weight" in carried:
        nn.init.zeros_(module.coord_weight)
    computes_the_same = not extends or request.block in _EXTENSIONS
    exact = computes_the_same and not anew and not unread and alike(old, module, {*request.params} & {*of_old})
    note = sentence(
        "the same function, until training moves it" if exact else f"{request.old_name} with other parameters",
        f"new: {', '.join(anew)}" if anew else "",
        f"{', '.join(unread)} could not be read off the old module, and have their defaults" if unread else "",
    )
    return Replacement(module, carried, exact, note)


def _settings(old: nn.Module, accepted: Collection[str]) -> dict[str, Any]:
    """The arguments that a module was made with, as far as it has kept them under their names."""
    settings: dict[str, Any] = {}
    for key in accepted:
        value = getattr(old, key, None)
        if key == "bias" and hasattr(old, key):
            if getattr(old, "weight", None) is not None:
                settings[key] = value is not None
        elif hasattr(old, key) and not isinstance(value, Tensor | nn.Module):
            settings[key] = value
    return settings


def _is_of(category: str, module: nn.Module) -> bool:
    return any(registry.get(name) is type(module) for name in registry.list(category))


def _activation(request: Request) -> Replacement:
    old = request.old
    known = full_name(old).startswith(_ACTIVATIONS) or _is_of("activation", old) or isinstance(old, nn.Identity)
    if not known or isinstance(old, _NOT_ELEMENTWISE):
        raise request.refusal("an activation goes where an element-wise activation is")
    return Replacement(request.make({}), (), False, f"{request.old_name} gives way to another function: fine-tune")


def _pool(request: Request) -> Replacement:
    """Window or output size stay."""
    old, block = request.old, request.block
    if not (full_name(old).startswith("torch.nn.modules.pooling.") or _is_of("pooling", old)):
        raise request.refusal("a pool goes where a pool is")
    if block is GeM:
        size = single(getattr(old, "output_size", None))
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


def _block(request: Request) -> Replacement:
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
    settings |= {key: inputs for key in CHANNELS if inputs is not None}
    module = request.make({key: value for key, value in settings.items() if key in accepted})
    return Replacement(module, (), False, f"{request.old_name} gives way to new weights: fine-tune")


def _widths(request: Request) -> tuple[int | None, int | None]:
    """Channels that reach the old module and leave it, as far as they are known."""
    old = request.old
    if isinstance(old, _ConvNd):
        return old.in_channels, old.out_channels
    if isinstance(old, nn.Linear):
        return old.in_features, old.out_features
    if norm_family(old) is not None:
        channels = norm_channels(old)
        return channels, channels
    return request.channels, None
