"""Norms: torch's own classes under names that a patch can say, and those that torch lacks for (N, C, *)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops._math import accumulate_type, per_channel, spatial_dims
from ..registry import register
from ._checks import check_positive

register("batch_norm", "norm", paper="https://arxiv.org/abs/1502.03167")(nn.BatchNorm2d)
register("instance_norm", "norm", paper="https://arxiv.org/abs/1607.08022")(nn.InstanceNorm2d)
# Over the last dimensions: of tokens (N, L, C), or of images with their channels last.
register("layer_norm", "norm", paper="https://arxiv.org/abs/1607.06450", example={"normalized_shape": 7})(nn.LayerNorm)
register("rms_norm", "norm", paper="https://arxiv.org/abs/1910.07467", example={"normalized_shape": 7})(nn.RMSNorm)


@register("group_norm", "norm", paper="https://arxiv.org/abs/1803.08494")
class GroupNorm(nn.GroupNorm):
    """Group norm for any number of channels: torch's own, with as many groups as divide the channels.

    Args:
        num_channels: channels C of the input.
        num_groups: how many groups at most; there are as many as the largest divisor of ``num_channels`` up to it.
        eps: added to the variance.
        affine: whether each channel has a learnt scale and shift.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, C, *), output the same.

    Raises:
        ValueError: ``num_channels`` or ``num_groups`` is no integer of at least 1.

    Source: Wu, He: Group Normalization, https://arxiv.org/abs/1803.08494
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_positive("GroupNorm", "num_channels", num_channels)
        check_positive("GroupNorm", "num_groups", num_groups)
        groups = next(groups for groups in range(min(num_groups, num_channels), 0, -1) if num_channels % groups == 0)
        super().__init__(groups, num_channels, eps, affine, device=device, dtype=dtype)


@register("layer_norm_2d", "norm", paper="https://arxiv.org/abs/1607.06450")
class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each position, for channels first.

    Args:
        num_channels: channels C of the input.
        eps: added to the variance.
        affine: whether each channel has a learnt scale and shift.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, C, *), output the same.

    Raises:
        ValueError: ``num_channels`` is no integer of at least 1.

    Source: Ba, Kiros, Hinton: Layer Normalization, https://arxiv.org/abs/1607.06450
    """

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("LayerNorm2d", "num_channels", num_channels)
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        if affine:
            self.weight = nn.Parameter(torch.ones(num_channels, device=device, dtype=dtype))
            self.bias = nn.Parameter(torch.zeros(num_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), [self.num_channels], self.weight, self.bias, self.eps).movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"{self.num_channels}, eps={self.eps}, affine={self.affine}"


@register("rms_norm_2d", "norm", paper="https://arxiv.org/abs/1910.07467")
class RMSNorm2d(nn.Module):
    """Root-mean-square norm over the channels of each position, for channels first.

    ``y = x / sqrt(mean(x²) + eps) * weight``, mean over channels.

    Args:
        num_channels: channels C of the input.
        eps: added to the mean square.
        affine: whether each channel has a learnt scale.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, C, *), output the same.

    Raises:
        ValueError: ``num_channels`` is no integer of at least 1.

    Source: Zhang, Sennrich: Root Mean Square Layer Normalization, https://arxiv.org/abs/1910.07467
    """

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        affine: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("RMSNorm2d", "num_channels", num_channels)
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        if affine:
            self.weight = nn.Parameter(torch.ones(num_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("weight", None)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.movedim(1, -1), [self.num_channels], self.weight, self.eps).movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"{self.num_channels}, eps={self.eps}, affine={self.affine}"


@register("frozen_batch_norm", "norm", aliases=("FrozenBatchNorm2d",))
class FrozenBatchNorm(nn.Module):
    """Batch norm that never changes: statistics, scale and shift are buffers, and training is like evaluation.

    It computes what torch's batch norm does in evaluation mode, to the bit, and has the same names in the state dict.

    Args:
        num_features: channels C of the input.
        eps: added to the variance.
        device: where the buffers are made.
        dtype: their type.

    Shape:
        x (N, C, *), output the same.

    Raises:
        ValueError: ``num_features`` is no integer of at least 1.
    """

    if TYPE_CHECKING:  # TorchScript would take them for attributes
        weight: Tensor
        bias: Tensor
        running_mean: Tensor
        running_var: Tensor
        num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("FrozenBatchNorm", "num_features", num_features)
        self.num_features = num_features
        self.eps = eps
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, torch.full((num_features,), float(value), device=device, dtype=dtype))
        self.register_buffer("num_batches_tracked", torch.tensor(0, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # torchvision's frozen norm, and batch norms of torch before 0.4.1, have no counter.
        state_dict.setdefault(f"{prefix}num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


@register("grn", "norm", aliases=("global_response_norm",), paper="https://arxiv.org/abs/2301.00808")
class GRN(nn.Module):
    """Global response norm: each channel is scaled by how strong it is among all of them (ConvNeXt V2).

    ``y = x + gamma * x * g / (mean(g) + eps) + beta`` with ``g`` the norm of each channel over space, and the mean over
    channels. It starts as the identity: ``gamma`` and ``beta`` are zero.

    Args:
        num_channels: channels C of the input.
        eps: added to the mean.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, C, *), output the same.

    Raises:
        ValueError: ``num_channels`` is no integer of at least 1.

    Source: Woo, Debnath, Hu, Chen, Liu, Kweon, Xie: ConvNeXt V2, https://arxiv.org/abs/2301.00808
    """

    starts_as_identity = True  # for patches

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("GRN", "num_channels", num_channels)
        self.num_channels = num_channels
        self.eps = eps
        self.gamma = nn.Parameter(torch.zeros(num_channels, device=device, dtype=dtype))
        self.beta = nn.Parameter(torch.zeros(num_channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        response = torch.sqrt(x.to(accumulate_type(x)).square().sum(spatial_dims(x)) + 1e-24)  # the slope at 0 is finite
        scale = self.gamma * (response / (response.mean(1, keepdim=True) + self.eps))
        return x + per_channel(scale.to(x.dtype), x) * x + per_channel(self.beta[None].to(x.dtype), x)

    def extra_repr(self) -> str:
        return f"{self.num_channels}, eps={self.eps}"
