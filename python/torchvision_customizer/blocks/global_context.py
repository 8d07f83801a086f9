"""Global context.

Cao, Xu, Lin, Wei, Hu: GCNet, https://arxiv.org/abs/1904.11492
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops._math import activate
from ..registry import register
from ._checks import check_option, check_positive
from .attention import ACTIVATIONS, INITS
from .norm import LayerNorm2d


@register("global_context", "attention", aliases=("gc", "gcnet"), paper="https://arxiv.org/abs/1904.11492")
class GlobalContext(nn.Module):
    """A weighted mean over all positions is transformed and added to each of them.

    ``y = x + fc2(act(norm(fc1(context))))`` with ``context = sum(x * softmax(attend(x)))``, sum and softmax over positions.

    Args:
        channels: channels C of the input.
        reduction: there are ``max(1, channels // reduction)`` channels between the two layers.
        activation: ``relu``, ``silu``, ``gelu``, ``hardswish`` or ``none``, between the two layers.
        init: ``paper`` starts with small random numbers; ``identity`` starts as the identity, exactly: ``fc2`` is zero.
        device: where the parameters are made.
        dtype: their type.

    Shape:
        x (N, C, H, W), output the same.

    Raises:
        ValueError: an argument that is not listed above.

    Source: Cao, Xu, Lin, Wei, Hu: GCNet, https://arxiv.org/abs/1904.11492
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        activation: str = "relu",
        *,
        init: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("GlobalContext", "channels", channels)
        check_positive("GlobalContext", "reduction", reduction)
        check_option("GlobalContext", "activation", activation, ACTIVATIONS)
        check_option("GlobalContext", "init", init, INITS)
        reduced = max(1, channels // reduction)
        self.activation = activation
        self.init = init
        self.attend = nn.Conv2d(channels, 1, 1, device=device, dtype=dtype)
        self.fc1 = nn.Conv2d(channels, reduced, 1, device=device, dtype=dtype)
        self.norm = LayerNorm2d(reduced, device=device, dtype=dtype)
        self.fc2 = nn.Conv2d(reduced, channels, 1, device=device, dtype=dtype)
        if init == "identity":
            for parameter in self.fc2.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.attend(x).flatten(2).softmax(2)
        context = torch.bmm(x.flatten(2), weights.transpose(1, 2)).unsqueeze(3)
        return x + self.fc2(activate(self.norm(self.fc1(context)), self.activation))

    def extra_repr(self) -> str:
        return f"activation={self.activation}, init={self.init}"
