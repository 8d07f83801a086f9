"""What constructors of blocks check, and how they say it."""

from __future__ import annotations

from ..errors import nearest


def check_option(block: str, argument: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        hint = nearest(str(value), allowed)
        raise ValueError(f"{block}: {argument} must be one of {', '.join(allowed)}, got {value!r}{hint}")


def check_odd(block: str, argument: str, value: int) -> None:
    """Raise ``ValueError`` unless ``value`` is an odd integer of at least 1."""
    if not isinstance(value, int) or value < 1 or value % 2 == 0:
        raise ValueError(f"{block}: {argument} must be an odd integer of at least 1, got {value!r}")


def check_positive(block: str, argument: str, value: int) -> None:
    """Raise ``ValueError`` unless ``value`` is an integer of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{block}: {argument} must be an integer of at least 1, got {value!r}")
