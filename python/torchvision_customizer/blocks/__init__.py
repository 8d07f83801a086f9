"""The building blocks. Importing this package registers every one of them."""

from torch.nn import Mish

from .activation import PReLU, Threshold
from .attention import CBAMBlock, ChannelAttention, ECABlock, SEBlock, SpatialAttention
from .attention_block import AttentionBlock, ChannelSpatialAttention
from .bottleneck import AsymmetricBottleneck, GroupedBottleneck, MultiScaleBottleneck, StandardBottleneck, WideBottleneck
from .conv import CoordConv, DepthwiseSeparableConv2d
from .conv3d import Conv3DBlock
from .conv_block import ConvBlock, ConvBNAct
from .coordinate import CoordinateAttention
from .dense import DenseConnectionBlock
from .effective_se import EffectiveSE
from .gather_excite import GatherExcite
from .global_context import GlobalContext
from .inception import InceptionModule
from .mobile import DepthwiseBlock, FusedMBConv, MBConv
from .multi_head import MultiHeadAttention
from .norm import GRN, FrozenBatchNorm, GroupNorm, LayerNorm2d, RMSNorm2d
from .pooling import BlurPool2d, GeM, StochasticPool2d
from .regularization import DropBlock2d, Dropout, Dropout2d, DropPath, LayerScale
from .residual import ResidualBlock
from .squeeze_excitation import SqueezeExcitation
from .stages import ResidualSequence, ResidualStage
from .super_layers import SuperConv2d, SuperLinear

__all__ = [
    "GRN",
    "AsymmetricBottleneck",
    "AttentionBlock",
    "BlurPool2d",
    "CBAMBlock",
    "ChannelAttention",
    "ChannelSpatialAttention",
    "Conv3DBlock",
    "ConvBNAct",
    "ConvBlock",
    "CoordConv",
    "CoordinateAttention",
    "DenseConnectionBlock",
    "DepthwiseBlock",
    "DepthwiseSeparableConv2d",
    "DropBlock2d",
    "DropPath",
    "Dropout",
    "Dropout2d",
    "ECABlock",
    "EffectiveSE",
    "FrozenBatchNorm",
    "FusedMBConv",
    "GatherExcite",
    "GeM",
    "GlobalContext",
    "GroupNorm",
    "GroupedBottleneck",
    "InceptionModule",
    "LayerNorm2d",
    "LayerScale",
    "MBConv",
    "Mish",
    "MultiHeadAttention",
    "MultiScaleBottleneck",
    "PReLU",
    "RMSNorm2d",
    "ResidualBlock",
    "ResidualSequence",
    "ResidualStage",
    "SEBlock",
    "SpatialAttention",
    "SqueezeExcitation",
    "StandardBottleneck",
    "StochasticPool2d",
    "SuperConv2d",
    "SuperLinear",
    "Threshold",
    "WideBottleneck",
]
