"""Blocks and inputs from what the registry says of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchvision_customizer import registry

CHANNEL_PARAMETERS = ("channels", "in_channels", "out_channels", "dim", "num_features", "num_channels")


def parameters_of(name: str) -> dict:
    return registry.parameters_of(registry.get(name))


def make(name: str, **more) -> nn.Module:
    """The block ``name`` from its example; device and dtype only where it takes them."""
    info, accepted = registry.info(name), parameters_of(name)
    known = {key: info["example_shape"][1] for key in CHANNEL_PARAMETERS if key in accepted}
    more = {key: value for key, value in more.items() if key in accepted or key not in ("device", "dtype")}
    return registry.get(name)(**{**known, **info["example"], **more})


def batch(name: str, **options) -> Tensor:
    """A batch that the block takes."""
    return torch.randn(registry.info(name)["example_shape"], **options)


def run(block: nn.Module, x: Tensor) -> Tensor:
    """The block's output, the first where it has several."""
    out = block(x)
    return out[0] if isinstance(out, tuple) else out


def blocks_with(*parameters: str) -> list[str]:
    """The blocks whose constructors take all of ``parameters``."""
    return [name for name in registry.list() if {*parameters} <= {*parameters_of(name)}]
