"""Stochastic depth of torchvision and timm, by the fused op. With the same seed, the same samples are dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from torch import Tensor

from ..blocks.regularization import drop_path
from .kinds import Form, Fused, NotFusable, fusable


class FusedDropPath(Fused):
    """timm's: ``drop_prob`` and ``scale_by_keep``."""

    makes_new_tensor = False

    if TYPE_CHECKING:
        drop_prob: float
        scale_by_keep: bool

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, post: str = "none", inplace: bool = False) -> Tensor:
        return drop_path(x, self.drop_prob, self.scale_by_keep, self.training, residual, post, inplace)


@fusable("timm.layers.drop.DropPath")
def _timm_drop_path(block: Any) -> Form:
    if not 0.0 <= block.drop_prob <= 1.0:
        raise NotFusable(f"its drop_prob is {block.drop_prob}, and no probability")
    return Form(FusedDropPath)


class FusedStochasticDepth(Fused):
    """torchvision's: the probability is ``p``."""

    makes_new_tensor = False

    if TYPE_CHECKING:
        p: float

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, post: str = "none", inplace: bool = False) -> Tensor:
        return drop_path(x, self.p, True, self.training, residual, post, inplace)


@fusable("torchvision.ops.stochastic_depth.StochasticDepth")
def _torchvision_stochastic_depth(block: Any) -> Form:
    if block.mode != "row":
        raise NotFusable("it drops whole batches (mode='batch'), and the op single samples")
    return Form(FusedStochasticDepth)
