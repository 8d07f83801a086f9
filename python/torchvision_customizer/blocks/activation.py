"""Activations: torch's own classes, under names that a patch can say."""

from __future__ import annotations

import torch
from torch import nn

from ..registry import register

for _name, _block, _aliases, _paper in (
    ("relu", nn.ReLU, (), None),
    ("relu6", nn.ReLU6, (), None),
    ("leaky_relu", nn.LeakyReLU, (), None),
    ("rrelu", nn.RReLU, (), "https://arxiv.org/abs/1505.00853"),
    ("elu", nn.ELU, (), "https://arxiv.org/abs/1511.07289"),
    ("selu", nn.SELU, (), "https://arxiv.org/abs/1706.02515"),
    ("celu", nn.CELU, (), "https://arxiv.org/abs/1704.07483"),
    ("gelu", nn.GELU, (), "https://arxiv.org/abs/1606.08415"),
    ("silu", nn.SiLU, ("swish",), "https://arxiv.org/abs/1710.05941"),
    ("mish", nn.Mish, (), "https://arxiv.org/abs/1908.08681"),
    ("hardswish", nn.Hardswish, ("hard_swish",), "https://arxiv.org/abs/1905.02244"),
    ("hardsigmoid", nn.Hardsigmoid, ("hard_sigmoid",), None),
    ("hardtanh", nn.Hardtanh, ("hard_tanh",), None),
    ("sigmoid", nn.Sigmoid, (), None),
    ("tanh", nn.Tanh, (), None),
    ("softplus", nn.Softplus, (), None),
    ("softsign", nn.Softsign, (), None),
    ("tanhshrink", nn.Tanhshrink, (), None),
    ("hardshrink", nn.Hardshrink, ("hard_shrink",), None),
    ("softshrink", nn.Softshrink, ("soft_shrink",), None),
    ("log_sigmoid", nn.LogSigmoid, ("logsigmoid",), None),
):
    register(_name, "activation", _aliases, paper=_paper)(_block)

register("identity", "other")(nn.Identity)


@register("prelu", "activation", paper="https://arxiv.org/abs/1502.01852")
class PReLU(nn.PReLU):
    """ReLU with a learnt slope for negative values.

    torch's own, but that the slope it starts with is called ``slope``: ``init`` says here how a block starts.

    Args:
        num_parameters: 1, or a slope for each channel of (N, C, *).
        slope: where they start.
        device: where they are made.
        dtype: their type.

    Shape:
        x (N, C, *), output the same.

    Source: He, Zhang, Ren, Sun: Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852
    """

    def __init__(
        self,
        num_parameters: int = 1,
        slope: float = 0.25,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_parameters, slope, device=device, dtype=dtype)


@register("threshold", "activation")
class Threshold(nn.Threshold):
    """Values up to a threshold are replaced; torch's own, but that its numbers have a default: that of ReLU.

    Args:
        threshold: what is above it stays.
        value: in the place of what does not.
        inplace: overwrite the input.

    Shape:
        x (*), output the same.
    """

    def __init__(self, threshold: float = 0.0, value: float = 0.0, inplace: bool = False) -> None:
        super().__init__(threshold, value, inplace)
