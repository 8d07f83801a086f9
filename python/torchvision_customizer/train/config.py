"""The options of a ``Trainer`` and of its ``fit``: those of a recipe's section ``training``, checked by the same models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from ..recipe.schema import FitOptions, Section, TrainerOptions, Training

AnyOptions = TypeVar("AnyOptions", bound=Section)

__all__ = ["FitOptions", "TrainerOptions", "Training", "check_options", "fit_options", "trainer_options"]


def check_options(kind: type[AnyOptions], where: str, values: Mapping[str, Any]) -> AnyOptions:
    """Options as a typed object.

    Args:
        kind: what they are options of.
        where: what an error begins with.
        values: the options.

    Raises:
        ValueError: a value that is not allowed, with what is.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {place} must be otherwise: {first['msg']}, got {first['input']!r}") from None


def trainer_options(training: Training | None) -> dict[str, Any]:
    """Of a recipe's section ``training``, the arguments of ``Trainer``."""
    return _of(TrainerOptions, training)


def fit_options(training: Training | None) -> dict[str, Any]:
    """Of a recipe's section ``training``, the arguments of ``Trainer.fit``."""
    return _of(FitOptions, training)


def _of(kind: type[Section], training: Training | None) -> dict[str, Any]:
    chosen = Training.model_validate({}) if training is None else training
    return {name: getattr(chosen, name) for name in kind.model_fields}
