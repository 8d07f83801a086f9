"""From a recipe as it is written to one of the models of ``schema``, and all that is wrong with it on the way. No torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from ..errors import nearest
from .meaning import Meaning
from .nodes import Findings, Mark, Node, Path, kind_of, shown, spelled
from .parts import did_you_mean, first_names, written_out
from .schema import (
    HEADS,
    SECTIONS,
    STEMS,
    AnyRecipe,
    BackboneHead,
    BackboneRecipe,
    Common,
    ComposedRecipe,
    Section,
    Unfinished,
)

_TEXTS = ("name", "version", "description")
_COMPOSED = ("stem", "stages", "head")


def check(node: Node, findings: Findings) -> tuple[AnyRecipe | None, Node]:
    """A recipe with its macros filled in, as a typed one, or None where there are problems; and with all parts written out."""
    before = len(findings.problems)
    root = _normalised(node, findings)
    kind = _kind_of(root, findings)
    recipe = None
    try:
        recipe = kind.model_validate(root.plain())
    except ValidationError as error:
        _explain_all(error, root, kind, findings)
    Meaning(root, kind, findings).check()
    return (recipe if isinstance(recipe, AnyRecipe) and len(findings.problems) == before else None), root


def _normalised(node: Node, findings: Findings) -> Node:
    """With every part as a mapping under the keys of the schema, and with the types that are left out."""
    items = dict(node.value)
    for key in _TEXTS:
        item = items.get(key)
        if item is not None and isinstance(item.value, int | float) and item.text is not None:
            items[key] = Node(item.text, item.mark, item.key_mark, item.text)  # version: 1.10 is no number
    for key in ("stem", "head", "backbone"):
        if key in items and items[key].value is not None:
            items[key] = written_out(items[key], key, (key,), findings)
    if "backbone" in items:
        items["backbone"] = _with_no_weights(items["backbone"])
    for key in ("stem", "head"):
        if key in items and isinstance(items[key].value, dict):
            default = Node("conv" if key == "stem" else "linear", items[key].mark)
            items[key] = _with_default(items[key], "type", default)
    if "training" in items:
        items["training"] = first_names("training", items["training"], ("training",), findings)
    classes = items.get("num_classes")
    if classes is not None and classes.value is not None and not classes.broken:
        items["head"] = _with_classes(items.get("head"), classes, findings)
    stages = items.get("stages")
    if stages is not None and isinstance(stages.value, dict):
        message = "must be a list; a mapping of changes is for a recipe that extends one with stages"
        findings.add(stages.mark, ("stages",), message)
        items["stages"] = Node([], stages.mark, stages.key_mark, broken=True)
    elif stages is not None and isinstance(stages.value, list):
        written = [written_out(stage, "stages", ("stages", index), findings) for index, stage in enumerate(stages.value)]
        items["stages"] = Node(written, stages.mark, stages.key_mark)
    return Node(items, node.mark)


def _with_default(node: Node, key: str, default: Node) -> Node:
    return replace(node, value={key: default, **node.value})


def _with_no_weights(node: Node) -> Node:
    """A backbone whose weights are none in words."""
    weights = node.value.get("weights") if isinstance(node.value, dict) else None
    if weights is None or not isinstance(weights.value, str) or weights.value.lower() != "none":
        return node
    return replace(node, value={**node.value, "weights": replace(weights, value=None)})


def _with_classes(head: Node | None, classes: Node, findings: Findings) -> Node:
    """The head with the ``num_classes`` that the recipe says at its top."""
    if head is None or head.value is None:
        return Node({"type": Node("linear", classes.mark), "num_classes": classes}, classes.mark, classes.key_mark)
    if not isinstance(head.value, dict):
        return head
    own = head.value.get("num_classes")
    if own is not None and own.value is not None and own.plain() != classes.plain():
        message = f"is {shown(classes.plain())} here and {shown(own.plain())} in the head; say it once"
        findings.add(classes.mark, ("num_classes",), message)
        return head
    return replace(head, value={**head.value, "num_classes": classes})


def _kind_of(root: Node, findings: Findings) -> type[Common]:
    present = [key for key in ("backbone", "stem", "stages") if key in root.value and root.value[key].value is not None]
    if "backbone" in present:
        for key in present[1:]:
            message = f"a recipe has a backbone, or a stem, stages and a head; this has both 'backbone' and '{key}'"
            findings.add(root.value[key].key_mark or root.mark, (key,), message)
        return BackboneRecipe
    missing = [key for key in _COMPOSED if key not in root.value or root.value[key].value is None]
    if not present:
        findings.add(root.mark, (), "there is no model: a recipe has a backbone, or a stem, stages and a head")
        return Unfinished
    if missing:
        lacks = " and no ".join(missing)
        findings.add(root.mark, (), f"there is no {lacks}: a recipe without a backbone has a stem, stages and a head")
    return ComposedRecipe


# ---- pydantic's findings, with their places ----


def _explain_all(error: ValidationError, root: Node, kind: type[Common], findings: Findings) -> None:
    for problem in error.errors(include_url=False):
        node, path, missing = _locate(root, problem["loc"])
        if node.broken or (
            len(path) == 1 and path[0] in ("stem", "stages", "head", "backbone") and problem["type"] == "missing"
        ):
            continue  # said already
        if len(path) == 1 and path[0] in ("stem", "stages", "backbone") and kind is BackboneRecipe and path[0] != "backbone":
            continue
        findings.add(_mark_of(node, problem["type"]), spelled(root, path), _sentence(problem, path, node, root, kind, missing))


def _locate(root: Node, loc: tuple[str | int, ...]) -> tuple[Node, Path, bool]:
    """The node at a place that pydantic names, which has names of types among the keys; and whether its last key is missing."""
    node = root
    path: list[str | int] = []
    for part in loc:
        if isinstance(node.value, dict) and part in node.value:
            node = node.value[str(part)]
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        elif part == loc[-1] and isinstance(node.value, dict) and part not in (*STEMS, *HEADS, "stage", "transition"):
            return node, (*path, part), True
        else:
            continue
        path.append(part)
    return node, tuple(path), False


def _mark_of(node: Node, kind: str) -> Mark | None:
    at_key = kind in ("extra_forbidden", "missing")
    return (node.key_mark or node.mark) if at_key else (node.mark or node.key_mark)


def _sentence(problem: Any, path: Path, node: Node, root: Node, kind: type[Common], missing: bool) -> str:
    match problem["type"]:
        case "extra_forbidden":
            part, models = _section_at(path[:-1], root, kind)
            known = tuple(models.model_fields)
            return f"unknown key '{path[-1]}'{did_you_mean(str(path[-1]), part, known)} (keys: {', '.join(known)})"
        case "missing":
            return "is missing"
        case "union_tag_invalid":
            types = STEMS if path[0] == "stem" else HEADS
            found = node.value["type"].value
            return f"unknown type {shown(found)}{nearest(str(found), types)} (types: {', '.join(types)})"
        case "literal_error":
            allowed = problem["ctx"]["expected"]
            names = [name.strip("'") for name in allowed.replace(" or ", ", ").split(", ")]
            return f"must be {allowed}, got {shown(node.value)}{nearest(str(node.value), names)}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"must be a mapping, got {node.kind}"
        case "value_error":
            return f"{problem['ctx']['error']}, got {kind_of(node.plain())}"
    message = problem["msg"]
    for pydantics, ours in _WORDS:
        message = message.replace(pydantics, ours)
    return f"{message}, got {kind_of(node.plain())}"


_WORDS = (
    ("Input should be a valid ", "must be a "),
    ("Input should be ", "must be "),
    ("a integer", "an integer"),
    ("a string", "a text"),
    ("a dictionary", "a mapping"),
    ("a finite number", "a finite number"),
    ("List should have", "must have"),
    (" after validation", ""),
)


def _section_at(path: Path, root: Node, kind: type[Common]) -> tuple[str, type[Section]]:
    """Which part of a recipe is at a path, and its model."""
    part = str(path[0]) if path else ""
    if not path:
        return part, kind
    if part == "head" and kind is BackboneRecipe:
        return part, BackboneHead
    if part in ("stem", "head"):
        types = STEMS if part == "stem" else HEADS
        return part, types.get(root.value[part].value["type"].value, SECTIONS[part][0])
    return part, SECTIONS[part][0]
