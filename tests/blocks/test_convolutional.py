"""The convolutional blocks: against torchvision and timm, and that each argument is honoured or refused."""

import copy
import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from examples import batch, blocks_with, make, parameters_of
from torch import nn

from torchvision_customizer import fuse, registry
from torchvision_customizer._torchvision import models
from torchvision_customizer.blocks import (
    CBAMBlock,
    ConvBlock,
    ConvBNAct,
    DenseConnectionBlock,
    DepthwiseBlock,
    DropPath,
    ECABlock,
    FusedMBConv,
    GroupedBottleneck,
    MBConv,
    ResidualBlock,
    SEBlock,
    StandardBottleneck,
    WideBottleneck,
)
from torchvision_customizer.layers import get_activation

X = torch.randn(2, 32, 6, 7, generator=torch.Generator().manual_seed(1))


def convolutional(*parameters):
    """Blocks of convolutions, which have all of ``parameters``."""
    return blocks_with("in_channels", "norm_type", "activation", *parameters)


def single(*parameters):
    return [name for name in convolutional(*parameters) if registry.info(name)["category"] != "architecture"]


def added(name):
    """The argument with which a block adds its input, where it does not without."""
    return {"add_residual": True} if "add_residual" in parameters_of(name) else {}


def convs_of(block):
    return [module for module in block.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]


def modules(block):
    return [type(module).__name__ for module in block.modules()]


class TestSharedArguments:
    @pytest.mark.parametrize("name", convolutional())
    @pytest.mark.parametrize(
        ("norm", "made"),
        [
            ("group", "GroupNorm"),
            ("layer", "LayerNorm2d"),
            ("instance", "InstanceNorm"),
            ("frozen_batch_norm", "FrozenBatchNorm"),
        ],
    )
    def test_norm_type(self, name, norm, made):
        """Defect 24: only some blocks had another norm than batch norm."""
        block = make(name, norm_type=norm)
        assert any(module.startswith(made) for module in modules(block))
        assert not any(module.startswith("BatchNorm") for module in modules(block))
        assert block(batch(name)).isfinite().all()
        assert all(conv.bias is None for conv in convs_of(block))

    @pytest.mark.parametrize("name", convolutional())
    def test_without_a_norm_a_convolution_has_a_bias(self, name):
        """Defect 31: a convolution had a bias that the norm after it takes away."""
        block = make(name)
        assert convs_of(block) and all(conv.bias is None for conv in convs_of(block))
        block = make(name, norm_type="none")
        assert all(conv.bias is not None for conv in convs_of(block))
        assert not any("Norm" in made for made in modules(block))

    @pytest.mark.parametrize("name", convolutional())
    @pytest.mark.parametrize(("act", "made"), [("mish", "Mish"), ("Swish", "SiLU"), ("prelu", "PReLU"), ("relu6", "ReLU6")])
    def test_activation(self, name, act, made):
        """Defect 24: mobile blocks had one activation, whatever was asked for."""
        block = make(name, activation=act)
        assert made in modules(block)
        assert not ({"ReLU", "SiLU"} - {made}) & {*modules(block)}
        assert block(batch(name)).isfinite().all()

    @pytest.mark.parametrize("name", convolutional())
    def test_without_an_activation(self, name):
        block = make(name, activation="none")
        assert not any(module in ("ReLU", "SiLU") for module in modules(block))

    @pytest.mark.parametrize("name", convolutional("stride"))
    def test_stride(self, name):
        x = batch(name)
        expected = [math.ceil(size / 2) for size in x.shape[2:]]
        assert make(name, stride=2)(x).shape == (2, 32, *expected)

    @pytest.mark.parametrize("name", convolutional("attention"))
    @pytest.mark.parametrize(("attention", "made"), [("se", SEBlock), ("eca", ECABlock), ("cbam", CBAMBlock)])
    @pytest.mark.parametrize("act", ["relu", "mish"])
    def test_attention(self, name, attention, made, act):
        """Defect 24: +eca and +cbam were ignored."""
        block = make(name, attention=attention, activation=act)
        assert any(isinstance(module, made) for module in block.modules())
        plain = make(name, attention="none", activation=act)
        missing = plain.load_state_dict(block.state_dict(), strict=False)
        assert not missing.missing_keys and missing.unexpected_keys
        assert not torch.allclose(block(X), plain(X))

    @pytest.mark.parametrize("name", single("drop_path"))
    @pytest.mark.parametrize("attention", [None, "se"])
    @pytest.mark.parametrize("act", ["relu", "mish"])
    def test_drop_path(self, name, attention, act):
        block = make(name, drop_path=1.0, attention=attention, activation=act, **added(name))
        last = get_activation("none" if "MBConv" in type(block).__name__ else act)
        assert torch.equal(block(X), last(X))  # the branch is dropped for every sample
        block.eval()
        kept = make(name, attention=attention, activation=act, **added(name)).eval()
        kept.load_state_dict(block.state_dict())
        torch.testing.assert_close(block(X), kept(X))

    @pytest.mark.parametrize(
        ("parameter", "value", "words"),
        [
            ("activation", "rulu", ["activation 'rulu'", "did you mean 'relu'?"]),
            ("norm_type", "bach", ["norm 'bach'", "did you mean 'batch'?"]),
            ("norm_type", "layer_norm", ["for tokens", "layer_norm_2d"]),
            ("attention", "ecaa", ["attention 'ecaa'", "did you mean 'eca'?", "cbam"]),
            ("attention", "relu", ["attention 'relu'"]),
            ("drop_path", 1.5, ["between 0 and 1", "1.5"]),
            ("in_channels", 0, ["in_channels", "0"]),
        ],
    )
    def test_errors(self, parameter, value, words):
        for name in convolutional(parameter):
            with pytest.raises(ValueError) as error:
                make(name, **added(name), **{parameter: value})
            for word in words:
                assert word in str(error.value), (name, word)

    @pytest.mark.parametrize("name", single("attention"))
    @pytest.mark.parametrize("attention", [None, "se", "cbam", "channel_attention"])
    def test_scripts_in_every_form(self, name, attention):
        for drop_path in (0.0, 0.5) if "drop_path" in parameters_of(name) else (0.0,):
            more = {"drop_path": drop_path, **added(name)} if drop_path else {}
            block = make(name, attention=attention, **more).eval()
            assert torch.equal(torch.jit.script(block)(X), block(X))


