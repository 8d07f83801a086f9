"""``replace`` and ``remove``: what makes way, everywhere it occurs, and what of it goes on."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchvision_customizer import PatchError
from torchvision_customizer._torchvision import models
from torchvision_customizer.hybrid import apply, plan, unpatch
from torchvision_customizer.hybrid.backbones import list_backbones
from torchvision_customizer.hybrid.probe import fake_tensors, input_shape_of, run_fake


def made(name):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, **options).eval()


def replaced(model, patches):
    return apply(plan(copy.deepcopy(model), patches))


def executed(model):
    """How often each op of torch runs in training, auxiliary heads included."""
    counts = {}

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__.rstrip("_")
            counts[name] = counts.get(name, 0) + 1
            return func(*args, **(kwargs or {}))

    with fake_tensors() as mode, Count():
        run_fake(mode, model.train(), input_shape_of(None, model))
    return counts


# The smallest of each family that has such layers.
WITH_RELU = [
    *("alexnet", "densenet121", "googlenet", "inception_v3", "mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "resnet18"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_v2_t", "vgg11_bn"),
]
WITH_BATCH_NORM = [
    *("densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5", "maxvit_t", "mobilenet_v2"),
    *("mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "vgg11_bn"),
]
# In `make test`.
USUAL = ("densenet121", "efficientnet_b0", "googlenet", "resnet18")


def over(names):
    return pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in USUAL else pytest.mark.full) for n in names])


@pytest.mark.full
def test_the_lists_above_are_complete():
    found = {"relu": set(), "batch_norm": set()}
    for name in list_backbones():
        family = models.get_model_builder(name).__module__
        if all(family in families for families in found.values()) or "128gf" in name:
            continue
        for module in made(name).modules():
            for kind, layer in (("relu", nn.ReLU), ("batch_norm", nn.BatchNorm2d)):
                if isinstance(module, layer):
                    found[kind].add(family)
    listed = {"relu": WITH_RELU, "batch_norm": WITH_BATCH_NORM}
    for kind, families in found.items():
        assert families <= {models.get_model_builder(name).__module__ for name in listed[kind]}


@over(WITH_RELU)
def test_no_relu_is_left(name):
    model = made(name)
    before = executed(model)
    model.eval()
    hybrid = replaced(model, {"type:ReLU": {"replace": "gelu"}})
    assert hybrid.report.unreached == ()
    after = executed(hybrid)
    assert before["relu"] > 0 and "relu" not in after
    assert after["gelu"] == before["relu"] + before.get("gelu", 0)


@over(WITH_BATCH_NORM)
def test_no_batch_norm_is_left(name):
    hybrid = replaced(made(name), {"type:BatchNorm2d": {"replace": "group_norm"}})
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in hybrid.modules())
    counts = executed(hybrid)
    assert not any("batch_norm" in op for op in counts)
    assert sum(count for op, count in counts.items() if "group_norm" in op) > 0


@pytest.mark.parametrize("name", ["densenet", pytest.param("googlenet", marks=pytest.mark.full), "resnet18"])
def test_a_model_with_replaced_functions_can_be_carried_around(name):
    """DenseNet calls ReLU in the forward of the model itself, GoogLeNet in every layer, ResNet one module three times."""
    model = models.DenseNet(8, (2, 2, 2, 2), 16).eval() if name == "densenet" else made(name)
    keys = list(model.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        hybrid = replaced(model, {"type:ReLU": {"replace": "gelu"}})
        assert isinstance(hybrid, type(model))
        out = hybrid(x)
        assert not torch.equal(out, expected)
        for copied in (copy.deepcopy(hybrid), pickle.loads(pickle.dumps(hybrid))):
            assert torch.equal(copied(x), out)
        scripted = torch.jit.script(hybrid)(x)
        assert torch.equal(scripted if isinstance(scripted, torch.Tensor) else scripted[0], out)
        torch.testing.assert_close(torch.export.export(hybrid, (x,)).module()(x), out)
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(hybrid, fullgraph=True, backend="aot_eager")(x), out)
        restored = unpatch(hybrid)
        assert type(restored) is type(model) and list(restored.state_dict()) == keys
        assert torch.equal(restored(x), expected)


def test_what_cannot_be_reached_is_listed():
    class Moody(nn.Module):
        def forward(self, x):
            y = torch.relu(x)
            return y if self.training else y + 0

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.moody = Moody()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(self.moody(x))

    found = plan(Net(), {"type:ReLU": {"replace": "gelu"}})
    assert [edit.child_path for edit in found.edits] == ["act"]
    assert found.unreached == ("moody cannot be opened: its forward reads self.training",)
    hybrid = apply(found)
    assert "not reached: moody cannot be opened" in str(hybrid.report)


def test_weights_of_the_same_meaning_go_on():
    model = made("resnet18")
    model.bn1.weight.data.uniform_(0.5, 1.5)
    hybrid = replaced(model, {"type:BatchNorm2d": {"replace": "group_norm"}})
    assert hybrid.bn1.num_channels == 64 and torch.equal(hybrid.bn1.weight, model.bn1.weight)
    assert hybrid.report.drift > 0 and "moved by" in str(hybrid.report)
    assert hybrid.report.parameters_after == hybrid.report.parameters_before == 11_689_512
    hybrid.bn1.weight.data.fill_(3.0)
    restored = unpatch(hybrid)
    assert bool((restored.bn1.weight == 3.0).all()), "what was trained goes back"
    assert torch.equal(restored.bn1.running_var, model.bn1.running_var)


def test_a_file_of_the_original_loads_into_replaced_norms(tmp_path):
    from torchvision_customizer import HybridBuilder

    model = made("resnet18")
    model.bn1.weight.data.uniform_(0.5, 1.5)
    torch.save(model.state_dict(), tmp_path / "resnet18.pt")
    patches = {"type:BatchNorm2d": {"replace": "group_norm"}, "layer*": {"inject": "se"}}
    hybrid = HybridBuilder().from_torchvision("resnet18", tmp_path / "resnet18.pt", patches)
    assert torch.equal(hybrid.bn1.weight, model.bn1.weight)
    torch.save(hybrid.state_dict(), tmp_path / "patched.pt")
    again = HybridBuilder().from_torchvision("resnet18", tmp_path / "patched.pt", patches)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), hybrid.state_dict().values(), strict=True))


def test_a_pool_starts_as_it_was():
    model = made("resnet18")
    x = torch.randn(2, 3, 64, 64)
    hybrid = replaced(model, {"avgpool": {"replace": "gem"}})
    with torch.no_grad():
        torch.testing.assert_close(hybrid(x), model(x))
    assert hybrid.avgpool.p.item() == 1.0 and [key for key in hybrid.state_dict() if "avgpool" in key] == ["avgpool.p"]


def test_a_convolution_keeps_its_geometry():
    """Defect 11 of version 2.1: stride, groups, kernel and weights were lost in silence."""
    model = made("resnet18")
    x = torch.randn(2, 3, 64, 64)
    hybrid = replaced(
        model, {"layer2.0.conv1": {"replace": "coord_conv"}, "layer3.0.conv1": {"replace": "depthwise_separable_conv"}}
    )
    assert hybrid.layer2[0].conv1.stride == (2, 2) and torch.equal(hybrid.layer2[0].conv1.weight, model.layer2[0].conv1.weight)
    with torch.no_grad():
        assert hybrid(x).shape == (2, 1000)
    assert sum(p.numel() for p in hybrid.layer3[0].conv1.parameters()) == 128 * 9 + 128 * 256


def test_removed_modules_are_the_identity():
    model = made("vgg11")
    hybrid = replaced(model, {"type:Dropout": {"remove": True}})
    assert all(isinstance(hybrid.get_submodule(edit.path), nn.Identity) for edit in hybrid.report.edits)
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        assert torch.equal(hybrid.train()(x), model(x))


def test_operations_follow_each_other():
    hybrid = replaced(made("resnet18"), {"conv1": [{"replace": "coord_conv"}, {"wrap": "se"}], "layer1.0": {"inject": "eca"}})
    assert [type(module).__name__ for module in (hybrid.conv1, hybrid.conv1.after.se)] == ["FollowedCoordConv", "SEBlock"]
    with pytest.raises(PatchError, match="conv1 has been changed by a patch"):
        plan(hybrid, {"conv1": {"replace": "depthwise_separable_conv"}})
    assert type(unpatch(hybrid).conv1) is nn.Conv2d
