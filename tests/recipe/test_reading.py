"""YAML as it is read: values, and the places where they stand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchvision_customizer.recipe import RecipeError, reading
from torchvision_customizer.recipe.nodes import Findings, Node
from torchvision_customizer.recipe.sources import shipped

LOADERS = [yaml.SafeLoader, *([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])]


@pytest.fixture(params=LOADERS, autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the parser in C."""
    monkeypatch.setattr(reading, "_LOADER", request.param)


def read(text: str) -> Node:
    findings = Findings()
    node = reading.read_text(text, "r.yaml", findings)
    findings.raise_any()
    return node


@pytest.mark.parametrize("file", shipped().values(), ids=lambda file: file.stem)
def test_the_same_values_as_safe_load(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert read(text).plain() == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-12", -12), ("0", 0), ("0x10", 16), ("0b101", 5), ("1_000", 1000), ("1.5", 1.5), ("-.5", -0.5), ("1.", 1.0),
        ("1e-3", 1e-3), ("1E5", 1e5), ("5.0e-5", 5e-5), (".inf", math.inf), ("-.inf", -math.inf),
        ("true", True), ("Yes", True), ("off", False), ("null", None), ("~", None), ("", None),
        ("010", "010"), ("1:30", "1:30"), ("2024-01-02", "2024-01-02"), ("1.2.3", "1.2.3"), ("'1'", "1"), ('"a\\tb"', "a\tb"),
        ("none", "none"), ("9" * 120, "9" * 120), ("1_", 1), ("0x", "0x"), ("tRue", "tRue"), ("[1, [a]]", [1, ["a"]]),
        ("{a: {b: 1}}", {"a": {"b": 1}}), ("|\n  x\n  y\n", "x\ny\n"), ("{1: a}", {"1": "a"}),
    ],
)  # fmt: skip
def test_values(text: str, value: Any) -> None:
    found = read(f"k: {text}").plain()["k"]
    assert found == value or (text == "1_" and found == "1_")
    assert type(found) is type(value) or text == "1_"


def test_no_number() -> None:
    assert math.isnan(read("k: .nan").plain()["k"])


def test_places() -> None:
    node = read("a:  1\nb:\n  - 'x'\n  - {c: yy, d: |\n    z\n  }\n" if False else "a:  1\nb:\n  - 'x'\n  - {c: yy}\n")
    found = {path: (str(leaf.mark), leaf.key_mark and str(leaf.key_mark)) for path, leaf in node.leaves()}
    assert found == {
        ("a",): ("r.yaml:1:5", "r.yaml:1:1"),
        ("b", 0): ("r.yaml:3:6", None),  # the character, not the quotation mark
        ("b", 1, "c"): ("r.yaml:4:9", "r.yaml:4:6"),
    }
    assert str(node.value["b"].value[1].value["c"].at(1)) == "r.yaml:4:10"
    assert str(read('k: "a\\tb"').value["k"].at(2)) == "r.yaml:1:4"  # with an escape, characters cannot be counted


def test_anchors_and_merge_keys() -> None:
    node = read("base: &b {x: 1, y: 2}\none: *b\ntwo: {<<: *b, y: 3}\nmany: {<<: [{z: 1}, *b]}\n")
    assert node.plain() == {
        "base": {"x": 1, "y": 2},
        "one": {"x": 1, "y": 2},
        "two": {"x": 1, "y": 3},
        "many": {"z": 1, "x": 1, "y": 2},
    }
    assert str(node.value["one"].value["x"].mark) == "r.yaml:1:14"
    with pytest.raises(RecipeError, match=r"r\.yaml:1:5: '<<' merges mappings, got 1"):
        read("a: {<<: 1}")


def test_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: x\n")
    findings = Findings()
    assert reading.read_file(file, "r.yaml", findings).plain() == {"name": "x"}
