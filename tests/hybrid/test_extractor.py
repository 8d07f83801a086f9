"""Stem, stages and head under the names of version 2.1, and its defect 14."""

import copy

import pytest
import torch
from torch import nn

import torchvision_customizer as tvc
from torchvision_customizer._torchvision import models
from torchvision_customizer.hybrid import HybridModel, apply, get_stage_channels, plan
from torchvision_customizer.hybrid.extractor import extract_tiers, freeze_backbone, get_backbone_info, unfreeze_model


def meta(name):
    with torch.device("meta"):
        return models.get_model(name)


def test_tiers_of_a_resnet():
    """Defect 14: 2.1 found five stages in a resnet50 that it was given without a name, the ReLU first."""
    model = meta("resnet50")
    tiers = extract_tiers(model)
    assert list(tiers) == ["stem", "stages", "head", "info"]
    assert [name for name, _ in tiers["stem"].named_children()] == ["conv1", "bn1", "relu", "maxpool"]
    assert tiers["stages"] == [model.layer1, model.layer2, model.layer3, model.layer4]
    assert [name for name, _ in tiers["head"].named_children()] == ["avgpool", "fc"]
    assert type(model) is models.ResNet, "it is not touched"
    assert tvc.extract_tiers is extract_tiers and tvc.get_backbone_info is get_backbone_info


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", [64, 128, 256, 512]),
        ("resnet50", [256, 512, 1024, 2048]),
        ("efficientnet_b0", [16, 24, 40, 112, 1280]),
        ("mobilenet_v3_small", [16, 24, 48, 576]),
        ("vgg11", [64, 128, 256, 512, 512]),
        ("densenet121", [256, 512, 1024, 1024]),
        ("swin_t", [96, 192, 384, 768]),
        ("vit_b_32", [768] * 12),
    ],
)
def test_stage_channels(name, channels):
    """Defect 14: 2.1 gave [None, None, None, None] for every ResNet. Here they are measured."""
    model = meta(name)
    assert get_stage_channels(model) == channels == get_stage_channels(model, name)
    tiers = extract_tiers(model)
    assert len(tiers["stages"]) == len(channels)
    own = {id(module) for module in model.modules()}
    found = [
        module
        for part in (tiers["stem"], *tiers["stages"], tiers["head"])
        for module in part.modules()
        if list(module.parameters(False))
    ]
    assert found and all(id(module) in own for module in found)


def test_info():
    model = models.resnet18()
    model.fc.requires_grad_(False)
    info = get_backbone_info(model)
    assert (info.name, info.total_params, info.trainable_params) == ("ResNet", 11_689_512, 11_689_512 - 513_000)
    assert info.stage_parts == ["layer1", "layer2", "layer3", "layer4"]
    assert "  stage 1  layer2: 128 channels, stride 8" in info.summary().splitlines()
    assert repr(info) == "BackboneInfo(name='ResNet', params=11,689,512, stages=4)"
    assert get_backbone_info(model, "resnet18").name == "resnet18"
    assert get_backbone_info(apply(plan(model, {}))).name == "ResNet"


def test_wrong_names():
    model = meta("resnet18")
    with pytest.raises(ValueError, match="unknown backbone 'resnet81', did you mean 'resnet18'"):
        get_backbone_info(model, "resnet81")
    with pytest.raises(ValueError, match="backbone_name: this ResNet is no vgg11"):
        extract_tiers(model, "vgg11")
    with pytest.raises(ValueError, match=r"freeze_stages: there is no stage 4 \(stages: 0: layer1, 1: layer2"):
        freeze_backbone(model, freeze_stages=[0, 4])
    assert type(model) is models.ResNet and all(parameter.requires_grad for parameter in model.parameters())


def trained(model):
    return {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_freezing_stages():
    """Defect 14: with freeze_stages=[0, 1, 2], 2.1 left layer3 to be trained, for its first stage was the ReLU."""
    model = models.resnet18()
    assert freeze_backbone(model, freeze_stages=[0, 1, 2]) is model
    assert trained(model) == {"layer4", "fc"}
    assert isinstance(model, HybridModel) and isinstance(model, models.ResNet)
    assert unfreeze_model(model) is model and all(parameter.requires_grad for parameter in model.parameters())
    assert trained(freeze_backbone(model, freeze_stem=False, freeze_stages=[-1])) == {
        "conv1", "bn1", "layer1", "layer2", "layer3", "fc"
    }  # fmt: skip
    assert trained(freeze_backbone(unfreeze_model(model))) == {"fc"}
    assert trained(freeze_backbone(unfreeze_model(model), freeze_stages=False, freeze_head=True)) == {
        "layer1", "layer2", "layer3", "layer4"
    }  # fmt: skip


def test_frozen_batch_norms_keep_their_statistics():
    """Defect 12: in 2.1 they moved on."""
    model = freeze_backbone(models.resnet18(), freeze_stages=[0]).train()
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(2, 3, 64, 64))
    moved = {name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"layer2", "layer3", "layer4"}
    unfreeze_model(model)
    model(torch.randn(2, 3, 64, 64))
    assert not torch.equal(model.bn1.running_mean, before["bn1.running_mean"])


def test_new_modules_stay_trained():
    model = apply(plan(models.resnet18(), {"layer*": {"inject": "se"}}))
    freeze_backbone(model, freeze_head=True)
    left = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(left) == 8 * 4 and all(".se." in name for name in left)


def test_what_lies_between_modules_is_of_the_stem():
    model = meta("vit_b_32")
    freeze_backbone(model, freeze_stages=False)
    assert not model.class_token.requires_grad and not model.encoder.pos_embedding.requires_grad
    assert model.heads.head.weight.requires_grad and model.encoder.layers[0].mlp[0].weight.requires_grad


def test_a_model_of_no_family():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    info = get_backbone_info(model, example_input=(1, 1, 16, 16))
    assert info.stage_channels == [8, 16] and info.head_parts == ["2", "3", "4"]
    frozen = freeze_backbone(model, freeze_stages=[1], example_input=(1, 1, 16, 16))
    assert trained(frozen) == {"0", "4"} and not frozen.train()[1][1].training
    assert get_stage_channels(frozen) == [8, 16], "it has kept what it takes"
