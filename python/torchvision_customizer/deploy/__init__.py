"""Writing a model to a file that runs without this package, and proving that it gives the same numbers."""

from .exporting import FORMATS, ExportReport, export
from .loading import load_exported, metadata_of
from .onnx_translation import onnx_translation_table
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
    "load_exported",
    "metadata_of",
    "onnx_translation_table",
    "verify",
]