def trained(block):
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return block


def fill(block, other):
    """Give a block the tensors of one that has the same in the same order, though under other names."""
    theirs = [value for key, value in other.state_dict().items()]
    mine = block.state_dict()
    assert len(mine) == len(theirs)
    block.load_state_dict({key: value.reshape(mine[key].shape) for key, value in zip(mine, theirs, strict=True)})
    return block


class TestResidualBlocks:
    @pytest.mark.parametrize(
        ("path", "block"),
        [
            ("resnet18 layer1.0", lambda: ResidualBlock(64, 64)),
            ("resnet18 layer2.0", lambda: ResidualBlock(64, 128, 2)),
            ("resnet50 layer1.0", lambda: StandardBottleneck(64, 256)),
            ("resnet50 layer1.0", lambda: ResidualBlock(64, 256, bottleneck=True)),
            ("resnet50 layer2.0", lambda: StandardBottleneck(256, 512, 2)),
            ("resnext50_32x4d layer1.1", lambda: GroupedBottleneck(256, 256, expansion=2)),
            ("wide_resnet50_2 layer1.1", lambda: WideBottleneck(256, 256)),
        ],
    )
    @pytest.mark.parametrize("training", [False, True])
    def test_are_torchvision_s(self, path, block, training):
        model, _, place = path.partition(" ")
        theirs = trained(models.get_model(model, weights=None).get_submodule(place)).train(training)
        mine = block().train(training)
        mine.load_state_dict(theirs.state_dict())
        x = torch.randn(2, mine.in_channels, 6, 5)
        assert torch.equal(mine(x), theirs(x))
        assert [*mine.state_dict()] == [*theirs.state_dict()]

    @pytest.mark.parametrize("act", ["relu", "mish", "none"])
    @pytest.mark.parametrize("attention", ["se", "eca", "channel_attention"])
    def test_attention_comes_before_the_addition(self, act, attention):
        block = ResidualBlock(32, 32, activation=act, attention=attention, se_reduction=4).eval()
        y = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(X)))))
        expected = get_activation(act)(block.attention(y.clone()) + X)
        torch.testing.assert_close(block(X), expected)
        with torch.no_grad():
            torch.testing.assert_close(block(X), expected)

    def test_the_op_takes_addition_and_activation(self):
        block = ResidualBlock(32, 32, use_se=True)
        assert block.attention_adds and block.post == "relu" and "post=relu" in repr(block)
        assert isinstance(block.act, nn.Identity)
        assert ResidualBlock(32, 32, use_se=True, activation="swish").post == "silu"
        assert ResidualBlock(32, 32, attention="se", drop_path=0.2).drop_path_adds
        unknown = ResidualBlock(32, 32, use_se=True, activation="mish")
        assert unknown.post == "none" and isinstance(unknown.act, nn.Mish)
        assert ResidualBlock(32, 32, use_se=True, se_reduction=8).attention.fc1.out_features == 4

    def test_the_shortcut(self):
        assert isinstance(ResidualBlock(32, 32).downsample, nn.Identity)
        assert isinstance(ResidualBlock(32, 32, downsample=False).downsample, nn.Identity)
        assert ResidualBlock(32, 32, downsample=True).downsample[0].kernel_size == (1, 1)
        own = nn.AvgPool2d(2, ceil_mode=True)
        assert ResidualBlock(32, 32, 2, own).downsample is own
        assert StandardBottleneck(32, 32, use_downsample=True).downsample[0].kernel_size == (1, 1)

    @pytest.mark.parametrize(("out", "groups", "hidden"), [(256, 32, 64), (64, 32, 32), (100, 4, 28)])
    def test_groups_divide_the_channels(self, out, groups, hidden):
        block = GroupedBottleneck(32, out, groups)
        assert (block.conv2.in_channels, block.conv2.groups) == (hidden, groups)
        assert block(X).shape == (2, out, 6, 7)

    def test_contradictions(self):
        with pytest.raises(ValueError, match="use_se=True and attention='eca' contradict"):
            ResidualBlock(32, 32, use_se=True, attention="eca")
        with pytest.raises(ValueError, match="WideBottleneck: width_multiplier must be positive"):
            WideBottleneck(32, 32, width_multiplier=0)
        with pytest.raises(ValueError, match="ResidualBlock: in_channels must be an integer"):
            ResidualBlock(0, 32)


