"""Every classifier that torchvision lists keeps the promises: nothing is lost, everything can be patched and carried around."""

import copy
import functools
import gc

import pytest
import torch
from torch import nn

from torchvision_customizer import fuse, unfuse
from torchvision_customizer._torchvision import models
from torchvision_customizer.hybrid import HybridBuilder, HybridModel, apply, plan, unpatch
from torchvision_customizer.hybrid.backbones import find_family, list_backbones
from torchvision_customizer.hybrid.model import note
from torchvision_customizer.hybrid.saving import load, save

# One of each family is tried in `make test`, and a second one in what tells whether its blocks are understood.
FIRST = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "vgg11",
    "vit_b_32",
)
SECOND = (
    "convnext_small",
    "densenet161",
    "efficientnet_v2_s",
    "mnasnet1_0",
    "mobilenet_v3_large",
    "regnet_y_400mf",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "squeezenet1_0",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_16",
)
# Over 200 million parameters: a model, its copy and its file do not fit beside other tests, so their shapes are checked on the
# meta device.
GIANTS = ("regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32")
BLOCKS = {
    "se": "se",
    "eca": "eca",
    "cbam": "cbam",
    "drop_path": {"type": "drop_path", "params": {"drop_prob": 0.2}, "schedule": "linear"},
}
# What the forward of a family asks for; all others take images of 64×64.
SIZES = {"VisionTransformer": 224, "MaxVit": 224, "Inception3": 96}
# In training mode these two call their auxiliary heads, which ask for more.
TRAINING_SIZES = {"Inception3": 299, "GoogLeNet": 64}


def everywhere(block):
    return {"*": {"inject": BLOCKS[block]}}


def fast_arguments(name):
    # scipy's truncated normal takes a minute.
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


@functools.lru_cache(maxsize=1)
def original(name):
    """A model of torchvision in evaluation mode, in which everything shows in the logits; tests do not change it.

    Random weights alone do not do: some last layers begin as zero, and without statistics of their own inputs norms let
    activations die out.
    """
    trained.cache_clear()
    torch._dynamo.reset()
    gc.collect()  # the model before may have had a gigabyte
    torch.manual_seed(0)
    model = models.get_model(name, **fast_arguments(name)).eval()
    for parameter in model.parameters():
        if parameter.abs().max() < 1e-3:  # ConvNeXt's layers begin at a millionth
            parameter.data.normal_(std=0.02)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.0)
        norm.train().momentum = None
    with torch.no_grad():
        model(images(model, batch=4))
    for norm in norms:
        norm.eval().momentum = 0.1
    return model


def images(model, training=False, batch=2):
    family = find_family(model).class_name
    size = (TRAINING_SIZES if training else SIZES).get(family) or SIZES.get(family, 64)
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(3))


def patched(name, block="se"):
    return apply(plan(copy.deepcopy(original(name)), everywhere(block)))


def train_new_modules(model):
    """Let the new modules do something, so that losing one is seen."""
    generator = torch.Generator().manual_seed(2)
    for edit in model._hybrid_state.edits:
        for parameter in model.get_submodule(edit.child_path).parameters():
            parameter.data.normal_(std=0.05, generator=generator)
    return model


@functools.lru_cache(maxsize=1)
def trained(name):
    """A model with an SE in every place that does something; tests leave it as it is."""
    hybrid = train_new_modules(patched(name))
    arguments = {key: getattr(hybrid, key) for key in ("aux_logits", "transform_input", "image_size") if hasattr(hybrid, key)}
    note(hybrid, backbone_name=name, library="torchvision", arguments={**arguments, **fast_arguments(name)})
    return hybrid


def assert_rounded_alike(out, expected, exact):
    """``out`` is at most twice as far from the logits in float64 as ``expected`` is, or a ten-thousandth of the largest.

    Random weights carry roundings up: ResNet-152 is a thousandth from itself in float64.
    """
    largest = exact.abs().max()
    error, own = ((found - exact).abs().max() / largest for found in (out, expected))
    assert error <= max(2 * own, 1e-4), (float(error), float(own))


