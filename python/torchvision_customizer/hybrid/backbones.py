"""What has to be known of a family of backbones beyond its modules: which of them are its stages and its head."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .._torchvision import models
from ..errors import nearest


@dataclass(frozen=True)
class Family:
    """A family of torchvision classifiers.

    Attributes:
        module: the module of torchvision that has its class and its constructors.
        class_name: its class.
        stages: paths of its stages, from the input to the output.
        head: paths of what comes after the stages and has parameters.
        last_layer: path of the layer whose outputs are the classes.
    """

    module: str
    class_name: str
    stages: tuple[str, ...]
    head: tuple[str, ...]
    last_layer: str


FAMILIES = (
    # ResNet, Wide ResNet and ResNeXt.
    Family("torchvision.models.resnet", "ResNet", ("layer1", "layer2", "layer3", "layer4"), ("fc",), "fc"),
)


def list_backbones() -> list[str]:
    """The names that ``HybridBuilder.from_torchvision`` takes."""
    modules = {family.module for family in FAMILIES}
    return [name for name in models.list_models(module=models) if models.get_model_builder(name).__module__ in modules]


def check_backbone(name: str) -> str:
    """The name as torchvision spells it.

    Raises:
        ValueError: not a backbone; the message has the nearest name.
    """
    known = list_backbones()
    if name.lower() not in known:
        raise ValueError(f"unknown backbone '{name}'{nearest(name, known)} (backbones: {', '.join(known)})")
    return name.lower()


def find_family(model: nn.Module) -> Family | None:
    """The family of a model, patched or not, or None where it is of none."""
    ancestors = {(ancestor.__module__, ancestor.__name__) for ancestor in type(model).__mro__}
    return next((family for family in FAMILIES if (family.module, family.class_name) in ancestors), None)


def family_of(model: nn.Module) -> Family:
    """The family of a model, patched or not.

    Raises:
        ValueError: it is of none.
    """
    family = find_family(model)
    if family is None:
        known = ", ".join(family.class_name for family in FAMILIES)
        raise ValueError(f"the stages and the head of a {type(model).__name__} are not known (those of {known} are)")
    return family