class TestMobileBlocks:
    @pytest.mark.parametrize(
        ("model", "place", "block"),
        [
            ("efficientnet_b0", "features.1.0", lambda: MBConv(32, 16, 1)),
            ("efficientnet_b0", "features.2.0", lambda: MBConv(16, 24, 6, 2)),
            ("efficientnet_b0", "features.3.1", lambda: MBConv(40, 40, 6, kernel_size=5)),
            ("efficientnet_v2_s", "features.1.0", lambda: FusedMBConv(24, 24, 1)),
            ("efficientnet_v2_s", "features.2.0", lambda: FusedMBConv(24, 48, 4, 2)),
            ("efficientnet_v2_s", "features.2.1", lambda: FusedMBConv(48, 48, 4)),
            ("mobilenet_v2", "features.2", lambda: MBConv(16, 24, 6, 2, use_se=False, activation="relu6")),
            ("mobilenet_v2", "features.3", lambda: MBConv(24, 24, 6, use_se=False, activation="relu6")),
        ],
    )
    def test_are_torchvision_s(self, model, place, block):
        theirs = trained(models.get_model(model, weights=None).get_submodule(place)).eval()
        mine = fill(block(), theirs).eval()
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                eps = module.eps
        for module in mine.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps
        x = torch.randn(2, mine.in_channels, 9, 8)
        torch.testing.assert_close(mine(x), theirs(x))

    def test_an_attention_in_the_place_of_another(self):
        assert isinstance(MBConv(16, 16).se, SEBlock)
        assert isinstance(MBConv(16, 16, attention="eca").se, ECABlock)
        assert isinstance(MBConv(16, 16, use_se=False).se, nn.Identity)
        assert isinstance(FusedMBConv(16, 16, use_se=True).se, SEBlock)
        assert FusedMBConv(16, 16, use_se=True).se.fc1.out_features == 4
        assert MBConv(16, 16, activation="hardswish").se.activation == "hardswish"

    def test_a_branch_is_dropped_only_where_it_is_added(self):
        assert isinstance(MBConv(16, 16, drop_path=0.2).drop_path, DropPath)
        assert isinstance(MBConv(16, 24, drop_path=0.2).drop_path, nn.Identity)
        with pytest.raises(ValueError, match=r"drop_path=0\.1 needs add_residual=True"):
            DepthwiseBlock(8, 8, drop_path=0.1)

    @pytest.mark.parametrize("residual", [False, True])
    @pytest.mark.parametrize(("out", "stride"), [(32, 1), (24, 1), (32, 2)])
    def test_depthwise(self, residual, out, stride):
        block = DepthwiseBlock(32, out, 5, stride, add_residual=residual)
        y = F.relu(block.bn1(F.conv2d(X, block.depthwise.weight, None, stride, 2, groups=32)))
        y = block.bn2(F.conv2d(y, block.pointwise.weight))
        expected = F.relu(y + block.downsample(X)) if residual else F.relu(y)
        torch.testing.assert_close(block(X), expected)
        assert block.depthwise.groups == 32


