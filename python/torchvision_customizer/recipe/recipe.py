"""``Recipe``: a model as a value, checked when it is made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

from ..errors import Problem, RecipeError
from . import sources
from .checking import check
from .macros import expand
from .merging import merge, nested, parse_path
from .nodes import Findings, Mark, Node, in_order, node_of, path_text
from .parts import macros_apart
from .schema import AnyRecipe, BackboneRecipe

Part = str | Mapping[str, Any]


class Recipe:
    """What a model is made of: a backbone with patches, or a stem, stages and a head; and how it is trained and exported.

    A recipe does not change; ``replace`` makes another one.

    Args:
        stem: ``"conv(64)"``, or a mapping of the arguments of ``Stem`` with ``type``.
        stages: for each ``"residual(128) x 2 | downsample"``, or a mapping of the arguments of ``Stage``.
        head: ``"linear(10)"``, or a mapping of the arguments of ``Head`` with ``type``.
        name: what the model is called.
        input_shape: (C, H, W) of an image.
        backbone: ``"resnet50(weights=None)"``, or a mapping with ``name``, ``weights`` and ``patches``.
        others: ``num_classes``, ``version``, ``description``, ``macros``, ``extends``, ``training``, ``export``, as in a file.

    Raises:
        RecipeError: something in it is wrong; the message has all of it.

    Attributes:
        config: the recipe as a typed object, with its defaults; see ``recipe.schema``.
        warnings: what is odd, and not wrong.
    """

    config: AnyRecipe
    warnings: tuple[Problem, ...]

    def __init__(
        self,
        stem: Part | None = None,
        stages: Sequence[Part] | None = None,
        head: Part | None = None,
        name: str = "CustomModel",
        input_shape: Sequence[int] = (3, 224, 224),
        *,
        backbone: Part | None = None,
        **others: Any,
    ) -> None:
        parts = {
            "name": name,
            "input_shape": list(input_shape),
            "backbone": backbone,
            "stem": stem,
            "stages": stages,
            "head": head,
        }
        given = {key: value for key, value in (*parts.items(), *others.items()) if value is not None}
        findings = Findings()
        self._adopt(sources.with_parents(_as_mapping(given), None, findings), findings)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A recipe of plain values, as a file has them.

        Raises:
            RecipeError: something in it is wrong; the message has all of it.
        """
        findings = Findings()
        return cls.from_node(sources.with_parents(_as_mapping(values), None, findings), findings)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> Self:
        """A recipe of a file, or one of the shipped ones by name.

        Args:
            path: the file, or the name.
            changes: values by field, as ``replace`` takes them; macros in them are filled in.

        Raises:
            RecipeError: something in it is wrong; the message has all of it, each with file, line and column.
        """
        findings = Findings()
        node = sources.read(sources.find(path), findings)
        return cls.from_node(_changed(node, changes or {}, findings), findings)

    @classmethod
    def from_node(cls, node: Node, findings: Findings) -> Self:
        """A recipe of values with their places, as ``recipe.reading`` gives them, with what it extends merged.

        Raises:
            RecipeError: something in it is wrong, or there are findings already; the message has all of it.
        """
        recipe = cls.__new__(cls)
        recipe._adopt(node, findings)
        return recipe

    def _adopt(self, node: Node, findings: Findings) -> None:
        expanded, used = expand(macros_apart(node), findings)
        config, written = check(expanded, findings)
        findings.raise_any()
        assert config is not None
        macros = node.value["macros"].value if "macros" in node.value else None
        for name, macro in (macros or {}).items():
            if name not in used:
                findings.warn(macro.key_mark, ("macros", name), "is used nowhere")
        if config.training is not None and config.training.freeze_backbone and _is_random(config):
            mark = written.value["training"].key_mark
            findings.warn(mark, ("training",), "the backbone is frozen, and its weights are random")
        self.config = config
        self.warnings = tuple(in_order(findings.warnings))
        self._given = expanded  # as it is written, with macros filled in
        self._written = written  # with every part as a mapping

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, with all that it extends, and with macros filled in; ``from_dict`` reads it."""
        given: dict[str, Any] = {"name": self.name, **self._given.plain()}
        return {**given, "name": self.name, "input_shape": list(self.input_shape)}

    def replace(self, changes: Mapping[str, Any]) -> Self:
        """Another recipe, with other values.

        Args:
            changes: values by field: ``{"stages[1].blocks": 4, "backbone.patches['layer4']": {"inject": "se"}}``.

        Raises:
            RecipeError: an unknown field, or a value that it cannot have.
        """
        findings = Findings()
        return self.from_node(_changed(self._given, changes, findings), findings)

    def written_out(self) -> dict[str, Any]:
        """As ``to_dict``, with every short form as a mapping under the keys of ``recipe.schema``."""
        values: dict[str, Any] = self._written.plain()
        return values

    def marks(self) -> list[tuple[str, Any, Mark | None]]:
        """Every value that the recipe says: its field, the value, and the place; None where a program gave it."""
        return [(path_text(path), node.plain(), node.mark) for path, node in self._written.leaves()]

    def origins(self) -> list[tuple[str, Any, str]]:
        """Every value that the recipe says: its field, the value, and where it comes from, in words."""
        found = []
        for path, node in self._written.leaves():
            place = "a program" if node.mark is None else str(node.mark)
            macro = next((each.macro for each in _on_the_way(self._written, path) if each.macro), None)
            found.append((path_text(path), node.plain(), f"{place} (macro {macro})" if macro else place))
        return found

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.config.input_shape)

    @property
    def backbone(self) -> Any:
        """As it was given, or None."""
        return self._part("backbone")

    @property
    def stem(self) -> Any:
        """As it was given, or None."""
        return self._part("stem")

    @property
    def stages(self) -> Any:
        """As they were given, or None."""
        return self._part("stages")

    @property
    def head(self) -> Any:
        """As it was given, or None."""
        return self._part("head")

    def _part(self, key: str) -> Any:
        return self._given.value[key].plain() if key in self._given.value else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.config == other.config

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        parts = {key: self._part(key) for key in ("backbone", "stem", "stages", "head")}
        return (
            f"Recipe({', '.join(f'{key}={value!r}' for key, value in parts.items() if value is not None)}, name={self.name!r})"
        )


def _is_random(config: AnyRecipe) -> bool:
    return isinstance(config, BackboneRecipe) and config.backbone.weights is None and config.backbone.library is not None


def _on_the_way(root: Node, path: Sequence[str | int]) -> list[Node]:
    nodes = [root]
    for part in path:
        nodes.append(nodes[-1].value[part])
    return nodes


def _as_mapping(values: Any) -> Node:
    if not isinstance(values, Mapping):
        raise RecipeError([Problem(None, "", f"a recipe is a mapping, got {type(values).__name__}")])
    return node_of(values)


def _changed(node: Node, changes: Mapping[str, Any], findings: Findings) -> Node:
    for field, value in changes.items():
        try:
            path = parse_path(field)
        except ValueError as error:
            findings.add(value.mark if isinstance(value, Node) else None, (), str(error))
            continue
        node = merge(node, nested(path, value if isinstance(value, Node) else node_of(value)), findings)
    findings.raise_any()
    return node
