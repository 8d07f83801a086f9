"""Squeeze-and-excitation with a batch norm, under the arguments of version 2.1."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor, nn

from .. import ops
from ..ops._math import activate, gate_of, per_channel, spatial_mean
from ..registry import register
from ._checks import check_option, check_positive
from ._parts import is_none, op_activation
from .attention import ACTIVATIONS, GATES, default_gate, may_overwrite


@register("se_enhanced", "attention", aliases=("se_v2",), paper="https://arxiv.org/abs/1709.01507")
class SqueezeExcitation(nn.Module):
    """:class:`SEBlock` with more options: ``y = x * gate(fc2(act(norm(fc1(mean(x))))))``.

    Where the block takes the tail of a residual block, too, it is ``post(y + residual)``; without a batch norm in one pass over
    memory.

    Args:
        channels: channels C of the input.
        reduction: the hidden layer has ``max(1, channels // reduction)`` channels.
        activation: ``relu``, ``silu`` (also ``swish``), ``gelu``, ``hardswish`` or ``none``, between the two layers.
        gate_activation: ``sigmoid``, ``hardsigmoid``, ``two_sigmoid`` or ``tanh1p``; by default ``sigmoid``, and with
            ``init="identity"`` ``two_sigmoid``.
        use_bn: whether a batch norm follows ``fc1``, which then has no bias.
        init: ``paper`` starts as published; ``identity`` starts as the identity, exactly: ``fc2`` is zero.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x and residual (N, C, *), output the same. With ``inplace`` the output is ``x``, overwritten, where no gradient is
        asked for. In training, a batch norm needs at least two samples.

    Raises:
        ValueError: an argument that is not listed above.

    Source: Hu, Shen, Albanie, Sun, Wu: Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507
    """

    __constants__ = ("use_bn",)

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        activation: str = "relu",
        gate_activation: str | None = None,
        use_bn: bool = False,
        *,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("SqueezeExcitation", "channels", channels)
        check_positive("SqueezeExcitation", "reduction", reduction)
        self.activation = op_activation(activation)
        if self.activation == "none" and not is_none(activation):
            check_option("SqueezeExcitation", "activation", activation, ACTIVATIONS)
        names = {"hardsigmoid": "hard_sigmoid", **{gate: gate for gate in GATES}}
        if gate_activation is not None:
            check_option("SqueezeExcitation", "gate_activation", gate_activation, tuple(names))
        self.gate = default_gate("SqueezeExcitation", init, names.get(str(gate_activation)))
        self.init = init
        self.use_bn = use_bn
        reduced = max(1, channels // reduction)
        self.fc1 = nn.Linear(channels, reduced, bias=not use_bn, device=device, dtype=dtype)
        if use_bn:
            self.bn = nn.BatchNorm1d(reduced, device=device, dtype=dtype)
        self.fc2 = nn.Linear(reduced, channels, device=device, dtype=dtype)
        if init == "identity":
            for parameter in self.fc2.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, post: str = "none", inplace: bool = False) -> Tensor:
        weight, bias = self.fc1.weight, self.fc1.bias
        if self.use_bn:
            hidden = self.bn(self.fc1(spatial_mean(x).to(weight.dtype)))
            scale = gate_of(self.fc2(activate(hidden, self.activation)), self.gate)
            y = x * per_channel(scale, x).to(x.dtype)
            return activate(y if residual is None else y + residual, post)
        return ops.squeeze_excite(
            x,
            weight,
            bias,
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
