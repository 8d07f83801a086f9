"""A recipe as a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from .recipe import Recipe
from .schema import AnyRecipe, BackboneRecipe, Section, Stage

if TYPE_CHECKING:
    from torch import nn

    from ..compose import VisionModel
    from ..hybrid import HybridModel

# Attribute of a composed model that holds what its recipe says besides.
ABOUT = "recipe_about"
AnyWeights = str | os.PathLike[str] | Enum | None | EllipsisType


def build_recipe(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str], weights: AnyWeights = ...
) -> HybridModel | VisionModel:
    """Build the model that a recipe describes.

    Args:
        recipe: a recipe, its plain values, its file, or the name of a shipped one.
        weights: of the backbone, instead of those that the recipe says: a name, a file, or None for random ones.

    Returns:
        A ``HybridModel`` where the recipe has a backbone, frozen as its section ``training`` says; else a ``VisionModel``.

    Raises:
        RecipeError: something in the recipe is wrong.
        PatchError, WeightsError, ValueError: a patch, weights or a stage that do not fit what is there.

    Examples:
        >>> from torchvision_customizer import Recipe, build_recipe
        >>> recipe = Recipe(stem="conv(8, k=3)", stages=["mbconv+drop_path(16) x 2 | downsample"], head="linear(10)")
        >>> build_recipe(recipe).count_parameters()
        5272
    """
    return build_config(recipe_of(recipe).config, weights)


def build_config(config: AnyRecipe, weights: AnyWeights = ..., frozen: bool = True) -> HybridModel | VisionModel:
    """``build_recipe`` of a typed recipe; ``frozen`` says whether its section ``training`` may freeze anything."""
    if isinstance(config, BackboneRecipe):
        return _hybrid(config, config.backbone.weights if isinstance(weights, EllipsisType) else weights, frozen)
    if not isinstance(weights, EllipsisType | None):
        raise ValueError("weights are those of a backbone, and this recipe has none")
    return _composed(config)


def build_from_config(config: Mapping[str, Any]) -> HybridModel | VisionModel:
    """``build_recipe`` of plain values."""
    return build_recipe(config)


def recipe_of(recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str]) -> Recipe:
    """A recipe by its plain values, its file, or its name."""
    if isinstance(recipe, Recipe):
        return recipe
    return Recipe.from_dict(recipe) if isinstance(recipe, Mapping) else Recipe.from_yaml(recipe)


def try_recipe(recipe: Recipe) -> None:
    """Build a model without memory for its parameters, and run it on an image without memory for its numbers.

    Raises:
        ValueError: a patch or a part that does not fit; or the model does not take an image of ``input_shape``.
    """
    import torch

    from ..compose import VisionModel

    try:
        with torch.device("meta"):
            model = build_config(recipe.config, weights=None)
    except NotImplementedError:  # RegNet computes its widths with tensors
        model = build_config(recipe.config, weights=None)
    if isinstance(model, VisionModel):
        model.explain((recipe.input_shape[0], recipe.input_shape[1], recipe.input_shape[2]))


def about(config: AnyRecipe) -> dict[str, Any]:
    """What a recipe says besides how the model is made: what ``save`` writes along with it."""
    said: dict[str, Any] = {
        key: getattr(config, key) for key in ("name", "version", "description") if key in config.model_fields_set
    }
    sections = {key: section.given() for key in ("training", "export") if (section := getattr(config, key)) is not None}
    return {**said, **sections}


def _hybrid(config: BackboneRecipe, weights: Any, frozen: bool) -> HybridModel:
    from ..hybrid import apply, plan
    from ..hybrid.model import note

    backbone, training = config.backbone, config.training
    patches = [backbone.patches] if isinstance(backbone.patches, dict) else list(backbone.patches)
    try:
        model = _of_library(config, weights, patches[0] if patches else {})
    except TypeError as error:
        if not backbone.arguments:
            raise
        raise ValueError(f"backbone.arguments: {error}") from error
    for more in patches[1:]:
        model = apply(plan(model, more))
    if frozen and training is not None and training.freeze_backbone:
        model.freeze_backbone(training.unfreeze_stages)
    note(model, about=about(config))
    return model


def _of_library(config: BackboneRecipe, weights: Any, patches: Mapping[str, Any]) -> HybridModel:
    """The backbone with its head and the first of its patches."""
    from ..hybrid import HybridBuilder

    backbone = config.backbone
    head = {} if config.head is None else {key: value for key, value in config.head.given().items() if key != "type"}
    if backbone.library == "torchvision":
        return HybridBuilder().from_torchvision(backbone.name, weights, patches, **head, arguments=backbone.arguments)
    if backbone.library == "timm":
        return HybridBuilder().from_timm(backbone.name, weights, patches, **head, **backbone.arguments)
    if backbone.library == "template":
        return _of_template(config, weights, patches, head)
    raise ValueError(f"a {backbone.name} is made by neither torchvision nor timm; give it to load or from_module")


def _of_template(config: BackboneRecipe, weights: Any, patches: Any, head: Mapping[str, Any]) -> HybridModel:
    from ..hybrid.heads import HeadSpec
    from ..templates import Template

    backbone = config.backbone
    is_said = weights is not None and (weights != "DEFAULT" or "weights" in backbone.model_fields_set)
    if is_said:
        raise ValueError(f"backbone.weights: a template has random weights, got {weights!r}; load a file into the model")
    try:
        template = Template.from_config({"name": backbone.name, **backbone.arguments})
    except ValueError as error:
        raise ValueError(f"backbone.arguments: {error}") from error
    return template.make(patches, HeadSpec.checked(**head))


def _composed(config: Any) -> VisionModel:
    from .. import compose

    stems: dict[str, Any] = {"conv": compose.Stem, "simple": compose.SimpleStem, "patch": compose.PatchStem}
    heads: dict[str, Any] = {
        "linear": compose.Head,
        "segmentation": compose.SegmentationHead,
        "detection": compose.DetectionHead,
    }
    stem = stems[config.stem.type].from_arguments({"in_channels": config.input_shape[0], **_arguments(config.stem)})
    stages = [_stage(stage) for stage in config.stages]
    model = compose.VisionModel(stem, stages, heads[config.head.type].from_arguments(_arguments(config.head)))
    names = {number: stage.name for number, stage in enumerate(config.stages) if getattr(stage, "name", None)}
    model.__dict__[ABOUT] = {**about(config), "input_shape": list(config.input_shape), "stages": names}
    return model


def _arguments(section: Section) -> dict[str, Any]:
    return {key: value for key, value in section.given().items() if key not in ("type", "pattern", "name", "attention")}


def _stage(stage: Section) -> nn.Module:
    from .. import compose

    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in _arguments(stage).items()}
    if not isinstance(stage, Stage):
        return compose.TransitionLayer.from_arguments(arguments)
    pattern = stage.pattern if stage.attention is None else f"{stage.pattern}+{stage.attention}"
    return compose.Stage.from_arguments({**arguments, "pattern": pattern})
