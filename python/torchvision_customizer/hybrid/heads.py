"""The last layer of a classifier: other classes, some of the old ones, hidden layers or dropout before it, or none at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .report import HeadChange, HeadLayer


class HeadLinear(nn.Linear):
    """A linear layer with hidden layers and dropout before it, whose own parameters keep the names that they have without.

    Each hidden layer is a linear one and a ReLU; dropout comes before every linear layer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = 0.0,
        hidden: Sequence[int] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden[-1] if hidden else in_features, out_features, bias, device=device, dtype=dtype)
        self.p = p
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Dropout(p), nn.Linear(in_features, width, device=device, dtype=dtype), nn.ReLU()]
            in_features = width
        self.hidden = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        input = self.hidden(input)
        return F.linear(F.dropout(input, self.p, self.training), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p:g}"


class HeadConv2d(nn.Conv2d):
    """A convolution with dropout before it, so that its parameters keep the names that they have without."""

    def __init__(self, *shape: Any, p: float = 0.0, **options: Any) -> None:
        super().__init__(*shape, **options)
        self.p = p

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p:g}"

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(F.dropout(input, self.p, self.training), self.weight, self.bias)


@dataclass(frozen=True)
class HeadSpec:
    """What a head is to be.

    Attributes:
        num_classes: None keeps the number; 0 gives features.
        dropout: probability of a dropout before the last layer.
        hidden: widths of hidden layers before it.
        keep_classes: indices of the old classes that go on, as the first of the new ones.
    """

    num_classes: int | None = None
    dropout: float = 0.0
    hidden: tuple[int, ...] = ()
    keep_classes: tuple[int, ...] = ()

    @classmethod
    def checked(
        cls,
        num_classes: int | None = None,
        dropout: float | None = None,
        hidden: Sequence[int] = (),
        keep_classes: Sequence[int] = (),
    ) -> HeadSpec:
        """The options of a head.

        Raises:
            ValueError: an option is out of range; the message says which are not.
        """
        if num_classes is not None and (not _is_integer(num_classes) or num_classes < 0):
            raise ValueError(
                f"num_classes must be an integer of at least 0, which gives features, or None, got {num_classes!r}"
            )
        dropout = 0.0 if dropout is None else dropout
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be a probability from 0 up to, not including, 1, got {dropout!r}")
        if not _are_integers(hidden) or not all(width > 0 for width in hidden):
            raise ValueError(f"hidden must be a list of the widths of layers, positive integers, got {hidden!r}")
        if not _are_integers(keep_classes) or min(keep_classes, default=0) < 0 or len({*keep_classes}) < len(keep_classes):
            raise ValueError(f"keep_classes must be a list of indices of classes, each once, got {keep_classes!r}")
        hidden, keep_classes = tuple(hidden), tuple(keep_classes)
        if num_classes == 0:
            for option, value in (("dropout", dropout), ("hidden", hidden), ("keep_classes", keep_classes)):
                if value:
                    raise ValueError(f"{option} is for the last layer, and with num_classes=0 there is none")
        if keep_classes and hidden:
            raise ValueError("keep_classes keeps rows of the old last layer, and behind hidden layers they mean nothing")
        if keep_classes and num_classes is not None and num_classes < len(keep_classes):
            raise ValueError(f"keep_classes names {len(keep_classes)} classes, and num_classes has room for {num_classes}")
        return cls(num_classes, dropout, hidden, keep_classes)

    @property
    def is_new(self) -> bool:
        """Whether the last layer of a file for the original need not fit."""
        return self.num_classes is not None or bool(self.hidden)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_integers(values: object) -> bool:
    return isinstance(values, Sequence) and all(map(_is_integer, values))


def change_head(model: nn.Module, paths: Sequence[str], spec: HeadSpec) -> HeadChange | None:
    """Change the last layers of a model in place; where the number of classes stays, so do its parameters.

    Args:
        paths: of the model's last layer, and of those of its auxiliary heads; linear layers or convolutions.
        spec: what they are to be.

    Returns:
        What was changed, or None where nothing was.

    Raises:
        ValueError: a class that is to be kept does not exist, or the last layer takes no hidden layers; nothing is changed.
    """
    changed = {}
    for path in paths:
        layer = model.get_submodule(path)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise ValueError(f"the last layer {path} is a {type(layer).__name__}, not a linear layer or a convolution")
        new = _new_layer(path, layer, spec)
        if new is not None:
            changed[path] = layer, new
    if not changed:
        return None
    for path, (layer, new) in changed.items():
        parent_path, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent_path), name, new.train(layer.training))
    layers = tuple(
        HeadLayer(path, _inputs(layer), _outputs(layer), layer.bias is not None) for path, (layer, _) in changed.items()
    )
    classes = _classes(layers[0].classes_before, spec)
    if isinstance(getattr(model, "num_classes", None), int):
        model.num_classes = classes  # type: ignore[assignment]
    return HeadChange(layers, classes, spec.dropout, spec.hidden, spec.keep_classes)


def _classes(before: int, spec: HeadSpec) -> int:
    if spec.num_classes is not None:
        return spec.num_classes
    return len(spec.keep_classes) or before


def _inputs(layer: nn.Linear | nn.Conv2d) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _outputs(layer: nn.Linear | nn.Conv2d) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _new_layer(path: str, layer: nn.Linear | nn.Conv2d, spec: HeadSpec) -> nn.Module | None:
    before = _outputs(layer)
    classes = _classes(before, spec)
    beyond = [index for index in spec.keep_classes if index >= before]
    if beyond:
        raise ValueError(f"keep_classes: {path} has {before} classes, counted from 0, and no {beyond[0]}")
    if classes == before and not spec.dropout and not spec.hidden and spec.keep_classes in ((), tuple(range(before))):
        return None
    if classes == 0:
        return nn.Identity()
    bias = layer.bias is not None
    options: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    new: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Linear):
        plain = not spec.dropout and not spec.hidden
        new = (
            nn.Linear(layer.in_features, classes, bias, **options)
            if plain
            else HeadLinear(layer.in_features, classes, bias, spec.dropout, spec.hidden, **options)
        )
    else:
        if spec.hidden:
            raise ValueError(f"hidden layers come before a linear layer, and the last layer {path} is a convolution")
        shape: Any = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, bias
        new = (
            HeadConv2d(layer.in_channels, classes, *shape, p=spec.dropout, **options)
            if spec.dropout
            else nn.Conv2d(layer.in_channels, classes, *shape, **options)
        )
    if spec.keep_classes:
        kept = len(spec.keep_classes)
        with torch.no_grad():
            new.weight[:kept] = layer.weight[list(spec.keep_classes)]
            if new.bias is not None and layer.bias is not None:
                new.bias[:kept] = layer.bias[list(spec.keep_classes)]
    elif classes == before and not spec.hidden:
        new._parameters.update(layer._parameters)
    return new
