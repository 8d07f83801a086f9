"""Every classifier that torchvision lists keeps the promises, and so do twenty models of timm."""

import copy

import pytest
import torch
from torch import nn
from zoo import (
    BLOCKS,
    GIANTS,
    USUAL,
    every_backbone,
    every_backbone_fused,
    every_backbone_once,
    every_model,
    every_model_traced,
    everywhere,
    fast_arguments,
    images,
    one_of_each_family,
    original,
    over,
    patched,
    train_new_modules,
    trained,
)

from torchvision_customizer import fuse, unfuse
from torchvision_customizer._torchvision import models
from torchvision_customizer.hybrid import HybridBuilder, HybridModel, apply, plan, unpatch
from torchvision_customizer.hybrid.backbones import find_family, list_backbones
from torchvision_customizer.hybrid.heads import HeadSpec
from torchvision_customizer.hybrid.saving import load, save

# timm's own model that TorchScript refuses, patched or not.
NOT_SCRIPTABLE = {"timm/hrnet_w18_small"}


def assert_rounded_alike(out, expected, exact):
    """``out`` is at most twice as far from the logits in float64 as ``expected`` is, or a ten-thousandth of the largest.

    Random weights carry roundings up: ResNet-152 is a thousandth from itself in float64.
    """
    largest = exact.abs().max()
    error, own = ((found - exact).abs().max() / largest for found in (out, expected))
    assert error <= max(2 * own, 1e-4), (float(error), float(own))


def test_two_of_each_family_are_usual():
    families = {}
    for name in list_backbones():
        families.setdefault(models.get_model_builder(name).__module__, []).append(name)
    for module, names in families.items():
        assert sum(name in USUAL for name in names) >= min(2, len(names)), module
    assert len(list_backbones()) == 80


@every_model
@torch.no_grad()
def test_every_block_starts_as_the_same_function(name):
    model, x = original(name), images(name)
    expected, keys = model(x), model.state_dict()
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
        name, file, None, HeadSpec(), False, None, False, False, arguments=fast_arguments(name)
    )
    with torch.no_grad():
        assert torch.equal(hybrid.eval()(images(name)), model(images(name)))


@every_backbone
def test_another_number_of_classes_trains(name):
    hybrid = HybridBuilder().from_module(copy.deepcopy(original(name)), num_classes=7, patches=everywhere()).train()
    x = images(name, training=True)
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


@every_backbone_once
@torch.no_grad()
def test_stages_are_a_pyramid(name):
    hybrid = trained(name)
    x = images(name)
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


@every_model_traced
@torch.no_grad()
def test_copies_files_and_scripts_agree(name, tmp_path):
    hybrid = trained(name)
    x = images(name)
    expected = hybrid(x)
    assert torch.equal(copy.deepcopy(hybrid)(x), expected)
    assert torch.equal(load(save(hybrid, tmp_path / "model"))(x), expected)
    if name in NOT_SCRIPTABLE:
        for model in (original(name), hybrid):
            with pytest.raises(RuntimeError, match="Expected a value of type"):
                torch.jit.script(model)
        return
    scripted = torch.jit.script(hybrid)
    for _ in range(2):
        out = scripted(x)
        assert torch.equal(out if isinstance(out, torch.Tensor) else out[0], expected)


@every_backbone_fused
@torch.no_grad()
def test_fused_models_agree_and_are_unfused(name):
    hybrid = trained(name)
    x = images(name)
    expected = hybrid(x)
    for inference in (False, True):
        exact = copy.deepcopy(hybrid).double()(x.double())
        fuse(hybrid, inference=inference, example_input=x)
        assert_rounded_alike(hybrid(x), expected, exact)
        unfuse(hybrid)
        assert torch.equal(hybrid(x), expected)


@every_model_traced
@torch.no_grad()
def test_exported_programs_agree(name):
    hybrid = trained(name)
    x = images(name)
    program = torch.export.export(hybrid, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=16)},))
    more = torch.cat([x, x.flip(3)])[:3]
    torch.testing.assert_close(program.module()(more), hybrid(more))


@every_model_traced
@torch.no_grad()
def test_compiled_models_agree(name):
    hybrid = trained(name)
    x = images(name)
    torch._dynamo.reset()
    compiled = torch.compile(hybrid, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), hybrid(x))


@one_of_each_family
@torch.no_grad()
def test_inductor_agrees(name):
    hybrid = trained(name)
    x = images(name)
    torch._dynamo.reset()
    exact = copy.deepcopy(hybrid).double()(x.double())
    assert_rounded_alike(torch.compile(hybrid, fullgraph=True)(x), hybrid(x), exact)


@over(*GIANTS, usual=())
def test_giants_have_the_right_shapes(name):
    # On the meta device nothing is computed, and RegNet computes its widths: so it is made for real, and then sent there.
    if name.startswith("regnet"):
        model = models.get_model(name).to("meta")
    else:
        with torch.device("meta"):
            model = models.get_model(name)
    keys = list(model.state_dict())
    hybrid = apply(plan(model.eval(), everywhere()))
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
