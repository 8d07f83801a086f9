"""Templates whose sizes are torchvision's are torchvision's models: the same names, shapes, weights, logits and start."""

import gc
import math

import pytest
import torch

from torchvision_customizer import Template, densenet, efficientnet, mobilenet, resnet, vgg
from torchvision_customizer._torchvision import models
from torchvision_customizer.errors import WeightsError
from torchvision_customizer.hybrid import HybridModel
from torchvision_customizer.templates.base import _families

VARIANTS = {name: family for family in _families.values() for name in family.variants}
# One of each family, and of each kind of block and of norm; the others are compared in `make test-all`.
SMALL = (
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "resnext50_32x4d",
)
some_variants = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SMALL else pytest.mark.full) for name in VARIANTS]
)


@pytest.fixture(autouse=True)
def _give_memory_back():
    yield
    gc.collect()


def shapes(model):
    return [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in model.state_dict().items()]


def test_every_model_of_the_families_is_a_variant():
    families = ("densenet", "efficientnet", "mobilenetv2", "mobilenetv3", "resnet", "vgg")
    known = models.list_models(module=models)
    of_families = {name for name in known if models.get_model_builder(name).__module__.rpartition(".")[2] in families}
    assert of_families == set(VARIANTS)


@some_variants
def test_names_shapes_and_layers_are_torchvisions(name):
    """All of the network is made here of torchvision's blocks; it is torchvision's to the last argument of the last layer."""
    template = Template.from_name(name)
    assert (template.name, template.torchvision_name) == (name, name)
    with torch.device("meta"):
        made, expected = template.network.make(), models.get_model(name)
    assert type(made) is type(expected)
    assert shapes(made) == shapes(expected)
    assert str(made) == str(expected)
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in expected.parameters())


def test_published_sizes():
    """Counts of the papers' and torchvision's tables, written out."""
    for name, parameters in (("resnet50", 25_557_032), ("vgg16", 138_357_544), ("densenet121", 7_978_856)):
        with torch.device("meta"):
            made = Template.from_name(name).network.make()
        assert sum(p.numel() for p in made.parameters()) == parameters
    template = Template.densenet(264)
    assert template.torchvision_name is None and template.name == "densenet264"
    assert [stage.blocks for stage in template.network.stages] == [6, 12, 64, 48]
    with torch.device("meta"):
        made = template.network.make()
    # Two in each of 6 + 12 + 64 + 48 layers, one in the stem, three in transitions.
    assert sum(isinstance(module, torch.nn.Conv2d) for module in made.modules()) == 264


@some_variants
@torch.no_grad()
def test_torchvisions_weights_load_and_give_its_logits(name):
    expected = models.get_model(name)
    generator = torch.Generator().manual_seed(1)
    for key, tensor in expected.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:  # norms whose statistics would show a mix-up
            tensor.uniform_(0.8, 1.2, generator=generator).sub_(1.0 if "mean" in key or "bias" in key else 0.0)
    x = torch.randn(2, 3, 64, 64, generator=generator)
    logits = expected.eval()(x)
    tensors = expected.state_dict()
    assert logits.std() > 0
    for model in (Template.from_name(name).network.make(), Template.from_name(name).build()):
        model.load_state_dict(tensors, strict=True)
        assert torch.equal(model.eval()(x), logits)


