"""Macros: values with a name, of any type, used as ``${name}``, ``${name:default}``, or ``"@name"``.

A macro that stands alone keeps its type; within a text it becomes text. A macro may use macros. ``$${`` and ``@@`` are a plain
``${`` and ``@``.
"""

from __future__ import annotations

import re

from ..errors import nearest
from .nodes import MAX_CHARACTERS, MAX_DEPTH, MAX_NODES, Findings, Node, Path
from .reading import scalar

_USE = re.compile(r"\$\$(?=\{)|\$\{([^{}]*)\}")
_OPEN = re.compile(r"(?<!\$)\$\{")
_WHOLE = re.compile(r"@([A-Za-z_][\w-]*)|\$\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][\w-]*")


class _TooLarge(Exception):
    pass


def expand(root: Node, findings: Findings) -> tuple[Node, set[str]]:
    """A recipe with its macros filled in, without the section ``macros``; and the names of those that were used."""
    section = root.value.get("macros")
    macros = section.value if section is not None and isinstance(section.value, dict) else {}
    for name, node in macros.items():
        if not _NAME.fullmatch(name):
            findings.add(
                node.key_mark, ("macros", name), "a macro's name has letters, digits, _ and -, and begins with a letter"
            )
    expander = _Expander(macros, findings)
    rest = Node({key: node for key, node in root.value.items() if key != "macros"}, root.mark)
    try:
        for name in macros:  # what is wrong in one that nobody uses is wrong, too
            expander.macro(name)
        return expander.expand(rest, (), 0), expander.used
    except _TooLarge as error:
        findings.add(section.key_mark if section else root.mark, ("macros",), str(error))
        return rest, set(macros)


class _Expander:
    def __init__(self, macros: dict[str, Node], findings: Findings) -> None:
        self.macros = macros
        self.findings = findings
        self.done: dict[str, Node] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        self.running: list[str] = []
        self.used: set[str] = set()
        self.nodes = self.characters = 0

    def macro(self, name: str) -> Node:
        if name not in self.done:
            self.running.append(name)
            before = self.nodes, self.characters
            self.done[name] = self.expand(self.macros[name], ("macros", name), 0)
            self.sizes[name] = self.nodes - before[0], self.characters - before[1]
            self.running.pop()
        return self.done[name]

    def count(self, nodes: int, characters: int) -> None:
        self.nodes += nodes
        self.characters += characters
        if self.nodes > MAX_NODES or self.characters > MAX_CHARACTERS:
            raise _TooLarge(
                f"make more than {MAX_NODES:,} values or {MAX_CHARACTERS // 1024} KiB of text, which no recipe needs"
            )

    def expand(self, node: Node, path: Path, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise _TooLarge(f"make values that are nested more than {MAX_DEPTH} levels deep")
        self.count(1, len(node.value) if isinstance(node.value, str) else 0)
        if isinstance(node.value, dict):
            items = {}
            for key, item in node.value.items():
                if _OPEN.search(key):
                    self.findings.add(item.key_mark or item.mark, (*path, key), "macros stand in values, not in keys")
                items[key] = self.expand(item, (*path, key), depth + 1)
            return Node(items, node.mark, node.key_mark, macro=node.macro)
        if isinstance(node.value, list):
            values = [self.expand(item, (*path, index), depth + 1) for index, item in enumerate(node.value)]
            return Node(values, node.mark, node.key_mark, macro=node.macro)
        if not isinstance(node.value, str) or not ("${" in node.value or node.value.startswith("@")):
            return node
        return self._text(node, path, depth)

    def _text(self, node: Node, path: Path, depth: int) -> Node:
        text: str = node.value
        if text.startswith("@@"):
            return Node(text[1:], node.mark, node.key_mark, text[1:])
        whole = _WHOLE.fullmatch(text)
        if whole is not None:
            found = self._use(whole[1] or whole[2], node, path, 0, depth)
            if found is None:
                return Node(text, node.mark, node.key_mark, text, broken=True)
            return Node(found.value, found.mark, node.key_mark, found.text, found.verbatim, found.macro, found.broken)
        parts, end, broken = [], 0, False
        for use in _USE.finditer(text):
            parts.append(text[end : use.start()])
            end = use.end()
            if use[1] is None:
                parts.append("$")
                continue
            found = self._use(use[1], node, path, use.start(), depth)
            written = None if found is None or found.broken else _as_text(found)
            if found is not None and not found.broken and written is None:
                self.findings.add(
                    node.at(use.start()), path, f"the macro '{use[1]}' is {found.kind}, which is no part of a text"
                )
            broken |= written is None
            parts.append(written or "")
            self.count(0, len(parts[-1]))
        rest = text[end:]
        if _OPEN.search(rest):
            self.findings.add(
                node.at(end + rest.index("${")), path, "the '}' of a macro is missing (a plain '${' is written '$${')"
            )
            broken = True
        joined = "".join((*parts, rest))
        return Node(joined, node.mark, node.key_mark, joined, node.verbatim and joined == text, node.macro, broken)

    def _use(self, use: str, node: Node, path: Path, offset: int, depth: int) -> Node | None:
        """What a macro stands for, or None where there is none; ``use`` is what stands in the braces."""
        name, colon, default = (part.strip() for part in use.partition(":"))
        mark = node.at(offset)
        if name in self.macros:
            self.used.add(name)
            if name in self.running:
                circle = " -> ".join((*self.running[self.running.index(name) :], name))
                self.findings.add(mark, path, f"the macro '{name}' uses itself: {circle}")
                return None
            known = name in self.done
            found = self.macro(name)
            if known:
                self.count(*self.sizes[name])
            if depth + _depth(found) > MAX_DEPTH:
                raise _TooLarge(f"make values that are nested more than {MAX_DEPTH} levels deep")
            return Node(found.value, found.mark, None, found.text, found.verbatim, name, found.broken)
        if colon:
            return Node(scalar(default), mark, text=default)
        known_names = ", ".join(self.macros) or "none"
        self.findings.add(mark, path, f"unknown macro '{name}'{nearest(name, self.macros)} (macros: {known_names})")
        return None


def _depth(node: Node) -> int:
    values = node.value.values() if isinstance(node.value, dict) else node.value if isinstance(node.value, list) else ()
    return 1 + max(map(_depth, values), default=0)


def _as_text(node: Node) -> str | None:
    """A value within a text, as the short form of a part writes it; None for a mapping."""
    if isinstance(node.value, dict):
        return None
    if isinstance(node.value, list):
        items = [_as_text(item) for item in node.value]
        return None if None in items else f"[{', '.join(map(str, items))}]"
    if node.value is None or isinstance(node.value, bool):
        return str(node.value).lower()
    return node.value if isinstance(node.value, str) else str(node.value)
