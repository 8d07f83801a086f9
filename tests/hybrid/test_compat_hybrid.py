"""What version 2.1.1 of the package got wrong in its hybrid models (the list in the notes on compatibility) stays right.

Tests elsewhere, which the original would fail too:

- 2, unknown locations and blocks were skipped: ``test_hybrid_plan.test_errors_say_what_is_wrong_and_touch_nothing``.
- 3, unknown parameters were dropped: the same.
- 5, functional code in a forward was lost: ``test_every_backbone.test_the_unpatched_build_is_torchvisions``.
- 6, the head was always replaced: ``test_heads.test_the_same_number_changes_nothing`` and what follows it.
- 7, names differed from torchvision's: ``test_every_backbone.test_every_block_starts_as_the_same_function``.
- 8, ``strict`` was not strict: ``test_hybrid_builder.TestWeights.test_with_more_patches_than_the_file``.
- 9, members of torchvision's enums failed: ``test_hybrid_builder.TestWeights.test_of_torchvision_by_every_name``.
- 11, ``replace`` lost stride, groups and weights: ``test_replace.test_a_convolution_keeps_its_geometry``.
- 12, freezing: ``test_finetuning.test_a_frozen_backbone_does_not_move``, ``test_hybrid_builder.TestFreezing``.
"""

import pytest
import torch

from torchvision_customizer._torchvision import models
from torchvision_customizer.errors import PatchError
from torchvision_customizer.hybrid import HybridBuilder, OpenedBlock, apply, plan

builder = HybridBuilder()


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("target", ["conv1", "bn1", "relu", "maxpool", "layer1", "layer4", "avgpool", "layer4.1.conv2"])
@torch.no_grad()
def test_every_place_takes_effect(build, target):
    """Defect 1: patches at the top level were reported and lost."""
    original = build().eval()
    model = apply(plan(build().eval(), {target: {"wrap": {"type": "se", "init": "paper"}}}))
    (edit,) = model.report.edits
    calls = []
    model.get_submodule(edit.child_path).register_forward_hook(lambda *_: calls.append(1))
    assert not torch.equal(model(images()), original(images())) and calls


@pytest.mark.parametrize(
    ("name", "target", "block", "channels"),
    [
        ("densenet121", "features.denseblock3", "se", 1024),  # it guessed 32, the growth
        ("swin_t", "features.1", "se", 96),
        ("swin_t", "features.7", "se", 768),
        ("resnet18", "maxpool", "cbam", 64),  # it knew of none
        ("convnext_tiny", "features.0.1", "eca", 96),  # a norm
        ("resnet50", "layer4", "cbam", 2048),
    ],
)
def test_channels_are_measured(name, target, block, channels):
    """Defect 4: channels were guessed from the last child that had some."""
    (edit,) = plan(models.get_model(name), {target: {"wrap": block}}).edits
    assert edit.params["channels"] == channels


@torch.no_grad()
def test_a_head_fits_behind_attention_without_channels():
    """Defect 4: behind ECA or a spatial attention the head took one feature."""
    model = builder.from_torchvision("resnet18", None, {"layer4": {"wrap": "eca"}}, num_classes=3).eval()
    assert model.fc.in_features == 512 and model(images()).shape == (2, 3)


def test_operations_are_different_things(build):
    """Defect 10: ``inject`` was ``wrap``, and there was neither ``remove`` nor a list, a glob or a type."""
    injected = apply(plan(build(), {"layer4": {"inject": "se"}}))
    wrapped = apply(plan(build(), {"layer4": {"wrap": "se"}}))
    assert isinstance(injected.layer4[0], OpenedBlock) and len(injected.layer4) == 2
    assert not isinstance(wrapped.layer4[0], OpenedBlock) and len(wrapped.layer4) == 3
    patches = {
        "layer[12].*": [{"inject": "se"}, {"inject": {"type": "eca", "at": "before:conv2"}}],
        "type:ReLU": {"replace": "gelu"},
        "maxpool": {"wrap": "eca"},
    }
    edits = plan(build(), patches).edits
    assert sum(edit.block == "se" for edit in edits) == 4 and sum(edit.block == "gelu" for edit in edits) == 9
    (removed,) = plan(build(), {"layer1.0.bn1": {"remove": True}}).edits
    assert removed.block == "identity"


@pytest.mark.parametrize("position", ["before", "around", 3])
def test_a_position_is_not_ignored(build, position):
    """Defect 10: ``position`` was read and never used."""
    with pytest.raises(PatchError, match="unknown option 'position'"):
        plan(build(), {"layer4": {"wrap": {"type": "se", "position": position}}})
    assert plan(build(), {"layer4": {"wrap": {"type": "se", "position": "after"}}}).edits


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({"replace": "se", "wrap": "se"}, "expected one operation"),
        ({"inject": {"type": "se", "params": {"reducton": 4}}}, "did you mean 'reduction'"),
        ({"inject_afer": "se"}, "unknown operation 'inject_afer'"),
    ],
)
def test_nothing_in_a_patch_is_ignored(build, operation, words):
    """Defects 3 and 10: of several operations one was used, and what was misspelt was dropped."""
    with pytest.raises(PatchError, match=words):
        plan(build(), {"layer4": operation})


def test_stages_can_be_unfrozen_in_every_family():
    """Defect 12: ConvNeXt had one stage, so that ``unfreeze_stages`` left the head alone, and said nothing."""
    model = builder.from_torchvision("convnext_tiny", None, freeze_backbone=True, unfreeze_stages=[2, 3])
    trainable = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad and name.startswith("features")}
    assert trainable == {"4", "5", "6", "7"}
    with pytest.raises(ValueError, match="there is no stage 99"):
        builder.from_torchvision("convnext_tiny", None, freeze_backbone=True, unfreeze_stages=[99])


@torch.no_grad()
def test_features_families_have_a_pyramid():
    """Defect 13: of a family with ``features`` the pyramid was the input and the last map."""
    model = builder.from_torchvision("mobilenet_v3_small", None).eval()
    outputs = model.get_stage_outputs(images())
    assert len(outputs) >= 4 and all(output.size(1) != 3 for output in outputs)
    assert [output.size(2) for output in outputs] == sorted({output.size(2) for output in outputs}, reverse=True)


def test_a_builder_keeps_nothing():
    """Defect 13: modifications added up over the calls of one builder, which kept every model alive."""
    own = HybridBuilder()
    for _ in range(2):
        assert len(own.from_torchvision("resnet18", None, {"layer4": {"wrap": "se"}}).modifications) == 1
    assert not vars(own)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", [64, 128, 256, 512]), ("resnet50", [256, 512, 1024, 2048]), ("efficientnet_b0", [24, 40, 112, 1280])],
)
def test_stages_are_known_by_class(name, channels):
    """Defect 14: stages had no channels, and models were known by a name that their classes do not have."""
    model = builder.from_module(models.get_model(name), freeze_backbone=True, unfreeze_stages=[-1])
    assert [stage.channels for stage in model.stage_info][-4:] == channels
    if name == "resnet50":
        assert model.layer4[0].conv1.weight.requires_grad and not model.layer3[0].conv1.weight.requires_grad
