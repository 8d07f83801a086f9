"""Stages: every pattern with every suffix honours every argument, or refuses it."""

import pytest
import torch
from torch import nn

from torchvision_customizer import Stage, Stem, TransitionLayer, blocks, register_pattern
from torchvision_customizer.compose import list_patterns, patterns

PATTERNS = {
    "conv": {},
    "residual": {},
    "bottleneck": {"expansion": 2},
    "wide_bottleneck": {"expansion": 4, "width_multiplier": 1.5},
    "grouped_bottleneck": {"expansion": 2, "groups": 2},
    "depthwise": {},
    "dense": {"growth_rate": 4},
    "mbconv": {"expansion": 2, "use_se": False},
    "fused_mbconv": {"expansion": 2},
}
ATTENTIONS = {"se": blocks.SEBlock, "eca": blocks.ECABlock, "cbam": blocks.CBAMBlock}
# What has no branch that could be dropped.
NO_BRANCH = ("conv", "dense", "depthwise")
every_pattern = pytest.mark.parametrize("pattern", PATTERNS)


def stage(pattern, *, channels=8, number=2, in_channels=4, **options):
    name = pattern.partition("+")[0]
    return Stage(channels, number, pattern, in_channels, **{**PATTERNS[name], **options})


def count(module, kind):
    return sum(isinstance(child, kind) for child in module.modules())


def test_every_pattern_is_tested():
    assert list_patterns() == sorted(PATTERNS)


@every_pattern
@pytest.mark.parametrize("suffix", ["", "+se", "+eca", "+cbam"])
def test_a_suffix_puts_its_attention_into_every_block(pattern, suffix):
    """Defect 24: every suffix but ``+se`` was accepted and ignored."""
    made = stage(pattern + suffix)
    expected = 1 if pattern == "dense" else 2
    for name, block in ATTENTIONS.items():
        assert count(made, block) == (expected if suffix == f"+{name}" else 0)
    x = torch.randn(2, 4, 7, 6, requires_grad=True)
    made(x).square().sum().backward()
    assert made(x).shape == (2, 8, 7, 6)
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name


@every_pattern
def test_drop_path_is_in_every_block_that_has_a_branch(pattern):
    """Defect 24."""
    if pattern in NO_BRANCH:
        with pytest.raises(ValueError, match="drop_path"):
            stage(f"{pattern}+drop_path")
        return
    made = stage(f"{pattern}+se+drop_path", in_channels=8)
    assert [m.drop_prob for m in made.modules() if isinstance(m, blocks.DropPath)] == [0.1, 0.1]
    made = stage(f"{pattern}+drop_path", in_channels=8, drop_path=0.3)
    assert [m.drop_prob for m in made.modules() if isinstance(m, blocks.DropPath)] == [0.3, 0.3]
    made = stage(pattern, in_channels=8, drop_path=1.0)
    assert [m.drop_prob for m in made.modules() if isinstance(m, blocks.DropPath)] == [1.0, 1.0]


def test_a_depthwise_block_that_adds_has_a_branch():
    made = stage("depthwise+drop_path", add_residual=True)
    assert count(made, blocks.DropPath) == 2


