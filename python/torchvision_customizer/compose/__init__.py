"""The composer: stems, stages and heads, and the operators that put them together."""

from .custom_cnn import CustomCNN
from .head import DetectionHead, Head, SegmentationHead
from .model import Compose, VisionModel, build_vision_model, piece_from_config
from .operators import BranchedModule, ResidualWrapper, Sequential, branch, compose, repeat, residual
from .patterns import list_patterns, register_pattern
from .piece import Piece
from .stage import Stage, TransitionLayer
from .stem import PatchStem, SimpleStem, Stem

# Their names in version 2.1.
ComposableModule = Piece
ComposedModule = Sequential

__all__ = [
    "BranchedModule",
    "ComposableModule",
    "Compose",
    "ComposedModule",
    "CustomCNN",
    "DetectionHead",
    "Head",
    "PatchStem",
    "Piece",
    "ResidualWrapper",
    "SegmentationHead",
    "Sequential",
    "SimpleStem",
    "Stage",
    "Stem",
    "TransitionLayer",
    "VisionModel",
    "branch",
    "build_vision_model",
    "compose",
    "list_patterns",
    "piece_from_config",
    "register_pattern",
    "repeat",
    "residual",
]
