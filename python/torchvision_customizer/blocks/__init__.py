"""The building blocks. Importing this package registers every one of them."""

from .attention import SEBlock

__all__ = ["SEBlock"]
