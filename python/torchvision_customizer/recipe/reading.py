"""YAML of plain values, each with the line and column where it stands.

Only what a file of configuration needs is read: mappings, lists, texts, numbers, booleans and null. Tags are refused, whatever
they name; so are two equal keys. Aliases count as often as they are used. Numbers and booleans are those of ``yaml.safe_load``,
but that ``1e-3`` is a number, and that dates, ``010`` and ``1:30`` are texts.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..errors import Problem, RecipeError
from .nodes import MAX_CHARACTERS, MAX_DEPTH, MAX_NODES, Findings, Mark, Node

# The parser in C where PyYAML has it: as a stream of events, neither builds anything, and nothing recurses.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+)")
_FLOAT = re.compile(r"[-+]?(([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+)")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def scalar(text: str) -> str | int | float | bool | None:
    """The value of a plain scalar."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) > 100:  # no number: Python does not read integers of thousands of digits
        return text
    if _INTEGER.fullmatch(text):
        try:
            return int(text, 0)
        except ValueError:  # underscores at odd places
            return text
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    if special := _SPECIAL.fullmatch(text):
        return math.nan if special[3] else math.copysign(math.inf, -1 if special[1] == "-" else 1)
    return text


def read_file(path: Path, source: str, findings: Findings) -> Node:
    """A file as a node; ``source`` is how errors call it. Keys that are there twice go to the findings.

    Raises:
        RecipeError: the file is not there, is too large, or is not such YAML as a recipe is written in.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _error(source, "is no file")
        with open(path, "rb") as stream:
            content = stream.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise _error(source, f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    if len(content) > MAX_CHARACTERS:
        raise _error(source, f"has more than {MAX_CHARACTERS // 1024} KiB, which no recipe needs")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - (content.rfind(b"\n", 0, error.start) + 1) + 1
        raise _error(str(Mark(source, line, column)), "is not UTF-8") from error
    return read_text(text, source, findings)


def read_text(text: str, source: str, findings: Findings) -> Node:
    """YAML as a node: a mapping. Keys that are there twice go to the findings.

    Raises:
        RecipeError: it is not such YAML as a recipe is written in.
    """
    if len(text) > MAX_CHARACTERS:
        raise _error(source, f"has more than {MAX_CHARACTERS // 1024} KiB, which no recipe needs")
    node = _Reader(text, source, findings).document()
    if not isinstance(node.value, dict):
        raise _error(str(node.mark or source), f"a recipe is a mapping, for instance 'backbone: resnet50', got {node.kind}")
    return node


def read_value(text: str, source: str) -> Node:
    """One value of the command line: a scalar, or a list or mapping in brackets. It has no line and no column."""
    findings = Findings()
    node = _Reader(text, source, findings).document()
    findings.raise_any()
    mark = Mark(source, 0, 0)
    pending = [node]
    while pending:
        each = pending.pop()
        each.mark, each.key_mark, each.verbatim = mark, mark, False
        pending += each.value.values() if isinstance(each.value, dict) else each.value if isinstance(each.value, list) else ()
    return node


def _error(place: str, message: str) -> RecipeError:
    return RecipeError([Problem(place, "", message)])


class _Reader:
    """One pass over the events of a document."""

    def __init__(self, text: str, source: str, findings: Findings) -> None:
        self.text = text
        self.source = source
        self.findings = findings
        self.lines = text.splitlines()
        self.anchors: dict[str, tuple[Node, int]] = {}
        self.count = 0
        self.events: Iterator[yaml.Event] = self._checked()

    def _checked(self) -> Iterator[yaml.Event]:
        """The parser's events, and its complaints in a sentence."""
        try:
            yield from yaml.parse(self.text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = " ".join(part for part in (error.context, error.problem) if part)
            raise self._error(mark, f"this is not YAML: {what or 'it cannot be read'}") from None
        except yaml.reader.ReaderError as error:
            raise _error(self.source, f"this is not YAML: {error.reason} (character {error.position + 1})") from None
        except UnicodeEncodeError as error:  # half of a surrogate pair, which a program can put into a text
            raise _error(self.source, f"this is not YAML: {error.reason} (character {error.start + 1})") from None

    def _error(self, mark: Any, message: str) -> RecipeError:
        return _error(self.source if mark is None else str(self._mark(mark)), message)

    def _mark(self, mark: Any) -> Mark:
        return Mark(self.source, mark.line + 1, mark.column + 1)

    def document(self) -> Node:
        node: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.StreamStartEvent | yaml.StreamEndEvent | yaml.DocumentEndEvent):
                continue
            if isinstance(event, yaml.DocumentStartEvent):
                if node is not None:
                    raise self._error(event.start_mark, "a second document begins here; a recipe is one")
                node = self._node(next(self.events), 0)
        if node is None:
            raise _error(self.source, "is empty; a recipe has a backbone, or a stem, stages and a head")
        return node

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self._error(event.start_mark, f"there is no anchor '&{event.anchor}' that ends before this")
            node, size = self.anchors[event.anchor]
            self._add(event, size)
            return Node(node.value, node.mark, text=node.text, verbatim=node.verbatim)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        # "!" is what the parser gives for a quoted text.
        if event.tag not in (None, "!"):
            raise self._error(event.start_mark, f"tags are not read, and here is {event.tag!r}")
        before = self.count
        self._add(event, 1)
        if depth > MAX_DEPTH:
            raise self._error(event.start_mark, f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event)
        else:
            value = self._mapping(depth) if isinstance(event, yaml.MappingStartEvent) else self._list(depth)
            node = Node(value, self._mark(event.start_mark))
        if event.anchor is not None:
            self.anchors[event.anchor] = node, self.count - before
        return node

    def _add(self, event: yaml.Event, nodes: int) -> None:
        self.count += nodes
        if self.count > MAX_NODES:
            raise self._error(
                event.start_mark, f"more than {MAX_NODES:,} values, which no recipe needs (aliases count each time)"
            )

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        plain = event.style is None or event.style == ""
        value = scalar(event.value) if plain else event.value
        mark = self._mark(event.start_mark)
        if not isinstance(value, str):
            return Node(value, mark, text=event.value)
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise self._error(event.start_mark, "half of a surrogate pair is no character")
        opening = 0 if plain else 1
        line = self.lines[mark.line - 1] if mark.line <= len(self.lines) else ""
        start = mark.column - 1 + opening
        verbatim = event.style not in ("|", ">") and line[start : start + len(value)] == value
        # Where the characters themselves begin, so that an error can point at one of them.
        return Node(value, mark.after(opening) if verbatim else mark, text=event.value, verbatim=verbatim)

    def _list(self, depth: int) -> list[Node]:
        items = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[str, Node]:
        items: dict[str, Node] = {}
        merged: list[Node] = []
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.tag not in (None, "!") or not event.value:
                raise self._error(event.start_mark, "a key must be a plain text")
            key, mark = event.value, self._mark(event.start_mark)
            self._add(event, 1)
            if event.anchor is not None:
                raise self._error(event.start_mark, "an anchor belongs to a value, not to a key")
            node = self._node(next(self.events), depth + 1)
            if key == "<<" and not event.style:
                merged += self._merged(node, mark)
                continue
            if key in items:
                first = items[key].key_mark
                self.findings.add(mark, (), f"the key '{key}' is there twice, first in line {first.line if first else 0}")
                continue
            items[key] = Node(node.value, node.mark, mark, node.text, node.verbatim)
        for node in merged:
            for key, item in node.value.items():
                items.setdefault(key, item)
        return items

    def _merged(self, node: Node, mark: Mark) -> list[Node]:
        nodes = node.value if isinstance(node.value, list) else [node]
        if not all(isinstance(each.value, dict) for each in nodes):
            raise _error(str(mark), f"'<<' merges mappings, got {node.kind}")
        return nodes
