"""The last layer of a classifier: another number of classes, dropout before it, or none at all."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .report import HeadChange


class DropoutLinear(nn.Linear):
    """A linear layer with dropout before it, so that its parameters keep the names that they have without."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(F.dropout(input, self.p, self.training), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p:g}"


def check_head(num_classes: int | None, dropout: float | None) -> float:
    """Check the options of a head, and return the dropout as a number.

    Raises:
        ValueError: an option is out of range; the message says which are not.
    """
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 0):
        raise ValueError(f"num_classes must be an integer of at least 0, which gives features, or None, got {num_classes!r}")
    dropout = dropout or 0.0
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be a probability from 0 up to, not including, 1, got {dropout!r}")
    if dropout and num_classes == 0:
        raise ValueError("dropout stands before the last layer, and with num_classes=0 there is none")
    return dropout


def change_head(model: nn.Module, path: str, num_classes: int | None, dropout: float) -> HeadChange | None:
    """Change the last layer of a model in place; where the number of classes stays, so do its parameters.

    Args:
        path: of the last layer, a linear one.
        num_classes: None keeps the number; 0 puts an identity in the layer's place.
        dropout: probability of the dropout before the layer.

    Returns:
        What was changed, or None where nothing was.
    """
    parent_path, _, name = path.rpartition(".")
    layer = cast(nn.Linear, model.get_submodule(path))
    classes = layer.out_features if num_classes is None else num_classes
    if classes == layer.out_features and not dropout:
        return None
    has_bias = layer.bias is not None
    device, dtype = layer.weight.device, layer.weight.dtype
    new: nn.Module
    if classes == 0:
        new = nn.Identity()
    elif dropout:
        new = DropoutLinear(layer.in_features, classes, has_bias, dropout, device=device, dtype=dtype)
    else:
        new = nn.Linear(layer.in_features, classes, has_bias, device=device, dtype=dtype)
    if classes == layer.out_features:
        new._parameters.update(layer._parameters)
    setattr(model.get_submodule(parent_path), name, new.train(layer.training))
    return HeadChange(path, layer.in_features, layer.out_features, classes, has_bias, dropout)
