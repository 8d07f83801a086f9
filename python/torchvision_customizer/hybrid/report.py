"""What was changed, and what it costs: a value, and its text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .probe import count_flops, count_flops_and_positions


@dataclass(frozen=True)
class Replaced:
    """A module that made way.

    Attributes:
        module: itself, with the tensors that go on shared with the new one.
        sample: shape of one sample of what it is given, where that is one tensor.
        carried: names of its tensors that go on in the new one.
    """

    module: nn.Module
    sample: tuple[int, ...] | None
    carried: tuple[str, ...]

    def put_back(self, new: nn.Module) -> nn.Module:
        """The old module, with what it shared with the new one as that is now."""
        tensors = dict(new.state_dict(keep_vars=True))
        for name in self.carried:
            holder, _, tensor = name.rpartition(".")
            old = self.module.get_submodule(holder)
            if name not in tensors or tensors[name].shape != self.module.state_dict()[name].shape:
                continue
            (old._parameters if tensor in old._parameters else old._buffers)[tensor] = tensors[name]
        like = next(new.parameters(), None)
        return (self.module if like is None else self.module.to(like.device, like.dtype)).train(new.training)


@dataclass(frozen=True)
class Edit:
    """One new module.

    Attributes:
        path: of the module that is changed.
        child_path: of the new module; ``path`` itself where a module was replaced.
        place: where within ``path``, in words.
        block: registered name.
        params: the arguments that the block is made with, but for device and dtype.
        parameters: how many parameters it has; more than the one that it replaced.
        device: where they are.
        dtype: their type.
        channel_dim: where the channels of what it sees are, 1 or -1.
        replaced: the module that made way, if one did.
        exact: whether the model is the same function after it.
        note: what is to be said of it.
    """

    path: str
    child_path: str
    place: str
    block: str
    params: Mapping[str, Any]
    parameters: int
    device: torch.device
    dtype: torch.dtype
    channel_dim: int = 1
    replaced: Replaced | None = None
    exact: bool = True
    note: str = ""

    def __str__(self) -> str:
        params = ", ".join(f"{key}={value}" for key, value in self.params.items())
        at = "in" if self.replaced else "at"
        count = f"{self.parameters:+,}" if self.replaced else f"{self.parameters:,}"
        text = f"{self.child_path}: {self.block}({params}) {at} {self.place}, {count} parameters"
        return f"{text}; {self.note}" if self.note else text


@dataclass(frozen=True)
class HeadLayer:
    """A last layer as it was: its path, its inputs, its classes, and whether it adds a bias."""

    path: str
    in_features: int
    classes_before: int
    bias: bool


@dataclass(frozen=True)
class HeadChange:
    """The last layers, where they were changed.

    Attributes:
        layers: as they were; the model's own first, then those of its auxiliary heads.
        classes: how many there are now; 0 where the layers are gone.
        dropout: probability of the dropout before them.
        hidden: widths of the hidden layers before them.
        keep_classes: which of the old classes are the first of the new ones.
    """

    layers: tuple[HeadLayer, ...]
    classes: int
    dropout: float
    hidden: tuple[int, ...] = ()
    keep_classes: tuple[int, ...] = ()

    @property
    def is_new(self) -> bool:
        """Whether the layers have other parameters than before."""
        return self.classes != self.layers[0].classes_before or bool(self.hidden or self.keep_classes)

    def __str__(self) -> str:
        first = self.layers[0]
        paths = ", ".join(layer.path for layer in self.layers)
        if self.classes == 0:
            return f"{paths}: removed, the model gives {first.in_features} features"
        changes = []
        if self.classes != first.classes_before:
            changes.append(f"new, {self.classes} classes in place of {first.classes_before}")
        if self.keep_classes:
            changes.append(f"the first {len(self.keep_classes)} are old ones")
        if self.hidden:
            changes.append(f"hidden layers of {', '.join(map(str, self.hidden))} before it")
        if self.dropout:
            changes.append(f"dropout {self.dropout:g} before it")
        return f"{paths}: {', '.join(changes)}"


@dataclass(frozen=True)
class WeightsMatch:
    """How loaded weights fit.

    Attributes:
        source: the name of torchvision's weights, or the file.
        tensors_loaded: tensors of the model that were loaded.
        tensors_total: tensors of the model, but for those of new modules that the source has not.
        parameters_loaded: elements of the loaded parameters.
        parameters_total: elements of all parameters among those tensors.
        new: tensors of a new head.
    """

    source: str
    tensors_loaded: int
    tensors_total: int
    parameters_loaded: int
    parameters_total: int
    new: tuple[str, ...] = ()

    def __str__(self) -> str:
        share = self.parameters_loaded / self.parameters_total if self.parameters_total else 1.0
        text = f"{self.source}: {self.tensors_loaded} of {self.tensors_total} tensors, {share:.2%} of the parameters"
        if self.new:
            text += f"; new: {', '.join(self.new[:3])}" + (f" and {len(self.new) - 3} more" if len(self.new) > 3 else "")
        return text


@dataclass(frozen=True)
class BuildReport:
    """What a hybrid model was made of, and what it costs against the original.

    FLOPs are those of one sample of ``input_shape``, two for each multiply-add. ``unreached`` says where an activation stays
    that was to be replaced, and ``drift`` how far the logits moved by replacing modules, as a share of the largest; None where
    nothing was replaced by another function.
    """

    backbone: str
    edits: tuple[Edit, ...]
    head: HeadChange | None
    weights: WeightsMatch | None
    parameters_before: int
    parameters_after: int
    flops_before: int
    flops_after: int
    input_shape: tuple[int, ...]
    unreached: tuple[str, ...] = ()
    drift: float | None = None

    def __str__(self) -> str:
        size = "×".join(map(str, self.input_shape))
        lines = [f"{self.backbone}, {len(self.edits)} new module{'' if len(self.edits) == 1 else 's'}"]
        lines += [f"  {edit}" for edit in self.edits]
        if self.head is not None:
            lines.append(f"  {self.head}")
        lines += [f"  not reached: {text}" for text in self.unreached]
        if self.drift is not None:
            moved = f"moved by {self.drift:.1%} of the largest, on random images"
            lines.append(f"logits      {moved}; fine-tune, or calibrate the norms")
        lines.append(f"weights     {self.weights or 'random'}")
        lines.append(f"parameters  {_against(self.parameters_before, self.parameters_after, 1e6, 'M')}")
        lines.append(f"FLOPs       {_against(self.flops_before, self.flops_after, 1e9, 'G')} ({size})")
        return "\n".join(lines)


def _against(before: int, after: int, unit: float, name: str) -> str:
    if before == after:
        return f"{before / unit:.3f} {name}, unchanged"
    return f"{before / unit:.3f} {name} -> {after / unit:.3f} {name} ({(after - before) / before:+.2%})"


@dataclass(frozen=True)
class Cost:
    """Parameters and FLOPs of a part of a model, before it was changed and after."""

    parameters_before: int
    parameters_after: int
    flops_before: int
    flops_after: int


class Costs:
    """Counts what the parts of a changed model have and cost; the original is what remains without the new modules, and with
    the old ones.

    Args:
        model: as it is now.
        edits: what was changed in it.
        head: how its last layers were changed.
        input_shape: of the sample that FLOPs are counted for.
    """

    def __init__(
        self, model: nn.Module, edits: tuple[Edit, ...], head: HeadChange | None, input_shape: tuple[int, ...]
    ) -> None:
        self.model = model
        self.edits = edits
        self.heads = head.layers if head is not None else ()
        self.flops, self.positions = count_flops_and_positions(model, input_shape, [layer.path for layer in self.heads])

    def of(self, path: str = "") -> Cost:
        """Of the module at ``path``; ``""`` is the model."""
        parameters = before = sum(parameter.numel() for parameter in self.model.get_submodule(path).parameters())
        flops = flops_before = self.flops.get(path, 0)
        for edit in self.edits:
            if not _is_in(edit.child_path, path):
                continue
            before -= edit.parameters
            flops_before -= self.flops.get(edit.child_path, 0)
            if edit.replaced is not None and edit.replaced.sample is not None:
                flops_before += count_flops(edit.replaced.module, edit.replaced.sample)[""]
        for layer in self.heads:
            if not _is_in(layer.path, path):
                continue
            own = sum(parameter.numel() for parameter in self.model.get_submodule(layer.path).parameters())
            before += (layer.in_features + layer.bias) * layer.classes_before - own
            old = 2 * layer.in_features * layer.classes_before * self.positions.get(layer.path, 0)
            flops_before += old - self.flops.get(layer.path, 0)
        return Cost(before, parameters, flops_before, flops)


def _is_in(path: str, part: str) -> bool:
    return not part or f"{path}.".startswith(f"{part}.")


def build_report(
    model: nn.Module,
    backbone: str | None,
    edits: tuple[Edit, ...],
    head: HeadChange | None,
    weights: WeightsMatch | None,
    input_shape: tuple[int, ...],
    unreached: tuple[str, ...] = (),
    drift: float | None = None,
) -> BuildReport:
    """Say what was changed, and count what it costs."""
    cost = Costs(model, edits, head, input_shape).of()
    return BuildReport(
        backbone=backbone or type(model).__name__,
        edits=edits,
        head=head,
        weights=weights,
        parameters_before=cost.parameters_before,
        parameters_after=cost.parameters_after,
        flops_before=cost.flops_before,
        flops_after=cost.flops_after,
        input_shape=input_shape,
        unreached=unreached,
        drift=drift,
    )
