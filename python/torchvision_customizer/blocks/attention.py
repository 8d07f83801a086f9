"""Attention over channels and positions."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import nearest
from ..registry import register

ACTIVATIONS = ("relu", "silu", "gelu", "hardswish", "none")
GATES = ("sigmoid", "hard_sigmoid", "two_sigmoid", "tanh1p")
IDENTITY_GATES = ("two_sigmoid", "tanh1p")  # those that are exactly 1 at 0
INITS = ("paper", "identity")


def may_overwrite() -> bool:
    """Whether a block that may overwrite its input does: not where a gradient needs it, nor where a graph is made of it."""
    if not torch.jit.is_scripting() and torch.compiler.is_compiling():  # type: ignore[attr-defined]
        return False  # the compiler plans memory by itself
    return not torch.is_grad_enabled()


def _check_option(block: str, argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        hint = nearest(str(value), allowed)
        raise ValueError(f"{block}: {argument} must be one of {', '.join(allowed)}, got {value!r}{hint}")


def _check_positive(block: str, argument: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{block}: {argument} must be an integer of at least 1, got {value!r}")


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
        _check_positive("SEBlock", "channels", channels)
        _check_positive("SEBlock", "reduction", reduction)
        _check_option("SEBlock", "activation", activation, ACTIVATIONS)
        _check_option("SEBlock", "init", init, INITS)
        if gate is None:
            gate = "two_sigmoid" if init == "identity" else "sigmoid"
        _check_option("SEBlock", "gate", gate, IDENTITY_GATES if init == "identity" else GATES)
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
