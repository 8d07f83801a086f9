"""The models that every format is tried on: small inputs, and attention that is not at its identity start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchvision_customizer import HybridBuilder, Recipe, build_recipe, calibrate, fuse
from torchvision_customizer.blocks import GeM
from torchvision_customizer.compose import Head, Stage, Stem, VisionModel
from torchvision_customizer.deploy.formats import ExportOptions
from torchvision_customizer.deploy.verification_inputs import photographs


def _patched(name: str, patches: dict[str, Any]) -> nn.Module:
    model = HybridBuilder().from_torchvision(name, None, patches, num_classes=10)
    fuse(model)
    return model


def _fused(name: str) -> nn.Module:
    model = HybridBuilder().from_torchvision(name, None, num_classes=10)
    fuse(model)
    return model


def _composer() -> nn.Module:
    stem, stages = (
        Stem(16, kernel=3, stride=1, pool="none"),
        [Stage(16, 1), Stage(32, 1, pattern="residual+se", downsample=True)],
    )
    return VisionModel(stem, stages, Head(10, pool="gem"))


_DROP_PATH = {"type": "drop_path", "params": {"drop_prob": 0.2}, "schedule": "linear"}

#: By name: how a model is made, and the height and width it is tried with.
MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet50_se": (lambda: _patched("resnet50", {"layer*": {"inject": "se"}}), 64),
    "efficientnet_b0_fused": (lambda: _fused("efficientnet_b0"), 64),
    "mobilenet_v3_large": (lambda: _fused("mobilenet_v3_large"), 64),
    "convnext_tiny_drop_path": (lambda: _patched("convnext_tiny", {"features.*": {"inject": _DROP_PATH}}), 64),
    "swin_t_eca": (lambda: _patched("swin_t", {"features.*": {"inject": "eca"}}), 64),
    "vgg16_bn_cbam": (lambda: _patched("vgg16_bn", {"features": {"inject": "cbam"}}), 64),
    "regnet_y_400mf": (lambda: _fused("regnet_y_400mf"), 64),
    "densenet121_se": (lambda: _patched("densenet121", {"features.denseblock*": {"inject": "se"}}), 64),
    "recipe": (lambda: build_recipe(Recipe.from_yaml("cifar_se_resnet20")), 32),
    "composer_gem": (_composer, 32),
}


def make(name: str) -> tuple[nn.Module, Tensor]:
    """A model with random weights, of which no block is the identity; and an example input.

    Norms have the statistics of what it is verified with, so that what goes through the model is neither next to nothing nor
    very much: differences are of outputs of about 1.
    """
    torch.manual_seed(0)
    build, size = MODELS[name]
    model = build().eval()
    for module in model.modules():
        if hasattr(module, "gate") or hasattr(module, "fused_gate"):
            for parameter in module.parameters():
                if not parameter.any():
                    nn.init.normal_(parameter, std=0.1)
        if isinstance(module, GeM):
            nn.init.constant_(module.p, 3.3)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        noise, photos = torch.randn(6, 3, size, size), photographs((6, 3, size, size), ExportOptions(fused=True))
        calibrate(model, [torch.cat((noise, photos))])
    return model, torch.zeros(1, 3, size, size)
