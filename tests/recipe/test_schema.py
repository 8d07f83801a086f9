"""The JSON schema says what the models say, and every shipped recipe is one of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from torchvision_customizer.recipe import Recipe, list_templates, load_yaml_config, recipe_schema
from torchvision_customizer.recipe.schema import SECTIONS, Stage

SCHEMA = recipe_schema()


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """As much of JSON schema as ours uses; anything else is an error of this test."""
    known = {
        "$schema", "$ref", "$defs", "type", "properties", "additionalProperties", "required", "anyOf", "oneOf", "items", "enum",
        "const", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "title",
        "description", "default", "examples", "discriminator",
    }  # fmt: skip
    assert set(schema) <= known, set(schema) - known
    if "$ref" in schema:
        return fits(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")])
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(fits(value, {"$defs": {}, **choice}) for choice in schema[key]):
            return False
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        if any(key not in value for key in schema.get("required", ())):
            return False
        for key, item in value.items():
            if key in properties:
                if not fits(item, properties[key]):
                    return False
            elif more is False or (isinstance(more, dict) and not fits(item, more)):
                return False
    if isinstance(value, list) and "items" in schema:
        if len(value) < schema.get("minItems", 0) or len(value) > schema.get("maxItems", len(value)):
            return False
        return all(fits(item, schema["items"]) for item in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        return (
            low <= value <= high
            and value > schema.get("exclusiveMinimum", value - 1)
            and value < schema.get("exclusiveMaximum", value + 1)
        )
    return True


@pytest.mark.parametrize("name", list_templates())
def test_shipped_recipes(name: str) -> None:
    """As they are written, and written out."""
    assert fits(load_yaml_config(name, expand=False), SCHEMA)
    assert fits(Recipe.from_yaml(name).written_out(), SCHEMA)


@pytest.mark.parametrize(
    ("config", "right"),
    [
        ({"backbone": "resnet50"}, True),
        ({"stem": "conv(64)", "stages": ["residual(64)"], "head": {"type": "linear", "num_classes": 3}}, True),
        ({"extends": "se_resnet50", "stages": {"1": {"blocks": 4}, "coarse": None}}, True),
        ({"backbone": {"name": "resnet50", "weights": None}, "head": {"num_classes": "${n}"}, "macros": {"n": 3}}, True),
        ({"backbone": {"name": "resnet50"}, "training": {"learning_rate": 0.1, "augment": False}}, True),
        ({"stem": "conv(64)", "stages": [{"block": "conv", "channels": 8, "kernel_size": [3, 1]}], "head": "linear(1)"}, True),
        ({}, False),
        ({"name": "x"}, False),
        ({"stem": "conv(64)", "stages": ["residual(64)"]}, False),
        ({"backbone": {"name": "resnet50", "weigths": None}}, False),
        ({"backbone": "resnet50", "trainng": {}}, False),
        ({"backbone": "resnet50", "training": {"epochs": "many"}}, False),
        ({"backbone": "resnet50", "training": {"epochs": 0}}, False),
        ({"backbone": "resnet50", "input_shape": [3, 224]}, False),
        ({"stem": "conv(64)", "stages": [{"channels": 8, "chanels": 8}], "head": "linear(1)"}, False),
    ],
)
def test_what_is_right_and_wrong(config: dict[str, Any], right: bool) -> None:
    assert fits(config, SCHEMA) is right


def test_every_key_is_there_and_most_are_described() -> None:
    json.dumps(SCHEMA)
    for models in SECTIONS.values():
        for model in models:
            properties = (
                SCHEMA["properties"] if model.__name__.endswith("Recipe") else SCHEMA["$defs"][model.__name__]["properties"]
            )
            assert set(model.model_fields) <= set(properties), model
    assert {"block", "type", "reduction"} <= set(SCHEMA["$defs"]["Stage"]["properties"])
    described = [field.description for field in Stage.model_fields.values() if field.description]
    assert len(described) > 15
