"""Models as pages: one self-contained HTML file each, which opens without a network."""

from .page import diff_page, model_page

__all__ = ["diff_page", "model_page"]
