"""Attention over channels and positions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Optional

import torch
from torch import Tensor, nn

from .. import ops
from ..ops._math import gate_of
from ..ops.cbam import cbam_apply, cbam_channels
from ..registry import register
from ._checks import check_odd, check_option, check_positive

ACTIVATIONS = ("relu", "silu", "gelu", "hardswish", "none")
GATES = ("sigmoid", "hard_sigmoid", "two_sigmoid", "tanh1p")
IDENTITY_GATES = ("two_sigmoid", "tanh1p")  # those that are exactly 1 at 0
INITS = ("paper", "identity")


def may_overwrite() -> bool:
    """Whether a block that may overwrite its input does: not where a gradient needs it, nor where a graph is made of it."""
    if not torch.jit.is_scripting() and torch.compiler.is_compiling():  # type: ignore[attr-defined]
        return False  # the compiler plans memory by itself
    return not torch.is_grad_enabled()


def default_gate(block: str, init: str, gate: str | None, published: str = "sigmoid") -> str:
    """The gate of a block, by default the published one, or one that is 1 at 0 where the block is to start as the identity."""
    check_option(block, "init", init, INITS)
    if gate is None:
        gate = "two_sigmoid" if init == "identity" else published
    check_option(block, "gate", gate, IDENTITY_GATES if init == "identity" else GATES)
    return gate


@register(
    "se",
    "attention",
    aliases=("seblock", "squeeze_excitation", "squeeze_excite"),
    paper="https://arxiv.org/abs/1709.01507",
)
class SEBlock(nn.Module):
    """Squeeze-and-excitation: each channel is scaled by a gate computed from all channel means.

    ``y = x * gate(fc2(act(fc1(mean(x)))))``, and, where the block takes the tail of a residual block too,
    ``post(y + residual)``, in one pass over memory.

    Args:
        channels: channels C of the input.
        reduction: the hidden layer has ``max(1, channels // reduction)`` channels.
        activation: ``relu``, ``silu``, ``gelu``, ``hardswish`` or ``none``, between the two layers.
        gate: ``sigmoid``, ``hard_sigmoid``, ``two_sigmoid`` or ``tanh1p``; by default ``sigmoid``, and with
            ``init="identity"`` ``two_sigmoid``.
        init: ``paper`` starts as published; ``identity`` starts as the identity, exactly: ``fc2`` is zero, and the gate is one
            that is 1 at 0.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x and residual (N, C, *), output the same. With ``inplace`` the output is ``x``, overwritten, where no gradient is
        asked for.

    Raises:
        ValueError: an argument that is not listed above.

    Source: Hu, Shen, Albanie, Sun, Wu: Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        activation: str = "relu",
        *,
        gate: str | None = None,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("SEBlock", "channels", channels)
        check_positive("SEBlock", "reduction", reduction)
        check_option("SEBlock", "activation", activation, ACTIVATIONS)
        gate = default_gate("SEBlock", init, gate)
        reduced = max(1, channels // reduction)
        self.activation = activation
        self.gate = gate
        self.init = init
        self.fc1 = nn.Linear(channels, reduced, device=device, dtype=dtype)
        self.fc2 = nn.Linear(reduced, channels, device=device, dtype=dtype)
        if init == "identity":
            nn.init.zeros_(self.fc2.weight)
            nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, post: str = "none", inplace: bool = False) -> Tensor:
        return ops.squeeze_excite(
            x,
            self.fc1.weight,
            self.fc1.bias,
            self.fc2.weight,
            self.fc2.bias,
            act=self.activation,
            gate=self.gate,
            residual=residual,
            post=post,
            inplace=inplace and may_overwrite(),
        )

    def extra_repr(self) -> str:
        return f"activation={self.activation}, gate={self.gate}, init={self.init}"


@register(
    "eca",
    "attention",
    aliases=("eca_block", "efficient_channel"),
    paper="https://arxiv.org/abs/1910.03151",
)
class ECABlock(nn.Module):
    """Efficient channel attention: each channel is scaled by a gate computed from the means of its neighbours.

    ``y = x * gate(conv(mean(x)))``, the convolution along the channels, and, where the block takes the tail of a residual block
    too, ``post(y + residual)``, in one pass over memory.

    Args:
        channels: channels C of the input.
        kernel_size: how many neighbours, an odd number; by default the odd number at or above
            ``|(log2(channels) + beta) / gamma|``, rounded down.
        gamma: see above.
        beta: see above.
        gate: ``sigmoid``, ``hard_sigmoid``, ``two_sigmoid`` or ``tanh1p``; by default ``sigmoid``, and with
            ``init="identity"`` ``two_sigmoid``.
        init: ``paper`` starts as published; ``identity`` starts as the identity, exactly: the weight is zero, and the gate is
            one that is 1 at 0.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x and residual (N, C, *), output the same. With ``inplace`` the output is ``x``, overwritten, where no gradient is
        asked for.

    Raises:
        ValueError: an argument that is not listed above.

    Source: Wang, Wu, Zhu, Li, Zuo, Hu: ECA-Net, https://arxiv.org/abs/1910.03151
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | None = None,
        gamma: float = 2,
        beta: float = 1,
        *,
        gate: str | None = None,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("ECABlock", "channels", channels)
        if kernel_size is None:
            neighbours = int(abs((math.log2(channels) + beta) / gamma))
            kernel_size = neighbours + 1 - neighbours % 2
        check_odd("ECABlock", "kernel_size", kernel_size)
        self.gate = default_gate("ECABlock", init, gate)
        self.init = init
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype)
        if init == "identity":
            nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, post: str = "none", inplace: bool = False) -> Tensor:
        return ops.eca(
            x, self.conv.weight.flatten(), gate=self.gate, residual=residual, post=post, inplace=inplace and may_overwrite()
        )

    def extra_repr(self) -> str:
        return f"gate={self.gate}, init={self.init}"


def folded_spatial_gate(
    weight: Tensor,
    bias: Optional[Tensor],
    norm_weight: Optional[Tensor],
    norm_bias: Optional[Tensor],
    mean: Optional[Tensor],
    variance: Optional[Tensor],
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a spatial gate's convolution with its norm, in evaluation mode, folded in."""
    assert mean is not None and variance is not None
    factor = torch.rsqrt(variance + eps)
    if norm_weight is not None:
        factor = factor * norm_weight
    shift = -mean * factor if bias is None else (bias - mean) * factor
    if norm_bias is not None:
        shift = shift + norm_bias
    return (weight * factor.view(-1, 1, 1, 1)).to(weight.dtype), shift.to(weight.dtype)


@register("channel_attention", "attention", aliases=("ca", "channel"), paper="https://arxiv.org/abs/1807.06521")
class ChannelAttention(nn.Module):
    """The first half of CBAM: each channel is scaled by a gate computed from all channels' means and maxima.

    ``y = x * gate(mlp(mean(x)) + mlp(max(x)))`` with ``mlp(v) = fc2(act(fc1(v)))``.

    Args:
        channels: channels C of the input.
        reduction: the hidden layer has ``max(1, channels // reduction)`` channels.
        activation: ``relu``, ``silu``, ``gelu``, ``hardswish`` or ``none``, between the two layers.
        bias: whether the two layers have one.
        gate: ``sigmoid``, ``hard_sigmoid``, ``two_sigmoid`` or ``tanh1p``; by default ``sigmoid``, and with
            ``init="identity"`` ``two_sigmoid``.
        init: ``paper`` starts as published; ``identity`` starts as the identity, exactly: ``fc2`` is zero.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, C, H, W), output the same.

    Raises:
        ValueError: an argument that is not listed above.

    Source: Woo, Park, Lee, Kweon: CBAM, https://arxiv.org/abs/1807.06521
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        activation: str = "relu",
        *,
        bias: bool = True,
        gate: str | None = None,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("ChannelAttention", "channels", channels)
        check_positive("ChannelAttention", "reduction", reduction)
        check_option("ChannelAttention", "activation", activation, ACTIVATIONS)
        reduced = max(1, channels // reduction)
        self.activation = activation
        self.gate = default_gate("ChannelAttention", init, gate)
        self.init = init
        self.fc1 = nn.Linear(channels, reduced, bias=bias, device=device, dtype=dtype)
        self.fc2 = nn.Linear(reduced, channels, bias=bias, device=device, dtype=dtype)
        if init == "identity":
            for parameter in self.fc2.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        scale, _ = cbam_channels(
            x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias, act=self.activation, gate=self.gate
        )
        return x * scale.to(x.dtype)[:, :, None, None]

    def extra_repr(self) -> str:
        return f"activation={self.activation}, gate={self.gate}, init={self.init}"


@register("spatial_attention", "attention", aliases=("sa", "spatial"), paper="https://arxiv.org/abs/1807.06521")
class SpatialAttention(nn.Module):
    """The second half of CBAM: each position is scaled by a gate computed from the channels' mean and maximum around it.

    ``y = x * gate(norm(conv([mean(x), max(x)])))``, mean and maximum over channels.

    Args:
        kernel_size: of the convolution, an odd number.
        norm: whether a batch norm follows the convolution, as in the authors' code.
        gate: ``sigmoid``, ``hard_sigmoid``, ``two_sigmoid`` or ``tanh1p``; by default ``sigmoid``, and with
            ``init="identity"`` ``two_sigmoid``.
        init: ``paper`` starts as published; ``identity`` starts as the identity, exactly: the last layer, which is the norm
            where there is one, is zero.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, C, H, W), output the same.

    Raises:
        ValueError: an argument that is not listed above.

    Source: Woo, Park, Lee, Kweon: CBAM, https://arxiv.org/abs/1807.06521
    """

    if TYPE_CHECKING:
        norm: Any

    def __init__(
        self,
        kernel_size: int = 7,
        *,
        norm: bool = False,
        gate: str | None = None,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_odd("SpatialAttention", "kernel_size", kernel_size)
        self.gate = default_gate("SpatialAttention", init, gate)
        self.init = init
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(1, device=device, dtype=dtype) if norm else nn.Identity()
        self.norm_eps = 1e-5  # that of the norm, which TorchScript cannot read from outside of it
        if init == "identity":
            nn.init.zeros_(self.norm.weight if isinstance(self.norm, nn.BatchNorm2d) else self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * gate_of(self.logits(maps), self.gate).to(x.dtype)

    def logits(self, maps: Tensor) -> Tensor:
        """What goes into the gate, from mean and maximum over channels, (N, 2, H, W)."""
        logits: Tensor = self.norm(self.conv(maps.to(self.conv.weight.dtype)))
        return logits

    def extra_repr(self) -> str:
        return f"gate={self.gate}, init={self.init}"


@register(
    "cbam",
    "attention",
    aliases=("cbam_block", "cbam_attention"),
    paper="https://arxiv.org/abs/1807.06521",
)
class CBAMBlock(nn.Module):
    """Attention over channels and then over positions (CBAM).

    ``y = spatial(channel(x))``, and, where the block takes the tail of a residual block too, ``post(y + residual)``; the result
    of ``channel`` is never written to memory. The parts are a :class:`ChannelAttention` and a :class:`SpatialAttention`.

    Args:
        channels: channels C of the input.
        reduction: the hidden layer has ``max(1, channels // reduction)`` channels.
        spatial_kernel: size of the spatial gate's convolution, an odd number.
        activation: ``relu``, ``silu``, ``gelu``, ``hardswish`` or ``none``, between the two layers.
        bias: whether the two layers have one.
        spatial_norm: whether a batch norm follows the spatial gate's convolution, as in the authors' code.
        gate: of channels and positions: ``sigmoid``, ``hard_sigmoid``, ``two_sigmoid`` or ``tanh1p``; by default ``sigmoid``,
            and with ``init="identity"`` ``two_sigmoid``.
        init: ``paper`` starts as published; ``identity`` starts as the identity, exactly: the last layer of either part is
            zero, and the gate is one that is 1 at 0.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x and residual (N, C, H, W), output the same. With ``inplace`` the output is ``x``, overwritten, where no gradient is
        asked for.

    Raises:
        ValueError: an argument that is not listed above.

    Source: Woo, Park, Lee, Kweon: CBAM, https://arxiv.org/abs/1807.06521
    """

    __constants__ = ("spatial_norm",)  # TorchScript compiles only the branch that is taken

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        spatial_kernel: int = 7,
        *,
        activation: str = "relu",
        bias: bool = True,
        spatial_norm: bool = False,
        gate: str | None = None,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spatial_norm = spatial_norm
        self.channel = ChannelAttention(
            channels, reduction, activation, bias=bias, gate=gate, init=init, device=device, dtype=dtype
        )
        self.spatial = SpatialAttention(spatial_kernel, norm=spatial_norm, gate=gate, init=init, device=device, dtype=dtype)

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, post: str = "none", inplace: bool = False) -> Tensor:
        channel, spatial = self.channel, self.spatial
        w1, b1, w2, b2 = channel.fc1.weight, channel.fc1.bias, channel.fc2.weight, channel.fc2.bias
        weight, bias = spatial.conv.weight, spatial.conv.bias
        if self.spatial_norm:
            norm = spatial.norm
            if norm.training:
                scale, maps = cbam_channels(x, w1, b1, w2, b2, act=channel.activation, gate=channel.gate)
                return cbam_apply(x, scale, spatial.logits(maps), channel.gate, residual, post)
            weight, bias = folded_spatial_gate(
                weight, bias, norm.weight, norm.bias, norm.running_mean, norm.running_var, spatial.norm_eps
            )
        return ops.cbam(
            x,
            w1,
            b1,
            w2,
            b2,
            weight,
            bias,
            act=channel.activation,
            gate=channel.gate,
            residual=residual,
            post=post,
            inplace=inplace and may_overwrite(),
        )