@every_pattern
@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("batch", nn.BatchNorm2d),
        ("group", nn.GroupNorm),
        ("layer", blocks.LayerNorm2d),
        ("instance", nn.InstanceNorm2d),
        (None, nn.Identity),
    ],
)
def test_norms_are_honoured(pattern, norm, kind):
    """Defect 24: ``norm`` was ignored by three patterns, meant none in one, and crashed in forward."""
    made = stage(f"{pattern}+se", norm=norm)
    assert count(made, kind) > 0
    for _, other in (("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("layer", blocks.LayerNorm2d)):
        assert other is kind or count(made, other) == 0
    assert made(torch.randn(2, 4, 6, 6)).shape == (2, 8, 6, 6)


def test_group_norm_takes_any_number_of_channels():
    """Defect 24: there were always 32 groups, which divide few numbers."""
    assert stage("residual", channels=30, norm="group")(torch.randn(1, 4, 5, 5)).shape == (1, 30, 5, 5)


@every_pattern
@pytest.mark.parametrize(("activation", "kind"), [("gelu", nn.GELU), ("mish", nn.Mish), ("hardswish", nn.Hardswish)])
def test_activations_are_honoured(pattern, activation, kind):
    """Defect 24: ``activation`` was ignored by three patterns."""
    made = stage(pattern, activation=activation)
    assert count(made, kind) > 0 and count(made, nn.ReLU) == count(made, nn.SiLU) == 0


@every_pattern
def test_the_activation_is_that_of_the_pattern_by_default(pattern):
    made = stage(pattern)
    kinds = (nn.SiLU, nn.ReLU) if "mbconv" in pattern else (nn.ReLU, nn.SiLU)
    assert count(made, kinds[0]) > 0 and count(made, kinds[1]) == 0


@every_pattern
@pytest.mark.parametrize(
    ("arguments", "size"),
    [({}, 9), ({"downsample": True}, 5), ({"stride": 2}, 5), ({"downsample": True, "stride": 3}, 3), ({"stride": 1}, 9)],
)
@pytest.mark.parametrize("number", [1, 2])
def test_strides_are_honoured_once(pattern, arguments, size, number):
    """Defect 24: ``stride`` without ``downsample`` was ignored, and ``dense`` ignored both."""
    made = stage(pattern, number=number, **arguments)
    assert made(torch.randn(1, 4, 9, 9)).shape == (1, 8, size, size)
    assert made.eval()(torch.randn(1, 4, 1, 1)).shape == (1, 8, 1, 1)


def test_a_stride_of_one_is_no_downsampling():
    with pytest.raises(ValueError, match="downsample=True and stride=1 contradict each other"):
        Stage(8, downsample=True, stride=1)


@every_pattern
@pytest.mark.parametrize("channels", [4, 8, 12])
def test_the_channels_are_those_that_come_out(pattern, channels):
    """Defect 24: ``dense`` ignored ``channels``."""
    made = stage(pattern, channels=channels)
    assert made.out_channels == channels
    assert made(torch.randn(1, 4, 4, 4)).shape[1] == channels


def test_a_dense_stage_has_as_many_layers_as_blocks():
    one, three = stage("dense", number=1, channels=16), stage("dense", number=3, channels=16)
    assert count(three, nn.Conv2d) > count(one, nn.Conv2d)
    assert "conv" not in dict(three[0].named_children()), "4 + 3 * 4 channels are 16 already"
    assert one[0].conv.in_channels == 8


@pytest.mark.parametrize(
    ("pattern", "option", "value"),
    [
        ("conv", "kernel_size", 5),
        ("conv", "groups", 4),
        ("bottleneck", "expansion", 1),
        ("wide_bottleneck", "width_multiplier", 4.0),
        ("grouped_bottleneck", "groups", 4),
        ("depthwise", "kernel_size", 5),
        ("dense", "growth_rate", 8),
        ("mbconv", "expansion", 3),
        ("mbconv", "use_se", True),
        ("fused_mbconv", "kernel_size", 5),
        ("residual", "use_se", True),
        ("residual+se", "se_reduction", 2),
        ("mbconv+se", "se_reduction", 2),
        ("residual", "bottleneck", True),
    ],
)
def test_options_change_what_they_say(pattern, option, value):
    plain = stage(pattern)
    changed = stage(pattern, **{option: value})
    shapes = [[tuple(p.shape) for p in made.parameters()] for made in (plain, changed)]
    assert shapes[0] != shapes[1]
    assert changed(torch.randn(1, 4, 6, 6)).shape == (1, 8, 6, 6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pattern": "residul"}, ["unknown pattern 'residul'", "did you mean 'residual'?", "fused_mbconv"]),
        ({"pattern": "residual+sse"}, ["unknown suffix '+sse'", "did you mean 'se'?"]),
        ({"pattern": "residual+se+eca"}, ["one attention", "'se'", "'eca'"]),
        ({"attention": "see"}, ["attention", "'see'", "did you mean 'se'?"]),
        ({"grups": 2, "pattern": "conv"}, ["'conv' has no option 'grups'", "did you mean 'groups'?"]),
        ({"groups": 2}, ["'residual' has no option 'groups'"]),
        ({"expansion": 2}, ["'residual' has no option 'expansion'"]),
        ({"growth_rate": 2}, ["'residual' has no option 'growth_rate'"]),
        ({"se_reduction": 2}, ["se_reduction", "'residual+se'"]),
        ({"pattern": "residual+eca", "se_reduction": 2}, ["se_reduction"]),
        ({"pattern": "conv", "se_reduction": 2}, ["no option 'se_reduction'"]),
        ({"use_batchnorm": False, "pattern": "conv"}, ["no option 'use_batchnorm'"]),
        ({"activation": "rulu"}, ["'rulu'", "did you mean 'relu'?"]),
        ({"norm": "btach"}, ["'btach'", "did you mean 'batch'?"]),
        ({"channels": 0}, ["Stage: channels", "at least 1"]),
        ({"blocks": 0}, ["Stage: blocks", "at least 1"]),
        ({"stride": 0}, ["Stage: stride", "at least 1"]),
        ({"in_channels": 0}, ["Stage: in_channels", "at least 1"]),
    ],
)
def test_errors(arguments, words):
    """Defect 24: every other argument was swallowed."""
    with pytest.raises(ValueError) as error:
        Stage(**{"channels": 8, "in_channels": 4, **arguments})
    for word in words:
        assert word in str(error.value)


def test_an_open_stage_refuses_what_a_built_one_refuses():
    for arguments in ({"pattern": "residul"}, {"norm": "btach"}, {"activation": "rulu"}, {"grups": 1}):
        with pytest.raises(ValueError):
            Stage(8, **arguments)


@pytest.fixture
def registered():
    before = dict(patterns._patterns)
    yield
    patterns._patterns.clear()
    patterns._patterns.update(before)


class TestRegisterPattern:
    def test_a_registered_pattern_is_built(self, registered):
        """Defect 24: the registry of patterns was never read."""

        @register_pattern("twice")
        class Twice(nn.Module):
            def __init__(self, in_channels, out_channels, stride=1, activation="relu", norm_type="batch", factor=2.0):
                super().__init__()
                self.conv = nn.Conv2d(in_channels, out_channels, 1, stride)
                self.settings = activation, norm_type, factor

            def forward(self, x):
                return self.settings[2] * self.conv(x)

        made = Stage(8, 3, "twice", 4, stride=2, norm="group", activation="gelu", factor=3.0)
        assert [type(block) for block in made] == [Twice] * 3
        assert [block.settings for block in made] == [("gelu", "group", 3.0)] * 3
        assert [block.conv.stride for block in made] == [(2, 2), (1, 1), (1, 1)]
        assert (Stem(4) >> Stage(8, 1, "twice")).out_channels == 8
        with pytest.raises(ValueError, match=r"has no option 'facter', did you mean 'factor'\?"):
            Stage(8, 1, "twice", 4, facter=1.0)
        with pytest.raises(ValueError, match=r"takes no '\+se'"):
            Stage(8, 1, "twice+se", 4)

    def test_a_pattern_may_make_the_whole_stage(self, registered):
        @register_pattern("whole")
        def make(in_channels, out_channels, *, stride=1, blocks=1):
            return nn.Conv2d(in_channels, out_channels, 2 * blocks + 1, stride, blocks)

        made = Stage(8, 3, "whole", 4, stride=2)
        assert len(made) == 1 and made[0].kernel_size == (7, 7)

    @pytest.mark.parametrize("name", ["residual", "res_idual", "fused-mbconv", "Wide", "a+b", "", " a"])
    def test_taken_and_unfit_names(self, registered, name):
        with pytest.raises(ValueError, match="pattern"):
            register_pattern(name)(lambda in_channels, out_channels, stride: nn.Identity())

    def test_a_notebook_cell_may_run_again(self, registered):
        def make(in_channels, out_channels, stride):
            return nn.Identity()

        register_pattern("again")(make)
        register_pattern("again")(make)

    def test_a_stride_must_be_taken(self, registered):
        with pytest.raises(ValueError, match="takes no stride"):
            register_pattern("flat")(lambda in_channels, out_channels: nn.Identity())


class TestTransitionLayer:
    def test_is_that_of_densenet(self):
        made = TransitionLayer(8)
        assert [type(layer) for layer in made] == [nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.AvgPool2d]
        assert made(torch.randn(2, 8, 6, 6)).shape == (2, 4, 3, 3) and made.out_channels == 4

    def test_arguments(self):
        made = TransitionLayer(9, 0.5, 1, activation="silu", norm="group")
        assert [type(layer) for layer in made] == [blocks.GroupNorm, nn.SiLU, nn.Conv2d]
        assert made.out_channels == 4

    @pytest.mark.parametrize("arguments", [{"compression": 0}, {"pool_size": 0}, {"in_channels": 0}, {"norm": "btach"}])
    def test_errors(self, arguments):
        with pytest.raises(ValueError):
            TransitionLayer(**arguments)

    def test_flows(self):
        made = Stem(8) >> TransitionLayer() >> Stage(16)
        assert made[1].out_channels == 4 and made[2].in_channels == 4
