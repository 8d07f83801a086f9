"""timm's modules with the weights of a case, each with the addition and the activation that follow it in a residual block."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Optional

import torch
from torch import Tensor, nn

from .plain import _tail
from .suite import DROP_PROB, TOKENS, Case, Entry


@functools.cache
def timm() -> ModuleType:
    """The library, with torchvision imported first: timm imports it, and it may need help (``_torchvision.py``)."""
    import timm

    from .. import _torchvision  # noqa: F401

    return timm


class TimmBlock(nn.Module):
    """``post(module(x) + residual)``.

    Attributes:
        op_arguments: for each weight of the op the parameter of ``module`` that has its values, in a shape of its own.
    """

    def __init__(self, module: nn.Module, post: str, op_arguments: Mapping[str, str]) -> None:
        super().__init__()
        self.module, self.post = module, post
        self.op_arguments = dict(op_arguments)

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        return _tail(self.module(x), residual, self.post)


def reason_without(case: Case, entry: Entry) -> str | None:
    """Why timm has no module to compare with, or None where it has."""
    if entry.op not in _MODULES:
        return "timm has no such module"
    if importlib.util.find_spec("timm") is None:
        return "timm is not installed: pip install timm"
    return "timm's module takes maps only" if case.layout == TOKENS and entry.op != "drop_path" else None


def timm_block(entry: Entry, weights: Mapping[str, Tensor]) -> TimmBlock:
    """timm's module with the weights of an op, in eval mode but where it would do nothing there.

    Args:
        entry: whose op there is a module for.
        weights: the tensor arguments of the op.
    """
    timm()
    module, arguments = _MODULES[entry.op](weights)
    block = TimmBlock(module, entry.options.get("post", "none"), arguments)
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for argument, name in arguments.items():
            parameters[name].copy_(weights[argument].view(parameters[name].shape))
    return block


def _squeeze_excite(weights: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, str]]:
    from timm.layers.squeeze_excite import SEModule

    reduced, channels = weights["w1"].shape
    module = SEModule(channels, rd_channels=reduced).eval()
    return module, {"w1": "fc1.weight", "b1": "fc1.bias", "w2": "fc2.weight", "b2": "fc2.bias"}


def _eca(weights: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, str]]:
    from timm.layers.eca import EcaModule

    return EcaModule(kernel_size=weights["weight"].numel()).eval(), {"weight": "conv.weight"}


def _cbam(weights: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, str]]:
    from timm.layers.cbam import CbamModule

    reduced, channels = weights["w1"].shape
    kernel = weights["spatial_weight"].size(2)
    module: Any = CbamModule(channels, rd_channels=reduced, spatial_kernel_size=kernel, mlp_bias=True).eval()
    norm = module.spatial.conv.bn
    nn.init.constant_(norm.weight, (1 + norm.eps) ** 0.5)  # a norm that only adds its bias
    names = {"w1": "fc1.weight", "b1": "fc1.bias", "w2": "fc2.weight", "b2": "fc2.bias"}
    arguments = {argument: f"channel.{name}" for argument, name in names.items()}
    return module, {**arguments, "spatial_weight": "spatial.conv.conv.weight", "spatial_bias": "spatial.conv.bn.bias"}


def _drop_path(weights: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, str]]:
    from timm.layers.drop import DropPath

    return DropPath(DROP_PROB), {}  # draws its mask itself, in training


_MODULES: dict[str, Callable[[Mapping[str, Tensor]], tuple[nn.Module, dict[str, str]]]] = {
    "squeeze_excite": _squeeze_excite,
    "eca": _eca,
    "cbam": _cbam,
    "drop_path": _drop_path,
}


def seed_that_keeps_all(block: TimmBlock, x: Tensor) -> int:
    """A seed after which timm's DropPath drops no sample of ``x``: the masks of the suite's cases drop none either."""
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.no_grad():
        for seed in range(100_000):
            torch.manual_seed(seed)
            if bool((block.module(torch.ones_like(x[:, :1, :1])) != 0).all()):
                return seed
    raise RuntimeError(f"no seed keeps all of {len(x)} samples")
