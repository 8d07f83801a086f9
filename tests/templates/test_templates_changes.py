"""Each change of a template is in the model that is built, and what a family cannot do is refused at once."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn

import torchvision_customizer as tvc
from torchvision_customizer import Template, densenet, efficientnet, mobilenet, registry, resnet
from torchvision_customizer.blocks import CBAMBlock, ECABlock, LayerNorm2d, SEBlock
from torchvision_customizer.errors import PatchError
from torchvision_customizer.hybrid import HybridModel, apply, plan, unpatch


def narrow_densenet():
    template = Template.densenet(121, growth_rate=4, num_init_features=8)
    for index, blocks in enumerate((2, 3, 4, 2)):
        template.modify_stage(index, blocks=blocks)
    return template


# Narrow and short ones, that little time is spent on.
NARROW = {
    "resnet": lambda: Template.resnet(18, channel_scale=0.25),
    "vgg": lambda: Template.vgg(11, channel_scale=1 / 16),
    "mobilenet_v2": lambda: Template.mobilenet(2, width_multiplier=0.25).modify_stage(3, blocks=1).modify_stage(4, blocks=1),
    "mobilenet_v3": lambda: Template.mobilenet(3, width_multiplier=0.5),
    "densenet": narrow_densenet,
    "efficientnet": lambda: Template.efficientnet("b0").scale_channels(0.5).modify_stage(4, blocks=1).modify_stage(5, blocks=2),
}
# Two families in `make test`: one of stages in attributes, and one in a sequence.
every_family = pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in ("resnet", "mobilenet_v3") else pytest.mark.full) for name in NARROW]
)


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


def paths(model, kind):
    return [path for path, module in model.named_modules() if isinstance(module, kind)]


def blocks_of(template):
    """How many blocks the stages have; those of a VGG are its stages."""
    sizes = [stage.model_dump() for stage in template.network.stages]
    if template.network.family == "vgg":
        return len(sizes)
    return sum(stage.get("blocks") or len(stage["expanded"]) for stage in sizes)


def runs(model, channels=3):
    x = torch.randn(2, channels, 32, 32)
    model.train()(x).square().mean().backward()
    return model.eval()(x)


@every_family
def test_attention_goes_into_every_block(family):
    template = NARROW[family]()
    plain = template.build(10)
    assert template.add_attention("se") is template
    model = template.build(10)
    model.load_state_dict(plain.state_dict(), strict=False)
    assert count(model, SEBlock) == blocks_of(template) == len(model.report.edits)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), plain.eval()(x)), "it starts as the same function"
    runs(model)
    assert list(unpatch(model).state_dict()) == list(plain.state_dict())


@every_family
def test_attention_after_convolutions_and_stages(family):
    template = NARROW[family]().add_attention("eca", after="conv").add_attention("se", after="stage", params={"reduction": 4})
    model = template.build(10)
    stages = len(template.network.stages)
    assert count(model, SEBlock) == stages
    within = [
        path
        for path, module in template.network.make().named_modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size != (1, 1)
        and any(place.holds(path) for place in template.network.places())
    ]
    assert [edit.path for edit in model.report.edits if edit.block == "eca"] == within
    assert all(edit.params["reduction"] == 4 for edit in model.report.edits if edit.block == "se")
    assert runs(model).shape == (2, 10)


@every_family
def test_norms_are_replaced(family):
    model = NARROW[family]().replace_norm("group").build(10)
    plain = NARROW[family]().build(10)
    assert count(model, nn.BatchNorm2d) == 0
    assert count(model, nn.GroupNorm) == count(plain, nn.BatchNorm2d)
    assert runs(model).shape == (2, 10)


@every_family
def test_activations_are_replaced(family):
    template = NARROW[family]().replace_activation("gelu")
    model, plain = template.build(10), NARROW[family]().build(10)
    kinds = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish)
    assert count(model, kinds) == 0
    # The last of a DenseNet is a function in its forward, which is replaced by a module.
    assert count(model, nn.GELU) == count(plain, kinds) + (family == "densenet")
    assert count(model, (nn.Sigmoid, nn.Hardsigmoid)) == count(plain, (nn.Sigmoid, nn.Hardsigmoid)), "gates stay"
    assert not model.report.unreached
    assert runs(model).shape == (2, 10)


@every_family
def test_no_norms_and_no_activations(family):
    model = NARROW[family]().replace_norm("none").replace_activation("none").build(10)
    assert count(model, (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish)) == 0


@every_family
def test_one_stage_is_changed_and_no_other(family):
    template = NARROW[family]()
    options = {"attention": "cbam", "activation": "silu" if family != "efficientnet" else "mish"}
    template.modify_stage(1, **options, norm="instance")
    model = template.build(10)
    place = template.network.places()[1]
    kind = nn.Mish if family == "efficientnet" else nn.SiLU
    for changed in (CBAMBlock, kind, nn.InstanceNorm2d):
        assert paths(model, changed) and all(place.holds(path) for path in paths(model, changed))
    own = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Hardswish)
    left = [path for path in paths(model, own) if place.holds(path) and ".cbam." not in path]
    assert not left
    assert runs(model).shape == (2, 10)


@every_family
def test_a_stage_has_other_sizes(family):
    template, plain = NARROW[family](), NARROW[family]()
    before = plain.network.places()[2]
    template.modify_stage(2, blocks=3)
    after = template.network.places()[2]
    with torch.device("meta"):
        longer, shorter = template.network.make(), plain.network.make()

    def blocks(model, place):
        kind = {"vgg": "Conv2d", "densenet": "_DenseLayer", "resnet": "BasicBlock"}
        wanted = kind.get(family, "InvertedResidual" if family.startswith("mobile") else "MBConv")
        return sum(type(m).__name__ == wanted and place.holds(path) for path, m in model.named_modules())

    assert blocks(longer, after) == 3 != 0
    sizes = [stage for index, stage in enumerate(template.network.stages) if index != 2]
    assert sizes == [stage for index, stage in enumerate(plain.network.stages) if index != 2]
    assert blocks(shorter, before) == sum(
        [stage.model_dump().get("blocks") or len(stage.expanded) for stage in plain.network.stages][2:3]
    )
    if family != "densenet":
        model = template.modify_stage(2, channels=72).build(10)
        assert [stage.channels for stage in template.network.stages].count(72) == 1
        assert runs(model).shape == (2, 10)
        assert count(model, nn.Conv2d) == count(longer, nn.Conv2d)


@every_family
def test_a_stage_goes_before_the_network_in_every_family(family):
    template = NARROW[family]().replace_norm("group").replace_activation("gelu").add_attention("eca")
    template.modify_stage(1, norm="layer", activation="mish")
    model = template.build(10)
    place = template.network.places()[1]
    for own, others in ((LayerNorm2d, nn.GroupNorm), (nn.Mish, nn.GELU)):
        assert {place.holds(path) for path in paths(model, own)} == {True}
        assert {place.holds(path) for path in paths(model, others)} == {False}
    assert count(model, ECABlock) == blocks_of(template)
    assert runs(model).shape == (2, 10)


def test_a_stage_goes_before_the_network():
    template = Template.resnet(18, channel_scale=0.125).replace_activation("gelu").replace_norm("group").add_attention("se")
    template.modify_stage(0, activation="relu", norm="batch", attention=None).modify_stage(
        3, attention=["eca", {"type": "cbam", "after": "stage"}]
    )
    model = template.build(10)
    assert [path.partition(".")[0] for path in paths(model, nn.ReLU) if "." in path and ".se" not in path][:2] == ["layer1"] * 2
    assert {path.split(".")[0] for path in paths(model, nn.BatchNorm2d)} == {"layer1"}
    assert {path.split(".")[0] for path in paths(model, SEBlock)} == {"layer2", "layer3"}
    assert paths(model, ECABlock) == ["layer4.0.eca", "layer4.1.eca"] and paths(model, CBAMBlock) == ["layer4.cbam"]
    assert isinstance(model.relu, nn.GELU) and isinstance(model.layer2[0].relu, nn.GELU)
    assert runs(model).shape == (2, 10)


@every_family
def test_widths_are_scaled(family):
    wide = {"densenet": Template.densenet, "efficientnet": Template.efficientnet, "vgg": lambda: Template.vgg(11)}
    wide |= {"resnet": lambda: Template.resnet(50, groups=32, width_per_group=4)}
    wide |= {"mobilenet_v2": Template.mobilenet, "mobilenet_v3": lambda: Template.mobilenet(3, mode="large")}
    template = wide[family]()
    with torch.device("meta"):
        full, half = template.network.make(), template.scale_channels(0.5).network.make()
    assert template.torchvision_name is None
    for (path, a), (_, b) in zip(full.named_modules(), half.named_modules(), strict=True):
        if not isinstance(a, nn.Conv2d) or path.startswith("avgpool"):
            continue
        if family in ("resnet", "vgg", "densenet"):
            assert b.out_channels == a.out_channels / 2, path
        else:  # rounded to multiples of 8; the last convolution of a MobileNetV2 stays
            last = path.startswith("features.18.")
            assert ".fc" in path or b.out_channels % 8 == 0
            assert b.out_channels == (a.out_channels if last else pytest.approx(a.out_channels / 2, rel=0.35)), path


def test_heads():
    model = Template.resnet(18, channel_scale=0.125).set_head(hidden=[32, 16], dropout=0.3).build(7)
    assert [layer.out_features for layer in model.fc.modules() if isinstance(layer, nn.Linear)] == [7, 32, 16]
    assert model.fc.p == 0.3 and model.fc.weight.shape == (7, 16)
    assert Template.resnet(18, channel_scale=0.125, dropout=0.2).build().fc.p == 0.2
    assert Template.resnet(18, channel_scale=0.125).use_dropout(0.4).build().fc.p == 0.4
    model = NARROW["mobilenet_v2"]().set_head(hidden=32, dropout=0.6).build(7)
    assert model.classifier[0].p == 0.6 and model.classifier[1].hidden[1].out_features == 32
    model = NARROW["efficientnet"]().use_dropout(0.6).build(0)
    assert model.classifier[0].p == 0.6 and isinstance(model.classifier[1], nn.Identity)
    model = NARROW["densenet"]().use_dropout(0.1).set_head(dropout=0.25).build(7)
    assert model.features.denseblock1.denselayer1.drop_rate == 0.1 and model.classifier.p == 0.25


@every_family
def test_stems(family):
    template = NARROW[family]().set_stem(in_channels=1)
    assert template.torchvision_name is None
    assert runs(template.build(10), channels=1).shape == (2, 10)


def test_a_stem_for_small_images():
    template = Template.resnet(18, channel_scale=0.25).set_stem(kernel=3, stride=1, pool=False, channels=24)
    model = template.build(10)
    assert model.conv1.kernel_size == (3, 3) and model.conv1.out_channels == 24
    assert [stage.stride for stage in model.stage_info] == [1, 2, 4, 8]
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    for family, channels in (("mobilenet_v2", 12), ("mobilenet_v3", 24), ("efficientnet", 24), ("densenet", 10)):
        model = NARROW[family]().set_stem(stride=1, kernel=5, channels=channels).build(10)
        stem = model.features[0] if family == "densenet" else model.features[0][0]
        assert (stem.kernel_size, stem.stride, stem.out_channels) == ((5, 5), (1, 1), channels)
        assert runs(model).shape == (2, 10)


def test_arguments_of_the_functions():
    model = resnet(18, 10, 1, "gelu", "group", True, 8, 32, 0.5, 0.1, True)
    assert model.conv1.in_channels == 1 and model.conv1.out_channels == 16 and model.layer4[0].conv2.out_channels == 256
    assert count(model, nn.BatchNorm2d) == 0 and count(model, nn.GELU) == 9 and count(model, SEBlock) == 8
    assert model.layer1[0].se.fc1.out_features == 4 and model.fc.p == 0.1
    assert all(not model.get_submodule(f"layer{n}.1.bn2").weight.any() for n in (1, 2, 3, 4))
    model = mobilenet(3, 10, 0.5, "relu", 0.4, "large", in_channels=4)
    assert count(model, nn.Hardswish) == 0 and model.classifier[2].p == 0.4 and model.features[0][0].in_channels == 4
    with torch.device("meta"):
        model = densenet(121, 10, 8, 2, 0.25, "mish", 0.1, 16, in_channels=2)
    assert model.features.conv0.weight.shape[:2] == (16, 2)
    layer = model.features.denseblock1.denselayer1
    assert (layer.conv1.out_channels, layer.conv2.out_channels, layer.drop_rate) == (16, 8, 0.1)
    assert model.features.transition1.conv.out_channels == (16 + 6 * 8) // 4
    assert count(model, nn.ReLU) == 0 and count(model, nn.Mish) == 1 + 2 * 58 + 3 + 1
    with torch.device("meta"):
        model = efficientnet("b3", 10, 2, dropout=0.1)
    assert model.features[0][0].in_channels == 2 and model.classifier[0].p == 0.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Template.resnet(20), ["resnet: layers must be one of 18, 34, 50, 101, 152, got 20"]),
        (lambda: Template.resnet(18, groups=2), ["resnet: groups and width_per_group are for bottlenecks"]),
        (lambda: Template.resnet(18, se_reduction=8), ["se_reduction is for use_se=True, got 8"]),
        (lambda: Template.resnet(18, activation="geluu"), ["unknown activation 'geluu', did you mean 'gelu'?"]),
        (lambda: Template.resnet(18, norm_type="grup"), ["unknown norm 'grup', did you mean 'group'?"]),
        (lambda: Template.resnet(18, in_channels=0), ["resnet.stem.in_channels", "got 0"]),
        (lambda: Template.resnet(18, in_channels="3"), ["resnet.stem.in_channels", "got '3'"]),
        (lambda: Template.resnet(18, dropout=1.0), ["resnet: the head.dropout", "got 1.0"]),
        (lambda: Template.resnet(18, channel_scale=0), ["resnet: the factor must be a number above 0, got 0"]),
        (lambda: Template.resnet(18, channel_scale=0.001), ["resnet: the stem.channels", "got 0"]),
        (lambda: Template.vgg(12), ["vgg: layers must be one of 11, 13, 16, 19, got 12"]),
        (lambda: Template.vgg(11, use_batchnorm=False).replace_norm("group"), ["vgg", "has no norms", "use_batchnorm"]),
        (lambda: Template.vgg(11).replace_norm("group").use_batchnorm(False), ["vgg: without batch norms"]),
        (lambda: Template.vgg(11).set_stem(channels=3), ["vgg: the stem has no option 'channels'", "(options: in_channels)"]),
        (lambda: Template.vgg(11).modify_stage(5, blocks=2), ["vgg has the stages 0 to 4, got 5"]),
        (lambda: Template.vgg(11).modify_stage(0, stride=2), ["vgg: stage 0 has no option 'stride'", "blocks, channels"]),
        (lambda: Template.mobilenet(1), ["mobilenet: version must be 2 or 3", "got 1"]),
        (lambda: Template.mobilenet(2, mode="small"), ["mobilenet: mode is for version 3"]),
        (lambda: Template.mobilenet(3, mode="tiny"), ["mobilenet_v3: mode must be one of large, small, got 'tiny'"]),
        (
            lambda: Template.mobilenet(3).modify_stage(0, channels=20),
            ["mobilenet_v3: stage 0.channels", "multiple of 8", "got 20"],
        ),
        (lambda: Template.mobilenet(3).modify_stage(0, blocks=0), ["mobilenet_v3: stage 0.blocks", "got 0"]),
        (lambda: Template.densenet(122), ["densenet: layers must be one of 121, 161, 169, 201, 264, got 122"]),
        (lambda: Template.densenet(121, compression=0), ["densenet.compression", "got 0"]),
        (lambda: Template.densenet(121).modify_stage(0, channels=3), ["densenet: stage 0 has no option 'channels'", "blocks"]),
        (lambda: Template.efficientnet("b8"), ["efficientnet: variant must be one of b0, b1", "got 'b8'"]),
        (lambda: Template.resnet(18).modify_stage(4, blocks=2), ["resnet has the stages 0 to 3, got 4"]),
        (lambda: Template.resnet(18).modify_stage("1", blocks=2), ["resnet has the stages 0 to 3, got '1'"]),
        (
            lambda: Template.resnet(18).modify_stage(1, chanels=2),
            ["resnet: stage 1 has no option 'chanels'", "did you mean 'channels'?"],
        ),
        (
            lambda: Template.resnet(18).modify_stage(1, blocks=0),
            ["resnet: stage 1.blocks", "greater than or equal to 1, got 0"],
        ),
        (lambda: Template.resnet(18).modify_stage(1, attention="sse"), ["unknown block 'sse', did you mean 'se'?"]),
        (
            lambda: Template.resnet(18).modify_stage(1, attention={"type": "se", "at": "x"}),
            ["resnet: stage 1: attention has no option 'at'"],
        ),
        (lambda: Template.resnet(18).add_attention("gem"), ["resnet: 'gem' is no attention, but of the category pooling"]),
        (
            lambda: Template.resnet(18).add_attention("se", "blck"),
            ["resnet: attention.after", "'block', 'conv' or 'stage'", "'blck'"],
        ),
        (lambda: Template.resnet(18).add_attention("se", params={"reducton": 4}), ["'reducton'", "did you mean 'reduction'?"]),
        (lambda: Template.resnet(18).set_stem(kernel=4), ["resnet: the stem.kernel: must be odd", "got 4"]),
        (lambda: Template.resnet(18).set_stem(kernal=3), ["resnet: the stem has no option 'kernal', did you mean 'kernel'?"]),
        (lambda: Template.resnet(18).set_head(hidden=[0]), ["resnet: the head.hidden", "got 0"]),
        (lambda: Template.resnet(18).use_dropout(-0.1), ["resnet: the head.dropout", "got -0.1"]),
        (lambda: Template.resnet(50, width_per_group=4).scale_channels(0.1), ["resnet: stage 0: channels 6 leave no width"]),
        (lambda: Template.from_name("resnte"), ["unknown template 'resnte', did you mean 'resnet'?", "densenet, efficientnet"]),
        (lambda: Template.resnet(18).build(-1), ["num_classes must be an integer of at least 0"]),
    ],
)
def test_what_cannot_be_is_refused_at_once(make, words):
    with pytest.raises(ValueError) as error:
        make()
    message = str(error.value)
    for word in words:
        assert word in message
    assert "\n" not in message


def test_unknown_arguments_are_errors():
    for make in (
        lambda: Template.resnet(18, layer=3),
        lambda: resnet(18, norm="batch"),
        lambda: Template.resnet().set_head(pool=1),
    ):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            make()


def test_a_change_that_is_refused_changes_nothing():
    template = Template.resnet(18).add_attention("se")
    before = template.get_config()
    for change in (
        lambda: template.modify_stage(0, blocks=5, channels=0),
        lambda: template.modify_stage(0, channels=32, norm="none", attention="sse"),
        lambda: template.set_head(hidden=[3], dropout=2.0),
        lambda: template.scale_channels(1e-4),
    ):
        with pytest.raises(ValueError):
            change()
        assert template.get_config() == before


def test_what_does_not_fit_is_said_when_it_is_built():
    with pytest.raises(PatchError, match=r"reads self\.training"):
        Template.densenet(121, growth_rate=4, num_init_features=8, dropout=0.1).add_attention("se").build()


def test_statements_and_chains_are_the_same():
    """2.1's own example calls the methods one below the other and drops what they return."""
    template = Template.resnet(layers=18, channel_scale=0.125)
    template.replace_activation("gelu")
    template.add_attention("se", after="conv")
    chained = Template.resnet(18, channel_scale=0.125).replace_activation("gelu").add_attention("se", after="conv")
    assert template.get_config() == chained.get_config()
    kept = copy.deepcopy(template)
    template.modify_stage(0, blocks=1)
    assert kept.get_config() == chained.get_config() != template.get_config()


