"""Recipes with a mistake each: what is said has the place, and where a name is near, that name."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

from torchvision_customizer.recipe import Recipe, RecipeError

TABLE = Path(__file__).with_name("broken_recipes.txt").read_text(encoding="utf-8")
BROKEN = {title: body for title, body in re.findall(r"^=== (\S+)\n(.*?)(?=^===|\Z)", TABLE, re.MULTILINE | re.DOTALL)}


def test_there_are_sixty_and_no_two_alike() -> None:
    assert 60 <= len(BROKEN) == len(set(BROKEN.values())) == TABLE.count("\n=== ")


@pytest.mark.parametrize("name", BROKEN)
def test_broken(tmp_path: Path, name: str) -> None:
    text, _, said = re.split(r"^(?=-->|\.\.\.)()", BROKEN[name], maxsplit=1, flags=re.MULTILINE)
    problems = re.findall(r"^--> (.*)", said, re.MULTILINE)
    parts = re.findall(r"^\.\.\. (.*)", said, re.MULTILINE)
    file = tmp_path / "recipe.yaml"
    file.write_text(text.rstrip("\n"), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(file)
    message = str(caught.value)
    for wanted in (*(f"{file}:{problem}" for problem in problems), *parts):
        assert wanted in message, message
    assert len(caught.value.problems) == max(len(problems), 1), message


def test_all_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        dedent("""\
        name: everything
        stem: conv(64, kernl=3)
        stages:
          - residul(64) x 2
          - {channels: "wide"}
          - conv(64
        head: {type: linear, num_clases: 10}
        training: {epochs: 0, optimizer: adamm}
        """)
    )
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(file)
    places = [problem.place.removeprefix(f"{file}:") for problem in caught.value.problems if problem.place]
    assert places == ["2:16", "4:5", "5:17", "6:12", "7:1", "7:22", "8:20", "8:34"]
    assert caught.value.problems[3].message.splitlines()[1:3] == ["    conv(64", "           ^"]
