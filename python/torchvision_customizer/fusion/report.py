"""What ``fuse`` did to a model, and what it did not, and why. All modules are dotted paths."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class FusedBlock:
    """A block of another library that runs as one op now; ``kind`` is the full name of its class."""

    module: str
    kind: str


@dataclass(frozen=True)
class FusedTail:
    """A fused place: ``post(module(x) + identity)`` in ``block`` is one call of ``module``."""

    block: str
    module: str
    post: str


@dataclass(frozen=True)
class FoldedNorm:
    """A norm whose arithmetic is in the weights of the convolution before it."""

    module: str
    conv: str


@dataclass(frozen=True)
class Untouched:
    """A module that was left as it was, in whole or in part, and why."""

    module: str
    reason: str


@dataclass(frozen=True)
class FuseReport:
    """What :func:`fuse` did: the places that it changed by this call, and those it left as they were.

    ``written`` are modules of our own residual blocks, which take the tail as they are.
    """

    blocks: tuple[FusedBlock, ...] = ()
    tails: tuple[FusedTail, ...] = ()
    norms: tuple[FoldedNorm, ...] = ()
    untouched: tuple[Untouched, ...] = ()
    written: tuple[str, ...] = ()

    @property
    def fused(self) -> tuple[FusedBlock | FusedTail, ...]:
        """Blocks and tails."""
        return (*self.blocks, *self.tails)

    def summary(self) -> str:
        """A line for what was done, one for each kind of block, and one for each place that was left."""
        if not (self.fused or self.norms or self.untouched or self.written):
            return (
                "nothing to fuse: the model has no block that fuse knows (such as SEBlock or torchvision's SqueezeExcitation)"
            )
        counts = (("fused", self.blocks, "block"), ("fused", self.tails, "tail"), ("folded", self.norms, "norm"))
        done = [f"{verb} {_count(places, what)}" for verb, places, what in counts if places] or ["fused nothing"]
        if self.written:
            done.append(f"{_count(self.written, 'tail')} fused as written")
        if self.untouched:
            done.append(f"left {_count(self.untouched, 'place')}")
        lines = [", ".join(done)]
        lines += [f"{kind}: {count}" for kind, count in Counter(block.kind for block in self.blocks).items()]
        lines += [f"{place.module}: {place.reason}" for place in self.untouched]
        return "\n".join(lines)


def _count(places: tuple[object, ...], what: str) -> str:
    return f"{len(places)} {what}" + ("" if len(places) == 1 else "s")
