"""Attention blocks of torchvision and timm, by the fused ops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from torch import Tensor, nn

from .. import ops
from ..blocks.attention import folded_spatial_gate, may_overwrite
from ..ops.cbam import cbam_apply, cbam_channels
from .kinds import Form, Fused, NotFusable, act_of, check_pointwise, fusable, gate_of
from .norms import NormFolded


class FusedSqueezeExcitation(Fused):
    """Squeeze-and-excitation whose two layers are the 1×1 convolutions ``fc1`` and ``fc2``."""

    if TYPE_CHECKING:  # TorchScript would take these for attributes of its own
        fc1: nn.Conv2d
        fc2: nn.Conv2d
        fused_act: str
        fused_gate: str
        fused_overwrites: bool

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
            inplace=(inplace or self.fused_overwrites) and may_overwrite(),
        )


class FusedReduceExpand(Fused):
    """Squeeze-and-excitation whose two layers are the 1×1 convolutions ``conv_reduce`` and ``conv_expand``."""

    if TYPE_CHECKING:
        conv_reduce: nn.Conv2d
        conv_expand: nn.Conv2d
        fused_act: str
        fused_gate: str
        fused_overwrites: bool

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
            inplace=(inplace or self.fused_overwrites) and may_overwrite(),
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


class FusedEca(Fused):
    """Efficient channel attention with the 1-D convolution ``conv``."""

    if TYPE_CHECKING:
        conv: nn.Conv1d
        fused_gate: str
        fused_overwrites: bool

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, post: str = "none", inplace: bool = False) -> Tensor:
        return ops.eca(
            x,
            self.conv.weight.flatten(),
            gate=self.fused_gate,
            residual=residual,
            post=post,
            inplace=(inplace or self.fused_overwrites) and may_overwrite(),
        )


@fusable("timm.layers.eca.EcaModule")
def _timm_eca(block: Any) -> Form:
    conv = block.conv
    if block.conv2 is not None or type(conv) is not nn.Conv1d:
        raise NotFusable("it is no single Conv1d (use_mlp=True)")
    (size,) = conv.kernel_size
    if conv.in_channels != 1 or conv.out_channels != 1 or conv.bias is not None or conv.padding != (size // 2,):
        raise NotFusable("its convolution has channels or a bias of its own")
    return Form(FusedEca, {"gate": gate_of(block.gate)})


class FusedCbam(Fused):
    """CBAM as timm has it: ``channel`` with ``fc1`` and ``fc2``, ``spatial.conv`` with ``conv`` and the norm ``bn``."""

    if TYPE_CHECKING:
        channel: Any
        spatial: Any
        fused_act: str
        fused_gate: str
        fused_overwrites: bool
        fused_eps: float

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, post: str = "none", inplace: bool = False) -> Tensor:
        fc1, fc2, conv, norm = self.channel.fc1, self.channel.fc2, self.spatial.conv.conv, self.spatial.conv.bn
        w1, w2 = fc1.weight.flatten(1), fc2.weight.flatten(1)
        if norm.training:
            scale, maps = cbam_channels(x, w1, fc1.bias, w2, fc2.bias, act=self.fused_act, gate=self.fused_gate)
            logits = self.spatial.conv(maps.to(conv.weight.dtype))  # TorchScript calls modules by their full names
            return cbam_apply(x, scale, logits, self.fused_gate, residual, post)
        weight, bias = folded_spatial_gate(
            conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var, self.fused_eps
        )
        return ops.cbam(
            x,
            w1,
            fc1.bias,
            w2,
            fc2.bias,
            weight,
            bias,
            act=self.fused_act,
            gate=self.fused_gate,
            residual=residual,
            post=post,
            inplace=(inplace or self.fused_overwrites) and may_overwrite(),
        )


class FusedFoldedCbam(Fused):
    """The same where the norm is folded into the convolution."""

    if TYPE_CHECKING:
        channel: Any
        spatial: Any
        fused_act: str
        fused_gate: str
        fused_overwrites: bool

    def forward(self, x: Tensor, residual: Optional[Tensor] = None, post: str = "none", inplace: bool = False) -> Tensor:
        fc1, fc2, conv = self.channel.fc1, self.channel.fc2, self.spatial.conv.conv
        return ops.cbam(
            x,
            fc1.weight.flatten(1),
            fc1.bias,
            fc2.weight.flatten(1),
            fc2.bias,
            conv.weight,
            conv.bias,
            act=self.fused_act,
            gate=self.fused_gate,
            residual=residual,
            post=post,
            inplace=(inplace or self.fused_overwrites) and may_overwrite(),
        )


@fusable("timm.layers.cbam.CbamModule")
def _timm_cbam(block: Any) -> Form:
    channel, spatial = block.channel, block.spatial
    for name in ("fc1", "fc2"):
        check_pointwise(getattr(channel, name), name)
    act, gate = act_of(channel.act), gate_of(channel.gate)
    if gate_of(spatial.gate) != gate:
        raise NotFusable("its gates of channels and of positions are not the same, and the op has one")
    conv, norm = spatial.conv.conv, spatial.conv.bn
    (size, other), convolution = conv.kernel_size, spatial.conv
    if type(conv) is not nn.Conv2d or size != other or conv.padding != (size // 2, size // 2) or conv.stride != (1, 1):
        raise NotFusable("its spatial gate is no plain Conv2d that keeps the size")
    if not isinstance(convolution.aa, nn.Identity | None):
        raise NotFusable("its spatial gate has a pool")
    if act_of(norm.act, "the activation of its spatial gate") != "none":
        raise NotFusable("its spatial gate has an activation")
    options = {"act": act, "gate": gate}
    if isinstance(norm, NormFolded):
        return Form(FusedFoldedCbam, options)
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
        raise NotFusable("its spatial gate has no batch norm with running statistics")
    return Form(FusedCbam, {**options, "eps": norm.eps})
