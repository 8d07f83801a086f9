"""Being shipped is being tested: every file of recipes/ is checked, built, run, saved and loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import torchvision_customizer as tvc
from torchvision_customizer.compose import VisionModel
from torchvision_customizer.hybrid import HybridModel
from torchvision_customizer.recipe import Recipe, build_recipe, list_templates, load_yaml_config
from torchvision_customizer.recipe.builder import ABOUT, try_recipe
from torchvision_customizer.recipe.schema import ComposedRecipe
from torchvision_customizer.recipe.sources import shipped_folder

NAMES = list_templates()
# What is built with numbers in every run: one that extends, one of each kind, and none that is large.
SMALL = {
    "cifar_resnet20",
    "fashion_mnist_resnet8",
    "cifar_se_resnet20",
    "mnist_net",
    "mobilenet_v3_small_edge",
    "efficientnet_b0_finetune",
}
README = (shipped_folder() / "README.md").read_text(encoding="utf-8")


def test_what_there_is() -> None:
    assert len(NAMES) >= 12
    assert {"resnet_base", "efficientnet_base", "hybrid_resnet_se"} <= set(NAMES)
    files = {path.name for path in shipped_folder().iterdir()}
    assert files == {"README.md", *(f"{name}.yaml" for name in NAMES)}


@pytest.mark.parametrize("name", NAMES)
def test_checked(name: str) -> None:
    recipe = Recipe.from_yaml(name)
    assert not recipe.warnings
    assert recipe.name == name
    description = load_yaml_config(name, validate=False)["description"]
    assert 60 < len(description) < 250 and description.rstrip().endswith(".")
    assert f"`{name}`" in README, "recipes/README.md lists every recipe"


@pytest.mark.parametrize("name", NAMES)
def test_built_without_memory(name: str) -> None:
    """All but the weights: patches are planned, heads changed, stages frozen, and composed models run on meta images."""
    try_recipe(Recipe.from_yaml(name))


@pytest.mark.parametrize("name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.full) for name in NAMES])
def test_built_run_saved_and_loaded(name: str, tmp_path: Path) -> None:
    recipe = Recipe.from_yaml(name)
    model = build_recipe(recipe, weights=None).eval()
    assert isinstance(model, HybridModel | VisionModel)
    x = torch.randn(2, *recipe.input_shape)
    with torch.no_grad():
        logits = model(x)
        classes = recipe.config.head.num_classes if recipe.config.head is not None else 1000
        assert logits.shape == (2, classes or 2048) and logits.isfinite().all()
        again = tvc.load(tvc.save(model, tmp_path / name))
        assert torch.equal(again(x), logits)


def test_freezing_of_the_shipped() -> None:
    model: Any = build_recipe("efficientnet_b0_finetune", weights=None)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"features", "classifier"}
    assert not any(p.requires_grad for p in model.features[:6].parameters())


def test_the_numbers_that_descriptions_name() -> None:
    count = {
        name: sum(p.numel() for p in build_recipe(name, weights=None).parameters())
        for name in ("cifar_resnet20", "fashion_mnist_resnet8", "mnist_net")
    }
    assert count == {"cifar_resnet20": 272_474, "fashion_mnist_resnet8": 77_754, "mnist_net": 63_226}


def test_every_yaml_of_the_readme(tmp_path: Path) -> None:
    """They are recipes, or say what is left out; where one extends another, it is of a name that was there before."""
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    for number, block in enumerate(blocks):
        title = re.match(r"# (\S+\.yaml)\n", block)
        file = tmp_path / (title[1] if title else f"block{number}.yaml")
        file.write_text(block)
        try_recipe(Recipe.from_yaml(file))


def test_every_python_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", README, re.DOTALL):
        (tmp_path / block[0]).write_text(block[1])
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


def test_a_saved_recipe_keeps_the_names_of_its_stages(tmp_path: Path) -> None:
    """So that another can extend it, and change one of them."""
    folder = tvc.save(build_recipe("cifar_se_resnet20"), tmp_path / "saved")
    (folder / "child.yaml").write_text("extends: recipe.yaml\nstages: {coarse: {blocks: 1}}\n")
    child = Recipe.from_yaml(folder / "child.yaml").config
    assert isinstance(child, ComposedRecipe)
    assert [stage.name for stage in child.stages] == ["fine", "middle", "coarse"]
    assert sum(p.numel() for p in build_recipe(folder / "child.yaml").parameters()) < 272_474
    assert tvc.load(folder).__dict__[ABOUT] == build_recipe("cifar_se_resnet20").__dict__[ABOUT]
