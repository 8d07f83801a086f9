"""The four ways to a model that version 2.1 introduces itself with run as printed, and each model trains a step."""

import pytest
import torch

from torchvision_customizer import Head, HybridBuilder, Recipe, Stage, Stem, build_recipe, registry


def hybrid():
    builder = HybridBuilder()
    return builder.from_torchvision(
        "resnet18",
        weights=None,
        patches={"layer3": {"wrap": "se"}, "layer4": {"wrap": {"type": "cbam_block", "params": {"reduction": 16}}}},
        num_classes=10,
    )


def component():
    block = registry.get("cbam_block")(channels=256)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 256, 3), block, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def recipe():
    return build_recipe(Recipe(stem="conv(64)", stages=["residual(64) x 2"], head="linear(10)"))


def composed():
    return Stem(64) >> Stage(128, blocks=2) >> Head(10)


@pytest.mark.parametrize("write", [hybrid, component, recipe, composed])
def test_it_trains_a_step(write):
    model = write().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    losses = []
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