class TestDenseBlock:
    def test_is_torchvision_s(self):
        theirs = trained(models.densenet._DenseBlock(3, 32, 4, 8, 0.0)).eval()
        mine = DenseConnectionBlock(3, 32, 8).eval()
        fill(mine, theirs)
        torch.testing.assert_close(mine(X), theirs(X))
        assert mine.out_channels == 56

    def test_without_a_norm_its_input_stays(self):
        block, x = DenseConnectionBlock(2, 32, 8, norm_type="none"), X.clone()
        block(x)
        assert torch.equal(x, X)

    def test_dropout(self):
        block = DenseConnectionBlock(2, 32, 8, dropout_rate=1.0)
        assert torch.equal(block(X)[:, 32:], torch.zeros(2, 16, 6, 7))


class TestConvBlocks:
    def test_their_order(self):
        block = ConvBlock(32, 8, 3, 2, pooling_type="max", attention="se", activation="gelu", dropout_rate=0.5).eval()
        y = F.gelu(block.bn(F.conv2d(X, block.conv.weight, None, 2, 1)))
        torch.testing.assert_close(block(X), F.max_pool2d(block.attention(y), 2))
        block.train()
        dropped = block(torch.ones(64, 32, 4, 4)).flatten(2).abs().amax(2)
        assert (dropped == 0).float().mean() > 0.3

    @pytest.mark.parametrize(
        ("params", "shape"),
        [
            ({}, (2, 8, 6, 7)),
            ({"padding": 0}, (2, 8, 4, 5)),
            ({"kernel_size": 5}, (2, 8, 6, 7)),
            ({"kernel_size": (1, 5), "dilation": (1, 2)}, (2, 8, 6, 7)),
            ({"dilation": 2}, (2, 8, 6, 7)),
            ({"groups": 4}, (2, 8, 6, 7)),
            ({"padding": "same"}, (2, 8, 6, 7)),
            ({"pooling_type": "avg", "pooling_kernel_size": 3, "pooling_stride": 1}, (2, 8, 4, 5)),
            ({"pooling_type": "adaptive_avg"}, (2, 8, 1, 1)),
            ({"pooling_type": "gem"}, (2, 8, 1, 1)),
            ({"pooling_type": "none"}, (2, 8, 6, 7)),
        ],
    )
    def test_shapes(self, params, shape):
        assert ConvBlock(32, 8, **params)(X).shape == shape

    def test_the_bias_of_conv_block(self):
        """Defect 31: ConvBlock's convolution had a bias with batch norm after it."""
        assert ConvBlock(3, 8).conv.bias is None
        assert ConvBlock(3, 8, bias=True).conv.bias is not None
        assert ConvBlock(3, 8, use_batchnorm=False).conv.bias is not None
        assert ConvBlock(3, 8, use_batchnorm=False, bias=False).conv.bias is None
        assert ConvBNAct(3, 8).conv.bias is None
        assert ConvBNAct(3, 8, use_bn=False).conv.bias is not None
        assert ConvBNAct(3, 8, bias=True).conv.bias is not None

    def test_conv_bn_act(self):
        block = ConvBNAct(32, 8, 3, 2, groups=4, activation="swish")
        torch.testing.assert_close(block(X), F.silu(block.bn(F.conv2d(X, block.conv.weight, None, 2, 1, groups=4))))
        assert isinstance(ConvBNAct(3, 8, activation=None).act, nn.Identity)
        assert [*ConvBNAct(3, 8, use_bn=False).state_dict()] == ["conv.weight", "conv.bias"]

    def test_contradictions(self):
        with pytest.raises(ValueError, match="use_batchnorm=False and norm_type='group' contradict"):
            ConvBlock(3, 8, use_batchnorm=False, norm_type="group")
        with pytest.raises(ValueError, match="use_bn=False and norm_type='batch' contradict"):
            ConvBNAct(3, 8, use_bn=False, norm_type="batch")
        with pytest.raises(ValueError, match="unknown pooling 'maxx', did you mean 'max'"):
            ConvBlock(3, 8, pooling_type="maxx")


def test_fuse_leaves_a_tail_that_is_fused():
    model = nn.Sequential(ResidualBlock(32, 32, use_se=True), ResidualBlock(32, 32, drop_path=0.1)).eval()
    expected = copy.deepcopy(model)(X)
    fuse(model, example_input=X)
    torch.testing.assert_close(model(X), expected)


@pytest.mark.parametrize("name", convolutional())
def test_channels_are_known(name):
    block = make(name)
    assert block.in_channels == 32
    assert block(batch(name)).size(1) == block.out_channels


@pytest.mark.parametrize("name", convolutional())
def test_new_arguments_are_by_keyword(name):
    parameters = inspect.signature(registry.get(name)).parameters
    assert all(parameters[key].kind is inspect.Parameter.KEYWORD_ONLY for key in ("device", "dtype"))
