"""Regularisation, pools, norms, stages, and blocks under the arguments of version 2.1."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchvision_customizer import HybridBuilder, registry
from torchvision_customizer._torchvision import models
from torchvision_customizer.blocks import (
    GRN,
    CBAMBlock,
    Conv3DBlock,
    DropBlock2d,
    DropPath,
    InceptionModule,
    LayerScale,
    MultiScaleBottleneck,
    ResidualBlock,
    ResidualSequence,
    ResidualStage,
    StandardBottleneck,
    StochasticPool2d,
    SuperConv2d,
    SuperLinear,
    Threshold,
)
from torchvision_customizer.layers import get_activation, get_normalization

X = torch.randn(2, 32, 6, 7, generator=torch.Generator().manual_seed(1))


class TestDropBlock:
    def test_drops_squares_at_the_rate(self):
        x = torch.ones(400, 3, 17, 14)
        y = DropBlock2d(0.2, 3, scale_by_keep=False)(x)
        assert torch.equal(y[:, 0], y[:, 2])
        dropped = y[:, :1] == 0
        assert abs(dropped.float().mean().item() - 0.18) < 0.01  # squares overlap
        # Wherever something is dropped, a whole square around it is.
        whole = (F.avg_pool2d(dropped.float(), 3, 1) > 0.99).float()
        squares = F.max_pool2d(F.pad(whole, [2] * 4), 3, 1)
        assert torch.equal(squares.bool(), dropped)

    def test_the_mean_stays(self):
        y = DropBlock2d(0.3, 5)(torch.ones(50, 2, 16, 16))
        assert y.mean().item() == pytest.approx(1, abs=1e-3)
        assert y.max() > 1

    def test_everything_and_nothing(self):
        x = torch.full((2, 3, 4, 5), float("inf"))
        assert torch.equal(DropBlock2d(1.0, 7)(x), torch.zeros_like(x))
        assert DropBlock2d(0.0)(x) is x
        assert DropBlock2d(0.5).eval()(x) is x

    @pytest.mark.parametrize("arguments", [{"drop_prob": 1.1}, {"drop_prob": -0.1}, {"block_size": 0}])
    def test_errors(self, arguments):
        with pytest.raises(ValueError, match="DropBlock2d"):
            DropBlock2d(**arguments)


class TestLayerScale:
    def test_images_and_tokens(self):
        block = LayerScale(32, 0.5)
        nn.init.uniform_(block.gamma)
        torch.testing.assert_close(block(X), X * block.gamma[:, None, None])
        tokens = torch.randn(2, 6, 32)
        torch.testing.assert_close(block(tokens), tokens * block.gamma)

    def test_where_it_starts(self):
        assert LayerScale(4).gamma.tolist() == pytest.approx([1e-5] * 4)
        assert LayerScale(4, init="identity").gamma.tolist() == [1.0] * 4
        with pytest.raises(ValueError, match=r"init='identity' starts with 1, and init_value is 0\.5"):
            LayerScale(4, 0.5, init="identity")


class TestStochasticPool:
    def test_evaluation_is_the_weighted_mean(self):
        x = torch.rand(2, 3, 5, 7)
        pooled = F.avg_pool2d(x * x, 2) / F.avg_pool2d(x, 2)
        torch.testing.assert_close(StochasticPool2d().eval()(x), pooled)

    def test_draws_in_proportion(self):
        x = torch.tensor([[1.0, 3.0], [0.0, -4.0]]).expand(20_000, 1, 2, 2)
        y = StochasticPool2d()(x)
        assert set(y.unique().tolist()) == {1.0, 3.0}
        assert abs(y.eq(3).float().mean().item() - 0.75) < 0.02

    def test_where_nothing_is_positive(self):
        x = -torch.rand(2, 3, 4, 4)
        torch.testing.assert_close(StochasticPool2d().eval()(x), F.avg_pool2d(x, 2))
        assert torch.isin(StochasticPool2d()(x), x).all()

    def test_the_window(self):
        assert StochasticPool2d(3, 2)(X).shape == F.avg_pool2d(X, 3, 2).shape
        assert StochasticPool2d(3)(X).shape == F.avg_pool2d(X, 3).shape
        with pytest.raises(ValueError, match="StochasticPool2d: kernel_size"):
            StochasticPool2d(0)


class TestGRN:
    def test_is_timm_s(self):
        other = pytest.importorskip("timm.layers.grn").GlobalResponseNorm(32, channels_last=False)
        block = GRN(32)
        for mine, theirs in zip(block.parameters(), other.parameters(), strict=True):
            mine.data = nn.init.uniform_(theirs).data
        torch.testing.assert_close(block(X), other(X))

    def test_starts_as_the_identity_and_zeros_have_a_gradient(self):
        x = torch.zeros(2, 4, 3, 3, requires_grad=True)
        assert torch.equal(GRN(32)(X), X)
        GRN(4)(x).sum().backward()
        assert x.grad.isfinite().all()


def test_threshold_starts_as_relu():
    assert torch.equal(Threshold()(X), X.relu())
    assert torch.equal(Threshold(0.5, -1.0)(X), F.threshold(X, 0.5, -1.0))


class TestOldBlocks:
    def test_super_conv(self):
        block = SuperConv2d(32, 8, 3, 2, 1, 1, 4, "gelu", "group")
        torch.testing.assert_close(block(X), F.gelu(block.norm(F.conv2d(X, block.conv.weight, None, 2, 1, 1, 4))))
        plain = SuperConv2d(32, 8, use_activation=False, use_normalization=False)
        assert torch.equal(plain(X), F.conv2d(X, plain.conv.weight, plain.conv.bias, padding=1))
        assert SuperConv2d(32, 8, 5, padding=2, dilation=1)(X).shape == (2, 8, 6, 7)

    def test_super_linear(self):
        block, x = SuperLinear(32, 8, "gelu", 0.5), torch.randn(64, 4, 32)
        assert 0.4 < block(x).eq(0).float().mean() < 0.6
        torch.testing.assert_close(block.eval()(x), F.gelu(block.linear(x)))
        assert isinstance(SuperLinear(8, 8, dropout_rate=0.5, use_dropout=False).dropout, nn.Identity)
        assert isinstance(SuperLinear(8, 8, use_activation=False).activation, nn.Identity)
        assert SuperLinear(8, 8, bias=False).linear.bias is None
        with pytest.raises(ValueError, match=r"SuperLinear.*did you mean 'relu'"):
            SuperLinear(8, 8, "rulu")

    def test_conv3d(self):
        block, x = Conv3DBlock(4, 6, 3, 2, 1, "gelu", 2), torch.randn(2, 4, 5, 6, 7)
        conv1, norm1, _, conv2, norm2, _ = block.layers
        y = F.gelu(norm1(F.conv3d(x, conv1.weight, None, 2, 1)))
        torch.testing.assert_close(block(x), F.gelu(norm2(F.conv3d(y, conv2.weight, None, 1, 1))))
        assert isinstance(norm1, nn.BatchNorm3d)

    def test_inception(self):
        block = InceptionModule(32, 8, 16, 4, 6, reduce_3x3=5).eval()
        ends = [block.branch_1x1(X), block.branch_3x3(X), block.branch_5x5(X), block.branch_pool[1](F.max_pool2d(X, 3, 1, 1))]
        assert torch.equal(block(X), torch.cat(ends, 1))
        assert [end.size(1) for end in ends] == [8, 16, 4, 6]
        assert block.branch_3x3[0].out_channels == 5
        assert block.branch_5x5[1].conv.kernel_size == (5, 5)

    def test_multi_scale(self):
        block = MultiScaleBottleneck(32, 32, stride=2)
        y = block.act1(block.bn1(block.conv1(X)))
        near, far = block.conv2.near.weight, block.conv2.far.weight
        expected = torch.cat([F.conv2d(y, near, None, 2, 1), F.conv2d(y, far, None, 2, 2, 2)], 1)
        assert torch.equal(block.conv2(y), expected)
        assert MultiScaleBottleneck(32, 32, use_dilation=False).conv2.far.kernel_size == (5, 5)
        assert MultiScaleBottleneck(32, 4)(X).shape == (2, 4, 6, 7)


class TestStages:
    @pytest.mark.parametrize(("layers", "bottleneck"), [("resnet18", False), ("resnet50", True)])
    def test_are_torchvision_s(self, layers, bottleneck):
        theirs = models.get_model(layers, weights=None).layer1.eval()
        out = 256 if bottleneck else 64
        mine = ResidualStage(64, out, len(theirs), use_bottleneck=bottleneck).eval()
        mine.blocks.load_state_dict(theirs.state_dict())
        x = torch.randn(1, 64, 6, 5)
        assert torch.equal(mine(x), theirs(x))

    @pytest.mark.parametrize("kind", ["standard", "wide", "grouped", "multi_scale", "asymmetric"])
    def test_kinds(self, kind):
        stage = ResidualStage(32, 64, 2, 2, bottleneck_type=kind, use_se=True, se_reduction=8, drop_path=0.1)
        assert stage(X).shape == (2, 64, 3, 4)
        assert [block.attention.fc1.out_features for block in stage.blocks] == [8, 8]
        assert [block.drop_path.drop_prob for block in stage.blocks] == [0.1, 0.1]

    @pytest.mark.parametrize("first", [True, False])
    def test_which_block_has_the_stride(self, first):
        stage = ResidualStage(32, 64, 2, 2, use_bottleneck=False, downsample_first=first)
        assert [block.conv1.stride for block in stage.blocks] == [(2, 2), (1, 1)][:: 1 if first else -1]
        assert stage(X).shape == (2, 64, 3, 4)

    @pytest.mark.parametrize(("schedule", "size"), [("later", (3, 4)), ("all", (2, 2)), ("first", (3, 4)), ("none", (6, 7))])
    def test_schedules(self, schedule, size):
        sequence = ResidualSequence(32, 2, [1, 2], 16, schedule, use_bottleneck=False)
        assert sequence(X).shape == (2, 16, *size)
        assert [len(stage.blocks) for stage in sequence.stages] == [1, 2]
        assert isinstance(sequence.stages[0].blocks[0], ResidualBlock)
        assert isinstance(ResidualSequence(32, 1, 1, 16).stages[0].blocks[0], StandardBottleneck)

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: ResidualStage(32, 32, 0), "num_blocks must be an integer"),
            (lambda: ResidualStage(32, 32, 1, bottleneck_type="wid"), "did you mean 'wide'"),
            (lambda: ResidualStage(32, 32, 1, use_se=True, attention="eca"), "contradict"),
            (lambda: ResidualSequence(32, 2, 1, [16]), "channels_per_stage must be a number or 2"),
            (lambda: ResidualSequence(32, 2, 1, 16, "latr"), "did you mean 'later'"),
        ],
    )
    def test_errors(self, make, words):
        with pytest.raises(ValueError, match=words):
            make()


class TestDefect31:
    """Defect 31: what some blocks of the original did with some of their arguments."""

    def test_drop_path_of_one_is_no_nan(self):
        assert torch.equal(DropPath(1.0)(X), torch.zeros_like(X))

    def test_an_even_spatial_kernel_is_refused_at_once(self):
        with pytest.raises(ValueError, match="odd integer"):
            CBAMBlock(8, spatial_kernel=4)

    @pytest.mark.parametrize("name", ["swish", "hardswish", "mish", "relu6"])
    def test_activations_have_names(self, name):
        y = {"swish": F.silu, "hardswish": F.hardswish, "mish": F.mish, "relu6": F.relu6}[name](X)
        assert torch.equal(get_activation(name)(X), y)

    def test_layer_norm_takes_images(self):
        torch.testing.assert_close(get_normalization("layer", 32)(X), F.layer_norm(X.movedim(1, -1), (32,)).movedim(-1, 1))


@pytest.mark.parametrize(
    "name",
    [
        "attention_block",
        "channel_spatial",
        "coordinate_attention",
        "drop_block",
        "dropout",
        "effective_se",
        "gather_excite",
        "global_context",
        "grn",
        "layer_scale",
        "se_enhanced",
    ],
)
def test_new_blocks_as_patches(name):
    torch.manual_seed(0)
    plain = models.resnet18(weights=None).eval()
    model = HybridBuilder().from_module(copy.deepcopy(plain), torch.zeros(2, 3, 32, 32), patches={"layer4.*": {"inject": name}})
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.eval()(x), plain(x))
    assert {*plain.state_dict()} <= {*model.state_dict()}


def test_categories():
    assert {"activation", "architecture", "attention", "block", "bottleneck", "dense", "inception", "mobile"} <= {
        *registry.categories()
    }
