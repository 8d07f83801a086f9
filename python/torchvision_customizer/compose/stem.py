"""How a network begins."""

from __future__ import annotations

import torch
from torch import nn

from ..blocks._checks import check_positive
from ..layers import get_activation, get_normalization, get_pooling
from .piece import WrittenPiece

_POOL = (3, 2, 1)


class Stem(WrittenPiece):
    """A convolution, a norm, an activation and a pool, as ResNet begins.

    Args:
        channels: channels that it gives.
        in_channels: channels of the images; by default what stands to the left gives them, or they are 3.
        kernel: size of the convolution.
        stride: of the convolution.
        padding: of the convolution, by default ``kernel // 2``.
        activation: a name of :func:`~torchvision_customizer.layers.get_activation`, or None.
        norm: a name of :func:`~torchvision_customizer.layers.get_normalization`, or None. Without a norm the convolution has a
            bias.
        pool: a name of :func:`~torchvision_customizer.layers.get_pooling`, or None.
        pool_kernel: size of the pool.
        pool_stride: of the pool.
        pool_padding: of the pool.
        kernel_size: another name of ``kernel``.
        device: where the parameters are.
        dtype: their type.

    Shape:
        x (N, C, H, W), output (N, channels, H', W'); by default with a quarter of the height and width.

    Raises:
        ValueError: an argument has a value that it cannot have; the message names it.

    Source: He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
    """

    type_name = "conv"

    def __init__(
        self,
        channels: int,
        in_channels: int | None = None,
        kernel: int = 7,
        stride: int = 2,
        padding: int | None = None,
        activation: str | None = "relu",
        norm: str | None = "batch",
        pool: str | None = "max",
        pool_kernel: int = _POOL[0],
        pool_stride: int = _POOL[1],
        pool_padding: int = _POOL[2],
        kernel_size: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._keep(locals())
        if kernel_size is not None:
            if kernel not in (7, kernel_size):
                raise ValueError(f"Stem: kernel and kernel_size are one argument, got {kernel!r} and {kernel_size!r}")
            kernel = kernel_size
        in_channels = 3 if in_channels is None else in_channels
        counts = {"channels": channels, "in_channels": in_channels, "kernel": kernel, "stride": stride}
        for argument, value in counts.items():
            check_positive(type(self).__name__, argument, value)
        self.in_channels, self.out_channels = in_channels, channels
        self.conv = nn.Conv2d(
            in_channels, channels, kernel, stride, kernel // 2 if padding is None else padding, bias=norm in (None, "none")
        )
        self.norm = get_normalization(norm or "none", channels)
        self.activation = get_activation(activation or "none")
        if pool not in (None, "none"):
            self.pool = get_pooling(pool, kernel_size=pool_kernel, stride=pool_stride, padding=pool_padding)
        elif (pool_kernel, pool_stride, pool_padding) != _POOL:
            raise ValueError(f"Stem: pool_kernel, pool_stride and pool_padding are of a pool, and pool is {pool!r}")
        self._finish(device, dtype)

    def _again(self) -> Stem:
        return self._changed("pool_kernel", "pool_stride", "pool_padding", stride=1, pool=None)


class SimpleStem(Stem):
    """A convolution of size 3 that keeps height and width, a norm and an activation, for small images.

    Args:
        channels: channels that it gives.
        in_channels: channels of the images; by default what stands to the left gives them, or they are 3.
        activation: a name of :func:`~torchvision_customizer.layers.get_activation`, or None.
        norm: a name of :func:`~torchvision_customizer.layers.get_normalization`, or None.
        device: where the parameters are.
        dtype: their type.

    Shape:
        x (N, C, H, W), output (N, channels, H, W).
    """

    type_name = "simple"

    def __init__(
        self,
        channels: int,
        in_channels: int | None = None,
        activation: str | None = "relu",
        norm: str | None = "batch",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, in_channels, 3, 1, None, activation, norm, None, device=device, dtype=dtype)
        self._keep(locals())

    def _again(self) -> SimpleStem:
        return self._changed()


class PatchStem(WrittenPiece):
    """A convolution over patches that do not overlap, as a Vision Transformer begins; it gives a map, not tokens.

    Args:
        embed_dim: channels that it gives.
        patch_size: height and width of a patch.
        in_channels: channels of the images; by default what stands to the left gives them, or they are 3.
        device: where the parameters are.
        dtype: their type.

    Shape:
        x (N, C, H, W), output (N, embed_dim, H // patch_size, W // patch_size).

    Raises:
        ValueError: an argument is no integer of at least 1.

    Source: Dosovitskiy et al.: An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929
    """

    type_name = "patch"

    def __init__(
        self,
        embed_dim: int,
        patch_size: int = 16,
        in_channels: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._keep(locals())
        in_channels = 3 if in_channels is None else in_channels
        for argument, value in (("embed_dim", embed_dim), ("patch_size", patch_size), ("in_channels", in_channels)):
            check_positive("PatchStem", argument, value)
        self.in_channels, self.out_channels = in_channels, embed_dim
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, patch_size)
        self._finish(device, dtype)


STEMS = (Stem, PatchStem)
