"""Attention blocks of torchvision and timm, by the fused ops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from torch import Tensor, nn

from .. import ops
from ..blocks.attention import may_overwrite
from .kinds import Form, Fused, NotFusable, act_of, check_pointwise, fusable, gate_of


class FusedSqueezeExcitation(Fused):
    """Squeeze-and-excitation whose two layers are the 1×1 convolutions ``fc1`` and ``fc2``."""

    if TYPE_CHECKING:  # TorchScript would take these for attributes of its own
        fc1: nn.Conv2d
        fc2: nn.Conv2d
        fused_act: str
        fused_gate: str

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, post: str = "none", inplace: bool = False) -> Tensor:
        return ops.squeeze_excite(
            x,
            self.fc1.weight.flatten(1),
            self.fc1.bias,
            self.fc2.weight.flatten(1),
            self.fc2.bias,
            act=self.fused_act,
            gate=self.fused_gate,
            residual=residual,
            post=post,
            inplace=inplace and may_overwrite(),
        )


class FusedReduceExpand(Fused):
    """Squeeze-and-excitation whose two layers are the 1×1 convolutions ``conv_reduce`` and ``conv_expand``."""

    if TYPE_CHECKING:
        conv_reduce: nn.Conv2d
        conv_expand: nn.Conv2d
        fused_act: str
        fused_gate: str

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, post: str = "none", inplace: bool = False) -> Tensor:
        return ops.squeeze_excite(
            x,
            self.conv_reduce.weight.flatten(1),
            self.conv_reduce.bias,
            self.conv_expand.weight.flatten(1),
            self.conv_expand.bias,
            act=self.fused_act,
            gate=self.fused_gate,
            residual=residual,
            post=post,
            inplace=inplace and may_overwrite(),
        )


def _squeeze_excite(fused_class: type[Fused], block: nn.Module, layers: tuple[str, str], act: Any, gate: Any) -> Form:
    for name in layers:
        check_pointwise(getattr(block, name), name)
    return Form(fused_class, {"act": act_of(act), "gate": gate_of(gate)})


@fusable("torchvision.ops.misc.SqueezeExcitation")
def _torchvision_se(block: Any) -> Form:
    """In EfficientNet, MobileNetV3 and RegNetY."""
    if not (isinstance(block.avgpool, nn.AdaptiveAvgPool2d) and block.avgpool.output_size == 1):
        raise NotFusable(f"its pool is {block.avgpool}")
    return _squeeze_excite(FusedSqueezeExcitation, block, ("fc1", "fc2"), block.activation, block.scale_activation)


@fusable("timm.layers.squeeze_excite.SEModule")
def _timm_se(block: Any) -> Form:
    _refuse_max_pool(block)
    if type(block.bn) is not nn.Identity:
        raise NotFusable("it has a norm between its two layers")
    return _squeeze_excite(FusedSqueezeExcitation, block, ("fc1", "fc2"), block.act, block.gate)


@fusable("timm.models._efficientnet_blocks.SqueezeExcite")
def _timm_efficientnet_se(block: Any) -> Form:
    return _squeeze_excite(FusedReduceExpand, block, ("conv_reduce", "conv_expand"), block.act1, block.gate)


@fusable("timm.layers.squeeze_excite.EffectiveSEModule")
def _timm_effective_se(block: Any) -> Form:
    _refuse_max_pool(block)
    raise NotFusable("it has one layer of all channels by all channels, and the op has two")


def _refuse_max_pool(block: Any) -> None:
    if block.add_maxpool:
        raise NotFusable("it adds a max pool (add_maxpool=True), which the op has not")
