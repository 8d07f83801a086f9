"""Attention beyond that of the fused ops, against timm and torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchvision_customizer import layers
from torchvision_customizer._torchvision import models  # noqa: F401  (timm imports torchvision)
from torchvision_customizer.blocks import (
    AttentionBlock,
    CBAMBlock,
    ChannelSpatialAttention,
    CoordinateAttention,
    EffectiveSE,
    GatherExcite,
    GlobalContext,
    MultiHeadAttention,
    SEBlock,
    SqueezeExcitation,
)

X = torch.randn(2, 32, 6, 7, generator=torch.Generator().manual_seed(1))


def same_as_timm(block, other):
    """Whether a block computes what timm's does with the same tensors, in the same order."""
    theirs = other.state_dict()
    mine = block.state_dict()
    assert len(mine) == len(theirs)
    for tensor in theirs.values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.1, 0.5)
    block.load_state_dict({key: value.view(mine[key].shape) for key, value in zip(mine, theirs.values(), strict=True)})
    x = X.double()
    torch.testing.assert_close(block.double().eval()(x), other.double().eval()(x))


@pytest.fixture
def timm():
    return pytest.importorskip("timm.layers")


def test_effective_se_is_timm_s(timm):
    same_as_timm(EffectiveSE(32), timm.EffectiveSEModule(32))
    same_as_timm(EffectiveSE(32, gate="sigmoid"), timm.EffectiveSEModule(32, gate_layer="sigmoid"))


@pytest.mark.parametrize("extent", [0, 2, 4])
@pytest.mark.parametrize("use_mlp", [True, False])
def test_gather_excite_is_timm_s(timm, extent, use_mlp):
    other = timm.GatherExcite(32, extent=extent, use_mlp=False)
    if not use_mlp:
        torch.testing.assert_close(GatherExcite(32, extent, use_mlp=False)(X), other(X))
        return
    other.mlp = timm.ConvMlp(32, 8)  # timm 1.0 cannot make it by itself
    same_as_timm(GatherExcite(32, extent, 4), other)


def test_global_context_is_timm_s(timm):
    block = GlobalContext(32, 4)
    block.norm.eps = 1e-6
    same_as_timm(block, timm.GlobalContext(32, fuse_add=True, fuse_scale=False, rd_ratio=1 / 4))


def test_coordinate_attention_is_timm_s(timm):
    coord_attn = pytest.importorskip("timm.layers.coord_attn").CoordAttn
    block = CoordinateAttention(32, 4)
    block.rows, block.columns = (nn.Conv2d(8, 32, 1, bias=False) for _ in range(2))
    same_as_timm(block, coord_attn(32, rd_channels=8))


def test_coordinate_attention_tells_rows_from_columns():
    block = CoordinateAttention(4, gate="two_sigmoid", init="identity")
    nn.init.ones_(block.rows.weight)
    x = torch.rand(2, 4, 5, 6)
    ratio = block.eval()(x) / x
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio))
    assert ratio.std(2).max() > 0


class TestSqueezeExcitation:
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize(("gate", "function"), [("sigmoid", torch.sigmoid), ("hardsigmoid", F.hardsigmoid)])
    def test_with_a_norm(self, training, gate, function):
        block = SqueezeExcitation(32, 4, "swish", gate, True).train(training)
        nn.init.uniform_(block.bn.running_var, 0.5, 1.5)
        mean = X.mean((2, 3))
        hidden = F.batch_norm(
            F.linear(mean, block.fc1.weight), block.bn.running_mean.clone(), block.bn.running_var.clone(), training=training
        )
        expected = X * function(block.fc2(F.silu(hidden)))[:, :, None, None]
        assert block.fc1.bias is None
        torch.testing.assert_close(block(X), expected)

    def test_without_one_it_is_se(self):
        block, se = SqueezeExcitation(32, 4, "gelu"), SEBlock(32, 4, "gelu")
        se.load_state_dict(block.state_dict())
        assert torch.equal(block(X), se(X))

    def test_the_tail_with_a_norm(self):
        block = SqueezeExcitation(32, use_bn=True).eval()
        torch.testing.assert_close(block(X, X, "relu"), torch.relu(block(X) + X))
        x = torch.jit.script(block)(X, X, "relu")
        assert torch.equal(x, block(X, X, "relu"))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"activation": "geluu"}, ["activation", "did you mean 'gelu'?"]),
            ({"gate_activation": "sigmod"}, ["gate_activation", "did you mean 'sigmoid'?"]),
            ({"gate_activation": "sigmoid", "init": "identity"}, ["gate", "two_sigmoid"]),
            ({"reduction": 0}, ["reduction", "at least 1"]),
        ],
    )
    def test_errors(self, arguments, words):
        with pytest.raises(ValueError) as error:
            SqueezeExcitation(32, **arguments)
        assert all(word in str(error.value) for word in ["SqueezeExcitation", *words])


