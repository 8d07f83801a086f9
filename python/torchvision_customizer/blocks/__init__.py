"""The building blocks. Importing this package registers every one of them."""

from .attention import CBAMBlock, ChannelAttention, ECABlock, SEBlock, SpatialAttention
from .pooling import GeM
from .regularization import DropPath

__all__ = ["CBAMBlock", "ChannelAttention", "DropPath", "ECABlock", "GeM", "SEBlock", "SpatialAttention"]
