"""The blocks in plain PyTorch, as they are written without this package: what the fused ops are measured against.

They are written for speed, so that the comparison is fair: linear layers in place of 1×1 convolutions, the tail in place, and
all in the type of the activation. TorchScript and ``torch.compile`` take them as they are. The ops' references are something
else: they check their arguments, and round only where the kernels do, and both takes time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import CBAMBlock, DropPath, ECABlock, GeM, SEBlock
from ..blocks._parts import Residual
from ..ops._math import activate, gate_of


def _space(x: Tensor) -> list[int]:
    return [d for d in range(2, x.dim())]


def _over_space(scale: Tensor, x: Tensor) -> Tensor:
    return scale.view([x.size(0), x.size(1)] + [1] * (x.dim() - 2))


def _tail(y: Tensor, residual: Optional[Tensor], post: str) -> Tensor:
    """What follows in a residual block; ``y`` is new and may be overwritten."""
    if residual is not None:
        y += residual
    return y.relu_() if post == "relu" else activate(y, post)


class PlainSqueezeExcite(nn.Module):
    """Squeeze-and-excitation, with the addition and the activation that follow it in a residual block."""

    def __init__(
        self,
        w1: Tensor,
        b1: Tensor | None,
        w2: Tensor,
        b2: Tensor | None,
        act: str = "relu",
        gate: str = "sigmoid",
        post: str = "none",
    ) -> None:
        super().__init__()
        self.w1, self.w2 = _parameter(w1), _parameter(w2)
        self.b1, self.b2 = (None if b is None else _parameter(b) for b in (b1, b2))
        self.act, self.gate, self.post = act, gate, post

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        hidden = activate(F.linear(x.mean(_space(x)), self.w1, self.b1), self.act)
        scale = gate_of(F.linear(hidden, self.w2, self.b2), self.gate)
        return _tail(x * _over_space(scale, x), residual, self.post)


class PlainECA(nn.Module):
    """Efficient channel attention: a convolution over the channels' means."""

    def __init__(self, weight: Tensor, gate: str = "sigmoid", post: str = "none") -> None:
        super().__init__()
        self.weight = _parameter(weight)
        self.gate, self.post = gate, post

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        mean = x.mean(_space(x)).unsqueeze(1)
        scale = F.conv1d(mean, self.weight.view(1, 1, -1), padding=self.weight.numel() // 2)
        return _tail(x * _over_space(gate_of(scale.squeeze(1), self.gate), x), residual, self.post)


class PlainCBAM(nn.Module):
    """Channel attention, then attention over positions, with the norm of the latter where there is one."""

    def __init__(
        self,
        w1: Tensor,
        b1: Tensor | None,
        w2: Tensor,
        b2: Tensor | None,
        spatial_weight: Tensor,
        spatial_bias: Tensor | None,
        act: str = "relu",
        gate: str = "sigmoid",
        post: str = "none",
        spatial_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.spatial_norm = spatial_norm or nn.Identity()
        self.w1, self.w2, self.spatial_weight = _parameter(w1), _parameter(w2), _parameter(spatial_weight)
        self.b1, self.b2, self.spatial_bias = (None if b is None else _parameter(b) for b in (b1, b2, spatial_bias))
        self.act, self.gate, self.post = act, gate, post

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        # Both pooled vectors go through the layers as one batch.
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))])
        hidden = activate(F.linear(pooled, self.w1, self.b1), self.act)
        mean, largest = F.linear(hidden, self.w2, self.b2).chunk(2)
        y = x * gate_of(mean + largest, self.gate)[:, :, None, None]
        maps = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
        logits = F.conv2d(maps, self.spatial_weight, self.spatial_bias, padding=self.spatial_weight.size(2) // 2)
        return _tail(y * gate_of(self.spatial_norm(logits), self.gate), residual, self.post)


class PlainGeM(nn.Module):
    """Generalised-mean pooling with a learnable exponent."""

    def __init__(self, p: Tensor, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = _parameter(p)
        self.eps = eps

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        return x.clamp(min=self.eps).pow(self.p).mean(_space(x)).pow(1.0 / self.p)  # no residual: the output has no space


class PlainDropPath(nn.Module):
    """Stochastic depth for a mask that was drawn, with the addition that follows it."""

    def __init__(self, mask: Tensor, post: str = "none") -> None:
        super().__init__()
        self.mask = nn.Parameter(mask, requires_grad=False)
        self.post = post

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        return _tail(x * self.mask.view([x.size(0)] + [1] * (x.dim() - 1)), residual, self.post)


def _parameter(w: Tensor) -> nn.Parameter:
    return w if isinstance(w, nn.Parameter) else nn.Parameter(w)


def _plain_se(block: SEBlock) -> nn.Module:
    fc1, fc2 = block.fc1, block.fc2
    return PlainSqueezeExcite(fc1.weight, fc1.bias, fc2.weight, fc2.bias, block.activation, block.gate)


def _plain_eca(block: ECABlock) -> nn.Module:
    return PlainECA(block.conv.weight.detach().view(-1), block.gate)


def _plain_cbam(block: CBAMBlock) -> nn.Module:
    channel, spatial = block.channel, block.spatial
    fc1, fc2, conv = channel.fc1, channel.fc2, spatial.conv
    weights = (fc1.weight, fc1.bias, fc2.weight, fc2.bias, conv.weight, conv.bias)
    return PlainCBAM(*weights, channel.activation, channel.gate, spatial_norm=spatial.norm)


class _PlainGeMBlock(PlainGeM):
    """As the block: with the positions kept, unless it flattens."""

    def __init__(self, block: GeM) -> None:
        super().__init__(block.p, block.eps)
        self.flatten = block.flatten

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        pooled = x.clamp(min=self.eps).pow(self.p).mean(_space(x)).pow(1.0 / self.p)
        return pooled if self.flatten else _over_space(pooled, x)


class _PlainDropPathBlock(nn.Module):
    def __init__(self, block: DropPath) -> None:
        super().__init__()
        self.drop_prob, self.scale_by_keep = block.drop_prob, block.scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0.0:
            return x
        mask = torch.empty([x.size(0)] + [1] * (x.dim() - 1), dtype=x.dtype, device=x.device).bernoulli_(1 - self.drop_prob)
        return x * (mask.div_(1 - self.drop_prob) if self.scale_by_keep and self.drop_prob < 1.0 else mask)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
    "gelu": nn.GELU,
    "hardswish": lambda: nn.Hardswish(inplace=True),
}
#: How to write a block in plain PyTorch, by its class.
PLAIN_BLOCKS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    SEBlock: _plain_se,
    ECABlock: _plain_eca,
    CBAMBlock: _plain_cbam,
    GeM: _PlainGeMBlock,
    DropPath: _PlainDropPathBlock,
}


def plain_model(model: nn.Module) -> nn.Module:
    """A copy of a patched model, not fused, with every block of this package in plain PyTorch and the same weights."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        make = PLAIN_BLOCKS.get(type(module))
        if make is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make(module).train(module.training))
    for module in model.modules():
        if isinstance(module, Residual):
            _write_tail(module)
    return model


def _write_tail(block: Residual) -> None:
    """Let a composed block add and activate by itself, as one does whose attention takes no tail."""
    if block.drop_path_adds:
        block.attention = nn.Sequential(block.attention, block.drop_path)
    if block.post != "none":
        block.act = _ACTIVATIONS[block.post]()
    block.drop_path_adds = block.attention_adds = False
    block.post = "none"
