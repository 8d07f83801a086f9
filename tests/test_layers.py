"""Activations, norms and pools by name."""

import pytest
import torch
from torch import nn

from torchvision_customizer import registry
from torchvision_customizer.blocks import GeM, GroupNorm, LayerNorm2d
from torchvision_customizer.layers import get_activation, get_normalization, get_pooling


@pytest.mark.parametrize("name", [*registry.list("activation"), "swish", "hard_swish", "SiLU", "GELU", " relu "])
def test_activations(name):
    assert get_activation(name)(torch.randn(2, 3)).shape == (2, 3)


@pytest.mark.parametrize("name", [*registry.list("norm"), "batch", "group", "instance", "layer", "none", "BatchNorm2d"])
def test_norms_of_the_channels(name):
    x = torch.randn(2, 6, 4, 6)  # the last dimension serves the norms of tokens
    assert get_normalization(name, 6)(x).shape == x.shape


@pytest.mark.parametrize(
    ("made", "block", "text"),
    [
        (get_activation("leaky_relu", negative_slope=0.2), nn.LeakyReLU, "negative_slope=0.2"),
        (get_activation("none"), nn.Identity, ""),
        (get_normalization("batch", 8, eps=1e-3), nn.BatchNorm2d, "8, eps=0.001"),
        (get_normalization("group", 40), GroupNorm, "20, 40"),
        (get_normalization("group", 8, num_groups=4), GroupNorm, "4, 8"),
        (get_normalization("layer", 8), LayerNorm2d, "8"),
        (get_pooling("max"), nn.MaxPool2d, "kernel_size=2, stride=2"),
        (get_pooling("avg", 3, 2, padding=1), nn.AvgPool2d, "kernel_size=3, stride=2, padding=1"),
        (get_pooling("adaptive_avg"), nn.AdaptiveAvgPool2d, "output_size=1"),
        (get_pooling("adaptive_max", output_size=(2, 3)), nn.AdaptiveMaxPool2d, "output_size=(2, 3)"),
        (get_pooling("gem"), GeM, ""),
        (get_pooling("none"), nn.Identity, ""),
    ],
)
def test_what_is_made(made, block, text):
    assert type(made) is block
    assert text in made.extra_repr()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: get_activation("geluu"), ["activation 'geluu'", "did you mean 'gelu'?"]),
        (lambda: get_activation("se"), ["unknown activation 'se'", "relu"]),
        (lambda: get_activation("relu", inplac=True), ["'relu'", "'inplac'", "did you mean 'inplace'?"]),
        (lambda: get_activation("sigmoid", scale=2), ["'sigmoid'", "'scale'"]),
        (lambda: get_normalization("bach", 8), ["norm 'bach'", "did you mean 'batch'?"]),
        (lambda: get_normalization("group", 0), ["num_channels", "at least 1"]),
        (lambda: get_pooling("adaptive_average"), ["did you mean 'adaptive_avg'?"]),
        (lambda: get_pooling("gem", kernel_size=2), ["'gem'", "'kernel_size'"]),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)
