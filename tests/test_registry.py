"""The registry: names, aliases, and what is said of a wrong one."""

import subprocess
import sys

import pytest
from torch import nn

from torchvision_customizer import registry
from torchvision_customizer.blocks import SEBlock


@pytest.fixture
def names():
    """Puts the registry back as it was."""
    entries, holders = dict(registry._entries), dict(registry._holders)
    yield
    registry._entries.clear()
    registry._entries.update(entries)
    registry._holders.clear()
    registry._holders.update(holders)


@pytest.mark.parametrize("name", ["se", "seblock", "squeeze_excitation", "SEBlock", "squeeze_excite"])
def test_aliases_name_the_same_class(name):
    assert registry.get(name) is SEBlock
    assert registry.info(name)["name"] == "se"
    assert registry.canonical_name(name) == "se"


def test_get_with_arguments_is_an_instance():
    block = registry.get("se", channels=64, reduction=8)
    assert isinstance(block, SEBlock)
    assert block.fc1.out_features == 8


def test_list_and_categories():
    assert "se" in registry.list()
    assert registry.list() == sorted(registry.list())
    assert "attention" in registry.categories()
    assert "se" in registry.list("attention")


def test_info():
    info = registry.info("se")
    keys = "name category description signature parameters aliases paper example example_shape"
    assert set(info) == {*keys.split()}
    assert info["category"] == "attention"
    assert info["paper"] == "https://arxiv.org/abs/1709.01507"
    assert info["description"].startswith("Squeeze-and-excitation")
    assert info["parameters"]["channels"] == "int"
    assert info["parameters"]["reduction"] == "int = 16"
    assert info["signature"].startswith("SEBlock(channels: int, reduction: int = 16, activation: str = 'relu', *, gate: ")
    assert info["example_shape"] == (2, 32, 5, 7)
    assert registry.info("batch_norm")["signature"].startswith("BatchNorm2d(num_features: int, eps: float = 1e-05, ")
    assert registry.info("identity")["signature"] == "Identity()"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: registry.get("sse"), ["'sse'", "did you mean 'se'?"]),
        (lambda: registry.get("SeBlok"), ["'SeBlok'", "did you mean 'SEBlock'?"]),
        (lambda: registry.info("zzzzzz"), ["'zzzzzz'", "known: ", "se"]),
        (lambda: registry.get("se", chanels=3), ["'se'", "'chanels'", "did you mean 'channels'?", "reduction"]),
        (lambda: registry.list("atention"), ["'atention'", "did you mean 'attention'?"]),
    ],
)
def test_unknown_names_have_the_nearest(call, words):
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)


def test_register(names):
    @registry.register("my_block", "custom", aliases=["mine"], paper="https://example.org", example={"scale": 2.0})
    class MyBlock(nn.Module):
        """Says what it is.

        And more.
        """

        def __init__(self, channels, scale=1.0):
            super().__init__()

    assert registry.get("mine") is registry.get("MyBlock") is registry.get("my_block") is MyBlock
    assert registry.list("custom") == ["my_block"]
    assert registry.info("mine") == {
        "name": "my_block",
        "category": "custom",
        "description": "Says what it is.",
        "signature": "MyBlock(channels, scale=1.0)",
        "parameters": {"channels": "", "scale": "= 1.0"},
        "aliases": ["mine", "MyBlock"],
        "paper": "https://example.org",
        "example": {"scale": 2.0},
        "example_shape": (2, 32, 5, 7),
    }


@pytest.mark.parametrize("name", ["se", "squeeze_excite", "SEBlock"])
def test_a_taken_name_is_refused_and_its_holder_named(names, name):
    before = dict(registry._holders)
    with pytest.raises(ValueError, match=r"torchvision_customizer\.blocks\.attention\.SEBlock holds that name"):

        @registry.register(name)
        class Other(nn.Module):
            pass

    assert registry._holders == before


def test_a_taken_alias_leaves_nothing_behind(names):
    with pytest.raises(ValueError, match="as 'se'"):

        @registry.register("fresh", aliases=["se"])
        class Other(nn.Module):
            pass

    assert "fresh" not in registry.list()


def test_the_same_class_may_be_defined_again(names):
    for _ in range(2):

        @registry.register("again")
        class Again(nn.Module):
            pass

    assert registry.get("again") is Again


def test_importing_the_registry_does_not_import_torch():
    code = "import sys; from torchvision_customizer import registry, errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
