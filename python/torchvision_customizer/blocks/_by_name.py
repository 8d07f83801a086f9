"""Activations, norms and pools by name, their short names of version 2.1 among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from .. import registry
from ..errors import nearest

# Short names of version 2.1, and "none" for each.
_SHORT = {
    "norm": {"batch": "batch_norm", "group": "group_norm", "instance": "instance_norm", "layer": "layer_norm_2d"},
    "pooling": {"avg": "avg_pool", "max": "max_pool", "adaptive_avg": "adaptive_avg_pool", "adaptive_max": "adaptive_max_pool"},
}


def get_activation(name: str, **params: Any) -> nn.Module:
    """An activation.

    Args:
        name: of ``registry.list("activation")``, an alias (``swish``), or ``none``; case does not count.
        **params: arguments of the activation.

    Raises:
        ValueError: unknown name or argument, with the nearest one.
    """
    return _make("activation", name, {}, params)


def get_normalization(norm_type: str, num_channels: int, **params: Any) -> nn.Module:
    """A norm of (N, C, *).

    Args:
        norm_type: ``batch``, ``group``, ``instance``, ``layer`` (over the channels of each position), ``none``, or a name of
            ``registry.list("norm")``; case does not count.
        num_channels: channels C. For ``layer_norm`` and ``rms_norm``, which are for tokens, the size of the last dimension.
        **params: arguments of the norm.

    Raises:
        ValueError: unknown name or argument, with the nearest one.
    """
    channels = dict.fromkeys(("num_features", "num_channels", "normalized_shape"), num_channels)
    return _make("norm", norm_type, channels, params)


def get_pooling(
    pool_type: str,
    kernel_size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    output_size: int | tuple[int, int] | None = None,
    **params: Any,
) -> nn.Module:
    """A pool of (N, C, H, W).

    Args:
        pool_type: ``max``, ``avg``, ``adaptive_max``, ``adaptive_avg``, ``none``, or a name of ``registry.list("pooling")``;
            case does not count.
        kernel_size: of a pool that has one, by default 2.
        stride: of such a pool, by default its own default; that of torch's pools is ``kernel_size``.
        output_size: of an adaptive pool, by default 1.
        **params: further arguments of the pool.

    Raises:
        ValueError: unknown name or argument, with the nearest one.
        TypeError: an argument that has no default is missing.
    """
    sizes = {"kernel_size": kernel_size, "stride": stride, "output_size": output_size}
    params |= {key: size for key, size in sizes.items() if size is not None}
    return _make("pooling", pool_type, {"kernel_size": 2, "output_size": 1}, params)


def block_name(category: str, name: str) -> str:
    """The registered name of what the functions above call ``name``; ``identity`` for ``none``.

    Raises:
        ValueError: unknown name, with the nearest one.
    """
    short = _SHORT.get(category, {})
    allowed = {"none": "identity", **short, **registry.names(category)}
    block = {key.lower(): block for key, block in allowed.items()}.get(str(name).lower().strip())
    if block is None:
        known = ", ".join(sorted({"none", *short, *registry.list(category)}))
        raise ValueError(f"unknown {category} '{name}'{nearest(str(name), allowed)} (known: {known})")
    return block


def _make(category: str, name: str, defaults: Mapping[str, Any], params: Mapping[str, Any]) -> nn.Module:
    """The block ``name`` of a category, or the identity; ``defaults`` are for parameters that have none of their own."""
    block = block_name(category, name)
    if block == "identity":
        return nn.Identity()
    registry.check_parameters(block, params)
    accepted = registry.parameters_of(registry.get(block)) or {}
    needed = {key: value for key, value in defaults.items() if key in accepted and accepted[key].default is accepted[key].empty}
    return cast(nn.Module, registry.get(block)(**{**needed, **params}))
