"""What a patch may say, as typed objects; no torch here.

``patches`` maps a target to an operation, or to a list of them. An operation is ``{wrap: BLOCK}``, ``{inject: BLOCK}``,
``{replace: BLOCK}`` or ``{remove: true}``; a block is a name, or ``{type, params, at, init}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from .errors import PatchError, nearest

TYPE_PREFIX = "type:"
PLACES = ("auto", "residual", "residual[i]", "input", "output", "before:NAME", "after:NAME")
_PLACE_PATTERN = r"^(auto|input|output|residual(\[\d+\])?|(before|after):[\w.]+(\[\d+\])?)$"


class Operation(BaseModel):
    """What happens at a target."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    operation: ClassVar[str]


class WithBlock(Operation):
    type: str = Field(validation_alias=AliasChoices("type", "block"))
    params: dict[str, Any] = {}


class Replace(WithBlock):
    """The named modules make way for others, which take over the weights that mean the same; see ``replacing.in_place_of``.

    Of an activation that is named by its type, calls of its function in the forward of a block are replaced too.

    Attributes:
        type: a name of the registry (``block`` is its old name).
        params: arguments of the block. What the old module says (channels, kernel, stride) need not be given.
    """

    operation: ClassVar[str] = "replace"


class Remove(Operation):
    """The named modules make way for the identity, where that keeps the shape."""

    operation: ClassVar[str] = "remove"


class Wrap(WithBlock):
    """The output of exactly the named module goes through a block.

    Attributes:
        type: a name of the registry (``block`` is its old name).
        params: arguments of the block. Those that say how many channels it sees are found out and need not be given.
        init: ``identity`` lets the patched model start as the same function; ``paper`` gives the block as published.
    """

    operation: ClassVar[str] = "wrap"

    init: Literal["identity", "paper"] = "identity"


class Inject(Wrap):
    """A block goes into every block under the target, at a place within it.

    Attributes:
        at: ``auto`` (``residual`` where a block adds, ``output`` where it concatenates, and the end of each stage in a plain
            stack of layers); ``residual``, on the branch, before the last addition; ``residual[i]``, before the i-th addition,
            counted from 0; ``input``; ``output``; ``before:NAME`` or ``after:NAME``, with ``[i]`` where the child is called
            several times.
        schedule: for a block with a ``drop_prob``. ``constant`` gives every block the same; with ``linear`` the l-th of L
            blocks gets l/L of it, as in the paper of stochastic depth.
    """

    operation: ClassVar[str] = "inject"

    at: str = Field("auto", pattern=_PLACE_PATTERN)
    schedule: Literal["constant", "linear"] | None = None

    def for_block(self, index: int, count: int) -> Inject:
        """The operation for one of the ``count`` blocks that it hits, counted from 0."""
        if self.schedule != "linear":
            return self
        params = {**self.params, "drop_prob": self.params.get("drop_prob", 0.0) * (index + 1) / count}
        return self.model_copy(update={"params": params})


OPERATIONS: dict[str, type[Operation]] = {kind.operation: kind for kind in (Wrap, Inject, Replace, Remove)}
# Names of version 2.1. There, inject_after put a block behind a module; "position" said so and was never read.
_OLD_OPERATIONS = {"inject_after": "wrap"}


@dataclass(frozen=True)
class Misread:
    """Something in patches that means nothing: where (keys and indices from the target on), and what is wrong."""

    path: tuple[str | int, ...]
    message: str


def parse_patches(patches: Mapping[str, Any]) -> Iterator[tuple[str, str, Operation]]:
    """The operations of ``patches`` in order, each as (its place in the patches, its target, the operation).

    Raises:
        PatchError: anything that is not described above; the message has the place and the nearest name.
    """
    for path, target, operation in read_patches(patches):
        if isinstance(operation, Misread):
            place = f"{_place_text(operation.path)}:" if operation.path else "patches"
            raise PatchError(f"{place} {operation.message}")
        yield _place_text(path), target, operation


def read_patches(patches: Any) -> Iterator[tuple[tuple[str | int, ...], str, Operation | Misread]]:
    """The operations of ``patches`` in order, each as (keys and indices that lead to it, its target, it, or why not)."""
    if not isinstance(patches, Mapping):
        message = f"must map targets to operations, got {type(patches).__name__}"
        yield (), "", Misread((), message)
        return
    for target, value in patches.items():
        if not isinstance(target, str) or not target:
            yield (target,), "", Misread((target,), "a target is a dotted path, a glob or type:NAME, as text")
        elif isinstance(value, list | tuple):
            if not value:
                yield (target,), target, Misread((target,), "the list of operations is empty")
            for index, item in enumerate(value):
                yield from _read_operation((target, index), target, item)
        else:
            yield from _read_operation((target,), target, value)


