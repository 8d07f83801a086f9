"""Mutated recipes and definitions: an error that was written for the user, or a model; never a crash, a hang, or all memory."""

from __future__ import annotations

import random
import re
import resource
import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchvision_customizer.recipe import DefinitionError, Recipe, RecipeError, list_templates, parse_definition, reading
from torchvision_customizer.recipe.merging import parse_path
from torchvision_customizer.recipe.nodes import Findings
from torchvision_customizer.recipe.reading import read_text
from torchvision_customizer.recipe.sources import shipped, with_parents

TEXTS = [path.read_text(encoding="utf-8") for path in shipped().values()]
PIECES = [
    *("${", "}", "@", "&a ", "*a", "!!int ", "<<: ", "? ", "- ", ": ", "{", "}", "[", "]", "'", '"', "|", ">", "#", "\n", "\t"),
    *("null", "true", ".nan", "-1", "1e999", "0x", "9" * 50, "\ufeff", "é", "\U0001f600", "\x85", "\0", "---\n", "%TAG ! x\n"),
    *("extends: cifar_resnet20\n", "stages: {0: {blocks: 3}}\n", "type:", "layer*", "residual(", " x 3", "**", "transition"),
]  # fmt: skip
DEFINITIONS = [
    "conv(64, k=7, s=2)",
    "residual+se(256) x 6 | downsample",
    "linear(10, hidden=[256, -1], dropout=0.1)",
    "a(b='c', d=none)",
]

bounded = settings(
    deadline=1000, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def read(text: str) -> Recipe | None:
    """A recipe, or None where it is refused."""
    findings = Findings()
    try:
        return Recipe.from_node(with_parents(read_text(text, "recipe.yaml", findings), None, findings), findings)
    except RecipeError as error:
        assert str(error) and error.problems
        str(error).encode()  # it can be printed
        return None


def mutated(text: str, changes: random.Random, count: int) -> str:
    for _ in range(count):
        at = changes.randrange(len(text) + 1)
        match changes.randrange(5):
            case 0:
                text = text[:at] + changes.choice(PIECES) + text[at:]
            case 1:
                text = text[:at] + text[at + changes.randrange(20) :]
            case 2:
                other = changes.choice(TEXTS)
                start = changes.randrange(len(other))
                text = text[:at] + other[start : start + changes.randrange(200)] + text[at:]
            case 3:
                lines = text.splitlines(keepends=True)
                changes.shuffle(lines)
                text = "".join(lines)
            case _:
                text = (
                    text[:at] + chr(changes.choice((changes.randrange(32, 127), changes.randrange(1, 0x2FFF)))) + text[at + 1 :]
                )
    return text


@bounded
@given(st.sampled_from(TEXTS), st.randoms(use_true_random=False), st.integers(1, 12))
def test_mutated_recipes(text: str, changes: random.Random, count: int) -> None:
    read(mutated(text, changes, count))


# Values that look like those of a recipe.
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from([*PIECES, *DEFINITIONS])
)
KEYS = """
    name backbone stem stages head macros training export extends num_classes input_shape type pattern block channels blocks
    patches inject wrap replace remove params at layer4 0 1 weights lr epochs optimizer
"""
keys = st.one_of(st.sampled_from(re.findall(r"\w+", KEYS)), st.text(max_size=5))
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=5)), max_leaves=25
)


@bounded
@given(st.dictionaries(keys, values, max_size=8))
def test_plain_values(config: dict[str, object]) -> None:
    try:
        recipe = Recipe.from_dict(config)
    except RecipeError as error:
        assert error.problems
        return
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@bounded
@given(st.sampled_from(list_templates()), st.dictionaries(keys, values, max_size=3))
def test_changes_of_a_shipped_recipe(name: str, changes: dict[str, object]) -> None:
    try:
        Recipe.from_dict({**changes, "extends": name})
    except RecipeError as error:
        assert error.problems


SIGNS = ["a", "(", ")", "[", "]", ",", "=", "|", "+", " x ", "1", "-", ".", "'", " ", "${a}", "@b", "e", "x"]


@bounded
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(SIGNS), max_size=25).map("".join)))
def test_definitions(text: str) -> None:
    try:
        definition = parse_definition(text)
    except DefinitionError as error:
        assert 0 <= error.offset <= len(text) and "\n" in str(error)
        return
    assert definition.name and all(0 <= offset <= len(text) for offset in definition.offsets.values())


@bounded
@given(st.sampled_from(DEFINITIONS), st.randoms(use_true_random=False), st.integers(1, 4))
def test_mutated_definitions(text: str, changes: random.Random, count: int) -> None:
    text = mutated(text, changes, count)
    read(f"stem: conv(4)\nhead: linear(1)\nstages:\n  - {text}\n")
    try:
        parse_definition(text)
    except DefinitionError as error:
        assert 0 <= error.offset <= len(text)


@bounded
@given(st.text(max_size=40))
def test_fields(text: str) -> None:
    try:
        path = parse_path(text)
    except ValueError as error:
        assert str(error)
        return
    assert path and isinstance(path[0], str)


@pytest.mark.full
@settings(bounded, max_examples=20_000)
@given(st.sampled_from(TEXTS), st.randoms(use_true_random=False), st.integers(1, 12))
def test_mutated_recipes_for_long(text: str, changes: random.Random, count: int) -> None:
    read(mutated(text, changes, count))


@pytest.mark.parametrize("loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", None)], ids=["python", "c"])
def test_memory_and_time_of_hundreds_of_mutated_recipes(loader: type | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if loader is None:
        pytest.skip("this PyYAML has no parser in C")
    monkeypatch.setattr(reading, "_LOADER", loader)
    changes = random.Random(0)
    read(TEXTS[0])
    before, slowest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    accepted = 0
    for _ in range(400):
        text = mutated(changes.choice(TEXTS), changes, changes.randrange(1, 4))
        start = time.process_time()
        accepted += read(text) is not None
        slowest = max(slowest, time.process_time() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 200 and slowest < 1, (grown, slowest)
    assert 20 < accepted < 380  # both ways out are taken


def test_every_prefix_of_a_recipe() -> None:
    """A file that is being written."""
    for text in (shipped()["cifar_resnet20"].read_text(), shipped()["drop_path_vit_b_16"].read_text()):
        for end in range(0, len(text), 3):
            read(text[:end])
