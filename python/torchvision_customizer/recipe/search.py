"""Recipes from ranges over fields, for architecture search."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .recipe import Recipe

Ranges = Mapping[str, Sequence[Any]]


class SearchSpace:
    """A recipe, and for some of its fields the values that they may have.

    Iterating yields a recipe for every combination, the last field changing fastest; ``len`` says how many, and ``space[i]`` is
    one of them. ``recipe(values)`` is the one with those values, for a sampler that chooses them.

    Attributes:
        base: the recipe.
        ranges: the values by field.
    """

    def __init__(self, base: Recipe, ranges: Ranges) -> None:
        self.base = base
        self.ranges: dict[str, tuple[Any, ...]] = {}
        for field, values in ranges.items():
            if isinstance(values, str | bytes) or not isinstance(values, Sequence) or not len(values):
                raise ValueError(f"search_space: {field} needs a list, a tuple or a range of values, got {values!r}")
            self.ranges[field] = tuple(values)
        # One field at a time: a slip shows here, and not in the middle of a search.
        for field, values in self.ranges.items():
            self.recipe({field: values[0]})

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with other values of some fields.

        Raises:
            RecipeError: an unknown field, with the nearest one, or a value that it cannot have.
        """
        return self.base.replace(values)

    def __len__(self) -> int:
        return math.prod(map(len, self.ranges.values()))

    def __iter__(self) -> Iterator[Recipe]:
        return (self.recipe(dict(zip(self.ranges, values, strict=True))) for values in itertools.product(*self.ranges.values()))

    def __getitem__(self, index: int) -> Recipe:
        if not -len(self) <= index < len(self):
            raise IndexError(f"the search space has {len(self)} recipes, and no number {index}")
        index %= len(self)
        values = {}
        for field, choices in reversed(self.ranges.items()):
            index, choice = divmod(index, len(choices))
            values[field] = choices[choice]
        return self.recipe({field: values[field] for field in self.ranges})


def search_space(recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str], ranges: Ranges) -> SearchSpace:
    """All recipes with values of some ranges.

    Args:
        recipe: a recipe, its plain values, its file, or the name of a shipped one.
        ranges: by field, for instance ``{"stages[1].blocks": range(2, 5), "stages[1].pattern": ["residual", "residual+se"]}``.

    Raises:
        RecipeError: an unknown field, with the nearest one, or a first value that it cannot have.
        ValueError: a range that is no list, tuple or range, or an empty one.

    Examples:
        >>> from torchvision_customizer import search_space
        >>> space = search_space("mnist_net", {"head.dropout": [0.0, 0.2, 0.5]})
        >>> len(space)
        3
    """
    from .builder import recipe_of

    return SearchSpace(recipe_of(recipe), ranges)
