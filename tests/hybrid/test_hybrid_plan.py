"""Plan, then apply: what targets and places mean, that a plan touches nothing, and what is said of a wrong patch."""

import copy
import threading

import pytest
import torch
from torch import nn

from torchvision_customizer import registry
from torchvision_customizer._torchvision import models
from torchvision_customizer.errors import PatchError
from torchvision_customizer.fusion import fuse, unfuse
from torchvision_customizer.hybrid import HybridModel, apply, plan, unpatch


def paths(the_plan):
    return [edit.child_path for edit in the_plan.edits]


def code(module):
    return " ".join(module.code.split())


@pytest.fixture(scope="module")
def resnet18():
    """For plans only: nothing may change it."""
    return models.resnet18()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("layer4", ["layer4.0.se", "layer4.1.se"]),
        ("layer4.1", ["layer4.1.se"]),
        ("layer[34]", ["layer3.0.se", "layer3.1.se", "layer4.0.se", "layer4.1.se"]),
        ("layer[34].*", ["layer3.0.se", "layer3.1.se", "layer4.0.se", "layer4.1.se"]),
        ("layer[!123].0", ["layer4.0.se"]),
        ("*.1", ["layer1.1.se", "layer2.1.se", "layer3.1.se", "layer4.1.se"]),
        ("**.0", ["layer1.0.se", "layer2.0.se", "layer3.0.se", "layer4.0.se"]),
        ("layer?", [f"layer{stage}.{block}.se" for stage in (1, 2, 3, 4) for block in (0, 1)]),
        ("*", [f"layer{stage}.{block}.se" for stage in (1, 2, 3, 4) for block in (0, 1)]),
        ("**", [f"layer{stage}.{block}.se" for stage in (1, 2, 3, 4) for block in (0, 1)]),
        ("type:BasicBlock", [f"layer{stage}.{block}.se" for stage in (1, 2, 3, 4) for block in (0, 1)]),
    ],
)
def test_targets(resnet18, target, expected):
    assert paths(plan(resnet18, {target: {"inject": "se"}})) == expected


def test_wrap_takes_exactly_what_matches(resnet18):
    assert paths(plan(resnet18, {"layer4": {"wrap": "se"}})) == ["layer4.se"]
    assert paths(plan(resnet18, {"type:Conv2d": {"wrap": "se"}}))[:2] == ["conv1.after.se", "layer1.0.conv1.after.se"]
    assert len(paths(plan(resnet18, {"type:Conv2d": {"wrap": "se"}}))) == 20


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("auto", "se = self.se(bn3); bn3 = None add = se + x"),
        ("residual", "se = self.se(bn3); bn3 = None add = se + x"),
        ("residual[0]", "se = self.se(bn3); bn3 = None add = se + x"),
        ("input", "se = self.se(x); x = None conv1 = self.conv1(se)"),
        ("output", "se = self.se(relu_2); relu_2 = None return se"),
        ("before:conv2", "se = self.se(relu); relu = None conv2 = self.conv2(se)"),
        ("after:bn1", "se = self.se(bn1); bn1 = None relu = self.relu(se)"),
        ("after:relu[1]", "se = self.se(relu_1); relu_1 = None conv3 = self.conv3(se)"),
    ],
)
def test_places(at, expected):
    original = nn.Sequential(models.resnet.Bottleneck(64, 16))
    model = copy.deepcopy(original)
    apply(plan(model, {"0": {"inject": {"type": "se", "at": at}}}, example_input=(2, 64, 8, 8)))
    assert expected in code(model[0])
    x = torch.randn(2, 64, 8, 8)
    for mode in (False, True):
        assert torch.equal(model.train(mode)(x), original.train(mode)(x))
    model(x).sum().backward()


def test_the_identity_branch_is_left_alone(build):
    model = apply(plan(build("resnet50"), {"layer1.0": {"inject": "se"}}))
    assert "se = self.se(bn3)" in code(model.layer1[0])
    assert "add = se + downsample" in code(model.layer1[0])


def test_operations_apply_in_order(build):
    model = build()
    patches = {"layer4.0": [{"inject": "se"}, {"inject": {"type": "se", "params": {"reduction": 4}}}]}
    apply(plan(model, patches))
    assert code(model.layer4[0]).find("se = self.se(bn2)") < code(model.layer4[0]).find("se_1 = self.se_1(se)")
    assert model.layer4[0].se_1.fc1.out_features == 128
    apply(plan(model, {"layer4.0": {"inject": "se"}}))
    assert "se_2 = self.se_2(se_1)" in code(model.layer4[0])
    assert len(model.report.edits) == 3
    assert [type(m) for m in unpatch(model).modules()] == [type(m) for m in build().modules()]