def backbones(usual):
    names = [name for name in list_backbones() if name not in GIANTS]
    # By scope and group, the tests of a backbone follow each other in one process, and it is made once.
    marks = {name: [pytest.mark.xdist_group(name)] + ([] if name in usual else [pytest.mark.full]) for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in names], scope="module")


every_backbone = backbones(FIRST)
# Tracing, scripting and compiling take a minute for each of these two.
every_quick_backbone = backbones(tuple(name for name in FIRST if name not in ("maxvit_t", "inception_v3")))
every_backbone_twice = backbones(FIRST + SECOND)


def test_two_of_each_family_are_usual():
    families = {}
    for name in list_backbones():
        families.setdefault(models.get_model_builder(name).__module__, []).append(name)
    for module, names in families.items():
        assert sum(name in FIRST + SECOND for name in names) >= min(2, len(names)), module
    assert len(list_backbones()) == 80


@every_backbone_twice
@torch.no_grad()
def test_every_block_starts_as_the_same_function(name):
    model = original(name)
    x = images(model)
    expected = model(x)
    keys = model.state_dict()
    for block in BLOCKS:
        hybrid = patched(name, block)
        edits = hybrid._hybrid_state.edits
        assert edits and isinstance(hybrid, HybridModel) and isinstance(hybrid, type(model))
        assert torch.equal(hybrid(x), expected), block
        own = hybrid.state_dict()
        new = [key for key in own if key not in keys]
        assert all(torch.equal(own[key], value) for key, value in keys.items())
        assert all(any(key.startswith(f"{edit.child_path}.") for edit in edits) for key in new)
        missing = hybrid.load_state_dict(keys, strict=False)
        assert (sorted(missing.missing_keys), missing.unexpected_keys) == (sorted(new), [])
        if block == "drop_path":
            for edit in edits:  # all else stays in evaluation mode
                hybrid.get_submodule(edit.child_path).train()
        assert not torch.equal(train_new_modules(hybrid)(x), expected), f"{block} does nothing"
        restored = unpatch(hybrid)
        assert type(restored) is type(model) and list(restored.state_dict()) == list(keys)


@every_backbone
def test_the_unpatched_build_is_torchvisions(name, tmp_path):
    model = original(name)
    file = tmp_path / "weights.pt"
    torch.save(model.state_dict(), file)
    hybrid = HybridBuilder()._torchvision(
        name, file, None, _no_head(), False, None, False, False, arguments=fast_arguments(name)
    )
    with torch.no_grad():
        assert torch.equal(hybrid.eval()(images(model)), model(images(model)))


def _no_head():
    from torchvision_customizer.hybrid.heads import HeadSpec

    return HeadSpec()


@every_backbone
def test_another_number_of_classes_trains(name):
    hybrid = HybridBuilder().from_module(copy.deepcopy(original(name)), num_classes=7, patches=everywhere("se")).train()
    x = images(hybrid, training=True)
    out = hybrid(x)
    outputs = [out] if isinstance(out, torch.Tensor) else [output for output in out if output is not None]
    assert all(output.shape == (2, 7) for output in outputs)
    sum(output.square().mean() for output in outputs).backward()
    for edit in hybrid._hybrid_state.edits:
        for parameter in hybrid.get_submodule(edit.child_path).parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), edit.child_path
    features = HybridBuilder().from_module(copy.deepcopy(original(name)), num_classes=0).eval()
    with torch.no_grad():
        assert features(x[:1]).shape[0] == 1 and features(x[:1]).dim() == 2


