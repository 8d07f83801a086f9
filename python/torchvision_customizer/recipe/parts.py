"""The parts of a recipe that can be written short or long, and the first as the second."""

from __future__ import annotations

from dataclasses import replace

from ..errors import nearest
from .nodes import Findings, Node, Path
from .parser import Definition, DefinitionError, check_modifiers, parse_definition

# By the path of a part without its indices: the key of its name, and its arguments without a name by their order.
_STEM = ("type", {"patch": ("embed_dim", "patch_size"), "simple": ("channels",), "": ("channels", "kernel", "stride")})
_PARTS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "stem": _STEM,
    "stages": ("pattern", {"": ("channels",)}),
    "head": ("type", {"": ("num_classes",)}),
    "backbone": ("name", {"": ("weights",)}),
}
# Second names of keys: short ones of the string form, and names of 2.1.
OTHER_NAMES = {
    "stem": {"kernel_size": "kernel", "norm_type": "norm"},
    "stages": {
        "type": "pattern",
        "block": "pattern",
        "reduction": "se_reduction",
        "dropout": "dropout_rate",
        "norm_type": "norm",
    },
    "head": {"hidden_dims": "hidden"},
    "backbone": {},
    "training": {"learning_rate": "lr"},
}
_OTHER_TYPES = {"stem": {"stem": "conv", "standard": "conv"}}


def part_at(path: Path) -> str | None:
    """Which part of a recipe is at a path: ``stem``, ``stages`` (one of them), ``head``, ``backbone`` or none."""
    if len(path) == 2 and path[0] == "stages":
        return "stages"
    return str(path[0]) if len(path) == 1 and path[0] in ("stem", "head", "backbone") else None


def written_out(node: Node, part: str, path: Path, findings: Findings) -> Node:
    """A part as a mapping, with the keys that the schema has. What cannot be read is a finding, and comes back broken."""
    if isinstance(node.value, str):
        try:
            node = _from_text(node, part)
        except DefinitionError as error:
            findings.add(node.at(error.offset), path, str(error))
            return Node(node.value, node.mark, node.key_mark, broken=True)
    if not isinstance(node.value, dict):
        return node
    return _one_name_each(node, part, path, findings)


def macros_apart(root: Node) -> Node:
    """A recipe in which the short forms that have macros as values are written out, so that a macro keeps its type and its place.

    Where a macro is more than a value, the text stays, and is read when its macros are filled in.
    """

    def apart(node: Node, part: str) -> Node:
        if not isinstance(node.value, str) or not ("${" in node.value or "@" in node.value):
            return node
        try:
            written = _from_text(node, part)
        except DefinitionError:
            return node
        name = written.value[_PARTS[part][0]].value
        return node if "$" in name or "@" in name else written

    items = dict(root.value)
    for key in ("stem", "head", "backbone"):
        if key in items:
            items[key] = apart(items[key], key)
    stages = items.get("stages")
    if stages is not None and isinstance(stages.value, list):
        items["stages"] = replace(stages, value=[apart(stage, "stages") for stage in stages.value])
    return replace(root, value=items)


def _from_text(node: Node, part: str) -> Node:
    text: str = node.value
    definition = parse_definition(text)
    key, positional = _PARTS[part]
    order = positional.get(definition.name, positional[""])
    name_mark = node.at(definition.offsets["name"])
    verbatim = node.verbatim and node.value.startswith(definition.name, definition.offsets["name"])
    items = {key: Node(definition.name, name_mark, verbatim=verbatim, written_as="block" if part == "stages" else None)}

    def put(name: str, value: object, place: str | int) -> None:
        offset = definition.offsets[place]
        if name in items:
            raise DefinitionError(f"'{name}' is given twice", text, offset)
        items[name] = _value(value, node, offset)

    if len(definition.args) > len(order):
        allowed = f"{definition.name} takes {', '.join(order)} without a name"
        raise DefinitionError(f"a value too many; {allowed}", text, definition.offsets[len(order)])
    for index, value in enumerate(definition.args):
        put(order[index], value, index)
    for name, value in definition.kwargs.items():
        put(OTHER_NAMES[part].get(name, name) if name != "type" else name, value, name)
    if part == "stages":
        check_modifiers(definition, text, ("downsample",))
        if definition.repeat is not None:
            put("blocks", definition.repeat, "repeat")
        else:
            items.setdefault("blocks", Node(1, node.at(definition.offsets["name"])))
        for modifier in definition.modifiers:
            put(modifier, True, f"|{modifier}")
    else:
        _check_single(definition, text, part)
    return Node(items, node.mark, node.key_mark)


def _check_single(definition: Definition, text: str, part: str) -> None:
    check_modifiers(definition, text, ())
    if definition.repeat is not None:
        raise DefinitionError(f"a {part} is not repeated", text, definition.offsets["repeat"])


def _value(value: object, node: Node, offset: int) -> Node:
    if isinstance(value, list):
        return Node([_value(item, node, offset) for item in value], node.at(offset))
    return Node(value, node.at(offset), text=value if isinstance(value, str) else None)


def _one_name_each(node: Node, part: str, path: Path, findings: Findings) -> Node:
    """Second names of keys become the first; both may be there where they say the same."""
    others = OTHER_NAMES[part]
    items: dict[str, Node] = {}
    for key, item in node.value.items():
        name = others.get(key, key)
        former = items.get(name)
        if former is not None and former.plain() != item.plain():
            findings.add(
                item.key_mark or item.mark, (*path, key), f"'{key}' and '{name}' are the same, and say different things"
            )
        if former is None or key == name:
            items[name] = item if key == name else replace(item, written_as=key)
    kind = items.get("type")
    if kind is not None and isinstance(kind.value, str) and kind.value in _OTHER_TYPES.get(part, {}):
        items["type"] = replace(kind, value=_OTHER_TYPES[part][kind.value])
    return Node(items, node.mark, node.key_mark, macro=node.macro)


def first_names(part: str, node: Node, path: Path, findings: Findings) -> Node:
    """A section that has no short form, with the keys that the schema has."""
    return _one_name_each(node, part, path, findings) if isinstance(node.value, dict) else node


def did_you_mean(key: str, part: str, known: tuple[str, ...]) -> str:
    """The nearest key of a part, second names among them."""
    return nearest(key, (*known, *OTHER_NAMES.get(part, {})))
