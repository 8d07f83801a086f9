"""What each block promises besides what all do."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchvision_customizer import ops, registry
from torchvision_customizer._torchvision import models
from torchvision_customizer.blocks import (
    BlurPool2d,
    CBAMBlock,
    ChannelAttention,
    CoordConv,
    DepthwiseSeparableConv2d,
    DropPath,
    ECABlock,
    FrozenBatchNorm,
    GeM,
    GroupNorm,
    LayerNorm2d,
    PReLU,
    RMSNorm2d,
    SEBlock,
    SpatialAttention,
)


def test_old_and_new_names():
    names = {
        "eca": (ECABlock, ["eca_block", "ECABlock", "efficient_channel"]),
        "cbam": (CBAMBlock, ["cbam_block", "CBAMBlock", "cbam_attention"]),
        "channel_attention": (ChannelAttention, ["ca", "channel", "ChannelAttention"]),
        "spatial_attention": (SpatialAttention, ["sa", "spatial", "SpatialAttention"]),
        "gem": (GeM, ["generalized_mean", "GeM"]),
        "drop_path": (DropPath, ["stochastic_depth", "DropPath"]),
        "mish": (nn.Mish, ["Mish"]),
        "silu": (nn.SiLU, ["swish", "SiLU"]),
        "coord_conv": (CoordConv, ["CoordConv", "coordinate_conv"]),
    }
    for name, (block, aliases) in names.items():
        assert all(registry.get(alias) is block for alias in (name, *aliases))


class TestSEBlock:
    def test_computes_the_paper_s_formula(self):
        block = SEBlock(32, reduction=4, dtype=torch.float64)
        x = torch.randn(3, 32, 4, 6, dtype=torch.float64)
        gate = torch.sigmoid(block.fc2(torch.relu(block.fc1(x.mean((2, 3))))))
        torch.testing.assert_close(block(x), x * gate[:, :, None, None])

    def test_takes_the_tail_of_a_residual_block(self):
        block = SEBlock(32)
        x, residual = torch.randn(2, 2, 32, 4, 6).unbind(0)
        torch.testing.assert_close(block(x, residual, "relu"), torch.relu(block(x) + residual))

    @pytest.mark.parametrize(
        ("channels", "reduction", "reduced"), [(64, 16, 4), (64, 1, 64), (8, 16, 1), (1, 16, 1), (30, 4, 7)]
    )
    def test_hidden_channels(self, channels, reduction, reduced):
        assert SEBlock(channels, reduction).fc1.out_features == reduced

    def test_first_arguments_are_those_of_2_1(self):
        block = SEBlock(64, 8, "silu")
        assert (block.fc1.out_features, block.activation, block.gate) == (8, "silu", "sigmoid")

    def test_native_and_reference_agree(self):
        block, x = SEBlock(32), torch.randn(2, 32, 5, 7)
        native = block(x)
        with ops.reference():
            torch.testing.assert_close(block(x), native)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"channels": 0}, ["channels", "at least 1", "0"]),
            ({"channels": 8.0}, ["channels", "integer", "8.0"]),
            ({"channels": 8, "reduction": 0}, ["reduction", "at least 1", "0"]),
            ({"channels": 8, "activation": "rulu"}, ["activation", "'rulu'", "did you mean 'relu'?", "hardswish"]),
            ({"channels": 8, "gate": "sigmod"}, ["gate", "'sigmod'", "did you mean 'sigmoid'?"]),
            ({"channels": 8, "init": "identitty"}, ["init", "did you mean 'identity'?"]),
            ({"channels": 8, "init": "identity", "gate": "sigmoid"}, ["gate", "two_sigmoid, tanh1p", "'sigmoid'"]),
        ],
    )
    def test_errors(self, arguments, words):
        with pytest.raises(ValueError) as error:
            SEBlock(**arguments)
        for word in ["SEBlock", *words]:
            assert word in str(error.value)


class TestECABlock:
    @pytest.mark.parametrize(("channels", "size"), [(1, 1), (16, 3), (64, 3), (256, 5), (512, 5), (2048, 7)])
    def test_kernel_follows_the_channels(self, channels, size):
        assert ECABlock(channels).conv.kernel_size == (size,)

    def test_first_arguments_are_those_of_2_1(self):
        assert ECABlock(256, None, 1, 3).conv.kernel_size == (11,)
        assert ECABlock(256, 9).conv.kernel_size == (9,)

    def test_computes_the_paper_s_formula(self):
        block, x = ECABlock(16, dtype=torch.float64), torch.randn(3, 16, 4, 6, dtype=torch.float64)
        gate = torch.sigmoid(block.conv(x.mean((2, 3))[:, None])[:, 0])
        torch.testing.assert_close(block(x), x * gate[:, :, None, None])

    @pytest.mark.parametrize("arguments", [{"channels": 0}, {"channels": 8, "kernel_size": 4}, {"channels": 8, "gate": "relu"}])
    def test_errors(self, arguments):
        with pytest.raises(ValueError, match="ECABlock"):
            ECABlock(**arguments)


class TestCBAMBlock:
    @pytest.mark.parametrize("norm", [False, True])
    @pytest.mark.parametrize("training", [False, True])
    def test_is_its_halves_one_after_the_other(self, norm, training):
        block = CBAMBlock(16, 4, 5, spatial_norm=norm, dtype=torch.float64)
        if norm:
            torch.nn.init.uniform_(block.spatial.norm.running_var, 0.5, 1.5)
        block.train(training)
        halves = copy.deepcopy(block)
        x = torch.randn(3, 16, 6, 5, dtype=torch.float64)
        hidden = [halves.channel.fc2(torch.relu(halves.channel.fc1(v))) for v in (x.mean((2, 3)), x.amax((2, 3)))]
        y = x * torch.sigmoid(hidden[0] + hidden[1])[:, :, None, None]
        torch.testing.assert_close(halves.channel(x), y)
        maps = torch.stack([y.mean(1), y.amax(1)], 1)
        expected = y * torch.sigmoid(copy.deepcopy(halves.spatial.norm)(halves.spatial.conv(maps)))
        torch.testing.assert_close(copy.deepcopy(halves.spatial)(y), expected)
        torch.testing.assert_close(block(x), expected)

    @pytest.mark.parametrize("training", [False, True])
    def test_gradients_and_statistics_with_a_norm(self, training):
        block = CBAMBlock(8, 2, 3, spatial_norm=True, dtype=torch.float64).train(training)
        halves = copy.deepcopy(block)
        x = torch.randn(4, 8, 5, 6, dtype=torch.float64)
        block(x).square().sum().backward()
        halves.spatial(halves.channel(x)).square().sum().backward()
        for (name, parameter), other in zip(block.named_parameters(), halves.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")
        for (name, buffer), other in zip(block.named_buffers(), halves.buffers(), strict=True):
            torch.testing.assert_close(buffer, other, msg=lambda text, name=name: f"{name}: {text}")

    def test_identity_start_with_a_norm(self):
        block, x = CBAMBlock(16, spatial_norm=True, init="identity"), torch.randn(2, 16, 5, 5)
        assert torch.equal(block(x), x)
        assert torch.equal(block.eval()(x), x)
        block.train()(x + 1).square().sum().backward()
        assert block.spatial.norm.weight.grad.abs().sum() > 0

    @pytest.mark.parametrize("norm", [False, True])
    def test_scripted_in_both_modes(self, norm):
        block, x = CBAMBlock(16, spatial_norm=norm), torch.randn(2, 16, 5, 5)
        scripted = torch.jit.script(copy.deepcopy(block))
        assert torch.equal(scripted(x), block(x))
        assert torch.equal(scripted.eval()(x), block.eval()(x))

    def test_an_even_kernel_is_refused(self):
        with pytest.raises(ValueError, match="kernel_size must be an odd integer of at least 1, got 4"):
            CBAMBlock(8, spatial_kernel=4)


class TestGeM:
    def test_computes_the_paper_s_formula(self):
        x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
        expected = x.clamp(min=1e-6).pow(3).mean((2, 3), keepdim=True).pow(1 / 3)
        torch.testing.assert_close(GeM(dtype=torch.float64)(x), expected)
        torch.testing.assert_close(GeM(flatten=True, dtype=torch.float64)(x), expected.flatten(1))

    def test_takes_the_place_of_an_average_pool(self):
        x = torch.rand(2, 8, 5, 7)
        torch.testing.assert_close(GeM(p=1)(x), torch.nn.functional.adaptive_avg_pool2d(x, 1))

    def test_the_exponent_is_learnt_or_kept(self):
        assert [name for name, _ in GeM().named_parameters()] == ["p"]
        assert not list(GeM(3.0, 1e-6, False).parameters())
        assert list(GeM(learnable=False).state_dict()) == ["p"]

    @pytest.mark.parametrize("arguments", [{"p": 0}, {"eps": -1.0}])
    def test_errors(self, arguments):
        with pytest.raises(ValueError, match="must be positive"):
            GeM(**arguments)


class TestDropPath:
    def test_one_gives_zeros(self):
        for scale in (True, False):
            out = DropPath(1.0, scale)(torch.full((3, 4, 2, 2), float("nan")))
            assert torch.equal(out, torch.zeros(3, 4, 2, 2))

    def test_keeps_whole_samples_at_the_rate(self):
        x = torch.ones(20_000, 1, 1)
        kept = DropPath(0.3)(x)
        assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
        assert abs(kept.ne(0).float().mean().item() - 0.7) < 0.02
        assert DropPath(0.3, scale_by_keep=False)(x).max() == 1

    def test_follows_the_seed(self):
        x, block = torch.randn(64, 3, 2, 2), DropPath(0.5)
        torch.manual_seed(5)
        first = block(x)
        assert not torch.equal(block(x), first)
        torch.manual_seed(5)
        assert torch.equal(block(x), first)

    @pytest.mark.parametrize("block", [DropPath(0.5).eval(), DropPath()])
    def test_is_the_identity(self, block):
        x = torch.randn(4, 3)
        assert block(x) is x

    def test_no_probability_is_refused(self):
        with pytest.raises(ValueError, match="drop_prob must be between 0 and 1"):
            DropPath(1.5)


def test_prelu_starts_with_its_slope():
    block = PReLU(3, 0.1)
    assert block.weight.tolist() == pytest.approx([0.1] * 3)
    assert list(block.state_dict()) == list(nn.PReLU(3).state_dict())


class TestNorms:
    @pytest.mark.parametrize(
        ("arguments", "groups"), [((64,), 32), ((40,), 20), ((7,), 7), ((37,), 1), ((48, 10), 8), ((16, 32), 16), ((8, 1), 1)]
    )
    def test_groups_divide_the_channels(self, arguments, groups):
        block = GroupNorm(*arguments)
        assert block.num_groups == groups
        assert list(block.state_dict()) == list(nn.GroupNorm(1, 8).state_dict())

    @pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 5, 7), (2, 6, 3, 4, 5)])
    @pytest.mark.parametrize("affine", [True, False])
    def test_norms_over_channels_are_those_of_torch(self, shape, affine):
        x = torch.randn(shape, dtype=torch.float64)
        layer = LayerNorm2d(6, 1e-3, affine, dtype=torch.float64)
        rms = RMSNorm2d(6, 1e-3, affine, dtype=torch.float64)
        if affine:
            for tensor in (*layer.parameters(), *rms.parameters()):
                nn.init.uniform_(tensor, 0.5, 1.5)
        last = F.layer_norm(x.movedim(1, -1), (6,), layer.weight, layer.bias, 1e-3)
        assert torch.equal(layer(x), last.movedim(-1, 1))
        expected = x / (x.square().mean(1, keepdim=True) + 1e-3).sqrt()
        if affine:
            expected = expected * rms.weight.view(1, -1, *[1] * (len(shape) - 2))
        torch.testing.assert_close(rms(x), expected)
        assert len(list(layer.parameters())) == 2 * affine and len(list(rms.parameters())) == affine

    def test_loads_torchvision_s_layer_norm(self):
        LayerNorm2d(6).load_state_dict(models.convnext.LayerNorm2d(6).state_dict())

    @pytest.mark.parametrize("training", [True, False])
    def test_a_frozen_batch_norm_is_a_batch_norm_in_evaluation(self, training):
        norm = nn.BatchNorm2d(6, 1e-3).eval()
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)
        norm.num_batches_tracked.fill_(3)
        block = FrozenBatchNorm(6, 1e-3).train(training)
        block.load_state_dict(norm.state_dict())
        x = torch.randn(4, 6, 5, 7)
        assert torch.equal(block(x), norm(x))
        assert not list(block.parameters())
        assert list(block.state_dict()) == list(norm.state_dict())
        assert all(torch.equal(value, norm.state_dict()[key]) for key, value in block.state_dict().items())

    def test_a_frozen_batch_norm_loads_a_file_without_a_counter(self):
        tensors = FrozenBatchNorm(6).state_dict()
        del tensors["num_batches_tracked"]
        nn.Sequential(FrozenBatchNorm(6)).load_state_dict({f"0.{key}": value for key, value in tensors.items()})
        del tensors["running_mean"]
        with pytest.raises(RuntimeError, match="running_mean"):
            FrozenBatchNorm(6).load_state_dict(tensors)

    @pytest.mark.parametrize("block", [GroupNorm, LayerNorm2d, RMSNorm2d, FrozenBatchNorm])
    def test_errors(self, block):
        with pytest.raises(ValueError, match=f"{block.__name__}: num_.* must be an integer of at least 1, got 0"):
            block(0)


class TestCoordConv:
    @pytest.mark.parametrize("with_r", [False, True])
    @pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1, "dilation": 2}, {"padding": "same", "bias": False}])
    def test_is_a_convolution_with_coordinates(self, with_r, options):
        block = CoordConv(3, 4, 3, with_r, dtype=torch.float64, **options)
        x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
        rows, columns = torch.meshgrid(
            torch.linspace(-1, 1, 9, dtype=x.dtype), torch.linspace(-1, 1, 8, dtype=x.dtype), indexing="ij"
        )
        maps = torch.stack([rows, columns, torch.hypot(rows, columns)][: 3 if with_r else 2])
        wide = torch.cat([x, maps.expand(2, -1, -1, -1)], 1)
        weight = torch.cat([block.weight, block.coord_weight], 1)
        options.pop("bias", None)
        expected = F.conv2d(wide, weight, block.bias, **options)
        torch.testing.assert_close(block(x), expected)
        torch.testing.assert_close(block(x[0]), expected[0])

    def test_every_group_has_the_coordinates(self):
        block = CoordConv(4, 6, 1, groups=2, bias=False)
        halves = [CoordConv(2, 3, 1, bias=False) for _ in range(2)]
        for index, half in enumerate(halves):
            half.weight.data = block.weight[3 * index : 3 * index + 3]
            half.coord_weight.data = block.coord_weight[3 * index : 3 * index + 3]
        x = torch.randn(2, 4, 5, 5)
        torch.testing.assert_close(
            block(x), torch.cat([half(part) for half, part in zip(halves, x.chunk(2, 1), strict=True)], 1)
        )

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_types(self, dtype):
        block, x = CoordConv(3, 4, 3), torch.randn(1, 3, 5, 600)
        half = copy.deepcopy(block).to(dtype)
        assert half(x.to(dtype)).dtype == dtype
        torch.testing.assert_close(half(x.to(dtype)).float(), block(x), atol=0.05, rtol=0.05)
        assert half.coordinates(x.to(dtype))[1, 0, -1] == 1

    def test_any_size(self):
        block = CoordConv(3, 4, 1, with_r=True)
        assert block(torch.randn(2, 3, 1, 1)).isfinite().all()
        sizes = {2: torch.export.Dim("h", max=64), 3: torch.export.Dim("w", max=64)}
        exported = torch.export.export(block, (torch.randn(2, 3, 8, 9),), dynamic_shapes={"input": sizes}).module()
        x = torch.randn(2, 3, 5, 30)
        torch.testing.assert_close(exported(x), block(x))

    def test_the_arguments_of_2_1(self):
        block = CoordConv(3, 4, 3, True, stride=2, padding=1)
        assert block.coord_weight.shape == (4, 3, 3, 3)
        assert "with_r=True" in repr(block)


def test_a_depthwise_separable_convolution_is_its_two_parts():
    block = DepthwiseSeparableConv2d(4, 6, 3, 2, 1, bias=False)
    x = torch.randn(2, 4, 7, 8)
    y = F.conv2d(x, block.depthwise.weight, None, 2, 1, groups=4)
    assert torch.equal(block(x), F.conv2d(y, block.pointwise.weight))
    assert sorted(block.state_dict()) == ["depthwise.weight", "pointwise.weight"]


class TestBlurPool2d:
    def test_a_filter_of_two_is_the_average(self):
        x = torch.randn(2, 3, 8, 6)
        torch.testing.assert_close(BlurPool2d(2)(x), F.avg_pool2d(x, 2))

    def test_keeps_a_constant_in_the_middle(self):
        y = BlurPool2d()(torch.ones(1, 2, 9, 9))
        assert y.shape == (1, 2, 5, 5)
        torch.testing.assert_close(y[:, :, 1:-1, 1:-1], torch.ones(1, 2, 3, 3))

    @pytest.mark.parametrize("arguments", [{"kernel_size": 0}, {"kernel_size": (2, 2)}, {"stride": None}])
    def test_errors(self, arguments):
        with pytest.raises(ValueError, match=r"BlurPool2d: \w+ must be an integer of at least 1"):
            BlurPool2d(**arguments)
