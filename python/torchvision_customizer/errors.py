"""The errors users meet, and the hint they end with. No torch here: the command line imports this."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class PatchError(ValueError):
    """A patch that cannot be carried out as written; the model is untouched."""


class WeightsError(ValueError):
    """Weights that cannot be found, read or matched; the model is untouched."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a recipe.

    Attributes:
        place: ``FILE:LINE:COLUMN``, or what else the value was given by; None where a program gave it.
        path: which value it is, for instance ``stages[1].block``; empty for the recipe as a whole.
        message: what is wrong, what is allowed, and the nearest name.
    """

    place: str | None
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.path, self.message) if part)


class RecipeError(ValueError):
    """A recipe that cannot be read, or that describes no model; all that is wrong with it, one line each.

    Attributes:
        problems: what is wrong, in the order in which it is written.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[RecipeError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The end of an error message: ``, did you mean 'se'?``, or nothing where no allowed name is near.

    Case counts only between names that are the same but for it. ``allowed`` may be long: only the closest name is named.
    """
    spellings: dict[str, list[str]] = {}
    for candidate in allowed:
        spellings.setdefault(candidate.lower(), []).append(candidate)
    close = difflib.get_close_matches(name.lower(), spellings, n=1, cutoff=0.5)
    if not close:
        return ""
    closest = max(spellings[close[0]], key=lambda spelling: difflib.SequenceMatcher(None, name, spelling).ratio())
    return f", did you mean '{closest}'?"
