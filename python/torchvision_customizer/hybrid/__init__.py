"""Torchvision models, patched: ``plan``, ``apply``, ``unpatch``, and a builder that does all of it."""

from .builder import HybridBuilder, create_hybrid
from .finetuning import GradualUnfreezing, freeze, parameter_groups, unfreeze
from .model import HybridModel
from .opened import OpenedBlock
from .plan import Plan, apply, plan, unpatch
from .report import BuildReport
from .weight_utils import WeightLoadingReport, match_state_dict, partial_load, transfer_weights

__all__ = [
    "BuildReport",
    "GradualUnfreezing",
    "HybridBuilder",
    "HybridModel",
    "OpenedBlock",
    "Plan",
    "WeightLoadingReport",
    "apply",
    "create_hybrid",
    "freeze",
    "match_state_dict",
    "parameter_groups",
    "partial_load",
    "plan",
    "transfer_weights",
    "unfreeze",
    "unpatch",
]
