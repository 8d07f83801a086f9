"""What was changed, and what it costs: a value, and its text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .probe import count_flops


@dataclass(frozen=True)
class Edit:
    """One new module.

    Attributes:
        path: of the module that is changed.
        child_path: of the new module.
        place: where within ``path``, in words.
        block: registered name.
        params: the arguments that the block is made with, but for device and dtype.
        parameters: how many parameters it has.
        device: where they are.
        dtype: their type.
    """

    path: str
    child_path: str
    place: str
    block: str
    params: Mapping[str, Any]
    parameters: int
    device: torch.device
    dtype: torch.dtype

    def __str__(self) -> str:
        params = ", ".join(f"{key}={value}" for key, value in self.params.items())
        return f"{self.child_path}: {self.block}({params}) at {self.place}, {self.parameters:,} parameters"


@dataclass(frozen=True)
class HeadChange:
    """The last layer, where it was changed.

    Attributes:
        path: of the layer.
        in_features: its inputs.
        classes_before: its outputs in the original.
        classes: its outputs now; 0 where it is gone.
        bias: whether it adds a bias.
        dropout: probability of the dropout before it.
    """

    path: str
    in_features: int
    classes_before: int
    classes: int
    bias: bool
    dropout: float

    def parameters(self, classes: int) -> int:
        return (self.in_features + self.bias) * classes

    def flops(self, classes: int) -> int:
        return 2 * self.in_features * classes

    def __str__(self) -> str:
        if self.classes == 0:
            return f"{self.path}: removed, the model gives {self.in_features} features"
        changes = []
        if self.classes != self.classes_before:
            changes.append(f"new, {self.classes} classes in place of {self.classes_before}")
        if self.dropout:
            changes.append(f"dropout {self.dropout:g} before it")
        return f"{self.path}: {', '.join(changes)}"


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

    FLOPs are those of one sample of ``input_shape``, two for each multiply-add.
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

    def __str__(self) -> str:
        size = "×".join(map(str, self.input_shape))
        lines = [f"{self.backbone}, {len(self.edits)} new module{'' if len(self.edits) == 1 else 's'}"]
        lines += [f"  {edit}" for edit in self.edits]
        if self.head is not None:
            lines.append(f"  {self.head}")
        lines.append(f"weights     {self.weights or 'random'}")
        lines.append(f"parameters  {_against(self.parameters_before, self.parameters_after, 1e6, 'M')}")
        lines.append(f"FLOPs       {_against(self.flops_before, self.flops_after, 1e9, 'G')} ({size})")
        return "\n".join(lines)


def _against(before: int, after: int, unit: float, name: str) -> str:
    if before == after:
        return f"{before / unit:.3f} {name}, unchanged"
    return f"{before / unit:.3f} {name} -> {after / unit:.3f} {name} ({(after - before) / before:+.2%})"


def build_report(
    model: nn.Module,
    backbone: str | None,
    edits: tuple[Edit, ...],
    head: HeadChange | None,
    weights: WeightsMatch | None,
    input_shape: tuple[int, ...],
) -> BuildReport:
    """Count what a model has and costs; the original is what remains without the new modules, and with the old head."""
    flops = count_flops(model, input_shape)
    parameters_after = sum(parameter.numel() for parameter in model.parameters())
    parameters_before = parameters_after - sum(edit.parameters for edit in edits)
    flops_before = flops[""] - sum(flops.get(edit.child_path, 0) for edit in edits)
    if head is not None:
        parameters_before += head.parameters(head.classes_before) - head.parameters(head.classes)
        flops_before += head.flops(head.classes_before) - head.flops(head.classes)
    return BuildReport(
        backbone=backbone or type(model).__name__,
        edits=edits,
        head=head,
        weights=weights,
        parameters_before=parameters_before,
        parameters_after=parameters_after,
        flops_before=flops_before,
        flops_after=flops[""],
        input_shape=input_shape,
    )
