"""How the commands name a model, and how they say what is wrong with a name."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from torchvision_customizer.blocks import SEBlock
from torchvision_customizer.cli import main
from torchvision_customizer.cli._model import build_model, parse_patches


@pytest.mark.parametrize(
    "texts, patches",
    [
        ([], {}),
        (["layer4=inject:se"], {"layer4": {"inject": "se"}}),
        ([" layer4 = wrap : se "], {"layer4": {"wrap": "se"}}),
        (
            ["layer*={inject: {type: se, params: {reduction: 8}}}"],
            {"layer*": {"inject": {"type": "se", "params": {"reduction": 8}}}},
        ),
        (["layer3=inject:se", "layer4=wrap:se"], {"layer3": {"inject": "se"}, "layer4": {"wrap": "se"}}),
        (["layer4=inject:se", "layer4=wrap:se"], {"layer4": [{"inject": "se"}, {"wrap": "se"}]}),
        (["layer4=[{inject: se}, {wrap: se}]"], {"layer4": [{"inject": "se"}, {"wrap": "se"}]}),
        (["type:Bottleneck=wrap:se"], {"type:Bottleneck": {"wrap": "se"}}),
    ],
)
def test_parse_patches(texts: list[str], patches: dict[str, Any]) -> None:
    assert parse_patches(texts) == patches


@pytest.mark.parametrize(
    "text, message",
    [
        ("layer4", "expected TARGET=OP:BLOCK, got 'layer4'"),
        ("=inject:se", "expected TARGET=OP:BLOCK"),
        ("layer4=", "expected TARGET=OP:BLOCK"),
        ("layer4=inject", "after the '=', got 'inject'"),
        ("layer4=inject:", "after the '='"),
        ("layer4={inject: se", "no YAML"),
    ],
)
def test_patches_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        parse_patches(["layer3=inject:se", text])
    assert message in caught.value.message
    assert caught.value.param_hint == "--patch 2"


@pytest.mark.parametrize(
    "patch, message",
    [
        ("layr4=inject:se", "layer4"),
        ("layer4=inject:sse", "did you mean 'se'"),
        ("layer4=injct:se", "did you mean 'inject'"),
        ("layer4={inject: {type: se, params: {reducton: 8}}}", "did you mean 'reduction'"),
        ("layer4={inject: {type: se, att: residual}}", "did you mean 'at'"),
        ("layer4={inject: {type: se, params: {reduction: 0}}}", "reduction must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_patches_are_wrong_usage(patch: str, message: str) -> None:
    args = ["inspect", "--backbone", "resnet18", "--patch", "layer3=inject:se", "--patch", patch]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2, result.output
    assert "Invalid value for --patch 2: " in result.stderr
    assert message in result.stderr
    assert "patches[" not in result.stderr


def test_place_within_patches_of_one_target() -> None:
    with pytest.raises(click.BadParameter) as caught:
        build_model("resnet18", ["layer4=inject:se", "layer4=inject:sse"])
    assert caught.value.param_hint == "--patch 2"


def test_build_model() -> None:
    model = build_model("resnet18", ["layer*=inject:se"], num_classes=7)
    assert sum(isinstance(module, SEBlock) for module in model.modules()) == 8
    assert model.get_submodule("fc").weight.shape == (7, 512)


def test_unknown_backbone() -> None:
    result = CliRunner().invoke(main, ["inspect", "--backbone", "resnte18"])
    assert result.exit_code == 2
    assert "Invalid value for --backbone: unknown backbone 'resnte18', did you mean 'resnet18'" in result.stderr


def test_unknown_weights() -> None:
    result = CliRunner().invoke(main, ["inspect", "--backbone", "resnet18", "--weights", "IMAGENET1K_V9"])
    assert result.exit_code == 1
    assert "IMAGENET1K_V1" in result.stderr
