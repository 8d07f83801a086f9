"""How time grows with batch, channels and resolution, for one op."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .suite import SUITE, Case

#: What grows along each axis; the two others stay at the middle of theirs.
AXES: dict[str, tuple[int, ...]] = {
    "batch": (1, 2, 4, 8, 16, 32),
    "channels": (32, 64, 128, 256, 512, 1024),
    "resolution": (7, 14, 28, 56, 112),
}
MIDDLE = {"batch": 8, "channels": 256, "resolution": 28}
QUICK_AXES = {"batch": (1, 8), "channels": (64, 256), "resolution": (7, 28)}


@dataclass(frozen=True)
class Sweep:
    """What is swept: an entry of the suite, in one direction, type and layout."""

    entry: str
    direction: str = "forward"
    dtype: str = "fp32"
    layout: str = "channels_last"
    cache: str = "warm"

    def __post_init__(self) -> None:
        if self.entry not in SUITE:
            raise ValueError(f"sweep: entry must be one of {', '.join(SUITE)}, got {self.entry!r}")

    def cases(self, quick: bool = False) -> Iterator[tuple[str, Case]]:
        """The axis and the case of each point."""
        for axis, values in (QUICK_AXES if quick else AXES).items():
            for value in values:
                sizes = {**MIDDLE, axis: value}
                shape = (sizes["channels"], sizes["resolution"], sizes["resolution"])
                yield axis, Case(self.entry, self.direction, shape, sizes["batch"], self.dtype, self.layout, self.cache)


def value_of(axis: str, case: Case) -> int:
    """Where a case stands on an axis."""
    return {"batch": case.batch, "channels": case.shape[0], "resolution": case.shape[-1]}[axis]