class TestMultiHeadAttention:
    @pytest.mark.parametrize("batch_first", [True, False])
    @pytest.mark.parametrize("bias", [True, False])
    def test_is_torch_s(self, batch_first, bias):
        """Defect 31: with batch_first=False, (5, 2, 16) came out as (2, 5, 16)."""
        block = MultiHeadAttention(16, 4, bias=bias, batch_first=batch_first)
        other = nn.MultiheadAttention(16, 4, bias=bias, batch_first=batch_first)
        projections = (block.q_proj, block.k_proj, block.v_proj)
        other.in_proj_weight.data = torch.cat([layer.weight for layer in projections])
        other.out_proj.weight.data = block.out_proj.weight.data
        if bias:
            other.in_proj_bias.data = torch.cat([layer.bias for layer in projections])
            other.out_proj.bias.data = block.out_proj.bias.data
        query, key, value = torch.randn(5, 2, 16), torch.randn(3, 2, 16), torch.randn(3, 2, 16)
        if batch_first:
            query, key, value = (tokens.transpose(0, 1) for tokens in (query, key, value))
        out, weights = block(query, key, value)
        expected, expected_weights = other(query, key, value, average_attn_weights=False)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(weights, expected_weights)
        assert out.shape == query.shape and weights.shape == (2, 4, 5, 3)
        fast, none = block(query, key, value, need_weights=False)
        torch.testing.assert_close(fast, expected)
        assert none is None

    @pytest.mark.parametrize("need_weights", [True, False])
    def test_a_mask(self, need_weights):
        block, x = MultiHeadAttention(16, 4), torch.randn(2, 5, 16)
        seen = block(x, attention_mask=torch.tensor([1, 1, 1, 0, 0]), need_weights=need_weights)[0]
        torch.testing.assert_close(seen, block(x, x[:, :3], x[:, :3])[0])

    def test_dropout(self):
        block, x = MultiHeadAttention(16, 4, dropout=0.5), torch.randn(2, 50, 16)
        assert 0.4 < block(x)[1].eq(0).float().mean() < 0.6
        assert block.eval()(x)[1].ne(0).all()

    @pytest.mark.parametrize("arguments", [(16, 3), (0, 1), (16, 0), (16, 4, 1.5)])
    def test_errors(self, arguments):
        with pytest.raises(ValueError, match="MultiHeadAttention"):
            MultiHeadAttention(*arguments)


class TestUnderOldNames:
    def test_channel_spatial_attention_is_cbam(self):
        block, cbam = ChannelSpatialAttention(32, channel_reduction=4, spatial_kernel=3), CBAMBlock(32, 4, 3)
        cbam.load_state_dict(block.state_dict())
        assert torch.equal(block(X), cbam(X))
        with pytest.raises(ValueError, match="must be an odd integer of at least 1, got 4"):
            ChannelSpatialAttention(32, spatial_kernel=4)

    @pytest.mark.parametrize("uses", [(True, True, False), (False, True, True), (True, False, False), (False, False, True)])
    def test_attention_block_is_its_parts(self, uses):
        block = AttentionBlock(32, *uses, 4, 5)
        y = X
        if uses[0]:
            assert block.channel.fc1.out_features == 8
            y = block.channel(y)
        if uses[1]:
            assert block.spatial.conv.kernel_size == (5, 5)
            y = block.spatial(y)
        if uses[2]:
            y = y * torch.sigmoid(block.cross.conv2(torch.relu(block.cross.conv1(y))))
        torch.testing.assert_close(block(X), y)
        identity = AttentionBlock(32, *uses, init="identity")
        assert torch.equal(identity(X), X)

    def test_an_attention_block_of_nothing(self):
        with pytest.raises(ValueError, match="AttentionBlock: one of"):
            AttentionBlock(8, False, False)

    def test_layers_has_them(self):
        for name in ("AttentionBlock", "ChannelAttention", "ChannelSpatialAttention", "MultiHeadAttention", "SpatialAttention"):
            assert name in layers.__all__ and callable(getattr(layers, name))


@pytest.mark.parametrize(
    ("block", "arguments", "words"),
    [
        (EffectiveSE, {"channels": 0}, ["EffectiveSE", "channels"]),
        (EffectiveSE, {"channels": 8, "gate": "hardsigmoid"}, ["EffectiveSE", "gate", "did you mean 'hard_sigmoid'?"]),
        (GatherExcite, {"channels": 8, "extent": 3}, ["GatherExcite", "even", "3"]),
        (GatherExcite, {"channels": 8, "init": "identity", "use_mlp": False}, ["GatherExcite", "use_mlp=True"]),
        (GlobalContext, {"channels": 8, "init": "papper"}, ["GlobalContext", "did you mean 'paper'?"]),
        (GlobalContext, {"channels": 8, "activation": "mish"}, ["GlobalContext", "activation", "hardswish"]),
        (CoordinateAttention, {"channels": 8, "activation": "rulu"}, ["CoordinateAttention", "did you mean 'relu'?"]),
        (CoordinateAttention, {"channels": 8, "norm_type": "bach"}, ["CoordinateAttention", "did you mean 'batch'?"]),
        (CoordinateAttention, {"channels": 8, "reduction": 0}, ["CoordinateAttention", "reduction"]),
    ],
)
def test_errors(block, arguments, words):
    with pytest.raises(ValueError) as error:
        block(**arguments)
    assert all(word in str(error.value) for word in words)
