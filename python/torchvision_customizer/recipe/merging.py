"""What ``extends``, ``--set`` and a search space do: one recipe over another."""

from __future__ import annotations

from ..errors import nearest
from .nodes import Findings, Node, Path, path_text
from .parts import part_at, written_out

# Where null is a value of its own: random weights. Everywhere else it takes the key of the parent away.
_NULL_IS_A_VALUE = {("backbone", "weights")}


def merge(base: Node, over: Node, findings: Findings, path: Path = ()) -> Node:
    """``over`` over ``base``: mappings by key, lists and scalars as a whole; ``key: null`` takes a key away.

    A part in its short form is written out where the other is a mapping. ``stages`` as a mapping changes stages of the list
    below it, by index or by name; the index behind the last adds one.
    """
    if path == ("stages",) and isinstance(over.value, dict):
        return _merge_stages(base, over, findings, path)
    part = part_at(path)
    if part is not None and isinstance(over.value, dict):
        base, over = written_out(base, part, path, findings), written_out(over, part, path, findings)
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    items = dict(base.value)
    for key, item in over.value.items():
        below = (*path, key)
        if key not in items:
            items[key] = merge(Node([], item.mark), item, findings, below) if below == ("stages",) else item
        elif item.value is None and not item.broken and below not in _NULL_IS_A_VALUE:
            del items[key]
        else:
            items[key] = merge(items[key], item, findings, below)
    return Node(items, over.mark or base.mark, over.key_mark or base.key_mark)


def _merge_stages(base: Node, over: Node, findings: Findings, path: Path) -> Node:
    if not isinstance(base.value, list):
        findings.add(over.mark, path, "changes stages by index or name, and there is no list of stages to change")
        return Node(base.value, base.mark, base.key_mark, broken=True)
    stages = list(base.value)
    count, gone = len(stages), set()
    for key, item in over.value.items():
        index = _index_of(key, stages)
        if index is None or index > len(stages) or (index == len(stages) and item.value is None):
            findings.add(item.key_mark or item.mark, path, f"there is no stage {_known(key, stages, count)}")
            continue
        if index == len(stages):
            stages.append(item)
        elif item.value is None:
            gone.add(index)
        else:
            changed = merge(stages[index], item, findings, (*path, index))
            stages[index] = Node(changed.value, changed.mark, None, changed.text, changed.verbatim, broken=changed.broken)
    kept = [stage for index, stage in enumerate(stages) if index not in gone]
    return Node(kept, base.mark, base.key_mark or over.key_mark)


def _index_of(key: str, stages: list[Node]) -> int | None:
    if key.isascii() and key.isdigit() and len(key) < 6:
        return int(key)
    return next((index for index, stage in enumerate(stages) if _name_of(stage) == key), None)


def _name_of(stage: Node) -> str | None:
    name = stage.value.get("name") if isinstance(stage.value, dict) else None
    return name.value if name is not None else None


def _known(key: str, stages: list[Node], count: int) -> str:
    names = [name for name in map(_name_of, stages) if isinstance(name, str)]
    indices = f"0 to {count - 1}" if count else "none"
    named = f", by name {', '.join(names)}" if names else ""
    return f"'{key}'{nearest(key, names)} (there are {indices}{named}; {count} adds one)"


def nested(path: Path, value: Node) -> Node:
    """A value as a recipe that has only this value, at this path."""
    for part in reversed(path):
        value = Node({str(part): Node(value.value, value.mark, value.mark, value.text, value.verbatim)}, value.mark)
    return value


def parse_path(text: str) -> Path:
    """``stages[1].blocks`` as a path; ``backbone.patches['layer4.0']``: keys with dots stand in brackets.

    Raises:
        ValueError: it is no such path; the message has the place.
    """
    path: list[str | int] = []
    rest = text.strip()
    while rest:
        if rest[0] == "[":
            inside, closed, rest = rest[1:].partition("]")
            if inside[:1] in ("'", '"') and inside:  # in quotes a bracket is a character
                quoted, closed, rest = (inside + closed + rest)[1:].partition(f"{inside[0]}]")
                path.append(quoted)
            else:
                path.append(int(inside) if inside.isascii() and inside.isdigit() and len(inside) < 6 else inside)
            if not closed or path[-1] == "":
                before = path_text(tuple(path[:-1]))
                raise ValueError(f"'{text}' is no field: expected an index or a key and a closing bracket after {before}")
            if rest and rest[0] not in ".[":
                raise ValueError(f"'{text}' is no field: expected '.' or '[' before '{rest}'")
        else:
            cut = min((at for at in (rest.find("."), rest.find("[")) if at >= 0), default=len(rest))
            if cut == 0:
                raise ValueError(f"'{text}' is no field: a name is missing before '{rest}'")
            path.append(rest[:cut])
            rest = rest[cut:]
        if rest.startswith("."):
            rest = rest[1:]
            if not rest or rest[0] == "[":
                raise ValueError(f"'{text}' is no field: a name is missing after '.'")
    if not path or not isinstance(path[0], str):
        raise ValueError(f"'{text}' is no field; one is written like stages[1].blocks or training.lr")
    return tuple(path)
