"""Where version 2.1 had the trainer."""

from ..train import Trainer, TrainingMetrics, quick_train

__all__ = ["Trainer", "TrainingMetrics", "quick_train"]