@every_family
def test_a_config_is_plain_and_makes_the_template_anew(family):
    template = NARROW[family]().add_attention("se", params={"reduction": 4}).replace_activation("mish").set_head(hidden=[8])
    template.modify_stage(1, blocks=2, norm="group").set_stem(in_channels=1)
    config = json.loads(json.dumps(template.get_config()))
    again = Template.from_config(config)
    assert type(again) is type(template) and again.get_config() == template.get_config()
    assert again.network == template.network and again.describe() == template.describe()


def test_a_template_made_anew_builds_the_same():
    template = Template.resnet(18, channel_scale=0.125).add_attention("se").modify_stage(1, norm="group")
    again = Template.from_config(template.get_config())
    torch.manual_seed(0)
    first = template.build(5).state_dict()
    torch.manual_seed(0)
    second = again.build(5).state_dict()
    assert list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"famly": "resnet"}, "config has no key 'famly', did you mean 'family'?"),
        ({"family": "resent"}, "config.family: unknown family 'resent', did you mean 'resnet'?"),
        ({"network": {}}, "config.network.stages: field required"),
        ({"stages": [{}]}, r"config.stages: there are 4 stages in config.network, got 1"),
        ({"head": {"hiden": []}}, "config.head has no option 'hiden', did you mean 'hidden'?"),
    ],
)
def test_a_config_that_cannot_be(change, message):
    with pytest.raises(ValueError) as error:
        Template.from_config({**Template.resnet(18).get_config(), **change})
    assert message in str(error.value)


