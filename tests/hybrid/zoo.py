"""The models that promises are tried on: every classifier that torchvision lists, and twenty of timm, of different families."""

import copy
import functools
import gc

import pytest
import timm
import torch
from torch import nn

from torchvision_customizer._torchvision import models
from torchvision_customizer.hybrid import apply, plan
from torchvision_customizer.hybrid.backbones import find_family, list_backbones
from torchvision_customizer.hybrid.model import note

# Two of each family are tried in `make test`; the tracing of these, the largest of them, in the full tier.
DEEP = ("convnext_small", "densenet161", "efficientnet_v2_s", "maxvit_t", "swin_v2_t", "vit_b_32")
USUAL = (
    *("alexnet", "convnext_small", "convnext_tiny", "densenet121", "densenet161", "efficientnet_b0", "efficientnet_v2_s"),
    *("googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_large"),
    *("mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5"),
    *(
        "shufflenet_v2_x1_0",
        "squeezenet1_0",
        "squeezenet1_1",
        "swin_t",
        "swin_v2_t",
        "vgg11",
        "vgg11_bn",
        "vit_b_16",
        "vit_b_32",
    ),
)
# Over 200 million parameters: a model, its copy and its file do not fit beside other tests, so their shapes are checked on the
# meta device.
GIANTS = ("regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32")
TIMM_USUAL = ("deit_tiny_distilled_patch16_224", "resnet18")
TIMM = (
    *TIMM_USUAL,
    *("convnext_atto", "cspresnet50", "densenet121", "dla46_c", "edgenext_xx_small", "efficientnet_b0", "ghostnet_050"),
    *(
        "hrnet_w18_small",
        "legacy_seresnet18",
        "mixer_s32_224",
        "mobilenetv3_small_050",
        "mobilevit_xxs",
        "nf_resnet26",
        "pit_ti_224",
        "poolformer_s12",
        "regnety_002",
    ),
    *("swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"),
)
BLOCKS = {
    "se": "se",
    "eca": "eca",
    "cbam": "cbam",
    "drop_path": {"type": "drop_path", "params": {"drop_prob": 0.2}, "schedule": "linear"},
}
# What the forward of a family asks for; all others take images of 64×64.
_SIZES = {"MaxVit": 224, "Inception3": 96}
# In training mode these two call their auxiliary heads, which ask for more.
_TRAINING_SIZES = {"Inception3": 299, "GoogLeNet": 64}


def over(*names, usual=(*USUAL, *(f"timm/{name}" for name in TIMM_USUAL))):
    """The tests of a model follow each other in one process, by scope and group, so that it is made once."""
    marks = {name: [pytest.mark.xdist_group(name)] + ([] if name in usual else [pytest.mark.full]) for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in names], scope="module")


_BACKBONES = tuple(name for name in list_backbones() if name not in GIANTS)
every_timm_model = over(*(f"timm/{name}" for name in TIMM))
every_backbone = over(*_BACKBONES)
every_model = over(*_BACKBONES, *(f"timm/{name}" for name in TIMM))
every_model_traced = over(
    *_BACKBONES,
    *(f"timm/{name}" for name in TIMM),
    usual=(*(name for name in USUAL if name not in DEEP), *(f"timm/{name}" for name in TIMM_USUAL)),
)
_FIRST = tuple({models.get_model_builder(name).__module__: name for name in reversed(USUAL)}.values())
one_of_each_family = over(*_FIRST, usual=())
# The same, and all others in the full tier.
every_backbone_once = over(*_BACKBONES, usual=_FIRST)
every_backbone_fused = over(*_BACKBONES, usual=("efficientnet_b0", "googlenet", "mobilenet_v3_small", "resnet18"))


def everywhere(block="se"):
    return {"*": {"inject": BLOCKS[block]}}


def fast_arguments(name):
    if name.startswith("vit_"):
        return {"image_size": 64}
    # scipy's truncated normal takes a minute.
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def images(name, training=False, batch=2):
    """A batch that the model takes, the same each time."""
    return _images(original(name), name, training, batch)


def _images(model, name, training, batch):
    if name.startswith("timm/"):
        config = timm.get_pretrained_cfg(name.removeprefix("timm/"))
        size = config.input_size[1] if config.fixed_input_size else 64
    else:
        family = find_family(model).class_name
        size = (_TRAINING_SIZES if training else _SIZES).get(family) or _SIZES.get(family, 64)
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(3))


@functools.lru_cache(maxsize=1)
def original(name):
    """A model in evaluation mode in which everything shows in the logits; tests do not change it.

    Random weights alone do not do: some last layers begin as zero, and without statistics of their own inputs norms let
    activations die out.
    """
    trained.cache_clear()
    torch._dynamo.reset()
    gc.collect()  # the model before may have had a gigabyte
    torch.manual_seed(0)
    if name.startswith("timm/"):
        model = timm.create_model(name.removeprefix("timm/")).eval()
    else:
        model = models.get_model(name, **fast_arguments(name)).eval()
    for parameter in model.parameters():
        if parameter.abs().max() < 1e-3:  # ConvNeXt's layers begin at a millionth
            parameter.data.normal_(std=0.02)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.0)
        norm.train().momentum = None
    with torch.no_grad():
        model(_images(model, name, False, batch=4))
    for norm in norms:
        norm.eval().momentum = 0.1
    return model


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
    if name.startswith("timm/"):
        note(hybrid, backbone_name=name.removeprefix("timm/"), library="timm")
    else:
        arguments = {
            key: getattr(hybrid, key) for key in ("aux_logits", "transform_input", "image_size") if hasattr(hybrid, key)
        }
        note(hybrid, backbone_name=name, library="torchvision", arguments={**arguments, **fast_arguments(name)})
    return hybrid
