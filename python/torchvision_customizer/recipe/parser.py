"""The short form of a stem, a stage, a head or a backbone: ``conv(64, k=7, s=2)``, ``residual+se(128) x 4 | downsample``.

    definition := name { "+" name } [ "(" [ argument { "," argument } [ "," ] ] ")" ] [ "x" integer ] { "|" name }
    argument   := [ name "=" ] value
    value      := number | text in quotes | name | "[" [ value { "," value } [ "," ] ] "]" | macro

A name as a value is a text, but for ``true``, ``false`` and ``none``. A macro, ``${name}`` or ``@name``, stands where a value
or the first name may, and is filled in later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import nearest

SHORT_KEYS = {
    "k": "kernel_size",
    "s": "stride",
    "p": "padding",
    "g": "groups",
    "e": "expansion",
    "r": "reduction",
    "d": "dropout",
}
_MAX_LENGTH = 2000
_MAX_DEPTH = 8
_CONSTANTS = {"true": True, "false": False, "none": None, "null": None}
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<macro>\$\{[^{}]*\}|@[A-Za-z_][\w-]*)
      | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<name>[A-Za-z_][\w.]*)
      | (?P<text>'[^']*'|"[^"]*")
      | (?P<sign>[()\[\],=|+])
      | (?P<end>$)
    )""",
    re.VERBOSE,
)


class DefinitionError(ValueError):
    """A definition that cannot be read; the message shows the place with a caret.

    Attributes:
        reason: what is wrong, without the definition.
        definition: the text.
        offset: the place in it, counted from 0.
    """

    def __init__(self, reason: str, definition: str, offset: int) -> None:
        super().__init__(f"{reason}\n{caret(definition, offset)}")
        self.reason = reason
        self.definition = definition
        self.offset = offset

    def __reduce__(self) -> tuple[type[DefinitionError], tuple[str, str, int]]:
        return type(self), (self.reason, self.definition, self.offset)


def caret(definition: str, offset: int) -> str:
    """The definition, and a caret under one of its characters; of a long one, what is around it."""
    first = max(0, offset - 60)
    shown = re.sub(r"\s", " ", definition[first : offset + 60])
    return f"    {shown}\n    {' ' * (offset - first)}^"