def test_describe():
    template = Template.resnet(50).add_attention("se").modify_stage(2, blocks=4, activation="gelu")
    lines = template.describe().splitlines()
    assert lines[0] == "resnet50: sizes of its own"
    assert "  stage 2  blocks 4, channels 256, stride 2; se after each block; activation gelu" in lines
    assert Template.resnet(50).describe().startswith("resnet50: the tensors of torchvision, resnet50")
    assert repr(Template.resnet(50)) == "<ResNetTemplate resnet50>"
    assert repr(template) == "<ResNetTemplate resnet50, changed>"


@every_family
def test_models_are_saved_and_loaded(family, tmp_path):
    template = NARROW[family]().add_attention("eca").modify_stage(0, norm="group").set_stem(in_channels=2).set_head(hidden=[8])
    model = template.build(6)
    runs(model, channels=2)
    assert isinstance(model, HybridModel) and model.recipe["backbone"]["library"] == "template"
    x = torch.randn(2, 2, 64, 64)
    loaded = tvc.load(tvc.save(model, tmp_path / "model"))
    with torch.no_grad():
        assert torch.equal(loaded(x), model.eval()(x))
    assert loaded.recipe == model.recipe and loaded.modifications == model.modifications


@pytest.mark.parametrize(
    "family", ["resnet", "densenet", *(pytest.param(name, marks=pytest.mark.full) for name in NARROW if name[0] in "vme")]
)
def test_models_go_everywhere(family, tmp_path):
    model = NARROW[family]().add_attention("se").replace_norm("group").build(6).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(torch.jit.script(model)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        assert torch.allclose(torch.export.export(model, (x,)).module()(x), expected, atol=1e-6)
        assert torch.allclose(model.to(memory_format=torch.channels_last)(x), expected, atol=1e-4)
        assert model.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_longer_stages_of_mobilenets_are_stages():
    """A stage with more blocks than any of torchvision's lies within the body still."""
    model = Template.mobilenet(2, width_multiplier=0.25).modify_stage(3, blocks=12).build(10)
    assert [stage.stride for stage in model.stage_info] == [2, 4, 8, 16, 32]
    assert model.stage_info[-1].paths[-1] == "features.26"


def test_patches_go_on_top():
    model = Template.resnet(18, channel_scale=0.125).add_attention("se").build(10)
    model = apply(plan(model, {"layer4": {"wrap": "eca"}}))
    assert paths(model, ECABlock) == ["layer4.eca"]


def test_register(monkeypatch):
    from torchvision_customizer.templates import base

    monkeypatch.setattr(base, "_registered", dict(base._registered))
    assert Template.list_templates() == ["densenet", "efficientnet", "mobilenet", "resnet", "vgg"]

    @Template.register("small_resnet")
    def small(layers: int = 18) -> Template:
        return Template.resnet(layers, channel_scale=0.125)

    assert Template.from_name("small_resnet", layers=34).name == "resnet34"
    assert "small_resnet" in Template.list_templates()
    with pytest.raises(ValueError, match=r"as template 'resnet': .*ResNetTemplate holds that name"):
        Template.register("resnet")(small)


def test_templates_by_name():
    assert Template.from_name("resnet", layers=34).name == "resnet34"
    assert Template.from_name("wide_resnet50_2", in_channels=1).network.width_per_group == 128
    assert Template.from_name("efficientnet_v2_s").network.stages[0].block == "fused_mbconv"
    assert Template.from_name("mobilenet", version=3, mode="large").name == "mobilenet_v3_large"


@pytest.mark.parametrize("name", registry.list("attention"))
def test_every_attention_can_be_added(name):
    """By being registered; but for that of tokens, which is refused at once."""
    template = Template.resnet(18, channel_scale=0.125)
    if name == "multihead_attention":
        with pytest.raises(ValueError, match="resnet: 'multihead_attention' needs embed_dim"):
            template.add_attention(name)
        return
    model = template.add_attention(name).modify_stage(0, attention=None).build(10)
    assert [edit.block for edit in model.report.edits] == [name] * 6
