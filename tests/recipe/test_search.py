"""Search spaces, and the example that searches one."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import pytest

from torchvision_customizer.recipe import Recipe, RecipeError, SearchSpace, search_space

RANGES = {"stages[0].blocks": range(1, 4), "stages.coarse.pattern": ["residual", "residual+se"], "training.lr": (0.1, 0.01)}


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search", Path(__file__).parents[2] / "examples" / "search.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def values(recipe: Recipe) -> tuple[int, str, float]:
    config = recipe.config
    assert config.training is not None
    return config.stages[0].blocks, config.stages[2].pattern, config.training.lr


def test_all_combinations_in_order() -> None:
    space = search_space("cifar_resnet20", RANGES)
    assert len(space) == 12
    wanted = list(itertools.product(*RANGES.values()))
    assert [values(recipe) for recipe in space] == wanted == [values(space[index]) for index in range(12)]
    assert values(space[-1]) == wanted[-1]
    with pytest.raises(IndexError, match="has 12 recipes"):
        space[12]
    assert values(space.recipe({"stages[0].blocks": 7}))[0] == 7
    assert values(space.base)[0] == 3  # as it was


def test_of_recipes_and_plain_values() -> None:
    net = {"stem": "simple(8)", "stages": ["conv(8)"], "head": "linear(2)"}
    for base in (net, Recipe.from_dict(net)):
        assert [recipe.config.stem.channels for recipe in search_space(base, {"stem.channels": [4, 8]})] == [4, 8]
    patches = search_space("se_resnet50", {"backbone.patches['layer*'].inject": ["se", {"type": "eca"}]})
    assert [recipe.config.backbone.patches["layer*"]["inject"] for recipe in patches] == ["se", {"type": "eca"}]
    assert len(search_space(net, {})) == 1


@pytest.mark.parametrize(
    ("ranges", "error", "message"),
    [
        ({"stages[0].bloks": [1]}, RecipeError, "stages[0].bloks: unknown key 'bloks', did you mean 'blocks'?"),
        ({"stages[9].blocks": [1]}, RecipeError, "there is no stage '9'"),
        ({"stages[0].blocks": [0]}, RecipeError, "must be greater than or equal to 1, got 0"),
        ({"stages[0].blocks": []}, ValueError, "needs a list, a tuple or a range of values, got []"),
        ({"stages[0].blocks": 3}, ValueError, "got 3"),
        ({"stages[0].pattern": "residual"}, ValueError, "got 'residual'"),
    ],
)
def test_mistakes_show_at_once(ranges: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        search_space("cifar_resnet20", ranges)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_the_example_without_optuna() -> None:
    module = example()
    assert isinstance(module.SPACE, SearchSpace) and len(module.SPACE) == 24
    assert module.score(Recipe.from_yaml("cifar_resnet20")) == pytest.approx((81.6, 0.272), rel=0.01)
    front = module.try_all()
    assert 1 < len(front) < 24
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(front))


def test_the_example_with_optuna() -> None:
    pytest.importorskip("optuna", reason="Optuna (extra search) is not installed")
    found = example().search(trials=10)
    assert found and all(a[0] <= b[0] for a, b in itertools.pairwise(found))