def test_taken_names_are_avoided(build):
    model = build()
    model.layer4.se = nn.Identity()
    model.layer1[0].se = "mine"
    assert paths(plan(model, {"layer4": {"wrap": "se"}, "layer1.0": {"inject": "se"}})) == ["layer4.se_1", "layer1.0.se_1"]


def test_2_1_spelling(resnet18):
    patches = {
        "layer3": {"wrap": {"type": "seblock", "params": {"reduction": 8}}},
        "layer4": {"inject_after": {"block": "SEBlock", "params": {}, "position": "after"}},
    }
    first, second = plan(resnet18, patches).edits
    assert (first.child_path, first.params["reduction"]) == ("layer3.se", 8)
    assert second.child_path == "layer4.se"


def test_channels_are_measured(resnet18):
    assert [edit.params["channels"] for edit in plan(resnet18, {"layer*": {"wrap": "se"}}).edits] == [64, 128, 256, 512]
    assert plan(resnet18, {"fc": {"wrap": "se"}}).edits[0].params["channels"] == 1000
    assert plan(resnet18, {"maxpool": {"wrap": "se"}}).edits[0].params["channels"] == 64


def test_example_input():
    class Grey(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 16, 3)
            self.block = models.resnet.BasicBlock(16, 16)

        def forward(self, x):
            return self.block(self.stem(x))

    patches = {"block": {"inject": "se"}}
    with pytest.raises(PatchError, match=r"does not run on a batch of 3×224×224.*give example_input"):
        plan(Grey(), patches)
    assert paths(plan(Grey(), patches, example_input=(4, 1, 12, 12))) == ["block.se"]
    model = apply(plan(Grey(), patches, example_input=torch.randn(1, 1, 12, 12)))
    assert model.report.input_shape == (1, 12, 12)
    assert "block.se" in model.explain()
    model.freeze_backbone()  # its stages are those of no family, and found out
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == [
        name for name, _ in model.named_parameters() if name.startswith("block.se.")
    ]


def test_a_block_that_reads_the_mode_is_not_opened():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return x + nn.functional.dropout(self.conv(x), 0.5, self.training)

    with pytest.raises(PatchError, match=r"0 cannot be opened: its forward reads self\.training"):
        plan(nn.Sequential(Moody()), {"0": {"inject": "se"}})


def test_a_block_that_branches_on_values_is_not_opened_but_can_be_wrapped():
    class Branching(nn.Module):
        def forward(self, x):
            return x + x.relu() if x.sum() > 0 else x

    model = nn.Sequential(Branching())
    with pytest.raises(PatchError, match="0 cannot be opened"):
        plan(model, {"0": {"inject": "se"}})
    with pytest.raises(PatchError, match="does not run"):  # nor does it run without values
        plan(model, {"0": {"wrap": "se"}})


def test_a_value_changed_in_place_is_refused():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.conv2, self.relu = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.conv(x)
            return self.conv2(self.relu(y)) + y

    model = nn.Sequential(InPlace())
    with pytest.raises(PatchError, match=r"changes the value at 'before relu' in place \(in 'relu'\) while other parts use it"):
        plan(model, {"0": {"inject": {"type": "se", "at": "before:relu"}}})
    plan(model, {"0": {"inject": {"type": "se", "at": "after:conv"}}})


def test_a_module_called_with_different_channels_is_refused(build):
    with pytest.raises(PatchError, match=r"layer1\.0\.relu is called with different numbers of channels \(64, 64, 256\)"):
        plan(build("resnet50"), {"layer1.0.relu": {"wrap": "se"}})


def test_a_module_with_two_names_is_refused():
    block = models.resnet.BasicBlock(3, 3)
    with pytest.raises(PatchError, match="0 has several names in the model"):
        plan(nn.Sequential(block, block), {"0": {"inject": "se"}})


def test_a_plan_touches_nothing(build, untouched):
    model = build().train()
    model.layer1[0].register_forward_hook(lambda *_: pytest.fail("a plan called a hook"))
    check, state = untouched(model), torch.get_rng_state()
    the_plan = plan(model, {"layer*": [{"inject": "se"}, {"wrap": "se"}], "conv1": {"wrap": "se"}})
    check.check()
    assert torch.equal(torch.get_rng_state(), state)
    assert "13 new modules" in str(the_plan)
    assert "layer4.1.se: se(channels=512, init=identity) at residual, after bn2, 33,312 parameters" in str(the_plan)
    assert type(model) is models.ResNet


