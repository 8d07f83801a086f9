"""Regularisation: what drops parts of its input in training, and a scale that starts small."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..ops._math import per_channel
from ..registry import register
from ._checks import check_option, check_positive
from .attention import INITS, may_overwrite


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


@register(
    "drop_block", "regularization", aliases=("dropblock",), paper="https://arxiv.org/abs/1810.12890", example={"drop_prob": 0.2}
)
class DropBlock2d(nn.Module):
    """In training, squares of an image are dropped, the same in all channels.

    ``y = x * mask / mean(mask)``. Without training, or with ``drop_prob=0``, ``y = x``.

    Args:
        drop_prob: which part of the positions is dropped, about, from 0 to 1.
        block_size: side of a square; a smaller image is dropped as a whole.
        scale_by_keep: divide by the part that is kept, so that the mean stays.

    Shape:
        x (N, C, H, W), output the same.

    Raises:
        ValueError: ``drop_prob`` is no probability, or ``block_size`` no integer of at least 1.

    Source: Ghiasi, Lin, Le: DropBlock, https://arxiv.org/abs/1810.12890
    """

    starts_as_identity = True  # for patches: in evaluation it is the identity

    def __init__(self, drop_prob: float = 0.1, block_size: int = 7, scale_by_keep: bool = True) -> None:
        super().__init__()
        if not 0.0 <= drop_prob <= 1.0:
            raise ValueError(f"DropBlock2d: drop_prob must be between 0 and 1, got {drop_prob!r}")
        check_positive("DropBlock2d", "block_size", block_size)
        self.drop_prob = float(drop_prob)
        self.block_size = block_size
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0.0:
            return x
        height, width = x.size(2), x.size(3)
        rows, columns = min(self.block_size, height), min(self.block_size, width)
        corners = [height - rows + 1, width - columns + 1]  # where the upper left of a square can be
        rate = self.drop_prob * height * width / (rows * columns * corners[0] * corners[1])
        dropped = torch.empty([x.size(0), 1, corners[0], corners[1]], dtype=x.dtype, device=x.device).bernoulli_(min(rate, 1.0))
        dropped = F.pad(dropped, [columns - 1, columns - 1, rows - 1, rows - 1])
        mask = 1 - F.max_pool2d(dropped, [rows, columns], [1, 1])
        if self.scale_by_keep:
            mask = mask / mask.mean(dtype=torch.float32).clamp(min=1e-6).to(x.dtype)
        return torch.where(mask == 0, torch.zeros_like(x), x * mask)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}, block_size={self.block_size}, scale_by_keep={self.scale_by_keep}"


@register("layer_scale", "regularization", paper="https://arxiv.org/abs/2103.17239", example={"dim": 32})
class LayerScale(nn.Module):
    """A learnt scale for each channel, which starts small: ``y = x * gamma``.

    Args:
        dim: channels C of the input.
        init_value: where the scale starts, by default 1e-5, and with ``init="identity"`` 1.
        init: ``paper`` starts with ``init_value``; ``identity`` starts as the identity, exactly.
        device: where the parameter is made.
        dtype: its type.

    Shape:
        x (N, C, H, W) or (N, C, D, H, W), or tokens (N, L, C) or (N, C); output the same.

    Raises:
        ValueError: an argument that is not listed above; an ``init_value`` other than 1 with ``init="identity"``.

    Source: Touvron, Cord, Sablayrolles, Synnaeve, Jégou: Going deeper with Image Transformers, https://arxiv.org/abs/2103.17239
    """

    def __init__(
        self,
        dim: int,
        init_value: float | None = None,
        *,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("LayerScale", "dim", dim)
        check_option("LayerScale", "init", init, INITS)
        if init == "identity" and init_value not in (None, 1):
            raise ValueError(f"LayerScale: init='identity' starts with 1, and init_value is {init_value!r}")
        start = (1.0 if init == "identity" else 1e-5) if init_value is None else float(init_value)
        self.init = init
        self.gamma = nn.Parameter(torch.full((dim,), start, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x * (per_channel(self.gamma[None], x) if x.dim() > 3 else self.gamma)

    def extra_repr(self) -> str:
        return f"{self.gamma.size(0)}, init={self.init}"


@register("dropout", "regularization", paper="https://arxiv.org/abs/1207.0580")
class Dropout(nn.Dropout):
    """Each value is dropped in training with a given probability; torch's own."""

    starts_as_identity = True  # for patches: in evaluation it is the identity, and it does not ask where the channels are
    any_layout = True


@register("dropout_2d", "regularization", aliases=("spatial_dropout",), paper="https://arxiv.org/abs/1411.4280")
class Dropout2d(nn.Dropout2d):
    """Each channel of a sample is dropped in training with a given probability; torch's own."""

    starts_as_identity = True  # for patches: in evaluation it is the identity
