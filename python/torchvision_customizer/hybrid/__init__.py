"""Torchvision models, patched: ``plan``, ``apply``, ``unpatch``, and a builder that does all of it."""

from .builder import HybridBuilder, create_hybrid
from .calibration import calibrate
from .model import HybridModel
from .opened import OpenedBlock
from .plan import Plan, apply, plan, unpatch
from .report import BuildReport

__all__ = [
    "BuildReport",
    "HybridBuilder",
    "HybridModel",
    "OpenedBlock",
    "Plan",
    "apply",
    "calibrate",
    "create_hybrid",
    "plan",
    "unpatch",
]
