"""Torchvision models, patched: ``plan``, ``apply``, ``unpatch``, and a builder that does all of it."""

from .model import HybridModel
from .plan import Plan, apply, plan, unpatch
from .report import BuildReport

__all__ = ["BuildReport", "HybridModel", "Plan", "apply", "plan", "unpatch"]
