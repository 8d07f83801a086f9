"""The building blocks. Importing this package registers every one of them."""

from torch.nn import Mish

from .activation import PReLU
from .attention import CBAMBlock, ChannelAttention, ECABlock, SEBlock, SpatialAttention
from .bottleneck import AsymmetricBottleneck, GroupedBottleneck, MultiScaleBottleneck, StandardBottleneck, WideBottleneck
from .conv import CoordConv, DepthwiseSeparableConv2d
from .conv_block import ConvBlock, ConvBNAct
from .dense import DenseConnectionBlock
from .mobile import DepthwiseBlock, FusedMBConv, MBConv
from .norm import FrozenBatchNorm, GroupNorm, LayerNorm2d, RMSNorm2d
from .pooling import BlurPool2d, GeM
from .regularization import DropPath
from .residual import ResidualBlock

__all__ = [
    "AsymmetricBottleneck",
    "BlurPool2d",
    "CBAMBlock",
    "ChannelAttention",
    "ConvBNAct",
    "ConvBlock",
    "CoordConv",
    "DenseConnectionBlock",
    "DepthwiseBlock",
    "DepthwiseSeparableConv2d",
    "DropPath",
    "ECABlock",
    "FrozenBatchNorm",
    "FusedMBConv",
    "GeM",
    "GroupNorm",
    "GroupedBottleneck",
    "LayerNorm2d",
    "MBConv",
    "Mish",
    "MultiScaleBottleneck",
    "PReLU",
    "RMSNorm2d",
    "ResidualBlock",
    "SEBlock",
    "SpatialAttention",
    "StandardBottleneck",
    "WideBottleneck",
]
