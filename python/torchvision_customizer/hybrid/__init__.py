"""Torchvision models, patched: ``plan``, ``apply``, ``unpatch``, and a builder that does all of it."""

from typing import Any

from .applying import apply, unpatch
from .builder import HybridBuilder, create_hybrid
from .calibration import calibrate
from .diff import ModelDiff, diff
from .extractor import BackboneInfo, extract_tiers, freeze_backbone, get_backbone_info, get_stage_channels, unfreeze_model
from .finetuning import GradualUnfreezing, freeze, parameter_groups, unfreeze
from .model import HybridModel
from .opened import OpenedBlock
from .plan import Plan, plan
from .report import BuildReport
from .saving import load, save
from .views import Stage
from .weight_utils import WeightLoadingReport, match_state_dict, partial_load, transfer_weights

__all__ = [
    "BackboneInfo",
    "BuildReport",
    "GradualUnfreezing",
    "HybridBuilder",
    "HybridModel",
    "ModelDiff",
    "OpenedBlock",
    "Plan",
    "Stage",
    "WeightLoadingReport",
    "apply",
    "calibrate",
    "create_hybrid",
    "diff",
    "extract_tiers",
    "freeze",
    "freeze_backbone",
    "get_backbone_info",
    "get_stage_channels",
    "load",
    "match_state_dict",
    "parameter_groups",
    "partial_load",
    "plan",
    "save",
    "transfer_weights",
    "unfreeze",
    "unfreeze_model",
    "unpatch",
]


def __getattr__(name: str) -> Any:
    """Where version 2.1 had them."""
    if name in ("Trainer", "TrainingMetrics", "quick_train"):
        from .. import train

        return getattr(train, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