@every_backbone
@torch.no_grad()
def test_stages_are_a_pyramid(name):
    hybrid = trained(name)
    x = images(hybrid)
    stages, outputs = hybrid.stage_info, hybrid.get_stage_outputs(x)
    assert len(stages) == len(outputs) >= 3
    assert [output.size(1) for output in outputs] == [stage.channels for stage in stages]
    strides = [stage.stride for stage in stages]
    assert strides == sorted(strides) and strides[-1] >= 16
    if find_family(hybrid).grouped:
        assert len(set(strides)) == len(strides)
    assert len(hybrid.explain().splitlines()) > len(stages)
    parts = [path for part in (hybrid.stem, hybrid.head) for path, _ in part.named_modules()]
    assert parts and torch.equal(hybrid.get_stage_outputs(x)[-1], hybrid.forward_features(x))


@every_quick_backbone
@torch.no_grad()
def test_copies_files_and_scripts_agree(name, tmp_path):
    hybrid = trained(name)
    x = images(hybrid)
    expected = hybrid(x)
    assert torch.equal(copy.deepcopy(hybrid)(x), expected)
    assert torch.equal(load(save(hybrid, tmp_path / "model"))(x), expected)
    scripted = torch.jit.script(hybrid)
    for _ in range(2):
        out = scripted(x)
        assert torch.equal(out if isinstance(out, torch.Tensor) else out[0], expected)


@every_quick_backbone
@torch.no_grad()
def test_fused_models_agree_and_are_unfused(name):
    hybrid = trained(name)
    x = images(hybrid)
    expected = hybrid(x)
    for inference in (False, True):
        exact = copy.deepcopy(hybrid).double()(x.double())
        fuse(hybrid, inference=inference, example_input=x)
        assert_rounded_alike(hybrid(x), expected, exact)
        unfuse(hybrid)
        assert torch.equal(hybrid(x), expected)


@every_quick_backbone
@torch.no_grad()
def test_exported_programs_agree(name):
    hybrid = trained(name)
    x = images(hybrid)
    program = torch.export.export(hybrid, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=16)},))
    more = torch.cat([x, x.flip(3)])[:3]
    torch.testing.assert_close(program.module()(more), hybrid(more))


@every_quick_backbone
@torch.no_grad()
def test_compiled_models_agree(name):
    hybrid = trained(name)
    x = images(hybrid)
    torch._dynamo.reset()
    compiled = torch.compile(hybrid, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), hybrid(x))


@pytest.mark.full
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in FIRST])
@torch.no_grad()
def test_inductor_agrees(name):
    hybrid = trained(name)
    x = images(hybrid)
    torch._dynamo.reset()
    exact = copy.deepcopy(hybrid).double()(x.double())
    assert_rounded_alike(torch.compile(hybrid, fullgraph=True)(x), hybrid(x), exact)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.full) for name in GIANTS])
def test_giants_have_the_right_shapes(name):
    # On the meta device nothing is computed, and RegNet computes its widths: so it is made for real, and then sent there.
    if name.startswith("regnet"):
        model = models.get_model(name).to("meta")
    else:
        with torch.device("meta"):
            model = models.get_model(name)
    keys = list(model.state_dict())
    hybrid = apply(plan(model.eval(), everywhere("se")))
    assert set(keys) < set(hybrid.state_dict())
    size = getattr(hybrid, "image_size", 64)
    assert hybrid(torch.empty(2, 3, size, size, device="meta")).shape == (2, 1000)
    assert list(unpatch(hybrid).state_dict()) == keys


def test_a_model_of_no_family():
    class Net(nn.Sequential):
        pass

    net = Net(
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(models.resnet.BasicBlock(8, 8), models.resnet.BasicBlock(8, 8)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    x = torch.randn(2, 1, 16, 16)
    hybrid = HybridBuilder().from_module(net, x, {"*": {"inject": "se"}}, num_classes=3, last_layer="4").eval()
    assert [edit.child_path for edit in hybrid._hybrid_state.edits] == ["0.1.after.se", "1.0.se", "1.1.se"]
    stages = [str(stage) for stage in hybrid.stage_info]
    assert stages == ["0.0 to 0.1: 8 channels, stride 1", "0.2 to 1.1: 8 channels, stride 2"]
    assert hybrid(x).shape == (2, 3)