def _place_text(path: Sequence[str | int]) -> str:
    target, *more = path
    return f"patches[{target!r}]" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in more)


def _read_operation(
    path: tuple[str | int, ...], target: str, value: Any
) -> Iterator[tuple[tuple[str | int, ...], str, Operation | Misread]]:
    allowed = ", ".join(OPERATIONS)

    def misread(message: str, *more: str | int) -> tuple[tuple[str | int, ...], str, Misread]:
        return (*path, *more), target, Misread((*path, *more), message)

    if not isinstance(value, Mapping) or len(value) != 1:
        found = f"{len(value)} of them" if isinstance(value, Mapping) else repr(value)
        yield misread(
            f"expected one operation, for instance {{'inject': 'se'}}, got {found} "
            f"(operations: {allowed}; several go in a list)"
        )
        return
    ((name, spec),) = value.items()
    kind = OPERATIONS.get(_OLD_OPERATIONS.get(str(name), str(name)))
    if kind is None:
        yield misread(f"unknown operation '{name}'{nearest(str(name), OPERATIONS)} (operations: {allowed})")
        return
    name = str(name)
    if kind is Remove:
        if spec is not True:
            yield misread(f"expected true, got {spec!r}", name)
            return
        spec = {}
    if isinstance(spec, str):
        spec = {"type": spec}
    if not isinstance(spec, Mapping):
        yield misread(f"expected the name of a block, or {{type, params, ...}}, got {spec!r}", name)
        return
    if spec.get("position") == "after":
        spec = {key: item for key, item in spec.items() if key != "position"}
    try:
        yield (*path, name), target, kind.model_validate(spec)
    except ValidationError as error:
        for problem in error.errors():
            option, message = _explain(problem, kind)
            yield misread(message, name, *option)


def _explain(problem: Any, kind: type[Operation]) -> tuple[tuple[str | int, ...], str]:
    """One of pydantic's findings: which option, and what is wrong in one sentence."""
    option = ".".join(str(part) for part in problem["loc"])
    options = ", ".join(kind.model_fields)
    match problem["type"]:
        case "extra_forbidden":
            return (), f"unknown option '{option}'{nearest(option, kind.model_fields)} (options: {options})"
        case "missing":
            return (), "'type', the name of the block, is missing"
        case "string_pattern_mismatch":
            hint = nearest(problem["input"], PLACES)
            return ("at",), f"unknown place {problem['input']!r}{hint} (places: {', '.join(PLACES)})"
        case "literal_error":
            return problem["loc"], f"must be {problem['ctx']['expected']}, got {problem['input']!r}"
        case _:
            return problem["loc"], f"{problem['msg']}, got {problem['input']!r}"


def matching(target: str, modules: Mapping[str, Sequence[str]]) -> list[str]:
    """The paths of the modules that ``target`` names, in the order of the model.

    In a glob, ``*``, ``?`` and ``[...]`` stay within a path segment; the segment ``**`` stands for any number of segments.

    Args:
        target: a dotted path, a glob, or ``type:`` and the name of a class.
        modules: by every path, the empty one of the model among them, the name of its class and of those it is derived from.

    Raises:
        PatchError: nothing has that name; the message has the nearest one.
    """
    below = {path: types for path, types in modules.items() if path}
    if target.startswith(TYPE_PREFIX):
        name = target.removeprefix(TYPE_PREFIX).strip()
        found = [path for path, types in below.items() if name in types]
        known = sorted({types[0] for types in below.values() if types})
        shown = known
    else:
        name = target
        pattern = target.split(".")
        found = [path for path in below if _matches(pattern, path.split("."))]
        known = sorted(below, key=lambda path: (path.count("."), path))
        shown = [path for path in below if "." not in path]
    if not found:
        near = name.replace("*", "")
        as_deep = [path for path in known if path.count(".") == near.count(".")]
        hint = nearest(near, as_deep) or nearest(near, known) or f" (it has {', '.join(shown)})"
        raise PatchError(f"no module of this {(*modules[''], 'model')[0]} matches '{target}'{hint}")
    return found


def _matches(pattern: Sequence[str], path: Sequence[str]) -> bool:
    taken = {0}  # how many segments of the path what comes before in the pattern can stand for
    for part in pattern:
        if part == "**":
            taken = set(range(min(taken, default=len(path) + 1), len(path) + 1))
        else:
            taken = {count + 1 for count in taken if count < len(path) and fnmatchcase(path[count], part)}
    return len(path) in taken
