"""What a model's making tells about its images and its classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .._torchvision import models
from ..hybrid.model import HybridModel
from ..hybrid.probe import input_shape_of
from ..recipe.builder import ABOUT
from .preprocessing import INTERPOLATIONS, Preprocessing


def known_shape(model: nn.Module) -> tuple[int, ...]:
    """The shape of one input: what the model was built or patched for, or an image of 224×224."""
    said = model.__dict__.get(ABOUT, {}).get("input_shape")
    return input_shape_of(None, model) if said is None else tuple(said)


def known_preprocessing(model: nn.Module) -> Preprocessing | None:
    """What becomes of an image before this model, or None where nobody said.

    It is looked for in the section ``export`` of the model's recipe, in the weights of torchvision that it was built with, and
    in what timm keeps with its models.
    """
    said = said_in_recipe(model)
    if said.get("mean") is not None and said.get("std") is not None:
        others = {key: said[key] for key in ("resize", "interpolation", "antialias") if said.get(key) is not None}
        crop = said.get("crop")
        if crop is None:
            *_, height, crop = known_shape(model)
            if height != crop:
                raise ValueError(
                    f"export: the recipe's mean and std are for square images, and its input is {height}×{crop}; "
                    "give preprocessing=None (--no-preprocessing) for a file that says nothing of them"
                )
        return Preprocessing(crop, tuple(said["mean"]), tuple(said["std"]), **others)
    weights = _weights_of(model)
    if weights is not None:
        preset = weights.transforms()
        return Preprocessing(
            preset.crop_size[0],
            tuple(preset.mean),
            tuple(preset.std),
            preset.resize_size[0],
            preset.interpolation.value,
            bool(preset.antialias),
        )
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, Mapping) and config.get("mean") is not None and config.get("std") is not None:
        _, height, crop = config["input_size"]
        interpolation = config.get("interpolation", "bilinear")
        if height == crop and interpolation in INTERPOLATIONS:  # else it is not what Preprocessing says
            resize = max(crop, int(crop / config.get("crop_pct", 1.0)))
            return Preprocessing(crop, tuple(config["mean"]), tuple(config["std"]), resize, interpolation)
    return None


def known_classes(model: nn.Module) -> tuple[str, ...] | None:
    """The names of the outputs: of the model's recipe, or of the weights that it was built with; None where nobody said."""
    classes = said_in_recipe(model).get("classes")
    if classes is None and (weights := _weights_of(model)) is not None and not _has_new_head(model):
        classes = weights.meta.get("categories")
    return None if classes is None else tuple(classes)


def said_in_recipe(model: nn.Module) -> Mapping[str, Any]:
    """The section ``export`` of the recipe that a model was built from."""
    about = model._hybrid_state.about if isinstance(model, HybridModel) else model.__dict__.get(ABOUT, {})
    section: Mapping[str, Any] = about.get("export") or {}
    return section


def _has_new_head(model: nn.Module) -> bool:
    return isinstance(model, HybridModel) and model._hybrid_state.head is not None


def _weights_of(model: nn.Module) -> Any:
    """The member of torchvision's enum whose weights the model was built with, or None."""
    if not isinstance(model, HybridModel):
        return None
    state = model._hybrid_state
    if state.library != "torchvision" or state.weights is None or state.backbone_name is None:
        return None
    return models.get_model_weights(state.backbone_name).__members__.get(state.weights.source)
