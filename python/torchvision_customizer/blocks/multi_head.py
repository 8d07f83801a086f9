"""Multi-head attention.

Vaswani et al.: Attention Is All You Need, https://arxiv.org/abs/1706.03762
"""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import register
from ._checks import check_positive


@register(
    "multihead_attention",
    "attention",
    aliases=("mha", "multihead"),
    paper="https://arxiv.org/abs/1706.03762",
    example={"embed_dim": 32, "num_heads": 4},
    example_shape=(2, 6, 32),
)
class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention of tokens, with several heads.

    ``output = out_proj(softmax(q kᵀ / sqrt(d)) v)`` with ``q = q_proj(query)``, ``k = k_proj(key)``, ``v = v_proj(value)``, and
    d channels in each head.

    Args:
        embed_dim: channels C of the tokens.
        num_heads: heads, a divisor of ``embed_dim``.
        dropout: probability that a weight is dropped in training.
        bias: whether the four layers have one.
        batch_first: tokens are (N, L, C); else (L, N, C).
        device: where the parameters are made.
        dtype: their type.

    Shape:
        query (N, L, C), key and value (N, S, C), by default the query; ``attention_mask`` broadcasts to (N, heads, L, S), and
        where it is 0 or False nothing is attended to. The output is a pair: tokens (N, L, C), and the weights
        (N, heads, L, S), or None with ``need_weights=False``, which is faster. With ``batch_first=False`` the first two
        dimensions of queries, keys, values and the output tokens change places.

    Raises:
        ValueError: ``num_heads`` does not divide ``embed_dim``.

    Source: Vaswani et al.: Attention Is All You Need, https://arxiv.org/abs/1706.03762
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 8,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("MultiHeadAttention", "embed_dim", embed_dim)
        check_positive("MultiHeadAttention", "num_heads", num_heads)
        if embed_dim % num_heads:
            raise ValueError(f"MultiHeadAttention: num_heads must divide embed_dim {embed_dim}, got {num_heads}")
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"MultiHeadAttention: dropout must be between 0 and 1, got {dropout!r}")
        self.num_heads = num_heads
        self.dropout = float(dropout)
        self.batch_first = batch_first
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias, device=device, dtype=dtype)
        self.k_proj = nn.Linear(embed_dim, embed_dim, bias, device=device, dtype=dtype)
        self.v_proj = nn.Linear(embed_dim, embed_dim, bias, device=device, dtype=dtype)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias, device=device, dtype=dtype)

    def forward(
        self,
        query: Tensor,
        key: Optional[Tensor] = None,
        value: Optional[Tensor] = None,
        attention_mask: Optional[Tensor] = None,
        need_weights: bool = True,
    ) -> tuple[Tensor, Optional[Tensor]]:
        q = self._heads(self.q_proj(query))
        k = self._heads(self.k_proj(query if key is None else key))
        v = self._heads(self.v_proj(query if value is None else value))
        allowed: Optional[Tensor] = None
        if attention_mask is not None:
            allowed = (attention_mask != 0).expand([q.size(0), q.size(1), q.size(2), k.size(2)])
        dropout = self.dropout if self.training else 0.0
        weights: Optional[Tensor] = None
        if need_weights:
            scores = torch.matmul(q, k.transpose(2, 3)) * q.size(3) ** -0.5
            if allowed is not None:
                scores = scores.masked_fill(~allowed, float("-inf"))
            weights = F.dropout(scores.softmax(3), dropout)
            out = torch.matmul(weights, v)
        else:
            out = F.scaled_dot_product_attention(q, k, v, allowed, dropout)
        out = out.transpose(1, 2).flatten(2)
        return self.out_proj(out if self.batch_first else out.transpose(0, 1)), weights

    def _heads(self, tokens: Tensor) -> Tensor:
        """(N, L, C) or (L, N, C) as (N, heads, L, d)."""
        if not self.batch_first:
            tokens = tokens.transpose(0, 1)
        return tokens.unflatten(2, [self.num_heads, -1]).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, dropout={self.dropout}, batch_first={self.batch_first}"