def test_a_plan_applies_once(build, untouched):
    model = build()
    the_plan = plan(model, {"layer4": {"inject": "se"}, "layer3": {"wrap": "se"}})
    other = plan(model, {"layer4.0": {"inject": "se"}})
    elsewhere = plan(model, {"layer1": {"inject": "se"}})
    apply(the_plan)
    check = untouched(model)
    for stale in (the_plan, other):
        with pytest.raises(PatchError, match=r"layer4\.0 has changed since the plan was made.*plan again"):
            apply(stale)
    check.check()
    apply(elsewhere)
    assert len(model.report.edits) == 5


def test_a_wrap_applies_once(build):
    the_plan = plan(build(), {"layer3": {"wrap": "se"}})
    apply(the_plan)
    with pytest.raises(PatchError, match=r"layer3\.se exists by now"):
        apply(the_plan)


def test_apply_that_cannot_make_a_block_touches_nothing(build, untouched):
    entries, holders = dict(registry._entries), dict(registry._holders)
    made = []

    @registry.register("sometimes")
    class Sometimes(nn.Module):
        def __init__(self, channels, init="identity"):
            super().__init__()
            made.append(channels)
            if len(made) > 6:
                raise MemoryError

        def forward(self, x):
            return x

    try:
        model = build()
        the_plan = plan(model, {"layer*": {"inject": "sometimes"}})
        assert made == [64, 128, 256, 512]
        check = untouched(model)
        with pytest.raises(MemoryError):
            apply(the_plan)
        check.check()
    finally:
        registry._entries.clear()
        registry._entries.update(entries)
        registry._holders.clear()
        registry._holders.update(holders)


def test_a_block_without_an_identity_start_needs_a_word(build):
    entries, holders = dict(registry._entries), dict(registry._holders)

    @registry.register("plain_scale")
    class PlainScale(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.5))

        def forward(self, x):
            return x * self.scale

    @registry.register("shrink")
    class Shrink(nn.Module):
        def forward(self, x):
            return x[:, :1]

    try:
        with pytest.raises(PatchError, match="'plain_scale' has no start as the identity; write init: paper"):
            plan(build(), {"layer4": {"inject": "plain_scale"}})
        model = apply(plan(build().double(), {"layer4": {"inject": {"type": "plain_scale", "init": "paper"}}}))
        assert model.layer4[0].plain_scale.scale.dtype == torch.float64
        with pytest.raises(PatchError, match=r"must keep the shape \[2, 512, 7, 7\], but gives \[2, 1, 7, 7\]"):
            plan(build(), {"layer4": {"wrap": {"type": "shrink", "init": "paper"}}})
    finally:
        registry._entries.clear()
        registry._entries.update(entries)
        registry._holders.clear()
        registry._holders.update(holders)