def test_vgg_gives_torchvisions_logits():
    """On the seven VGGs with weights for a whole network there is no room; this one has narrow layers between them."""
    template = Template.vgg(11).scale_channels(1 / 16)
    expected = models.VGG(
        models.vgg.make_layers([4, "M", 8, "M", 16, 16, "M", 32, 32, "M", 32, 32, "M"], batch_norm=True), init_weights=False
    )
    expected.classifier[0] = torch.nn.Linear(32 * 49, 4096)
    made = template.network.make()
    made.load_state_dict(expected.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(made.eval()(x), expected.eval()(x))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121", "efficientnet_b0"])
def test_they_start_as_torchvisions_do(name):
    """Built by name the start is torchvision's to the bit; made here each tensor is drawn from the same distribution."""
    torch.manual_seed(3)
    expected = models.get_model(name).state_dict()
    torch.manual_seed(3)
    built = Template.from_name(name).build().state_dict()
    assert all(torch.equal(built[key], tensor) for key, tensor in expected.items())
    for key, tensor in Template.from_name(name).network.make().state_dict().items():
        if tensor.dim() > 1 and tensor.numel() > 5000:
            assert math.isclose(tensor.std(), expected[key].std(), rel_tol=0.1), key
        elif tensor.dim() == 1 and not (name == "resnet18" and key == "fc.bias"):  # torch's own random start
            assert torch.equal(tensor, expected[key]), key


@pytest.mark.parametrize(
    ("function", "kind", "parameters"),
    [
        (lambda: resnet(18, 10), models.ResNet, 11_181_642),
        (lambda: mobilenet(2, num_classes=10), models.MobileNetV2, 2_236_682),
        (lambda: mobilenet(version=3, num_classes=10), models.MobileNetV3, 1_528_106),
        (lambda: densenet(121, num_classes=10), models.DenseNet, 6_964_106),
        (lambda: efficientnet("b0", num_classes=10), models.EfficientNet, 4_020_358),
    ],
)
def test_functions_build(function, kind, parameters):
    model = function()
    assert isinstance(model, kind) and isinstance(model, HybridModel)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 10)


def test_vgg_builds():
    template = Template.vgg(11, channel_scale=0.125, dropout=0.25)
    model = template.build(10)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)] == [0.25, 0.25]
    with torch.device("meta"):
        without = vgg(11, 10, use_batchnorm=False)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in without.modules())
    assert without.backbone_name == "vgg11" and without.classifier[6].out_features == 10


@pytest.mark.parametrize("factor", [0.35, 0.5, 0.75, 1.4])
def test_width_multipliers_of_mobilenets_are_torchvisions(factor):
    for template, name in (
        (Template.mobilenet(2, width_multiplier=factor), "mobilenet_v2"),
        (Template.mobilenet(3, mode="large", width_multiplier=factor), "mobilenet_v3_large"),
        (Template.mobilenet(3, mode="small", width_multiplier=factor), "mobilenet_v3_small"),
    ):
        with torch.device("meta"):
            made, expected = template.network.make(), models.get_model(name, width_mult=factor)
        assert shapes(made) == shapes(expected)


def test_weights_of_a_file(tmp_path):
    expected = models.resnet18()
    torch.save(expected.state_dict(), tmp_path / "weights.pt")
    model = Template.resnet(18).add_attention("se").build(weights=tmp_path / "weights.pt").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), expected.eval()(x))
    assert model.report.weights.tensors_loaded == len(expected.state_dict())


def test_weights_by_name(tmp_path, monkeypatch):
    """The dropout of torchvision's function is honoured beside its weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = models.MobileNet_V3_Small_Weights.DEFAULT
    file = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    expected = models.mobilenet_v3_small()
    torch.save(expected.state_dict(), file)
    # The name of the file has a hash of what torchvision's own has in it.
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **_: torch.load(file, weights_only=True))
    model = Template.mobilenet(3, dropout=0.5).build(weights="DEFAULT")
    assert torch.equal(model.features[0][0].weight, expected.features[0][0].weight)
    assert model.classifier[2].p == 0.5
    assert model.recipe["backbone"]["arguments"] == {"dropout": 0.5}


def test_weights_for_other_sizes_are_refused():
    template = Template.resnet(18).modify_stage(2, blocks=3)
    message = r"this resnet18 differs from torchvision's in stages\[2\]\.blocks \(3 in place of 2\)"
    with pytest.raises(WeightsError, match=message):
        template.build(weights="DEFAULT")
    with pytest.raises(WeightsError, match="torchvision has no densenet264, so that"):
        Template.densenet(264).build(weights="DEFAULT")
