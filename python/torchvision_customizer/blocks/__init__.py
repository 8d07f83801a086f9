"""The building blocks. Importing this package registers every one of them."""

from torch.nn import Mish

from .activation import PReLU
from .attention import CBAMBlock, ChannelAttention, ECABlock, SEBlock, SpatialAttention
from .conv import CoordConv, DepthwiseSeparableConv2d
from .norm import FrozenBatchNorm, GroupNorm, LayerNorm2d, RMSNorm2d
from .pooling import BlurPool2d, GeM
from .regularization import DropPath

__all__ = [
    "BlurPool2d",
    "CBAMBlock",
    "ChannelAttention",
    "CoordConv",
    "DepthwiseSeparableConv2d",
    "DropPath",
    "ECABlock",
    "FrozenBatchNorm",
    "GeM",
    "GroupNorm",
    "LayerNorm2d",
    "Mish",
    "PReLU",
    "RMSNorm2d",
    "SEBlock",
    "SpatialAttention",
]
