"""What takes the place of a module: what goes on, whether the function is the same, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from torchvision_customizer import registry
from torchvision_customizer._torchvision import models
from torchvision_customizer.blocks import (
    BlurPool2d,
    CBAMBlock,
    CoordConv,
    DepthwiseSeparableConv2d,
    DropPath,
    FrozenBatchNorm,
    GeM,
    GroupNorm,
    LayerNorm2d,
    PReLU,
    RMSNorm2d,
    SEBlock,
)
from torchvision_customizer.hybrid.replacing import in_place_of

TorchvisionLayerNorm2d = models.convnext.LayerNorm2d


def trained(module):
    """With parameters and statistics that are not those of the start."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)
    return module.eval()


def torchvision_frozen(channels):
    from torchvision.ops.misc import FrozenBatchNorm2d

    return FrozenBatchNorm2d(channels)


# The old module, the block, its params; what takes the place, what it carries, and whether it is exact.
EXACT = [
    (nn.BatchNorm2d(8, 1e-3), "frozen_batch_norm", {}, FrozenBatchNorm),
    (nn.BatchNorm1d(8), "frozen_batch_norm", {}, FrozenBatchNorm),
    (nn.SyncBatchNorm(8, momentum=None), "batch_norm", {}, nn.BatchNorm2d),
    (nn.BatchNorm2d(8, affine=False), "batch_norm", {}, nn.BatchNorm2d),
    (nn.BatchNorm2d(8, 1e-3), "batch_norm", {"momentum": 0.01, "eps": 1e-3}, nn.BatchNorm2d),
    (FrozenBatchNorm(8, 1e-3), "batch_norm", {}, nn.BatchNorm2d),
    (nn.GroupNorm(4, 8, 1e-3), "group_norm", {}, GroupNorm),
    (GroupNorm(8, 2), "group_norm", {}, GroupNorm),
    (TorchvisionLayerNorm2d(8, eps=1e-6), "layer_norm_2d", {}, LayerNorm2d),
    (nn.LayerNorm(7, bias=False), "layer_norm", {}, nn.LayerNorm),
    (nn.LayerNorm((7, 7)), "layer_norm", {"eps": 1e-5}, nn.LayerNorm),
    (nn.InstanceNorm2d(8, affine=True), "instance_norm", {}, nn.InstanceNorm2d),
    (nn.Conv2d(8, 6, 3, 2, 1, dilation=2), "coord_conv", {}, CoordConv),
    (nn.Conv2d(8, 6, (3, 1), padding=(1, 0), groups=2, bias=False), "coord_conv", {"with_r": True}, CoordConv),
    (nn.Conv2d(8, 6, 3, padding="same"), "coord_conv", {"kernel_size": 3}, CoordConv),
    (CoordConv(8, 6, 3), "coord_conv", {}, CoordConv),
    (nn.PReLU(8), "prelu", {}, PReLU),
    (nn.LeakyReLU(0.3, inplace=True), "leaky_relu", {"negative_slope": 0.3}, nn.LeakyReLU),
    (nn.MaxPool2d(3, 2, 1), "max_pool", {}, nn.MaxPool2d),
    (GeM(2.0), "gem", {}, GeM),
    (SEBlock(8, 4), "se", {}, SEBlock),
    (DropPath(0.2), "drop_path", {"drop_prob": 0.5}, DropPath),
    (nn.Dropout(0.5), "identity", {}, nn.Identity),
    (nn.Identity(), "identity", {}, nn.Identity),
]
OTHERS = [
    (nn.BatchNorm2d(8, 1e-3), "frozen_batch_norm", {"eps": 1e-5}, FrozenBatchNorm, None),
    (nn.BatchNorm2d(8), "group_norm", {"num_groups": 4}, GroupNorm, ["weight", "bias"]),
    (nn.BatchNorm3d(8), "layer_norm_2d", {}, LayerNorm2d, ["weight", "bias"]),
    (nn.BatchNorm2d(8), "rms_norm_2d", {}, RMSNorm2d, ["weight"]),
    (nn.BatchNorm2d(8), "instance_norm", {}, nn.InstanceNorm2d, ["weight", "bias"]),
    (nn.BatchNorm2d(8, affine=False), "group_norm", {}, GroupNorm, []),
    (nn.BatchNorm2d(8), "group_norm", {"affine": False}, GroupNorm, []),
    (nn.InstanceNorm2d(8, affine=True, track_running_stats=True), "batch_norm", {}, nn.BatchNorm2d, ["weight", "bias"]),
    (TorchvisionLayerNorm2d(8), "batch_norm", {}, nn.BatchNorm2d, ["weight", "bias"]),
    (FrozenBatchNorm(8), "layer_norm_2d", {}, LayerNorm2d, ["weight", "bias"]),
    (torchvision_frozen(8), "frozen_batch_norm", {}, FrozenBatchNorm, None),
    (nn.GroupNorm(4, 8), "group_norm", {"num_groups": 2}, GroupNorm, ["weight", "bias"]),
    (nn.LayerNorm(7), "rms_norm", {}, nn.RMSNorm, ["weight"]),
    (nn.RMSNorm(7), "layer_norm", {}, nn.LayerNorm, ["weight"]),
    (nn.LayerNorm(7, elementwise_affine=False), "layer_norm", {"normalized_shape": (7, 7)}, nn.LayerNorm, []),
    (nn.LayerNorm(7), "layer_norm", {"bias": False}, nn.LayerNorm, ["weight"]),
    (nn.BatchNorm2d(8), "batch_norm", {"eps": 0.1}, nn.BatchNorm2d, None),
    (nn.Conv2d(8, 6, 3, bias=False), "coord_conv", {"bias": True}, CoordConv, ["weight"]),
    (nn.BatchNorm2d(8), "identity", {}, nn.Identity, []),
    (nn.ReLU(inplace=True), "gelu", {"approximate": "tanh"}, nn.GELU, []),
    (nn.PReLU(8), "prelu", {"slope": 0.1}, PReLU, []),
    (nn.ReLU(), "leaky_relu", {"negative_slope": 0.3}, nn.LeakyReLU, []),
    (nn.LeakyReLU(0.3), "leaky_relu", {"negative_slope": 0.1}, nn.LeakyReLU, []),
    (nn.AdaptiveAvgPool2d((1, 1)), "gem", {}, GeM, []),
    (nn.AdaptiveMaxPool2d(1), "gem", {}, GeM, []),
    (GeM(), "gem", {"eps": 1e-4}, GeM, ["p"]),
    (GeM(), "adaptive_avg_pool", {}, nn.AdaptiveAvgPool2d, []),
    (nn.AdaptiveAvgPool2d((3, 2)), "adaptive_max_pool", {}, nn.AdaptiveMaxPool2d, []),
    (nn.MaxPool2d(3, 2, 1, ceil_mode=True), "avg_pool", {}, nn.AvgPool2d, []),
    (nn.AvgPool2d((3, 2)), "max_pool", {}, nn.MaxPool2d, []),
    (nn.AvgPool2d(2), "lp_pool", {"norm_type": 2}, nn.LPPool2d, []),
    (nn.LPPool2d(2, 3), "blur_pool", {}, BlurPool2d, []),
    (nn.Conv2d(8, 6, 3, 2, 1, bias=False), "depthwise_separable_conv", {}, DepthwiseSeparableConv2d, []),
    (nn.Conv2d(8, 6, 3, padding=1), "coord_conv", {"kernel_size": 1, "padding": 0}, CoordConv, ["bias"]),
    (nn.Conv2d(8, 6, 3), "coord_conv", {"stride": 2}, CoordConv, None),
    (nn.Conv2d(8, 8, 1), "se", {"reduction": 2}, SEBlock, []),
    (SEBlock(8), "se", {"channels": 8, "gate": "tanh1p"}, SEBlock, None),
]


