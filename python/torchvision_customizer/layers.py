"""Activations, norms and pools by name; without a name to look up, ``registry.get`` does the same for every block."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from . import registry
from .errors import nearest

# Short names of version 2.1, and "none" for each.
_NORMS = {"batch": "batch_norm", "group": "group_norm", "instance": "instance_norm", "layer": "layer_norm_2d"}
_POOLS = {"avg": "avg_pool", "max": "max_pool", "adaptive_avg": "adaptive_avg_pool", "adaptive_max": "adaptive_max_pool"}


def get_activation(name: str, **params: Any) -> nn.Module:
    """An activation.

    Args:
        name: ``relu``, ``gelu``, ``swish`` … (``registry.list("activation")``, their aliases, or ``none``); case does not count.
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
    return _make("norm", norm_type, _NORMS, params, num_channels)


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
    """
    given = {"kernel_size": kernel_size, "stride": stride, "output_size": output_size}
    return _make("pooling", pool_type, _POOLS, {**params, **{key: size for key, size in given.items() if size is not None}})


def _make(
    category: str, name: str, short: dict[str, str], params: dict[str, Any], num_channels: int | None = None
) -> nn.Module:
    allowed = {**{alias: alias for alias in ("none", *short)}, **_names(category)}
    found = {key.lower(): block for key, block in allowed.items()}.get(str(name).lower().strip())
    if found is None:
        known = ", ".join(sorted({"none", *short, *registry.list(category)}))
        kind = {"activation": "activation", "norm": "norm", "pooling": "pool"}[category]
        raise ValueError(f"unknown {kind} '{name}'{nearest(str(name), allowed)} (known: {known})")
    if found == "none":
        return nn.Identity()
    block = short.get(found, found)
    registry.check_parameters(block, params)
    accepted = registry.parameters_of(registry.get(block)) or {}
    for key, default in (
        ("num_features", num_channels),
        ("num_channels", num_channels),
        ("normalized_shape", num_channels),
        ("kernel_size", 2),
        ("output_size", 1),
    ):
        if key in accepted and accepted[key].default is accepted[key].empty and default is not None:
            params = {key: default, **params}
    return cast(nn.Module, registry.get(block)(**params))


def _names(category: str) -> dict[str, str]:
    """Every name of a category's blocks, aliases among them, and the name it stands for."""
    infos = [registry.info(name) for name in registry.list(category)]
    return {alias: info["name"] for info in infos for alias in (info["name"], *info["aliases"])}
