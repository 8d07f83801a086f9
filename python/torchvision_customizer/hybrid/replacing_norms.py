"""``replace`` for norms: scale and shift go on; epsilon and statistics, too, where both normalise over the same."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..blocks import FrozenBatchNorm, GroupNorm, LayerNorm2d, RMSNorm2d
from .replacement import CHANNELS, Replacement, Request, alike, carry, full_name, sentence, tensors_of

# What norms normalise over, by full name, so that other libraries need not be imported.
_FAMILIES = {
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


def norm_family(old: nn.Module) -> str | None:
    """What a norm normalises over; None where that is not known, as of a class that has a forward of its own."""
    known: Any = next((cls for cls in type(old).__mro__ if cls.__module__.startswith(_LIBRARIES)), None)
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
    return _FAMILIES.get(full_name(old))


_FAMILIES_OF_BLOCKS = {
    nn.BatchNorm2d: "batch",
    FrozenBatchNorm: "batch",
    nn.InstanceNorm2d: "instance",
    GroupNorm: "group",
    LayerNorm2d: "layer",
    RMSNorm2d: "rms",
    nn.LayerNorm: "layer, channels last",
    nn.RMSNorm: "rms, channels last",
}


def replace_norm(request: Request) -> Replacement:
    """Scale and shift go on; epsilon and statistics, too, where both normalise over the same."""
    old, block = request.old, request.block
    family = norm_family(old)
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
    same = family is not None and family == _FAMILIES_OF_BLOCKS.get(block)
    settings = _norm_settings(request, same)
    module = request.make(settings)
    tensors = tensors_of(old)
    carried = carry(old, module, [name for name in tensors if same or name in ("weight", "bias")])
    complete = len(carried) == len(tensors) and full_name(old) not in _ROUNDED
    exact = same and complete and alike(old, module, request.params)
    return Replacement(module, carried, exact, _norm_note(request, module, carried, exact))


def _norm_settings(request: Request, same_family: bool) -> dict[str, Any]:
    """The arguments of a norm that the old one decides."""
    old, accepted = request.old, request.accepted
    settings: dict[str, Any] = {}
    channels = norm_channels(old) or request.channels
    for key in CHANNELS:
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


def norm_channels(old: nn.Module) -> int | None:
    """The channels of a norm with channels first."""
    for key in ("num_features", "num_channels"):
        if hasattr(old, key):
            return int(getattr(old, key))
    weight = getattr(old, "weight", None)
    shape = getattr(old, "normalized_shape", None if weight is None else weight.shape)
    return None if shape is None else int(shape[0])


def _norm_note(request: Request, module: nn.Module, carried: tuple[str, ...], exact: bool) -> str:
    if exact:
        return "the same function in evaluation mode"
    old = request.old
    lost = [name for name in ("weight", "bias") if getattr(old, name, None) is not None and name not in carried]
    has_statistics = getattr(old, "running_mean", None) is not None
    return sentence(
        f"{request.old_name} gives way to {type(module).__name__}: fine-tune",
        f"its {' and '.join(lost)} {'is' if len(lost) == 1 else 'are'} dropped" if lost else "",
        "its statistics are dropped" if has_statistics and "running_mean" not in carried else "",
        "the new statistics are 0 and 1: calibrate"
        if getattr(module, "running_mean", None) is not None and "running_mean" not in carried
        else "",
    )
