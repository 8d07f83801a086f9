"""What differs between two models: modules, tensors and parameters, as a value and as text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .opened import Extension, OpenedBlock, original_class

_SHOWN = 10  # lines of a kind in the short table
_NOTHING = nn.Module()  # stands for the module that one of two models has not


@dataclass(frozen=True)
class Change:
    """Something that only one of two models has, or that is another in each.

    Attributes:
        path: where; ``""`` is the model.
        a: what it is in the first model, or None where that has none.
        b: what it is in the second, or None.
    """

    path: str
    a: str | None
    b: str | None

    @property
    def mark(self) -> str:
        """``+`` is only in the second model, ``-`` only in the first, ``~`` in both."""
        return "+" if self.a is None else "-" if self.b is None else "~"

    def __str__(self) -> str:
        return " -> ".join(dict.fromkeys(text for text in (self.a, self.b) if text is not None))


@dataclass(frozen=True)
class ModuleChange(Change):
    """A module: its original class and its configuration.

    Attributes:
        parameters: how many it has, in the model that has it; of both, how many more in the second.
        forward: whether it runs its children in another way, as far as new children do not say so.
    """

    parameters: int = 0
    forward: bool = False

    def __str__(self) -> str:
        text = super().__str__() + (", another forward" if self.forward else "")
        return f"{text}, {self.parameters:{'+,' if self.mark == '~' else ','}} parameters" if self.parameters else text


@dataclass(frozen=True)
class TensorChange(Change):
    """A parameter or buffer: its kind, type and shape.

    Attributes:
        values: how many values differ, where nothing else does.
        largest: the largest absolute difference of two values; NaN where one of two is.
    """

    values: int = 0
    largest: float = 0.0

    def __str__(self) -> str:
        text = super().__str__()
        values = "1 value differs" if self.values == 1 else f"{self.values:,} values differ"
        return f"{text}, {values}, by up to {self.largest:.3g}" if self.values else text


@dataclass(frozen=True)
class PartSize:
    """The parameters of a direct child of two models, or of what a model holds itself (``""``)."""

    path: str
    a: int
    b: int


@dataclass(frozen=True)
class ModelDiff:
    """What differs between two models.

    Attributes:
        a: the original class of the first model.
        b: that of the second.
        changes: in the order of the first model; what only the second has stands where it is there.
        parts: the parameters of each part, whether they differ or not.
        parameters_a: how many parameters the first model has; one with several names counts once.
        parameters_b: the same of the second.
    """

    a: str
    b: str
    changes: tuple[Change, ...]
    parts: tuple[PartSize, ...]
    parameters_a: int
    parameters_b: int
    _classes: Mapping[str, str] = field(repr=False)  # by path, of the second model's modules

    @property
    def equal(self) -> bool:
        """Whether there is no difference."""
        return not self.changes

    @property
    def modules(self) -> tuple[ModuleChange, ...]:
        """The modules that differ."""
        return tuple(change for change in self.changes if isinstance(change, ModuleChange))

    @property
    def tensors(self) -> tuple[TensorChange, ...]:
        """The tensors that differ."""
        return tuple(change for change in self.changes if isinstance(change, TensorChange))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; a largest difference that is no finite number is None."""
        return {
            "equal": self.equal,
            "a": {"class": self.a, "parameters": self.parameters_a},
            "b": {"class": self.b, "parameters": self.parameters_b},
            "modules": [{"mark": change.mark, **dataclasses.asdict(change)} for change in self.modules],
            "tensors": [
                {"mark": change.mark, **dataclasses.asdict(change)}
                | {"largest": change.largest if math.isfinite(change.largest) else None}
                for change in self.tensors
            ],
            "parts": [dataclasses.asdict(part) for part in self.parts],
        }

    def tree(self) -> str:
        """The branches that differ as a tree, with the marks ``+``, ``-`` and ``~``.

        Of a module that only one model has, the tensors are not shown.
        """
        shown = {change.path: change for change in self._without_inner_tensors() if change.path}
        children: dict[str, dict[str, None]] = {}
        for path in shown:
            while path:
                parent = path.rpartition(".")[0]
                children.setdefault(parent, {})[path] = None
                path = parent

        def lines(parent: str, indent: str) -> Iterator[str]:
            below = list(children.get(parent, ()))
            for path in below:
                name, last = path.rpartition(".")[2], path == below[-1]
                text = f"{shown[path].mark} {name}: {shown[path]}" if path in shown else f"{name}: {self._classes[path]}"
                yield f"{indent}{'└── ' if last else '├── '}{text}"
                yield from lines(path, indent + ("    " if last else "│   "))

        return "\n".join([self._headline(), *lines("", "")])

    def __str__(self) -> str:
        """A short table: the outermost modules that differ, the tensors beside them, and the parameters of each part."""
        modules = {change.path: change for change in self.modules}
        outer = [c for c in modules.values() if c.mark == "~" or modules.get(_parent(c), _BOTH).mark != c.mark]
        tensors = [change for change in self._without_inner_tensors() if isinstance(change, TensorChange)]
        lines = [self._headline()]
        for what, changes in (("modules", outer), ("tensors", tensors)):
            if changes:
                lines.append(what)
                lines += [f"  {c.mark} {c.path or '(the model)'}: {c}" for c in changes[:_SHOWN]]
                lines += [f"  and {len(changes) - _SHOWN} more"] if len(changes) > _SHOWN else []
        parts = [part for part in self.parts if part.a != part.b]
        lines += ["parameters"] if parts else []
        return "\n".join(lines + [f"  {p.path or '(its own)'}: {p.a:,} -> {p.b:,} ({p.b - p.a:+,})" for p in parts])

    def _without_inner_tensors(self) -> list[Change]:
        """The changes but for tensors of modules that only one model has."""
        one_sided = {change.path for change in self.modules if change.mark != "~"}
        return [change for change in self.changes if isinstance(change, ModuleChange) or _parent(change) not in one_sided]

    def _headline(self) -> str:
        if self.equal:
            return f"{self.a}: no difference, {self.parameters_a:,} parameters"
        names = " -> ".join(dict.fromkeys((self.a, self.b)))
        if self.parameters_a == self.parameters_b:
            return f"{names}: {self.parameters_a:,} parameters in both"
        return (
            f"{names}: {self.parameters_a:,} -> {self.parameters_b:,} parameters ({self.parameters_b - self.parameters_a:+,})"
        )