def name_of(case):
    return f"{type(case[0]).__name__}-{case[1]}"


def sample(old):
    if isinstance(old, nn.BatchNorm1d):
        return torch.randn(2, 8, 7)
    return torch.randn(2, 8, 6, 7, 7) if isinstance(old, nn.BatchNorm3d) else torch.randn(2, 8, 7, 7)


@pytest.mark.parametrize(("old", "name", "params", "block"), EXACT, ids=map(name_of, EXACT))
def test_exact(old, name, params, block):
    trained(old)
    before = copy.deepcopy(old)
    made = in_place_of(old, name, params)
    assert type(made.module) is block and made.module is not old
    assert made.exact
    assert set(made.carried) == set(old.state_dict())
    x = sample(old)
    assert torch.equal(made.module(x), before(x))
    check_untouched(old, before)
    check_tensors(old, made)


@pytest.mark.parametrize(("old", "name", "params", "block", "carried"), OTHERS, ids=map(name_of, OTHERS))
def test_not_exact(old, name, params, block, carried):
    trained(old)
    before = copy.deepcopy(old)
    made = in_place_of(old, name, params)
    assert type(made.module) is block
    assert not made.exact and made.note
    assert list(made.carried) == ([*old.state_dict()] if carried is None else carried)
    x = sample(old)
    assert name == "coord_conv" or made.module(x).shape == before(x).shape
    check_untouched(old, before)
    check_tensors(old, made)


