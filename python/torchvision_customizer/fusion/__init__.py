"""Fuse what a model already contains: its blocks, the tails of its residual blocks, and for inference its norms."""

from .fusing import fuse, unfuse
from .kinds import Form, Fused, NotFusable, fusable, fusable_kinds
from .report import FoldedNorm, FusedBlock, FusedTail, FuseReport, Untouched

__all__ = [
    "FoldedNorm",
    "Form",
    "FuseReport",
    "Fused",
    "FusedBlock",
    "FusedTail",
    "NotFusable",
    "Untouched",
    "fusable",
    "fusable_kinds",
    "fuse",
    "unfuse",
]
