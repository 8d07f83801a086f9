"""Heads: only the last layer changes, under its names, and the report says exactly by how much."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torchvision_customizer._torchvision import models
from torchvision_customizer.errors import PatchError, WeightsError
from torchvision_customizer.hybrid import HybridBuilder, load, save
from torchvision_customizer.hybrid.heads import HeadConv2d, HeadLinear, HeadSpec, change_head

builder = HybridBuilder()
# Linear layers alone, behind a dropout, behind hidden layers and behind a norm, a convolution, and those with others beside.
FAMILIES = {
    "resnet18": ("fc",),
    "mobilenet_v2": ("classifier.1",),
    "mobilenet_v3_small": ("classifier.3",),
    "squeezenet1_1": ("classifier.1",),
    "convnext_tiny": ("classifier.2",),
    "googlenet": ("fc", "aux1.fc2", "aux2.fc2"),
    "inception_v3": ("fc", "AuxLogits.fc"),
    "vgg11": ("classifier.6",),
}
# Built again and again; the larger ones in the full tier.
_LARGE = ("convnext_tiny", "inception_v3", "vgg11")
every_family = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.full] if name in _LARGE else []) for name in FAMILIES]
)


def fast_arguments(name):
    # scipy's truncated normal takes a minute.
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def made(name="resnet18", **options):
    options.setdefault("weights", None)
    weights = options.pop("weights")
    head = HeadSpec.checked(**options)
    return builder._torchvision(name, weights, None, head, False, None, False, False, arguments=fast_arguments(name))


def images(size=64):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def flops(model, size):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, *size))
    return counter.get_total_flops()


@every_family
def test_another_number_is_torchvision_s_own_model(name):
    model = made(name, num_classes=7).eval()  # auxiliary heads cost something in training only
    fresh = models.get_model(name, num_classes=7, **fast_arguments(name))
    assert shapes(model) == shapes(fresh)
    assert [str(model.get_submodule(path)) for path in FAMILIES[name]] == [str(fresh.get_submodule(p)) for p in FAMILIES[name]]
    report = model.report
    assert [layer.path for layer in report.head.layers] == list(FAMILIES[name])
    before = models.get_model(name, **fast_arguments(name))
    assert report.parameters_before == sum(p.numel() for p in before.parameters())
    assert report.parameters_after == sum(p.numel() for p in fresh.parameters())
    assert report.flops_before - report.flops_after == flops(before, report.input_shape) - flops(fresh, report.input_shape)
    assert report.flops_after == flops(fresh, report.input_shape)
    assert model.modifications == [f"{', '.join(FAMILIES[name])}: new, 7 classes in place of 1000"]


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "googlenet"])
@pytest.mark.parametrize("num_classes", [None, 1000])
def test_the_same_number_changes_nothing(name, num_classes, untouched):
    model = models.get_model(name, **fast_arguments(name))
    layers = [model.get_submodule(path) for path in FAMILIES[name]]
    check = untouched(model)
    hybrid = builder.from_module(model, num_classes=num_classes)
    assert hybrid is model and [model.get_submodule(path) for path in FAMILIES[name]] == layers
    assert check.before[2].keys() == check.describe()[2].keys()
    assert all(check.describe()[2][key][0] == found[0] for key, found in check.before[2].items())
    assert hybrid.report.head is None and "head" not in hybrid.recipe


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("vgg11", "inception_v3", "convnext_tiny")])
@pytest.mark.parametrize(
    "options",
    [{"num_classes": 7}, {"num_classes": 0}, {"dropout": 0.3}, {"num_classes": 5, "dropout": 0.3}, {"keep_classes": (9, 2)}],
    ids=str,
)
@torch.no_grad()
def test_saved_and_loaded(name, options, tmp_path):
    model = made(name, **options).eval()
    loaded = load(save(model, tmp_path / "model"))
    assert torch.equal(loaded(images()), model(images()))
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert loaded.report.head.classes == model.report.head.classes and loaded.report.head.dropout == model.report.head.dropout


@torch.no_grad()
def test_hidden_layers_are_saved_and_loaded(tmp_path):
    model = made(num_classes=4, hidden=(32, 16), dropout=0.1).eval()
    assert model.recipe["head"] == {"num_classes": 4, "dropout": 0.1, "hidden": [32, 16]}
    assert torch.equal(load(save(model, tmp_path / "model"))(images()), model(images()))


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 512), ("squeezenet1_1", 512), ("mobilenet_v3_small", 1024), ("googlenet", 1024)]
)
@torch.no_grad()
def test_none_gives_what_the_last_layer_took(name, width):
    model = made(name, num_classes=0).eval()
    out = model(images())
    assert out.shape == (2, width) and out.isfinite().all()
    assert f"removed, the model gives {width} features" in str(model.report)
    assert not any(key.startswith(f"{path}.") for key in model.state_dict() for path in FAMILIES[name])


@pytest.mark.parametrize(
    ("name", "kept"), [("vgg11", ["classifier.0", "classifier.3"]), ("mobilenet_v3_small", ["classifier.0"])]
)
def test_hidden_layers_of_the_original_stay(name, kept):
    model = models.get_model(name)
    parameters = {path: model.get_submodule(path).weight for path in kept}
    hybrid = builder.from_module(model, num_classes=3)
    assert all(hybrid.get_submodule(path).weight is weight for path, weight in parameters.items())


def test_auxiliary_heads_follow():
    model = made("googlenet", num_classes=7, dropout=0.2).train()
    out = model(images())
    assert [output.shape for output in out] == [(2, 7)] * 3
    assert all(isinstance(model.get_submodule(path), HeadLinear) for path in FAMILIES["googlenet"])


def test_the_squeezenet_head_is_a_convolution():
    model = made("squeezenet1_1", num_classes=7, dropout=0.4)
    assert isinstance(model.classifier[1], HeadConv2d) and model.classifier[1].kernel_size == (1, 1)
    assert model.num_classes == 7 and model(images()).shape == (2, 7)
    with pytest.raises(ValueError, match=r"the last layer classifier\.1 is a convolution"):
        made("squeezenet1_1", hidden=[8])


class TestKeepClasses:
    @pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "googlenet"])
    @pytest.mark.parametrize("options", [{}, {"num_classes": 5}, {"num_classes": 5, "dropout": 0.5}], ids=str)
    def test_rows_go_on_in_order(self, name, options):
        model = models.get_model(name, **fast_arguments(name))
        old = [model.get_submodule(path) for path in FAMILIES[name]]
        hybrid = builder.from_module(model, keep_classes=[999, 0, 7], **options)
        for path, layer in zip(FAMILIES[name], old, strict=True):
            new = hybrid.get_submodule(path)
            assert new.weight.size(0) == new.bias.size(0) == options.get("num_classes", 3)
            assert torch.equal(new.weight[:3], layer.weight[[999, 0, 7]])
            assert torch.equal(new.bias[:3], layer.bias[[999, 0, 7]])
            assert new.weight.requires_grad and new.weight.is_leaf
        assert "the first 3 are old ones" in str(hybrid.report)

    @torch.no_grad()
    def test_of_a_file_and_of_torchvision(self, build, hub, tmp_path):
        original = build().eval()
        expected = original(images())[:, [5, 3]]
        file = tmp_path / "weights.pt"
        torch.save(original.state_dict(), file)
        hub(models.ResNet18_Weights.DEFAULT, original.state_dict())
        for weights in (file, "DEFAULT"):
            model = builder.from_torchvision("resnet18", weights, {"layer*": {"inject": "se"}}, 4, keep_classes=[5, 3]).eval()
            torch.testing.assert_close(model(images())[:, :2], expected)
            assert model.report.parameters_after - model.report.parameters_before == 89_080 - 996 * 513

    def test_a_file_must_have_the_old_head(self, build, tmp_path):
        file = tmp_path / "weights.pt"
        torch.save(build(num_classes=10).state_dict(), file)
        with pytest.raises(WeightsError, match=r"2 of another shape, first 'fc\.weight'"):
            builder.from_torchvision("resnet18", file, keep_classes=[1])

    def test_all_in_order_is_no_change(self):
        assert made(keep_classes=range(1000)).report.head is None


def change(layer):
    model = nn.Sequential(layer)
    change_head(model, ["0"], HeadSpec(num_classes=3, dropout=0.5))
    return model[0]


LAYERS = {
    "linear": (lambda: HeadLinear(6, 3, p=0.5), (4, 6)),
    "linear, hidden": (lambda: HeadLinear(6, 3, p=0.5, hidden=(5, 4)), (4, 6)),
    "linear, no bias": (lambda: HeadLinear(6, 3, bias=False), (4, 6)),
    "convolution": (lambda: change(nn.Conv2d(6, 5, 1)), (4, 6, 2, 2)),
}


class TestLayers:
    """``HeadLinear`` and ``HeadConv2d`` by themselves."""

    @pytest.mark.parametrize("name", LAYERS)
    @torch.no_grad()
    def test_are_carried_around(self, name):
        make, shape = LAYERS[name]
        layer, x = make().eval(), torch.randn(shape)
        expected = layer(x)
        carried = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.jit.script(layer)]
        carried.append(torch.export.export(layer, (x,)).module())
        assert all(torch.equal(other(x), expected) for other in carried)

    @pytest.mark.parametrize("name", ["linear", "linear, hidden", "convolution"])
    def test_drop_in_training_only(self, name):
        make, shape = LAYERS[name]
        x = torch.ones(shape)
        for layer in (make().train(), torch.jit.script(make()).train()):
            assert not torch.equal(layer(x), layer(x))
            assert torch.equal(layer.eval()(x), layer(x))

    def test_names_are_those_of_the_plain_layer(self):
        assert list(HeadLinear(6, 3, p=0.5).state_dict()) == list(nn.Linear(6, 3).state_dict())
        assert list(change(nn.Conv2d(6, 5, 1)).state_dict()) == list(nn.Conv2d(6, 5, 1).state_dict())
        assert list(HeadLinear(6, 3, hidden=(4,)).state_dict())[:2] == ["weight", "bias"]

    def test_type_mode_and_parameters_stay(self):
        model = nn.Sequential(nn.Linear(4, 3, dtype=torch.bfloat16).eval())
        weight = model[0].weight
        change_head(model, ["0"], HeadSpec(dropout=0.1))
        assert model[0].weight is weight and not model[0].training and model[0].p == 0.1
        change_head(model, ["0"], HeadSpec(num_classes=2))
        assert model[0].weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": -1}, ["num_classes", "at least 0", "-1"]),
        ({"num_classes": 2.0}, ["num_classes", "integer", "2.0"]),
        ({"num_classes": True}, ["num_classes", "integer", "True"]),
        ({"dropout": 1}, ["dropout", "1"]),
        ({"dropout": "0.1"}, ["dropout", "'0.1'"]),
        ({"dropout": float("nan")}, ["dropout", "nan"]),
        ({"hidden": [0]}, ["hidden", "positive", "[0]"]),
        ({"hidden": 64}, ["hidden", "64"]),
        ({"hidden": [64.0]}, ["hidden", "[64.0]"]),
        ({"keep_classes": [1, 1]}, ["keep_classes", "each once", "[1, 1]"]),
        ({"keep_classes": [-1]}, ["keep_classes", "[-1]"]),
        ({"keep_classes": 3}, ["keep_classes", "3"]),
        ({"keep_classes": [1000]}, ["keep_classes", "fc has 1000 classes", "no 1000"]),
        ({"keep_classes": [1, 2, 3], "num_classes": 2}, ["keep_classes names 3", "room for 2"]),
        ({"keep_classes": [1], "hidden": [8]}, ["keep_classes", "hidden"]),
        ({"keep_classes": [1], "num_classes": 0}, ["keep_classes", "num_classes=0"]),
        ({"hidden": [8], "num_classes": 0}, ["hidden", "num_classes=0"]),
        ({"dropout": 0.1, "num_classes": 0}, ["dropout", "num_classes=0"]),
    ],
    ids=str,
)
def test_bad_values_leave_the_model_as_it_is(options, words, untouched):
    check = untouched(models.resnet18())
    with pytest.raises(ValueError) as error:
        builder.from_module(check.model, **options)
    assert all(word in str(error.value) for word in words), error.value
    check.check()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"num_classes": 3, "patches": {"layr1": {"inject": "se"}}}, PatchError),
        (
            {"num_classes": 3, "patches": {"layer1": {"inject": "se"}}, "unfreeze_stages": [9], "freeze_backbone": True},
            ValueError,
        ),
        ({"num_classes": 3, "weights": "nowhere.pt"}, WeightsError),
    ],
    ids=["patch", "stage", "weights"],
)
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_a_failing_call_leaves_the_model_as_it_is(name, options, kind, untouched):
    if name == "squeezenet1_1" and "layer1" in options.get("patches", {}):
        options = {**options, "patches": {"features": {"inject": "se"}}}
    check = untouched(models.get_model(name))
    with pytest.raises(kind):
        builder.from_module(check.model, **options)
    check.check()
    assert getattr(check.model, "num_classes", 1000) == 1000


def test_a_head_is_changed_once():
    model = made(num_classes=3)
    assert builder.from_module(model, num_classes=3).recipe["head"] == {"num_classes": 3}
    again = builder.from_module(model, patches={"layer4": {"wrap": "se"}})
    assert again.recipe == {
        "backbone": {
            "name": "resnet18",
            "library": "torchvision",
            "weights": None,
            "patches": {"layer4": {"wrap": "se"}},
        },
        "head": {"num_classes": 3},
    }
    for options in ({"num_classes": 5}, {"keep_classes": [1]}, {"dropout": 0.1}):
        with pytest.raises(ValueError, match="the head has been changed before"):
            builder.from_module(model, **options)
    assert model(images()).shape == (2, 3) and "layer4.se.fc1.weight" in model.state_dict()


def test_a_file_that_does_not_fit_leaves_a_patched_model_as_it_is(tmp_path):
    hybrid = HybridBuilder().from_module(models.resnet18(), patches={"layer4": {"inject": "se"}})
    tensors = hybrid.state_dict()
    tensors["conv1.weight"] = torch.zeros(3)
    torch.save(tensors, tmp_path / "other.pt")
    state, modules = hybrid._hybrid_state, [(name, id(module), type(module)) for name, module in hybrid.named_modules()]
    with pytest.raises(WeightsError, match=r"conv1\.weight"):
        HybridBuilder().from_module(hybrid, patches={"*": {"inject": "eca"}}, weights=tmp_path / "other.pt")
    assert hybrid._hybrid_state is state
    assert [(name, id(module), type(module)) for name, module in hybrid.named_modules()] == modules
