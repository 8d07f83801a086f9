"""Families of torchvision as templates: changed step by step, then built; as long as their sizes stay, its weights load."""

from .base import Template
from .densenet import DenseNetTemplate, densenet
from .efficientnet import EfficientNetTemplate, efficientnet
from .mobilenet import MobileNetV2Template, MobileNetV3Template, mobilenet
from .resnet import ResNetTemplate, resnet
from .vgg import VGGTemplate, vgg

__all__ = [
    "DenseNetTemplate",
    "EfficientNetTemplate",
    "MobileNetV2Template",
    "MobileNetV3Template",
    "ResNetTemplate",
    "Template",
    "VGGTemplate",
    "densenet",
    "efficientnet",
    "mobilenet",
    "resnet",
    "vgg",
]
