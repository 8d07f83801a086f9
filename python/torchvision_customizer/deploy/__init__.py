"""Writing a model to a file that runs without this package, and proving that it gives the same numbers."""

from .exporting import FORMATS, ExportReport, export
from .preprocessing import Preprocessing
from .verification import TOLERANCES, Comparison, VerificationError, VerifyReport, verify

__all__ = [
    "FORMATS",
    "TOLERANCES",
    "Comparison",
    "ExportReport",
    "Preprocessing",
    "VerificationError",
    "VerifyReport",
    "export",
    "verify",
]