@dataclass(frozen=True)
class Definition:
    """What a definition says.

    Attributes:
        name: the first name, with what is added to it: ``residual+se``.
        args: the values without a name.
        kwargs: the values with one, short keys written out.
        repeat: the number behind ``x``, or None where there is none.
        modifiers: the names behind ``|``.
        offsets: where in the text they stand: ``name``, ``repeat``, and each key, index of ``args``, and modifier.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    repeat: int | str | None = None
    modifiers: tuple[str, ...] = ()
    offsets: Mapping[str | int, int] = field(default_factory=dict, compare=False, repr=False)


def parse_definition(definition: str) -> Definition:
    """Read a definition.

    Raises:
        DefinitionError: it is not written as above; the message has a caret under the place.
    """
    if len(definition) > _MAX_LENGTH:
        raise DefinitionError(f"a definition has at most {_MAX_LENGTH} characters, this has {len(definition)}", definition, 0)
    return _Parser(definition).definition()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    offset: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else f"'{self.text}'" if self.kind != "text" else self.text


class _Parser:
    def __init__(self, definition: str) -> None:
        self.text = definition
        self.offsets: dict[str | int, int] = {}
        self.position = 0
        self.token = self._read()

    def _read(self) -> _Token:
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            start = len(self.text) - len(self.text[self.position :].lstrip())
            character = self.text[start]
            hint = "; values are written out, not computed" if character in "*/-" else ""
            if character in "'\"":
                hint = "; the quotation mark is not closed"
            raise DefinitionError(f"unexpected {character!r}{hint}", self.text, start)
        self.position = match.end()
        kind = str(match.lastgroup)
        return _Token(kind, match[kind], match.start(kind))

    def _next(self) -> _Token:
        token, self.token = self.token, self._read() if self.token.kind != "end" else self.token
        return token

    def _fail(self, expected: str, token: _Token | None = None) -> DefinitionError:
        token = token or self.token
        return DefinitionError(f"expected {expected}, found {token}", self.text, token.offset)

    def _take(self, sign: str) -> bool:
        if self.token.kind == "sign" and self.token.text == sign:
            self._next()
            return True
        return False

    def definition(self) -> Definition:
        self.offsets["name"] = self.token.offset
        name = self._name()
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if self._take("("):
            args, kwargs = self._arguments()
        repeat = self._repeat()
        modifiers: dict[str, int] = {}
        while self._take("|"):
            if self.token.kind != "name":
                raise self._fail("a modifier")
            token = self._next()
            if token.text in modifiers:
                raise DefinitionError(f"the modifier '{token.text}' is there twice", self.text, token.offset)
            modifiers[token.text] = token.offset
        if self.token.kind != "end":
            allowed = "'(', 'x N', '|' or the end" if not (args or kwargs) else "'x N', '|' or the end"
            raise self._fail("'|' or the end" if repeat is not None or modifiers else allowed)
        self.offsets.update({f"|{modifier}": offset for modifier, offset in modifiers.items()})
        return Definition(name, args, kwargs, repeat, tuple(modifiers), self.offsets)

    def _name(self) -> str:
        parts: list[str] = []
        while True:
            if self.token.kind not in ("name", "macro"):
                raise self._fail("the name of a block" if not parts else "a name after '+'")
            parts.append(self._next().text)
            if not self._take("+"):
                return "+".join(parts)

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        while not self._take(")"):
            start = self.token
            if start.kind == "name" and self._is_key():
                self._next()
                self._next()
                key = SHORT_KEYS.get(start.text, start.text)
                if key in kwargs:
                    raise DefinitionError(f"'{key}' is given twice", self.text, start.offset)
                self.offsets[key] = start.offset
                kwargs[key] = self._value(0)
            elif kwargs:
                raise self._fail("NAME=VALUE after the first of them")
            else:
                self.offsets[len(args)] = start.offset
                args.append(self._value(0))
            if not self._take(",") and not (self.token.kind == "sign" and self.token.text == ")"):
                raise self._fail("',' or ')'")
        return tuple(args), kwargs

    def _is_key(self) -> bool:
        return self.text[self.position :].lstrip().startswith("=")

    def _value(self, depth: int) -> Any:
        token = self._next()
        match token.kind:
            case "number":
                return self._number(token)
            case "text":
                return token.text[1:-1]
            case "name":
                return _CONSTANTS.get(token.text.lower(), token.text)
            case "macro":
                return token.text
            case "sign" if token.text == "[":
                if depth >= _MAX_DEPTH:
                    raise DefinitionError(f"lists are nested more than {_MAX_DEPTH} deep", self.text, token.offset)
                values = []
                while not self._take("]"):
                    values.append(self._value(depth + 1))
                    if not self._take(",") and not (self.token.kind == "sign" and self.token.text == "]"):
                        raise self._fail("',' or ']'")
                return values
        raise self._fail("a value", token)

    def _number(self, token: _Token) -> int | float:
        if len(token.text) > 100:
            raise DefinitionError("a number has at most 100 characters", self.text, token.offset)
        return int(token.text) if token.text.lstrip("+-").isdigit() else float(token.text)

    def _repeat(self) -> int | str | None:
        if not (self.token.kind == "name" and self.token.text == "x"):
            if self.token.kind == "name":
                raise self._fail("'x N'")
            return None
        self._next()
        self.offsets["repeat"] = self.token.offset
        token = self._next()
        if token.kind == "macro":
            return token.text
        if token.kind != "number" or not token.text.isdigit() or len(token.text) > 9:
            raise self._fail("a whole number after 'x'", token)
        return int(token.text)


def check_modifiers(definition: Definition, text: str, allowed: tuple[str, ...]) -> None:
    """Raise ``DefinitionError`` where a modifier is none of ``allowed``."""
    for modifier in definition.modifiers:
        if modifier not in allowed:
            known = f"modifiers: {', '.join(allowed)}" if allowed else "there is no modifier here"
            hint = nearest(modifier, allowed)
            raise DefinitionError(f"unknown modifier '{modifier}'{hint} ({known})", text, definition.offsets[f"|{modifier}"])
