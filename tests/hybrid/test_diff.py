"""What differs between two models."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict

import pytest
import torch
from torch import nn

import torchvision_customizer as tvc
from torchvision_customizer import ModelDiff, diff
from torchvision_customizer._torchvision import models
from torchvision_customizer.hybrid import apply, plan, unpatch


def patched(model, patches):
    return apply(plan(copy.deepcopy(model), patches))


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return models.resnet18()


def test_a_copy_is_equal(plain):
    found = diff(plain, copy.deepcopy(plain))
    assert found.equal and not found.changes
    assert str(found) == found.tree() == "ResNet: no difference, 11,689,512 parameters"


def test_a_patched_model_has_more_and_nothing_else(plain):
    found = diff(plain, patched(plain, {"layer4": {"inject": "se"}}))
    assert not found.equal and not found.tensors[0].a
    assert {change.mark for change in found.changes} == {"+"}
    assert [c.path for c in found.modules if c.path.count(".") == 2] == ["layer4.0.se", "layer4.1.se"]
    assert "layer4.0.se.fc1.weight" in [change.path for change in found.tensors]
    assert found.parameters_b - found.parameters_a == sum(c.parameters for c in found.modules if c.path.endswith(".se"))
    assert [part.path for part in found.parts if part.a != part.b] == ["layer4"]
    assert found.tree().splitlines()[:4] == [
        "ResNet: 11,689,512 -> 11,756,136 parameters (+66,624)",
        "└── layer4: Sequential",
        "    ├── 0: BasicBlock",
        "    │   └── + se: SEBlock(activation=relu, gate=two_sigmoid, init=identity), 33,312 parameters",
    ]
    assert "fc1" not in str(found)  # the short table has the outermost only


def test_the_other_way_round(plain):
    model = patched(plain, {"layer4": {"inject": "se"}})
    there, back = diff(plain, model), diff(model, plain)
    assert [c.path for c in there.changes] == [c.path for c in back.changes]
    assert {change.mark for change in back.changes} == {"-"}
    assert [c.parameters for c in there.modules] == [c.parameters for c in back.modules]


@pytest.mark.parametrize("patches", [{"conv1": {"wrap": "se"}}, {"layer3": {"wrap": "se"}}, {"layer1": {"inject": "eca"}}])
def test_what_a_patch_has_changed_keeps_its_class(plain, patches):
    model = patched(plain, patches)
    assert {change.mark for change in diff(plain, model).changes} == {"+"}
    assert diff(model, copy.deepcopy(model)).equal
    assert diff(plain, unpatch(model)).equal


def test_blocks_that_see_tokens_keep_their_class():
    model = models.swin_t()
    found = diff(model, patched(model, {"features.1": {"inject": "se"}}))
    assert {change.mark for change in found.changes} == {"+"}
    assert found.modules[0].b.startswith("SEBlock(")


def test_another_place_is_another_forward(plain):
    one, other = (patched(plain, {"layer4": {"inject": {"type": "eca", "at": at}}}) for at in ("residual", "output"))
    one.load_state_dict(other.state_dict())
    found = diff(one, other)
    assert [(c.path, c.forward) for c in found.changes] == [("layer4.0", True), ("layer4.1", True)]
    assert "~ layer4.0: BasicBlock, another forward" in str(found)


def test_fused(plain):
    model = patched(plain, {"layer4": {"inject": "se"}})
    before = copy.deepcopy(model)
    tvc.fuse(model)
    assert all(change.forward for change in diff(before, model).modules)
    tvc.unfuse(model)
    assert diff(before, model).equal


def test_a_replaced_module_is_another(plain):
    found = diff(plain, patched(plain, {"avgpool": {"replace": "gem"}}))
    assert [(c.path, c.mark) for c in found.modules] == [("avgpool", "~")]
    assert found.modules[0].a.startswith("AdaptiveAvgPool2d(") and found.modules[0].b.startswith("GeM(")


def test_configuration_and_shapes():
    one, other = nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Sequential(nn.Linear(2, 4), nn.ReLU(inplace=True))
    found = diff(one, other)
    assert [(c.path, c.parameters) for c in found.modules] == [("0", 3), ("1", 0)]
    assert [(c.path, c.a, c.b, c.values) for c in found.tensors] == [
        ("0.weight", "parameter float32 [3, 2]", "parameter float32 [4, 2]", 0),
        ("0.bias", "parameter float32 [3]", "parameter float32 [4]", 0),
    ]


def test_a_configuration_that_only_the_repr_says():
    from torchvision.ops import StochasticDepth

    found = diff(nn.Sequential(StochasticDepth(0.1, "row")), nn.Sequential(StochasticDepth(0.2, "row")))
    assert str(found.changes[0]) == "StochasticDepth(p=0.1, mode=row) -> StochasticDepth(p=0.2, mode=row)"


def test_values():
    one = nn.BatchNorm1d(4)
    other = copy.deepcopy(one)
    with torch.no_grad():
        other.weight[:3] = torch.tensor([1.5, 0.75, float("nan")])
        other.num_batches_tracked.add_(2)
    found = diff(one, other)
    weight, batches = found.tensors
    assert (weight.path, weight.values) == ("weight", 3) and weight.largest != weight.largest
    assert (batches.path, batches.values, batches.largest) == ("num_batches_tracked", 1, 2.0)
    assert str(batches) == "buffer int64 [], 1 value differs, by up to 2"
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["tensors"][0]["largest"] is None
    one.weight.data = other.weight.data.clone()
    assert [change.path for change in diff(one, other).changes] == ["num_batches_tracked"], "NaN is NaN"


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.bfloat16, torch.complex64])
def test_types_of_values(dtype):
    one, other = nn.Module(), nn.Module()
    one.register_buffer("x", torch.tensor([0, 1]).to(dtype), persistent=False)
    other.register_buffer("x", torch.tensor([1, 1]).to(dtype), persistent=False)
    (change,) = diff(one, other).tensors
    assert (change.values, change.largest) == (1, 1.0)
    (change,) = diff(one, copy.deepcopy(other).to(torch.float64) if dtype.is_floating_point else nn.Module()).tensors
    assert change.values == 0


def test_on_meta_only_shapes_count():
    with torch.device("meta"):
        assert diff(nn.Linear(2, 3), nn.Linear(2, 3)).equal
        found = diff(nn.Linear(2, 3), nn.Linear(2, 3, bias=False))
    assert diff(nn.Linear(2, 3), nn.Linear(2, 3, device="meta")).equal
    assert [(c.path, c.mark) for c in found.tensors] == [("bias", "-")]


def test_order_is_that_of_the_models():
    def named(*names):
        return nn.Sequential(OrderedDict((name, nn.Identity()) for name in names))

    found = diff(named("a", "b", "d"), named("a", "c", "d", "e"))
    assert [(c.path, c.mark) for c in found.changes] == [("c", "+"), ("b", "-"), ("e", "+")]


def test_models_of_another_class(plain):
    found = diff(plain, models.alexnet())
    assert str(found).startswith("ResNet -> AlexNet: 11,689,512 -> ")
    assert "~ (the model): ResNet -> AlexNet" in str(found)
    assert len(str(found).splitlines()) < 30
    assert found.tree().startswith("ResNet -> AlexNet")


def test_plain_values(plain):
    found = diff(plain, patched(plain, {"layer4": {"inject": "se"}}))
    assert isinstance(found, ModelDiff)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["equal"] is False
    assert values["a"] == {"class": "ResNet", "parameters": 11_689_512}
    assert values["modules"][0]["path"] == "layer4.0.se" and values["modules"][0]["a"] is None
    assert sum(part["b"] for part in values["parts"]) == values["b"]["parameters"] == 11_756_136


def test_nothing_is_touched(untouched, plain):
    model = patched(plain, {"layer4": {"inject": "se"}})
    before = untouched(model)
    diff(model, plain).tree()
    before.check()
