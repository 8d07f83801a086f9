"""What a patch may say, as typed objects; no torch here.

``patches`` maps a target to an operation, or to a list of them. An operation is ``{wrap: BLOCK}``, ``{inject: BLOCK}``,
``{replace: BLOCK}`` or ``{remove: true}``; a block is a name, or ``{type, params, at, init}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from ..errors import PatchError, nearest

PLACES = ("auto", "residual", "residual[i]", "input", "output", "before:NAME", "after:NAME")
_PLACE_PATTERN = r"^(auto|input|output|residual(\[\d+\])?|(before|after):[\w.]+(\[\d+\])?)$"


class Operation(BaseModel):
    """What happens at a target."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    operation: ClassVar[str]


class _WithBlock(Operation):
    type: str = Field(validation_alias=AliasChoices("type", "block"))
    params: dict[str, Any] = {}


class Replace(_WithBlock):
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


class Wrap(_WithBlock):
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


def parse_patches(patches: Mapping[str, Any]) -> Iterator[tuple[str, str, Operation]]:
    """The operations of ``patches`` in order, each as (its place in the patches, its target, the operation).

    Raises:
        PatchError: anything that is not described above; the message has the place and the nearest name.
    """
    if not isinstance(patches, Mapping):
        raise PatchError(f"patches must map targets to operations, got {type(patches).__name__}")
    for target, value in patches.items():
        place = f"patches[{target!r}]"
        if not isinstance(target, str) or not target:
            raise PatchError(f"{place}: a target is a dotted path, a glob or type:NAME, as text")
        if isinstance(value, list | tuple):
            if not value:
                raise PatchError(f"{place}: the list of operations is empty")
            for index, item in enumerate(value):
                yield _parse_operation(f"{place}[{index}]", target, item)
        else:
            yield _parse_operation(place, target, value)


def _parse_operation(place: str, target: str, value: Any) -> tuple[str, str, Operation]:
    allowed = ", ".join(OPERATIONS)
    if not isinstance(value, Mapping) or len(value) != 1:
        found = f"{len(value)} of them" if isinstance(value, Mapping) else repr(value)
        raise PatchError(
            f"{place}: expected one operation, for instance {{'inject': 'se'}}, got {found} "
            f"(operations: {allowed}; several go in a list)"
        )
    ((name, spec),) = value.items()
    name = str(name)
    kind = OPERATIONS.get(_OLD_OPERATIONS.get(name, name))
    if kind is None:
        raise PatchError(f"{place}: unknown operation '{name}'{nearest(name, OPERATIONS)} (operations: {allowed})")
    place = f"{place}.{name}"
    if kind is Remove:
        if spec is not True:
            raise PatchError(f"{place}: expected true, got {spec!r}")
        spec = {}
    if isinstance(spec, str):
        spec = {"type": spec}
    if not isinstance(spec, Mapping):
        raise PatchError(f"{place}: expected the name of a block, or {{type, params, ...}}, got {spec!r}")
    if spec.get("position") == "after":
        spec = {key: item for key, item in spec.items() if key != "position"}
    try:
        return place, target, kind.model_validate(spec)
    except ValidationError as error:
        raise PatchError(f"{place}{_first_problem(error, kind)}") from None


def _first_problem(error: ValidationError, kind: type[Operation]) -> str:
    """The first of pydantic's findings, in one sentence."""
    problem = error.errors()[0]
    option = ".".join(str(part) for part in problem["loc"])
    options = ", ".join(kind.model_fields)
    match problem["type"]:
        case "extra_forbidden":
            return f": unknown option '{option}'{nearest(option, kind.model_fields)} (options: {options})"
        case "missing":
            return ": 'type', the name of the block, is missing"
        case "string_pattern_mismatch":
            return f".at: unknown place {problem['input']!r}{nearest(problem['input'], PLACES)} (places: {', '.join(PLACES)})"
        case "literal_error":
            return f".{option}: must be {problem['ctx']['expected']}, got {problem['input']!r}"
        case _:
            return f".{option}: {problem['msg']}, got {problem['input']!r}"
