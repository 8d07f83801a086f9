"""Summaries, FLOPs and memory: torch's own numbers, and a model that stays as it is."""

import copy

import pytest
import torch
from torch import nn

from torchvision_customizer import Head, Stage, Stem, registry, utils
from torchvision_customizer._torchvision import models


@pytest.fixture
def model():
    return Stem(8) >> Stage(16, 1, "residual+se") >> Head(10)


def test_flops_of_resnet18_are_those_of_torch():
    """Defect 30: 24 million billion, for the output's size was squared and taken from the input's for every layer."""
    with torch.device("meta"):
        resnet = models.resnet18()
    assert utils.get_model_flops(resnet, (1, 3, 224, 224)) == {
        "total_flops": 3628146688,
        "total_flops_in_billions": 3.6281,
        "success": True,
    }
    assert utils.get_model_flops(resnet, (4, 3, 224, 224))["total_flops"] == 4 * 3628146688
    assert utils.get_model_flops(resnet, (3, 224, 224))["total_flops"] == 3628146688


def test_flops_of_a_convolution():
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
    assert utils.get_model_flops(conv, (2, 3, 9, 13))["total_flops"] == 2 * 2 * 3 * 8 * 9 * 5 * 7


def test_memory_is_what_is_there():
    """Defect 30: four bytes for every type, and input and output for activations."""
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid())
    found = utils.get_memory_usage(conv, (16, 3, 64, 64))
    parameters, image, maps = (3 * 8 * 9 + 8) * 4, 16 * 3 * 64 * 64 * 4, 16 * 8 * 64 * 64 * 4
    assert found["parameter_memory_mb"] == round(parameters / 1024**2, 4)
    # The convolution keeps its input, and the sigmoid its output.
    assert found["activation_memory_mb"] == round((image + maps) / 1024**2, 4)
    assert found["total_memory_mb"] == round((parameters + image + maps) / 1024**2, 4)
    half = utils.get_memory_usage(copy.deepcopy(conv).half(), (16, 3, 64, 64))
    assert half["activation_memory_mb"] == round((image + maps) / 2 / 1024**2, 4)
    norm = utils.get_memory_usage(nn.BatchNorm2d(1000), (1, 1000, 1, 2))
    assert norm["parameter_memory_mb"] == round((4 * 4000 + 8) / 1024**2, 4), "buffers are stored, too"


def test_memory_with_own_ops(model):
    assert utils.get_memory_usage(model, (2, 3, 32, 32))["activation_memory_mb"] > 0
    attention = registry.get("cbam", channels=8)
    assert utils.get_memory_usage(attention, (2, 8, 8, 8))["activation_memory_mb"] > 0


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_is(model, training, capsys):
    """Defect 30: the model was left in evaluation mode."""
    calls = []
    model.train(training).stem.eval()
    model.head.register_forward_hook(lambda *args: calls.append(args))
    flags = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    shape = (2, 3, 32, 32)
    for ask in (utils.print_model_summary, utils.get_layer_summary, utils.calculate_output_shape, utils.validate_model):
        ask(model, shape)
    assert flags == [module.training for module in model.modules()]
    assert not calls and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_summary(model, capsys):
    model.stem.requires_grad_(False)
    summary = utils.print_model_summary(model, (4, 3, 32, 32))
    stem = model.stem.count_parameters()
    assert summary["model_name"] == "VisionModel" and summary["output_shape"] == (4, 10) and summary["output_size"] == 40
    assert summary["frozen_parameters"] == stem
    assert summary["total_parameters"] == summary["trainable_parameters"] + stem == model.count_parameters()
    by_type = summary["parameters_by_type"]
    assert sum(of_type["total"] for of_type in by_type.values()) == model.count_parameters()
    assert sum(of_type["trainable"] for of_type in by_type.values()) == model.count_parameters(trainable_only=True)
    assert by_type["Conv2d"]["count"] == 4
    printed = capsys.readouterr().out
    assert f"{model.count_parameters():,}" in printed and "(4, 10)" in printed and "billion" in printed
    assert utils.print_model_summary(model, (4, 3, 32, 32), verbose=False) == summary
    assert not capsys.readouterr().out


def test_layers(model):
    layers = utils.get_layer_summary(model, (4, 3, 32, 32))
    stem = next(layer for layer in layers if layer["name"] == "stem.conv")
    assert stem == {
        "name": "stem.conv",
        "type": "Conv2d",
        "output_shape": (4, 8, 16, 16),
        "parameters": 3 * 8 * 49,
        "trainable": True,
    }
    assert layers[-1]["name"] == "head"


@pytest.mark.parametrize(
    "ask",
    [
        utils.calculate_output_shape,
        utils.get_layer_summary,
        utils.get_model_flops,
        utils.get_memory_usage,
        utils.print_model_summary,
    ],
)
def test_errors(ask, model):
    """Defect 30: a model that did not run made ``print_model_summary`` raise a TypeError."""
    with pytest.raises(ValueError, match=r"VisionModel does not take an input of shape \(1, 4, 32, 32\): "):
        ask(model, (4, 32, 32))
    for shape in ((3, 32), (1, 3, 32, 0), (1, 3, 32.0, 32)):
        with pytest.raises(ValueError, match="input_shape must be"):
            ask(model, shape)


def test_validate_model(model):
    assert utils.validate_model(model, (2, 3, 32, 32)) == {"valid": True, "errors": [], "output_shape": (2, 10)}
    found = utils.validate_model(model, (1, 32, 32))
    assert not found["valid"] and "does not take" in found["errors"][0]


def test_validate_architecture():
    found = utils.validate_architecture((3, 64, 64), 10, 3, [4, 8, 8])
    assert found["valid"] and not found["errors"] and not found["warnings"]
    spatial = {"input_spatial": (64, 64), "final_spatial": (8, 8)}
    assert found["checks"] == {"spatial_dimensions": spatial, "channels": [4, 8, 8]}
    assert "2×2" in utils.validate_architecture((3, 32, 32), 10, 4)["warnings"][0]
    assert utils.validate_architecture((3, 65, 65), 10, 1, [4], 3, 4)["checks"]["spatial_dimensions"]["final_spatial"] == (
        16,
        16,
    )
    for arguments, word in (
        (((3, 16, 16), 10, 8), "too small"),
        (((3, 16), 10, 1), "input_shape"),
        (((3, 16, 16), 0, 1), "num_classes"),
        (((3, 16, 16), 10, 2, [4]), "channels"),
    ):
        found = utils.validate_architecture(*arguments)
        assert not found["valid"] and word in found["errors"][0]
