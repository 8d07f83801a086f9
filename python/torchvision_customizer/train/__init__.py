"""Training: data, the loop, what one sees of it, and evaluation."""

from .data import Data, open_data
from .evaluation import Evaluation, evaluate
from .metrics import TrainingMetrics
from .presets import quick_train
from .trainer import Trainer

__all__ = ["Data", "Evaluation", "Trainer", "TrainingMetrics", "evaluate", "open_data", "quick_train"]
