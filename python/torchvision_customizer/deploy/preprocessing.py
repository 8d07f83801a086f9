"""What becomes of an image before a model sees it: part of what a file says about itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input, as torchvision's ``ImageClassification`` does it on a tensor.

    The image, divided by 255, is resized so that its shorter side is ``resize``, its centre of ``crop`` × ``crop`` is cut out,
    and of each channel ``mean`` is subtracted, and it is divided by ``std``.

    Args:
        crop: height and width that the model is given.
        mean: of the channels, in parts of 255.
        std: of the channels, in parts of 255.
        resize: the shorter side before the cut; by default ``crop``.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``.
        antialias: whether it smooths where it makes an image smaller.

    Raises:
        ValueError: an argument out of range.
    """

    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int = 0
    interpolation: str = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(map(float, self.mean)))
        object.__setattr__(self, "std", tuple(map(float, self.std)))
        object.__setattr__(self, "resize", self.resize or self.crop)
        if not (self.crop > 0 and self.resize >= self.crop):
            raise ValueError(f"preprocessing: crop must be above 0 and resize at least crop, got {self.crop} and {self.resize}")
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"preprocessing: mean and std must be of as many channels, got {self.mean} and {self.std}")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"preprocessing: std must be above 0, got {self.std}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"preprocessing: interpolation must be one of {', '.join(INTERPOLATIONS)}, got '{self.interpolation}'"
            )

    def values(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}
