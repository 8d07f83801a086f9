"""``catalogue.json`` is what is there: names of blocks, patterns, backbones and their modules."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import nn

from torchvision_customizer import registry
from torchvision_customizer._torchvision import models
from torchvision_customizer.compose import register_pattern
from torchvision_customizer.hybrid.builder import without_memory
from torchvision_customizer.hybrid.target import type_names
from torchvision_customizer.recipe import Recipe, RecipeError, build_recipe, catalogue

WRITTEN: dict[str, Any] = json.loads(catalogue.FILE.read_text(encoding="utf-8"))
ANEW = "run `python -m torchvision_customizer.recipe.catalogue`"
pinned = pytest.mark.skipif(
    version("torchvision").partition("+")[0] != WRITTEN["torchvision"],
    reason=f"the catalogue is of torchvision {WRITTEN['torchvision']}",
)


def test_blocks_patterns_and_names() -> None:
    assert WRITTEN["blocks"] == json.loads(json.dumps(catalogue.make_blocks())), ANEW
    assert WRITTEN["patterns"] == json.loads(json.dumps(catalogue.make_patterns())), ANEW
    assert WRITTEN["short"] == catalogue.make_short_names(), ANEW


@pinned
def test_optimizers_and_weights() -> None:
    assert WRITTEN["optimizers"] == sorted(
        name for name, each in vars(torch.optim).items() if isinstance(each, type) and name != "Optimizer"
    ), ANEW
    assert list(WRITTEN["backbones"]) == models.list_models(module=models), ANEW
    for name in WRITTEN["backbones"]:
        enum = models.get_model_weights(name)
        assert catalogue.weights_of(name) == (enum.__name__, [member.name for member in enum]), ANEW


@pinned
@pytest.mark.parametrize("name", ["resnet18", "googlenet", "swin_t", "mobilenet_v3_small", "regnet_y_400mf"])
def test_modules(name: str) -> None:
    model = without_memory(name, {})
    wanted = {path: type_names(module) for path, module in model.named_modules(remove_duplicate=False)}
    assert catalogue.modules_of(name) == wanted, ANEW


@pinned
@pytest.mark.full
def test_all_of_it() -> None:
    assert catalogue.FILE.read_text(encoding="utf-8") == catalogue.written(catalogue.make()), ANEW


def test_what_the_user_registers_is_known() -> None:
    """A block and a pattern of one's own, in a recipe."""

    @registry.register("test_scale", "other", example={})
    class Scale(nn.Module):
        def __init__(self, channels: int, factor: float = 1.0) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.factor

    @register_pattern("test_pattern")
    def make(in_channels: int, out_channels: int, *, stride: int = 1, breadth: int = 3) -> nn.Module:
        return nn.Conv2d(in_channels, out_channels, breadth, stride, breadth // 2)

    try:
        wrap = {"layer4": {"wrap": {"type": "test_scale", "params": {"factor": 2.0}, "init": "paper"}}}
        Recipe(backbone={"name": "resnet18", "weights": None, "patches": wrap})
        with pytest.raises(RecipeError, match="no such parameter, did you mean 'factor'"):
            Recipe(backbone="resnet18").replace(
                {"backbone.patches.layer4.wrap": {"type": "test_scale", "params": {"facto": 2.0}}}
            )
        recipe = Recipe(stem="conv(8)", stages=["test_pattern(8, breadth=5)"], head="linear(2)")
        assert build_recipe(recipe).stages[0][0].kernel_size == (5, 5)
        with pytest.raises(RecipeError, match="unknown key 'breath', did you mean 'breadth'"):
            Recipe(stem="conv(8)", stages=["test_pattern(8, breath=5)"], head="linear(2)")
    finally:
        from torchvision_customizer.compose import patterns

        del patterns._patterns["test_pattern"]
        for name in [name for name, entry in registry._holders.items() if entry.block is Scale]:
            del registry._holders[name]
        del registry._entries["test_scale"]