ERRORS = [
    # What is asked; what the one sentence must say.
    ({"layr4": {"inject": "se"}}, ["patches['layr4'].inject", "ResNet", "'layr4'", "did you mean 'layer4'?"]),
    ({"layer4": {"inject": "sse"}}, ["patches['layer4'].inject", "unknown block 'sse'", "did you mean 'se'?"]),
    (
        {"layer4": {"inject": {"type": "se", "params": {"reducton": 8}}}},
        ["patches['layer4'].inject", "'se'", "'reducton'", "did you mean 'reduction'?"],
    ),
    ({"layer9*": {"wrap": "se"}}, ["'layer9*'", "did you mean 'layer"]),
    ({"stage*.conv": {"wrap": "se"}}, ["'stage*.conv'"]),
    ({"layer4.0.conv9": {"wrap": "se"}}, ["did you mean 'layer4.0.conv"]),
    ({"type:BasicBlok": {"inject": "se"}}, ["'type:BasicBlok'", "did you mean 'BasicBlock'?"]),
    ({"type:Swin": {"inject": "se"}}, ["'type:Swin'", "BasicBlock, BatchNorm2d, Conv2d"]),
    ({"conv1": {"inject": "se"}}, ["no place for at: auto", "conv1 is a module of torch", "wrap"]),
    ({"**.bn1": {"inject": "se"}}, ["no place for at: auto", "bn1"]),
    ({"layer4": {"injct": "se"}}, ["patches['layer4']", "unknown operation 'injct'", "did you mean 'inject'?", "wrap, inject"]),
    ({"layer4": {"replace": "se"}}, ["patches['layer4'].replace: layer4", "'se' gives [2, 256, 14, 14]", "[2, 512, 7, 7]"]),
    ({"layer4": {"remove": True}}, ["patches['layer4'].remove: layer4", "the identity gives", "[2, 512, 7, 7]"]),
    ({"layer4": {"remove": "yes"}}, ["patches['layer4'].remove", "expected true, got 'yes'"]),
    ({"bn1": {"replace": "grup_norm"}}, ["patches['bn1'].replace", "did you mean 'group_norm'?"]),
    ({"bn1": {"replace": {"type": "group_norm", "params": {"groups": 4}}}}, ["no parameter 'groups'", "num_groups"]),
    ({"bn1": {"replace": {"type": "group_norm", "at": "output"}}}, ["unknown option 'at'", "options: type, params"]),
    ({"conv1": {"replace": "relu"}}, ["'relu' cannot take the place of Conv2d", "element-wise activation"]),
    ({"fc": {"replace": "group_norm"}}, ["'group_norm' cannot take the place of Linear"]),
    ({"layer1.0": {"remove": True}, "layer1.0.bn1": {"replace": "group_norm"}}, ["layer1.0.bn1 is changed here", "layer1.0"]),
    ({"layer1.0": {"inject": "se"}, "layer1": {"remove": True}}, ["layer1.0 is changed here, and layer1 makes way"]),
    ({"bn1": [{"replace": "group_norm"}, {"remove": True}]}, ["bn1 makes way for two others"]),
    ({"conv1": [{"wrap": "se"}, {"replace": "coord_conv"}]}, ["conv1 is changed here, and conv1 makes way"]),
    ({"layer1.**": {"remove": True}}, ["layer1.0 lies within layer1"]),
    ({"type:BatchNorm2": {"replace": "group_norm"}}, ["'type:BatchNorm2'", "did you mean 'BatchNorm2d'?"]),
    ({"type:SiLU": {"replace": "relu"}}, ["no module of this ResNet matches 'type:SiLU'"]),
    ({"avgpool": {"replace": {"type": "gem", "params": {"p": -1}}}}, ["avgpool", "p must be positive"]),
    ({"maxpool": {"replace": "gem"}}, ["maxpool", "pools all of space to one position"]),
    ({"layer4": {"inject": "se", "wrap": "se"}}, ["expected one operation", "2 of them", "a list"]),
    ({"layer4": "se"}, ["expected one operation", "'se'"]),
    ({"layer4": []}, ["the list of operations is empty"]),
    ({"layer4": [{"inject": "se"}, {"inject": "ze"}]}, ["patches['layer4'][1].inject", "'ze'"]),
    ({"layer4": {"inject": 3}}, ["expected the name of a block", "3"]),
    ({"layer4": {"inject": {"params": {}}}}, ["patches['layer4'].inject", "'type'", "missing"]),
    ({"layer4": {"inject": {"type": "se", "parms": {}}}}, ["unknown option 'parms'", "did you mean 'params'?"]),
    ({"layer4": {"inject": {"type": "se", "params": 3}}}, ["patches['layer4'].inject.params", "dictionary", "3"]),
    ({"layer4": {"inject": {"type": "se", "init": "zero"}}}, ["inject.init", "'identity' or 'paper'", "'zero'"]),
    ({"layer4": {"inject": {"type": "se", "at": "resdual"}}}, ["inject.at", "'resdual'", "did you mean 'residual'?"]),
    ({"layer4": {"wrap": {"type": "se", "at": "input"}}}, ["unknown option 'at'", "options: type, params, init"]),
    ({"layer4": {"inject": {"type": "se", "at": "after:bn9"}}}, ["layer4.0 does not call 'bn9'", "did you mean 'bn2'?"]),
    ({"layer4": {"inject": {"type": "se", "at": "after:relu"}}}, ["calls 'relu' 2 times", "after:relu[0] to after:relu[1]"]),
    ({"layer4": {"inject": {"type": "se", "at": "after:relu[2]"}}}, ["calls 'relu' 2 times", "from 0"]),
    ({"layer4": {"inject": {"type": "se", "at": "residual[1]"}}}, ["layer4.0 has 1 residual branch", "from 0"]),
    ({"layer4": {"inject": {"type": "se", "params": {"reduction": 0}}}}, ["layer4.0.se", "reduction", "at least 1"]),
    ({"layer4": {"inject": {"type": "se", "params": {"channels": 7}}}}, ["layer4.0.se", "512 channels"]),
    ({"layer4": {"inject": {"type": "se", "params": {"init": "paper"}}}}, ["'init' is an option beside 'params'"]),
    ({"layer4": {"inject": {"type": "se", "params": {"dtype": 1}}}}, ["'dtype' is that of the place"]),
    ({"layer4": {"inject": {"type": "se", "params": {"gate": "sigmoid"}}}}, ["gate must be one of two_sigmoid, tanh1p"]),
    ({"": {"inject": "se"}}, ["a target is a dotted path"]),
    ({3: {"inject": "se"}}, ["patches[3]", "a target is a dotted path"]),
    (["layer4"], ["patches must map targets to operations", "list"]),
    # A later patch is wrong: those before it must not have been applied.
    ({"layer1": {"inject": "se"}, "conv1": {"wrap": "se"}, "layr4": {"inject": "se"}}, ["'layr4'"]),
]


