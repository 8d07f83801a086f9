"""What ``torchvision_customizer.layers`` held in version 2.1: activations, norms and pools by name, and attention."""

from .blocks._by_name import get_activation, get_normalization, get_pooling
from .blocks.attention import ChannelAttention, SpatialAttention
from .blocks.attention_block import AttentionBlock, ChannelSpatialAttention
from .blocks.multi_head import MultiHeadAttention

__all__ = [
    "AttentionBlock",
    "ChannelAttention",
    "ChannelSpatialAttention",
    "MultiHeadAttention",
    "SpatialAttention",
    "get_activation",
    "get_normalization",
    "get_pooling",
]
