"""The short form.

Defect 25 of 2.1: what was no plain literal was dropped, unknown modifiers were ignored, two ' x ' crashed, a stride was lost.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest

from torchvision_customizer.recipe import Definition, DefinitionError, Recipe, RecipeError, parse_definition, parse_recipe


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("conv", Definition("conv")),
        ("conv()", Definition("conv")),
        ("conv(64, k=7, s=2)", Definition("conv", (64,), {"kernel_size": 7, "stride": 2})),
        ("residual(128) x 4 | downsample", Definition("residual", (128,), {}, 4, ("downsample",))),
        ("residual+se(256) x 6", Definition("residual+se", (256,), {}, 6)),
        (" mbconv + se + drop_path ( 8 , ) x 2 ", Definition("mbconv+se+drop_path", (8,), {}, 2)),
        ("linear(1000)", Definition("linear", (1000,))),
        ("resnet50(weights=ResNet50_Weights.DEFAULT)", Definition("resnet50", (), {"weights": "ResNet50_Weights.DEFAULT"})),
        ("a(-1, 1.5, .5, 1e-3, -2E3)", Definition("a", (-1, 1.5, 0.5, 1e-3, -2e3))),
        ("a(true, False, NONE, null, gelu, 'x y', \"z\")", Definition("a", (True, False, None, None, "gelu", "x y", "z"))),
        ("a([1, [2, -3], []], h=[256])", Definition("a", ([1, [2, -3], []],), {"h": [256]})),
        ("a(x=1, k=[3, 5])", Definition("a", (), {"x": 1, "kernel_size": [3, 5]})),
        ("a(k=1, s=2, p=3, g=4, e=5, r=6, d=0.7)", Definition("a", (), {
            "kernel_size": 1, "stride": 2, "padding": 3, "groups": 4, "expansion": 5, "reduction": 6, "dropout": 0.7,
        })),
        ("${b}(${c:3}, k=@kernel) x ${n}", Definition("${b}", ("${c:3}",), {"kernel_size": "@kernel"}, "${n}")),
    ],
)  # fmt: skip
def test_definitions(text: str, wanted: Definition) -> None:
    found = parse_definition(text)
    assert found == wanted
    types = [type(value) for value in (*found.args, *found.kwargs.values())]
    assert types == [type(value) for value in (*wanted.args, *wanted.kwargs.values())]


@pytest.mark.parametrize(
    ("text", "reason", "offset"),
    [
        ("", "expected the name of a block, found the end", 0),
        ("64", "expected the name of a block, found '64'", 0),
        ("conv(64", "expected ',' or ')', found the end", 7),
        ("conv(64))", "expected 'x N', '|' or the end, found ')'", 8),
        ("conv 64", "expected '(', 'x N', '|' or the end, found '64'", 5),
        ("conv(64 k=7)", "expected ',' or ')', found 'k'", 8),
        ("conv(1,,2)", "expected a value, found ','", 7),
        ("conv(k=)", "expected a value, found ')'", 7),
        ("conv(k=1, 2)", "expected NAME=VALUE after the first of them, found '2'", 10),
        ("conv(k=1, kernel_size=2)", "'kernel_size' is given twice", 10),
        ("conv(2*32)", "unexpected '*'; values are written out, not computed", 6),
        ("conv(-x)", "unexpected '-'; values are written out, not computed", 5),
        ("conv((1, 2))", "expected a value, found '('", 5),
        ("conv('a)", 'unexpected "\'"; the quotation mark is not closed', 5),
        ("conv+(1)", "expected a name after '+', found '('", 5),
        ("conv(1) x", "expected a whole number after 'x', found the end", 9),
        ("conv(1) x 2.5", "expected a whole number after 'x', found '2.5'", 10),
        ("conv(1) X 2", "expected 'x N', found 'X'", 8),
        ("residual(64) x 2 x 3", "expected '|' or the end, found 'x'", 17),
        ("conv(1) |", "expected a modifier, found the end", 9),
        ("conv(1) | a | a", "the modifier 'a' is there twice", 14),
        ("conv(__import__('os').system('x'))", "expected ',' or ')', found '('", 15),
        ("conv(lambda: 1)", "unexpected ':'", 11),
    ],
)
def test_errors_with_a_caret(text: str, reason: str, offset: int) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse_definition(text)
    assert (caught.value.reason, caught.value.offset) == (reason, offset)
    assert str(caught.value) == f"{reason}\n    {text}\n    {' ' * offset}^"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_caret_of_a_long_definition() -> None:
    with pytest.raises(DefinitionError) as caught:
        parse_definition("conv(" + "1, " * 100 + "*" + ", 1" * 100 + ")")
    _, shown, caret = str(caught.value).splitlines()
    assert len(shown) < 130 and shown[caret.index("^")] == "*"


def net(stage: str) -> Recipe:
    return Recipe(stem="conv(8)", stages=[stage], head="linear(10)")


class TestDefect25:
    def test_arguments_are_kept(self) -> None:
        recipe = Recipe(stem="conv(8)", stages=["residual(8)"], head="linear(10, hidden=[256, 64])")
        assert recipe.config.head is not None and recipe.config.head.hidden == [256, 64]

    @pytest.mark.parametrize(
        "stage", ["residual(-8)", "residual(2*32)", "residual(64) | se", "residual(8) x 2 x 3", "residual(8, 16)"]
    )
    def test_or_refused(self, stage: str) -> None:
        with pytest.raises(RecipeError, match=r"^stages\[0\]"):
            net(stage)

    def test_a_stride_is_kept(self) -> None:
        assert parse_recipe(net("residual(64, s=2)"))["stages"][0]["stride"] == 2

    def test_no_deprecation(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert parse_definition("conv(64, activation=gelu)").kwargs == {"activation": "gelu"}


def test_what_a_short_form_says() -> None:
    recipe = Recipe(
        stem="conv(64, 3, 1, pool=none)",
        stages=["residual+se(128, r=8) x 4 | downsample", "conv(32, d=0.1)"],
        head="linear(10)",
    )
    assert parse_recipe(recipe) == {
        "stem": {"type": "conv", "channels": 64, "kernel": 3, "stride": 1, "pool": None},
        "stages": [
            {"pattern": "residual+se", "channels": 128, "se_reduction": 8, "blocks": 4, "downsample": True},
            {"pattern": "conv", "channels": 32, "dropout_rate": 0.1, "blocks": 1},
        ],
        "head": {"type": "linear", "num_classes": 10},
    }
    assert parse_recipe(Recipe(stem="patch(96, 4)", stages=["conv(8)"], head="linear(1)"))["stem"] == {
        "type": "patch",
        "embed_dim": 96,
        "patch_size": 4,
    }


def test_definitions_are_values() -> None:
    definition: Any = parse_definition("conv(1)")
    assert copy.deepcopy(definition) == pickle.loads(pickle.dumps(definition)) == definition