@pytest.mark.parametrize(("patches", "words"), ERRORS, ids=[str(patches)[:60] for patches, _ in ERRORS])
def test_errors_say_what_is_wrong_and_touch_nothing(resnet18, untouched, patches, words):
    check = untouched(resnet18)
    with pytest.raises(PatchError) as error:
        plan(resnet18, patches)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    check.check()
    assert not isinstance(resnet18, HybridModel)


def test_unpatch_of_a_model_that_is_not_patched(resnet18):
    with pytest.raises(PatchError, match="ResNet has not been patched"):
        unpatch(resnet18)


def test_fused_blocks_are_patched_after_unfusing(build):
    model = apply(plan(build(), {"layer4": {"inject": "se"}}))
    fuse(model)
    with pytest.raises(PatchError, match="the model is fused"):
        plan(model, {"layer4": {"inject": "se"}})
    unfuse(model)
    assert paths(plan(model, {"layer4": {"inject": "se"}})) == ["layer4.0.se_1", "layer4.1.se_1"]


def test_unpatch_of_a_fused_model(build):
    model, original = apply(plan(build(), {"layer4": {"inject": "se"}})), build()
    fuse(model)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(unpatch(model).eval()(x), original.eval()(x))
    assert type(model) is models.ResNet


def test_models_are_patched_in_threads(build):
    """Each thread a model of its own, after the other: tracing replaces functions of torch for its duration."""
    results = []
    lock = threading.Lock()

    def work():
        with lock:
            results.append(len(apply(plan(build(), {"layer4": {"inject": "se"}})).report.edits))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [2, 2]


def test_a_copy_is_patched_on_its_own(build):
    model = apply(plan(build(), {"layer3": {"inject": "se"}}))
    copied = copy.deepcopy(model)
    apply(plan(copied, {"layer4": {"inject": "se"}}))
    assert (len(model.report.edits), len(copied.report.edits)) == (2, 4)
    assert len(model.state_dict()) + 8 == len(copied.state_dict())


@pytest.mark.parametrize("block", ["eca", "cbam", "drop_path"])
def test_new_blocks_start_as_the_identity(build, block):
    x = torch.randn(2, 3, 64, 64)
    original = build().eval()(x)
    model = apply(plan(build(), {"layer4": {"inject": block}})).eval()
    assert torch.equal(model(x), original)


@pytest.mark.parametrize(
    ("schedule", "expected"), [(None, [0.2] * 4), ("constant", [0.2] * 4), ("linear", [0.05, 0.1, 0.15, 0.2])]
)
def test_schedule_of_drop_path(build, schedule, expected):
    operation = {"type": "drop_path", "params": {"drop_prob": 0.2}} | ({"schedule": schedule} if schedule else {})
    model = apply(plan(build(), {"layer[34]": {"inject": operation}}))
    rates = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert rates == pytest.approx(expected)


def test_schedule_is_for_drop_path(build):
    with pytest.raises(PatchError, match="block 'se' has no 'drop_prob'"):
        plan(build(), {"layer4": {"inject": {"type": "se", "schedule": "linear"}}})
    with pytest.raises(PatchError, match="schedule: must be 'constant' or 'linear', got 'cosine'"):
        plan(build(), {"layer4": {"inject": {"type": "drop_path", "schedule": "cosine"}}})