_BOTH = Change("", "", "")


def _parent(change: Change) -> str:
    return change.path.rpartition(".")[0]


def diff(a: nn.Module, b: nn.Module) -> ModelDiff:
    """Find out what differs between two models, patched or not. Neither is run or changed.

    A module that a patch has changed counts as one of its original class; what was put into it counts as added.

    Args:
        a: the first model.
        b: the second. Values are compared where the shapes and types of tensors agree and neither is on ``meta``.
    """
    parts = [
        PartSize(name, _count(a._modules.get(name)), _count(b._modules.get(name))) for name in _merged(a._modules, b._modules)
    ]
    parts.append(PartSize("", _count(a, recurse=False), _count(b, recurse=False)))
    return ModelDiff(
        a=original_class(a).__name__,
        b=original_class(b).__name__,
        changes=tuple(_changes("", a, b)),
        parts=tuple(part for part in parts if part.a or part.b),
        parameters_a=_count(a),
        parameters_b=_count(b),
        _classes={path: original_class(module).__name__ for path, module in b.named_modules(remove_duplicate=False)},
    )


def _changes(path: str, a: nn.Module | None, b: nn.Module | None) -> Iterator[Change]:
    text_a, text_b = _description(a), _description(b)
    forward = a is not None and b is not None and _runs_another_graph(a, b)
    if text_a != text_b or forward:
        more = _count(b) - _count(a)
        yield ModuleChange(path, text_a, text_b, more if b is not None else -more, forward)
    a, b = _NOTHING if a is None else a, _NOTHING if b is None else b
    prefix = f"{path}." if path else ""
    tensors_a, tensors_b = _tensors(a), _tensors(b)
    for name in _merged(tensors_a, tensors_b):
        change = _compare(f"{prefix}{name}", tensors_a.get(name), tensors_b.get(name))
        if change is not None:
            yield change
    for name in _merged(a._modules, b._modules):
        yield from _changes(f"{prefix}{name}", a._modules.get(name), b._modules.get(name))


def _description(module: nn.Module | None) -> str | None:
    """The original class of a module, with its configuration."""
    if module is None:
        return None
    name = original_class(module).__name__
    # torchvision's StochasticDepth, for instance, says what it is in its repr only.
    if not module._modules and type(module).__repr__ is not nn.Module.__repr__:
        return f"{name}{repr(module).removeprefix(type(module).__name__)}"
    return f"{name}({module.extra_repr()})" if module.extra_repr() else name


def _runs_another_graph(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules run their children in another way, as far as new children do not say so."""
    (code_a, added_a), (code_b, added_b) = _opened(a), _opened(b)
    if (code_a is None and added_b) or (code_b is None and added_a):
        return False
    return code_a != code_b


def _opened(module: nn.Module) -> tuple[str | None, tuple[str, ...]]:
    """The code of a module that has been opened, and its new children."""
    if isinstance(module, OpenedBlock):
        return module.code, module.added
    source = module.root_source if isinstance(module, Extension) else None
    return source, getattr(module, "_opened_children", ())


def _count(module: nn.Module | None, recurse: bool = True) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters(recurse))


def _tensors(module: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """A module's own tensors, by name, with their kind."""
    own = (("parameter", module._parameters), ("buffer", module._buffers))
    return {name: (kind, tensor) for kind, tensors in own for name, tensor in tensors.items() if tensor is not None}


def _compare(path: str, a: tuple[str, Tensor] | None, b: tuple[str, Tensor] | None) -> TensorChange | None:
    text_a, text_b = (
        None if x is None else f"{x[0]} {str(x[1].dtype).removeprefix('torch.')} {list(x[1].shape)}" for x in (a, b)
    )
    if a is None or b is None or text_a != text_b:
        return TensorChange(path, text_a, text_b)
    x, y = a[1].detach(), b[1].detach()
    if x.is_meta or y.is_meta:
        return None
    x, y = x.cpu(), y.cpu()
    other = (x != y) & ~(x.isnan() & y.isnan())
    if not other.any():
        return None
    # In 64 bits: bool has no difference, and that of two unsigned integers may be no number of their type.
    wide = torch.complex128 if x.is_complex() else torch.float64
    largest = (x[other].to(wide) - y[other].to(wide)).abs().max()
    return TensorChange(path, text_a, text_b, int(other.sum()), float(largest))


def _merged(a: Iterable[str], b: Iterable[str]) -> list[str]:
    """The names of ``a`` in their order, with those that only ``b`` has where they stand in it."""
    names, place = list(a), 0
    for name in b:
        if name in names:
            place = names.index(name) + 1
        else:
            names.insert(place, name)
            place += 1
    return names
