"""What a recipe is while it is read: values that know where they are written, and the problems found with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import Problem, RecipeError

Path = tuple[str | int, ...]
# Of what is read, and of what macros make of it. The largest recipe shipped has some hundred nodes.
MAX_DEPTH = 32
MAX_NODES = 10_000
MAX_CHARACTERS = 1 << 18

_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")


@dataclass(frozen=True, slots=True)
class Mark:
    """Where something is written: a file or an option, and a line and a column in it, both counted from 1."""

    source: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source

    def after(self, characters: int) -> Mark:
        """The place so many characters further on in the line."""
        return replace(self, column=self.column + characters)


@dataclass(slots=True)
class Node:
    """A value of a recipe.

    Attributes:
        value: a scalar, a list of nodes, or a dict of nodes.
        mark: where it is written; None where it comes from a program.
        key_mark: where its key is written, of a value in a mapping.
        text: a scalar as it is written.
        verbatim: whether the characters of a text stand one by one in the file, from ``mark`` on.
        macro: name of the macro that it comes from; ``mark`` is where the macro has it.
        broken: whether a problem with it has been found, so that what it is now says nothing.
        written_as: the key that the recipe has for it, where the schema has another.
    """

    value: Any
    mark: Mark | None = None
    key_mark: Mark | None = None
    text: str | None = None
    verbatim: bool = False
    macro: str | None = None
    broken: bool = False
    written_as: str | None = None

    @property
    def kind(self) -> str:
        """What it is, in words of YAML."""
        return kind_of(self.value)

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def at(self, offset: int) -> Mark | None:
        """The place of a character of a text, or of the text itself where that is not known."""
        return self.mark.after(offset) if self.mark is not None and self.verbatim else self.mark

    def leaves(self, path: Path = ()) -> Iterator[tuple[Path, Node]]:
        """Every scalar, and every empty list and mapping, with its path."""
        if isinstance(self.value, dict) and self.value:
            for key, node in self.value.items():
                yield from node.leaves((*path, key))
        elif isinstance(self.value, list) and self.value:
            for index, node in enumerate(self.value):
                yield from node.leaves((*path, index))
        else:
            yield path, self


def spelled(root: Node, path: Path) -> Path:
    """A path of the schema with the keys that the recipe has."""
    node: Node | None = root
    parts: list[str | int] = []
    for part in path:
        below = None
        if node is not None and isinstance(node.value, dict):
            below = node.value.get(str(part))
        elif node is not None and isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            below = node.value[part]
        parts.append(part if below is None or below.written_as is None else below.written_as)
        node = below
    return tuple(parts)


def kind_of(value: Any) -> str:
    """What a value is, in words of YAML."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return "nothing" if value is None else shown(value)


def shown(value: Any) -> str:
    """A value as an error shows it."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def node_of(value: Any, source: str | None = None, depth: int = 0) -> Node:
    """Plain values as a node; ``source`` says where they come from.

    Raises:
        RecipeError: there is something else than mappings, lists, texts, numbers, booleans and None, or it is nested too deep.
    """
    mark = None if source is None else Mark(source, 0, 0)
    if depth > MAX_DEPTH:
        raise RecipeError([Problem(None if mark is None else str(mark), "", f"nested more than {MAX_DEPTH} levels deep")])
    if isinstance(value, Mapping):
        return Node({str(key): node_of(item, source, depth + 1) for key, item in value.items()}, mark)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return Node([node_of(item, source, depth + 1) for item in value], mark)
    if value is None or isinstance(value, bool | int | float | str):
        return Node(value, mark, text=value if isinstance(value, str) else None)
    problem = f"expected a mapping, a list, a text, a number or a boolean, got {type(value).__name__}"
    raise RecipeError([Problem(None if mark is None else str(mark), "", problem)])


def path_text(path: Path) -> str:
    """``stages[1].block``; keys that are no plain names stand in brackets, ``backbone.patches['layer4.0']``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{shown(part)}]"
    return text


@dataclass
class Findings:
    """Problems and warnings, gathered until all of a recipe has been looked at."""

    problems: list[tuple[Mark | None, Problem]] = field(default_factory=list)
    warnings: list[tuple[Mark | None, Problem]] = field(default_factory=list)

    def add(self, mark: Mark | None, path: Path, message: str) -> None:
        self._note(self.problems, mark, path, message)

    def warn(self, mark: Mark | None, path: Path, message: str) -> None:
        self._note(self.warnings, mark, path, message)

    @staticmethod
    def _note(notes: list[tuple[Mark | None, Problem]], mark: Mark | None, path: Path, message: str) -> None:
        note = mark, Problem(None if mark is None else str(mark), path_text(path), message)
        if note not in notes:
            notes.append(note)

    def raise_any(self) -> None:
        """Raise ``RecipeError`` with all problems, in the order in which they are written."""
        if self.problems:
            raise RecipeError(in_order(self.problems))


def in_order(notes: Sequence[tuple[Mark | None, Problem]]) -> list[Problem]:
    """By file, line and column; what has no place stays where it is found."""
    sources = list(dict.fromkeys(mark.source if mark else "" for mark, _ in notes))

    def place(note: tuple[Mark | None, Problem]) -> tuple[int, int, int]:
        mark = note[0]
        return (sources.index(mark.source), mark.line, mark.column) if mark else (sources.index(""), 0, 0)

    return [problem for _, problem in sorted(notes, key=place)]
