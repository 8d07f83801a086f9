"""Regularisation."""

from __future__ import annotations

from typing import Optional

from torch import Tensor, nn

from .. import ops
from ..registry import register
from .attention import may_overwrite


def draw_mask(x: Tensor, drop_prob: float, scale_by_keep: bool) -> Tensor:
    """What each sample of ``x`` is multiplied with: 0 with probability ``drop_prob``, else 1, or more by what is missing."""
    keep = 1.0 - drop_prob
    mask = x.new_empty([x.size(0)]).bernoulli_(keep)
    if scale_by_keep and keep > 0.0:
        mask.div_(keep)
    return mask


def drop_path(
    x: Tensor, drop_prob: float, scale_by_keep: bool, training: bool, residual: Optional[Tensor], post: str, inplace: bool
) -> Tensor:
    """The forward of :class:`DropPath`."""
    dropping = training and drop_prob > 0.0
    if not dropping and residual is None and post == "none":
        return x
    mask = draw_mask(x, drop_prob, scale_by_keep) if dropping else x.new_ones([x.size(0)])
    return ops.drop_path(x, mask, residual, post, inplace and may_overwrite())


@register(
    "drop_path",
    "regularization",
    aliases=("stochastic_depth",),
    paper="https://arxiv.org/abs/1603.09382",
    example={"drop_prob": 0.5},
)
class DropPath(nn.Module):
    """Stochastic depth: in training, a residual branch is dropped for a sample with a given probability.

    ``y = x * mask`` with one element of the mask for each sample, and, where the block takes the tail of a residual block too,
    ``post(y + residual)``, in one pass over memory; a branch that is dropped is not read. Without training, or with
    ``drop_prob=0``, ``y = x``.

    Args:
        drop_prob: probability that a sample's branch is dropped, from 0 to 1.
        scale_by_keep: divide what is kept by ``1 - drop_prob``, so that the mean stays.

    Shape:
        x and residual (N, *), output the same. With ``inplace`` the output is ``x``, overwritten, where no gradient is
        asked for.

    Raises:
        ValueError: ``drop_prob`` is no probability.

    Source: Huang, Sun, Liu, Sedra, Weinberger: Deep Networks with Stochastic Depth, https://arxiv.org/abs/1603.09382
    """

    # For patches: in evaluation it is the identity, and it does not ask which dimension has the channels.
    starts_as_identity = True
    any_layout = True

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        if not 0.0 <= drop_prob <= 1.0:
            raise ValueError(f"DropPath: drop_prob must be between 0 and 1, got {drop_prob!r}")
        self.drop_prob = float(drop_prob)
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, post: str = "none", inplace: bool = False) -> Tensor:
        return drop_path(x, self.drop_prob, self.scale_by_keep, self.training, residual, post, inplace)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}, scale_by_keep={self.scale_by_keep}"
