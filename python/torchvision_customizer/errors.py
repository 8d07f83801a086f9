"""The errors users meet, and the hint they end with. No torch here: the command line imports this."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PatchError(ValueError):
    """A patch that cannot be carried out as written; the model is untouched."""


class WeightsError(ValueError):
    """Weights that cannot be found, read or matched; the model is untouched."""


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
