"""Training: data, the loop, what one sees of it, and evaluation."""

from .metrics import TrainingMetrics
from .presets import quick_train
from .trainer import Trainer

__all__ = ["Trainer", "TrainingMetrics", "quick_train"]
