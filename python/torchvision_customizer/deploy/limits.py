"""The one place for models that cannot be had in a format, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Limit:
    """What cannot be: a format, fused, portable or both (None), and the models that it is about."""

    format: str
    fused: bool | None
    concerns: Callable[[nn.Module], bool]
    reason: str


#: Empty is what it should be.
LIMITS: tuple[Limit, ...] = ()


def why_not(model: nn.Module, format: str, fused: bool) -> str | None:
    """Why a model cannot be had in a format, or None where it can."""
    for limit in LIMITS:
        if limit.format == format and limit.fused in (None, fused) and limit.concerns(model):
            return limit.reason
    return None
