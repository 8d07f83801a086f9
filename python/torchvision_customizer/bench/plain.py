"""The blocks in plain PyTorch, as they are written without this package: what the fused ops are measured against.

They are written for speed, so that the comparison is fair: linear layers in place of 1×1 convolutions, the tail in place, and
all in the type of the activation. TorchScript and ``torch.compile`` take them as they are. The ops' references are something
else: they check their arguments, and round only where the kernels do, and both takes time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Optional

import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import SEBlock
from ..ops._math import activate, gate_of


class PlainSqueezeExcite(nn.Module):
    """Squeeze-and-excitation, with the addition and the activation that follow it in a residual block."""

    def __init__(
        self,
        w1: Tensor,
        b1: Tensor | None,
        w2: Tensor,
        b2: Tensor | None,
        act: str = "relu",
        gate: str = "sigmoid",
        post: str = "none",
    ) -> None:
        super().__init__()
        self.w1, self.w2 = _parameter(w1), _parameter(w2)
        self.b1, self.b2 = (None if b is None else _parameter(b) for b in (b1, b2))
        self.act, self.gate, self.post = act, gate, post

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        hidden = activate(F.linear(x.mean((2, 3)), self.w1, self.b1), self.act)
        scale = gate_of(F.linear(hidden, self.w2, self.b2), self.gate)
        y = x * scale[:, :, None, None]
        if residual is not None:
            y += residual
        return y.relu_() if self.post == "relu" else activate(y, self.post)


def _parameter(w: Tensor) -> nn.Parameter:
    return w if isinstance(w, nn.Parameter) else nn.Parameter(w)


def _plain_se(block: SEBlock) -> nn.Module:
    fc1, fc2 = block.fc1, block.fc2
    return PlainSqueezeExcite(fc1.weight, fc1.bias, fc2.weight, fc2.bias, block.activation, block.gate)


#: How to write a block in plain PyTorch, by its class.
PLAIN_BLOCKS: dict[type[nn.Module], Callable[..., nn.Module]] = {SEBlock: _plain_se}


def plain_model(model: nn.Module) -> nn.Module:
    """A copy of a patched model, not fused, with every block of this package in plain PyTorch and the same weights."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        make = PLAIN_BLOCKS.get(type(module))
        if make is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make(module))
    return model