def check_untouched(old, before):
    assert old.training is before.training
    assert repr(old) == repr(before)
    for (key, now), (_, was) in zip(old.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(now, was), key


def check_tensors(old, made):
    """What is carried is the same object, or, where a parameter became a buffer or the reverse, a copy."""
    theirs, mine = old.state_dict(keep_vars=True), made.module.state_dict(keep_vars=True)
    for name in made.carried:
        assert torch.equal(mine[name], theirs[name])
        assert mine[name] is theirs[name] or isinstance(mine[name], nn.Parameter) is not isinstance(theirs[name], nn.Parameter)
    assert all(tensor.is_leaf for tensor in mine.values())


@pytest.mark.parametrize(
    ("old", "name", "params"), [case[:3] for case in EXACT + OTHERS], ids=[name_of(case) for case in EXACT + OTHERS]
)
def test_no_value_is_read(old, name, params):
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        fake = in_place_of(old, name, params)
    old = copy.deepcopy(old).to("meta")
    made = in_place_of(old, name, params, device=torch.device("meta"))
    assert made.note == fake.note and made.carried == fake.carried
    assert all(tensor.is_meta for tensor in made.module.state_dict().values())


@pytest.mark.parametrize("name", ["group_norm", "frozen_batch_norm", "layer_norm_2d", "batch_norm"])
def test_mode_type_and_freezing_stay(name):
    old = nn.BatchNorm2d(8, dtype=torch.float64).train()
    old.weight.requires_grad_(False)
    module = in_place_of(old, name, {}).module
    assert module.training
    assert {tensor.dtype for tensor in module.state_dict().values()} <= {torch.float64, torch.int64}
    assert not module.weight.requires_grad
    assert all(part.training for part in module.modules())
    assert not in_place_of(old.eval(), name, {}).module.training


def test_parts_of_the_same_class_keep_their_modes():
    old = CBAMBlock(8, spatial_norm=True).train()
    old.spatial.norm.eval()
    made = in_place_of(old, "cbam", {}).module
    assert [part.training for part in made.modules()] == [part.training for part in old.modules()]
    assert made.spatial is not old.spatial and made.spatial.norm.weight is old.spatial.norm.weight


def test_what_the_old_module_does_not_say_comes_from_the_caller():
    pool = nn.AdaptiveAvgPool2d(1)
    made = in_place_of(pool, "gem", {}, device=torch.device("meta"), dtype=torch.float64)
    assert made.module.p.is_meta and made.module.p.dtype == torch.float64
    assert in_place_of(nn.Identity(), "batch_norm", {}, channels=8).module.num_features == 8
    assert in_place_of(models.squeezenet.Fire(4, 2, 2, 2), "se", {}, channels=4).module.fc1.in_features == 4


def test_a_block_without_a_type_gets_that_of_the_place(plain):
    made = in_place_of(nn.Conv2d(4, 4, 1, dtype=torch.float64), "plain_scale", {})
    assert made.module.scale.dtype == made.module.shift.dtype == torch.float64
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = in_place_of(nn.Conv2d(4, 4, 1, dtype=torch.float64), "plain_scale", {})
    assert fake.module.scale.dtype == torch.float64


@pytest.fixture
def plain():
    entries, holders = dict(registry._entries), dict(registry._holders)

    @registry.register("plain_scale")
    class PlainScale(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(channels))
            self.register_buffer("shift", torch.zeros(channels))

    yield PlainScale
    for table, was in ((registry._entries, entries), (registry._holders, holders)):
        table.clear()
        table.update(was)


def test_gem_starts_as_the_mean():
    x = torch.rand(2, 8, 5, 7)
    old = nn.AdaptiveAvgPool2d(1)
    torch.testing.assert_close(in_place_of(old, "gem", {}).module(x), old(x))
    assert in_place_of(old, "gem", {"p": 3.0}).module.p.item() == 3
    assert in_place_of(nn.AdaptiveMaxPool2d(1), "gem", {}).module.p.item() == 3


def test_a_coordinate_convolution_learns_its_coordinates():
    made = in_place_of(nn.Conv2d(3, 4, 3), "coord_conv", {})
    made.module(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert made.module.coord_weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", sorted({*registry.list("activation")} - {"relu"}))
def test_new_activations_do_not_overwrite(name):
    x = torch.randn(2, 3)
    before = x.clone()
    in_place_of(nn.ReLU(inplace=True), name, {}).module(x)
    assert torch.equal(x, before)


def test_modules_of_timm():
    layers = pytest.importorskip("timm.layers")
    x = torch.randn(2, 8, 5, 7)
    for old, name, block, exact in (
        (layers.LayerNorm2d(8), "layer_norm_2d", LayerNorm2d, True),
        (layers.LayerNorm(7), "layer_norm", nn.LayerNorm, True),
        (layers.GroupNorm1(8), "group_norm", GroupNorm, True),
        (layers.Swish(), "silu", nn.SiLU, False),
        (layers.GELUTanh(), "mish", nn.Mish, False),
    ):
        made = in_place_of(trained(old), name, {})
        assert type(made.module) is block
        assert made.exact is exact
        assert not exact or torch.equal(made.module(x), old(x))
    with pytest.raises(ValueError, match=r"it would lose what that does besides \(drop, act\)"):
        in_place_of(layers.BatchNormAct2d(8), "group_norm", {})


class Own(nn.Module):
    """A module of somebody's own."""


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    ("old", "name", "params", "words"),
    [
        (nn.ReLU(), "geluu", {}, ["unknown block 'geluu'", "did you mean 'gelu'?"]),
        (nn.ReLU(), "gelu", {"aproximate": "tanh"}, ["'gelu'", "'aproximate'", "did you mean 'approximate'?"]),
        (nn.BatchNorm2d(8), "group_norm", {"dtype": torch.half}, ["'dtype' is that of the place"]),
        (nn.LazyBatchNorm2d(), "group_norm", {}, ["lazy", "run the model once"]),
        (nn.Conv2d(3, 4, 1), "relu", {}, ["'relu' cannot take the place of Conv2d", "element-wise activation"]),
        (nn.Softmax(1), "relu", {}, ["element-wise activation"]),
        (nn.GLU(1), "relu", {}, ["element-wise activation"]),
        (nn.ReLU(), "batch_norm", {}, ["'batch_norm' cannot take the place of ReLU", "a norm goes where"]),
        (nn.LayerNorm(8), "batch_norm", {}, ["channels come last", "layer_norm and rms_norm can"]),
        (nn.BatchNorm2d(8), "layer_norm", {}, ["channels come second", "layer_norm_2d"]),
        (OwnNorm(8), "group_norm", {}, ["a norm of torch, torchvision or timm"]),
        (nn.BatchNorm3d(8), "batch_norm", {}, ["(N, C, H, W) only", "group_norm"]),
        (nn.BatchNorm1d(8), "instance_norm", {}, ["(N, C, H, W) only"]),
        (nn.BatchNorm2d(8, track_running_stats=False), "frozen_batch_norm", {}, ["no running statistics"]),
        (nn.BatchNorm2d(8), "group_norm", {"num_channels": 4}, ["8 channels", "num_channels is 4"]),
        (nn.BatchNorm2d(8), "group_norm", {"num_groups": 0}, ["num_groups", "at least 1"]),
        (nn.Identity(), "batch_norm", {}, ["needs num_features", "give it in params"]),
        (nn.ReLU(), "max_pool", {"kernel_size": 2}, ["a pool goes where a pool is"]),
        (nn.AdaptiveAvgPool2d(7), "gem", {}, ["one position", "gives 7"]),
        (nn.AvgPool2d(2), "gem", {}, ["one position", "has a window"]),
        (nn.AdaptiveMaxPool2d(1, return_indices=True), "gem", {}, ["return_indices"]),
        (nn.AdaptiveAvgPool2d(1), "avg_pool", {}, ["it has a window, and the old one an output size"]),
        (nn.MaxPool2d(2), "adaptive_avg_pool", {}, ["it has an output size, and the old one a window"]),
        (nn.MaxPool1d(2), "avg_pool", {}, ["(N, C, H, W) only"]),
        (nn.MaxPool2d(3, dilation=2), "avg_pool", {}, ["no dilation", "2"]),
        (nn.MaxPool2d(3, padding=1), "lp_pool", {"norm_type": 2}, ["no padding", "1"]),
        (nn.AvgPool2d(2), "lp_pool", {}, ["needs norm_type"]),
        (nn.AvgPool2d(2, ceil_mode=True), "blur_pool", {}, ["no ceil_mode"]),
        (nn.AvgPool2d((2, 3)), "blur_pool", {}, ["kernel_size must be an integer", "(2, 3)"]),
        (GeM(flatten=True), "adaptive_avg_pool", {}, ["flattens"]),
        (nn.Conv2d(8, 8, 3, groups=2), "depthwise_separable_conv", {}, ["no groups", "2"]),
        (nn.Conv2d(8, 8, 3, padding_mode="reflect"), "depthwise_separable_conv", {}, ["no padding_mode", "'reflect'"]),
        (nn.Conv2d(8, 8, 3, padding_mode="reflect"), "coord_conv", {}, ["no padding_mode", "'reflect'"]),
        (nn.Conv3d(8, 8, 3), "coord_conv", {}, ["plain Conv2d"]),
        (nn.Conv2d(8, 4, 1), "se", {}, ["keeps the number of channels", "4 of 8"]),
        (nn.Conv2d(8, 8, 3, stride=2), "se", {}, ["no stride", "2"]),
        (nn.Linear(8, 4), "coord_conv", {"kernel_size": 1}, ["needs in_channels, out_channels"]),
        (Own(), "se", {}, ["'se' cannot take the place of Own", "needs channels"]),
        (SEBlock(8), "se", {"gate": "tanh1p"}, ["needs channels"]),
        (SEBlock(8), "se", {"channels": 8, "gate": "sigmod"}, ["gate", "did you mean 'sigmoid'?"]),
    ],
)
def test_errors(old, name, params, words):
    with pytest.raises(ValueError) as error:
        in_place_of(old, name, params)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
