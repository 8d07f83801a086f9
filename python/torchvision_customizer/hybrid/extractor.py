"""A model as stem, stages and head, under the names of version 2.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .._torchvision import models
from .backbones import check_backbone, find_family
from .finetuning import _set_trainable
from .model import HybridModel, become_hybrid, note, stage_at
from .opened import original_class
from .probe import input_shape_of
from .views import Stage, anatomy_of, view

ExampleInput = Tensor | tuple[int, ...] | None


@dataclass(frozen=True)
class BackboneInfo:
    """What a model consists of.

    Attributes:
        name: that it was built by, or of its class.
        model: the model.
        stem_parts: paths of what comes before the stages.
        stages: the stages, with their channels and strides.
        head_parts: paths of what comes after them.
    """

    name: str
    model: nn.Module
    stem_parts: list[str]
    stages: tuple[Stage, ...]
    head_parts: list[str]

    @property
    def stage_parts(self) -> list[str]:
        """Paths of the modules of all stages, in order."""
        return [path for stage in self.stages for path in stage.paths]

    @property
    def stage_channels(self) -> list[int]:
        """Channels of what each stage gives, as a run on fake tensors finds them."""
        return [stage.channels for stage in self.stages]

    @property
    def total_params(self) -> int:
        """How many parameters the model has."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def trainable_params(self) -> int:
        """How many of them are trained."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def summary(self) -> str:
        """All of it, a line for each."""
        lines = [f"{self.name}: {self.total_params:,} parameters, {self.trainable_params:,} of them trained"]
        lines += [f"  stem     {', '.join(self.stem_parts) or 'none'}"]
        lines += [f"  stage {number}  {stage}" for number, stage in enumerate(self.stages)]
        return "\n".join([*lines, f"  head     {', '.join(self.head_parts) or 'none'}"])

    def __repr__(self) -> str:
        return f"BackboneInfo(name={self.name!r}, params={self.total_params:,}, stages={len(self.stages)})"


def get_backbone_info(
    model: nn.Module, backbone_name: str | None = None, *, example_input: ExampleInput = None
) -> BackboneInfo:
    """Find out what a model consists of, by running it on fake tensors.

    Args:
        model: of any kind; of torchvision's families it is known where the stages begin and end. It is not touched.
        backbone_name: what to call it; a torchvision model of its class.
        example_input: a batch that the model takes, or its shape; by default images of 3×224×224.

    Raises:
        ValueError: an unknown name, or that of a model of another class; or a model that has no stages.
    """
    name = (model.backbone_name if isinstance(model, HybridModel) else None) or original_class(model).__name__
    if backbone_name is not None:
        name = check_backbone(backbone_name)
        module = models.get_model_builder(name).__module__
        if not any(base.__module__ == module for base in type(model).__mro__):
            raise ValueError(f"backbone_name: this {original_class(model).__name__} is no {name}")
    known = model._hybrid_state.input_shape if isinstance(model, HybridModel) and example_input is None else None
    anatomy = anatomy_of(model, known or input_shape_of(example_input, model))
    return BackboneInfo(name, model, list(anatomy.stem), anatomy.stages, list(anatomy.head))


def extract_tiers(model: nn.Module, backbone_name: str | None = None, *, example_input: ExampleInput = None) -> dict[str, Any]:
    """The modules of a model by where they are in it.

    They are the model's own, not copies, and no network in three parts: what a forward does between modules (DenseNet's last
    ReLU and pool, a ViT's class token) is in none of them. ``model.get_stage_outputs`` of a ``HybridModel`` runs all of it.

    Args:
        model: as of ``get_backbone_info``.
        backbone_name: likewise.
        example_input: likewise.

    Returns:
        ``stem``, a sequence of modules; ``stages``, a list of modules, each of one stage; ``head``, a sequence; and ``info``,
        the ``BackboneInfo``.

    Raises:
        ValueError: as ``get_backbone_info``.
    """
    info = get_backbone_info(model, backbone_name, example_input=example_input)
    stages = [
        model.get_submodule(stage.paths[0]) if len(stage.paths) == 1 else view(model, stage.paths) for stage in info.stages
    ]
    stem, head = (view(model, tuple(parts)) for parts in (info.stem_parts, info.head_parts))
    return {"stem": stem, "stages": stages, "head": head, "info": info}


def get_stage_channels(model: nn.Module, backbone_name: str | None = None, *, example_input: ExampleInput = None) -> list[int]:
    """Channels of what each stage gives; arguments and errors are as of ``get_backbone_info``."""
    return get_backbone_info(model, backbone_name, example_input=example_input).stage_channels


def freeze_backbone(
    model: nn.Module,
    freeze_stem: bool = True,
    freeze_stages: bool | Sequence[int] = True,
    freeze_head: bool = False,
    backbone_name: str | None = None,
    *,
    example_input: ExampleInput = None,
) -> HybridModel:
    """Freeze parts of a model. Others, and new modules of patches, stay as they are.

    Args:
        model: changed in place: it becomes a ``HybridModel``, whose frozen batch norms do not move their statistics.
        freeze_stem: freeze what comes before the stages, or lies between them (a ViT's class token).
        freeze_stages: freeze all stages, none, or those of these indices; negative ones count from the end.
        freeze_head: freeze what comes after them.
        backbone_name, example_input: as of ``get_backbone_info``.

    Returns:
        The model.

    Raises:
        ValueError: there is no such stage; or as ``get_backbone_info``. Nothing is frozen then.
    """
    info = get_backbone_info(model, backbone_name, example_input=example_input)
    if isinstance(freeze_stages, bool):
        frozen = info.stages if freeze_stages else ()
    else:
        frozen = tuple(stage_at(info.stages, index, "freeze_stages") for index in freeze_stages)
    family = find_family(model)
    head = [*info.head_parts, *(family.head if family else ())]
    was_hybrid = isinstance(model, HybridModel)
    hybrid = become_hybrid(model)
    if not was_hybrid:
        note(hybrid, input_shape=input_shape_of(example_input, model))
    new = [edit.child_path for edit in hybrid._hybrid_state.edits]

    def is_frozen(name: str) -> bool:
        if _is_in(name, new):
            return False
        if _is_in(name, head):
            return freeze_head
        return _is_in(name, [path for stage in frozen for path in stage.paths]) or (
            freeze_stem and not _is_in(name, info.stage_parts)
        )

    _set_trainable(hybrid, (parameter for name, parameter in hybrid.named_parameters() if is_frozen(name)), False)
    return hybrid


def unfreeze_model(model: nn.Module) -> nn.Module:
    """Let all of a model be trained, in place; the model itself is given back."""
    _set_trainable(model, model.parameters(), True)
    return model


def _is_in(name: str, paths: Sequence[str]) -> bool:
    return any(name.startswith(f"{path}.") for path in paths)
