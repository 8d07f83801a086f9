"""What convolutional blocks are made of: their parts by name, and the tail of a residual block."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor, nn

from .. import registry
from ..errors import nearest
from ._by_name import get_activation, get_normalization
from .attention import ACTIVATIONS
from .regularization import DropPath

Size = int | tuple[int, int]


def is_none(name: str | None) -> bool:
    return str(name).lower().strip() == "none"


def op_activation(name: str | None) -> str:
    """The name that the ops have for an activation, ``none`` where they have none."""
    known = registry.names("activation").get(str(name).lower().strip(), "none")
    return known if known in ACTIVATIONS else "none"


def same_padding(kernel_size: Size, dilation: Size = 1) -> Size:
    """The padding that keeps the size of an image, for an odd kernel and a stride of 1."""
    if isinstance(kernel_size, int) and isinstance(dilation, int):
        return dilation * (kernel_size - 1) // 2
    kernel = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    step = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    return step[0] * (kernel[0] - 1) // 2, step[1] * (kernel[1] - 1) // 2


def norm_type_of(block: str, switch: str, is_on: bool, norm_type: str | None) -> str:
    """The norm of a block that has a switch of version 2.1 for its batch norm and ``norm_type`` besides."""
    if norm_type is None:
        return "batch" if is_on else "none"
    if not is_on and not is_none(norm_type):
        raise ValueError(f"{block}: {switch}=False and norm_type={norm_type!r} contradict each other")
    return norm_type


def attention_of(block: str, use_se: bool, attention: str | None) -> str | None:
    """The attention of a block that has the switch ``use_se`` and ``attention`` besides."""
    if not use_se:
        return attention
    if attention is not None and registry.names("attention").get(attention) != "se":
        raise ValueError(f"{block}: use_se=True and attention={attention!r} contradict each other")
    return "se"


@dataclass(frozen=True)
class Parts:
    """Makes the parts of one block, all with the same norm, activation, device and type.

    Every method raises ``ValueError`` with the name of the block for what it does not know.
    """

    block: str
    activation: str | None
    norm_type: str
    device: torch.device | str | None
    dtype: torch.dtype | None

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 1,
        stride: Size = 1,
        padding: Size | str | None = None,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool | None = None,
    ) -> nn.Conv2d:
        """A convolution that a norm follows: it has a bias only where that is none, or where one is asked for."""
        return nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            same_padding(kernel_size, dilation) if padding is None else padding,
            dilation,
            groups,
            is_none(self.norm_type) if bias is None else bias,
            device=self.device,
            dtype=self.dtype,
        )

    def norm(self, channels: int) -> nn.Module:
        """The norm of images (N, C, H, W)."""
        try:
            norm = get_normalization(self.norm_type, channels, **self._place())
        except ValueError as error:
            raise ValueError(f"{self.block}: {error}") from None
        if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
            raise ValueError(
                f"{self.block}: norm_type '{self.norm_type}' is for tokens; layer_norm_2d and rms_norm_2d take images"
            )
        return norm

    def act(self, inplace: bool = True) -> nn.Module:
        """The activation, in place where it can be: what it is given comes out of a convolution, a norm or an addition."""
        try:
            act = get_activation(str(self.activation))
        except ValueError as error:
            raise ValueError(f"{self.block}: {error}") from None
        if hasattr(act, "inplace"):
            act.inplace = inplace  # type: ignore[assignment]
        return act

    def attention(self, name: str | None, channels: int, reduction: int, activation: str | None = None) -> nn.Module:
        """An attention of images, with ``reduction`` and ``activation`` where it has them, and the latter is one of its own."""
        if name is None or is_none(name):
            return nn.Identity()
        known = registry.names("attention")
        if name not in known or not _takes_images(known[name]):
            usable = {alias: block for alias, block in known.items() if _takes_images(block)}
            blocks = ", ".join(sorted({*usable.values()}))
            raise ValueError(f"{self.block}: unknown attention '{name}'{nearest(str(name), usable)} (known: {blocks})")
        block = registry.get(name)
        accepted = registry.parameters_of(block) or {}
        settings = {"channels": channels, "reduction": reduction, **self._place()}
        if (act := op_activation(activation)) != "none":
            settings["activation"] = act
        return block(**{key: value for key, value in settings.items() if key in accepted})

    def shortcut(self, in_channels: int, out_channels: int, stride: int, always: bool = False) -> nn.Module:
        """The identity, or, where the shape changes, a 1×1 convolution and a norm."""
        if stride == 1 and in_channels == out_channels and not always:
            return nn.Identity()
        return nn.Sequential(self.conv(in_channels, out_channels, 1, stride), self.norm(out_channels))

    def _place(self) -> dict[str, object]:
        return {"device": self.device, "dtype": self.dtype}


def _takes_images(attention: str) -> bool:
    accepted = registry.parameters_of(registry.get(attention)) or {}
    return {key for key, parameter in accepted.items() if parameter.default is parameter.empty} <= {"channels"}


class Residual(nn.Module):
    """Base of the blocks that add: ``act(drop_path(attention(branch)) + identity)``.

    Where there is an attention or a drop path whose op takes the addition, it takes the activation, too, if it knows it: the
    branch is then read once. Such an activation is no module of the block; its name is ``post``.
    """

    __constants__: tuple[str, ...] = ("attention_adds", "drop_path_adds")  # TorchScript compiles only the branch that is taken

    def make_tail(self, parts: Parts, attention: nn.Module, drop_path: float, adds: bool = True) -> None:
        """Make ``attention``, ``drop_path`` and ``act``; ``adds`` says whether there is anything that is added."""
        self.attention = attention
        dropping = DropPath(drop_path)
        self.drop_path = dropping if adds and drop_path else nn.Identity()
        self.drop_path_adds = isinstance(self.drop_path, DropPath)
        self.attention_adds = not self.drop_path_adds and takes_tail(attention)
        self.act = parts.act()
        self.post = "none"
        if self.drop_path_adds or self.attention_adds:
            self.post = op_activation(parts.activation)
            self.act = nn.Identity() if self.post != "none" else self.act

    def tail(self, branch: Tensor, identity: Optional[Tensor]) -> Tensor:
        if self.drop_path_adds:
            y = self.drop_path(self.attention(branch), identity, self.post, inplace=True)
        elif self.attention_adds:
            y = self.attention(branch, identity, self.post, inplace=True)
        else:
            y = self.attention(branch)
            if identity is not None:
                y = y + identity
        return self.act(y)

    def extra_repr(self) -> str:
        return "" if self.post == "none" else f"post={self.post}"


def takes_tail(module: nn.Module) -> bool:
    """Whether a block takes the tail of a residual block: ``forward(x, residual=None, post="none", inplace=False)``."""
    return [*inspect.signature(type(module).forward).parameters][1:5] == ["x", "residual", "post", "inplace"]
