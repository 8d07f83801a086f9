"""What is timm's own: its classifiers, its stages, and what of it cannot be patched. See ``test_every_model`` for the rest."""

import copy

import pytest
import timm
import torch
from zoo import TIMM, every_timm_model, images, original, patched

from torchvision_customizer.errors import PatchError
from torchvision_customizer.hybrid import HybridBuilder, apply, plan
from torchvision_customizer.hybrid.builder import _timm_last_layers
from torchvision_customizer.hybrid.probe import input_shape_of
from torchvision_customizer.hybrid.views import anatomy_of

LAST_LAYERS = {
    "deit_tiny_distilled_patch16_224": ("head", "head_dist"),
    "legacy_seresnet18": ("last_linear",),
    **dict.fromkeys(("efficientnet_b0", "densenet121", "ghostnet_050", "hrnet_w18_small"), ("classifier",)),
    "mobilenetv3_small_050": ("classifier",),
    **dict.fromkeys(("resnet18", "dla46_c"), ("fc",)),
    **dict.fromkeys(("vit_tiny_patch16_224", "mixer_s32_224", "pit_ti_224"), ("head",)),
}
# Where a stage gives something else than timm's feature_info says, and why. By the index of the stage.
OTHER_CHANNELS = {
    "densenet121": {1: 128, 2: 256, 3: 512},  # a transition halves the channels before it halves the map
    "efficientnet_b0": {4: 1280},  # the last convolution works at the resolution of the last blocks
    "ghostnet_050": {3: 56, 4: 480},  # timm notes what the last block but one, and the last but two, give
    "hrnet_w18_small": {4: 2048},  # as with efficientnet
}


def test_the_models_are_twenty_and_timm_has_them():
    assert len(TIMM) == 20 and set(TIMM) <= set(timm.list_models())


@every_timm_model
def test_heads(name):
    x, name = images(name), name.removeprefix("timm/")
    hybrid = HybridBuilder().from_timm(name, None, {"*": {"inject": "se"}}, num_classes=7).train()
    assert _timm_last_layers(hybrid) == LAST_LAYERS.get(name, ("head.fc",))
    assert [layer.path for layer in hybrid.report.head.layers] == list(_timm_last_layers(hybrid))
    out = hybrid(x)
    outputs = out if isinstance(out, tuple) else (out,)
    assert all(output.shape == (2, 7) for output in outputs) and hybrid.num_classes == 7
    sum(output.square().mean() for output in outputs).backward()
    for edit in hybrid._hybrid_state.edits:
        for parameter in hybrid.get_submodule(edit.child_path).parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), edit.child_path
    features = HybridBuilder().from_timm(name, None, num_classes=0).eval()
    with torch.no_grad():
        assert features(x).shape == (2, features.report.head.layers[0].in_features)


@every_timm_model
@torch.no_grad()
def test_stages_are_those_of_feature_info(name):
    model, x, hybrid = original(name), images(name), patched(name)
    name = name.removeprefix("timm/")
    assert input_shape_of(None, model) == timm.get_pretrained_cfg(name).input_size
    stages = anatomy_of(model, tuple(x.shape[1:])).stages
    known = {info["reduction"]: info["num_chs"] for info in model.feature_info}
    assert [stage.stride for stage in stages] == list(known)
    expected = [OTHER_CHANNELS.get(name, {}).get(number, channels) for number, channels in enumerate(known.values())]
    assert [stage.channels for stage in stages] == expected

    assert [stage.channels for stage in hybrid.stage_info] == expected
    assert [output.size(1) for output in hybrid.get_stage_outputs(x)] == expected
    assert len(hybrid.explain().splitlines()) > len(stages)


# What cannot be patched as asked, and what is said of it.
AT_THE_BRANCH = {"inject": {"type": "se", "at": "residual"}}
REFUSED = [
    # Its forward reads whether it is given a shortcut, and fx takes every argument for given.
    ("dla46_c", {"level2.tree1": AT_THE_BRANCH}, "cannot be opened: its forward does something else where 'shortcut' is given"),
    # A stage of HRNet gives a list of maps, one for each of its branches.
    ("hrnet_w18_small", {"stage2": {"wrap": "se"}}, "stage2 is not run by the model, or returns none"),
    # PiT's pool gives a map and a token in a tuple.
    ("pit_ti_224", {"transformers.1.pool": {"wrap": "se"}}, "transformers.1.pool"),
    ("pit_ti_224", {"transformers.1.pool": AT_THE_BRANCH}, "transformers.1.pool does not add a residual branch"),
    ("ghostnet_050", {"classifier": {"inject": "se"}}, "classifier"),
]


@pytest.mark.parametrize(("name", "patches", "words"), REFUSED)
def test_what_cannot_be_patched_says_why(name, patches, words, untouched):
    check = untouched(timm.create_model(name))
    with pytest.raises(PatchError) as error:
        plan(check.model, patches)
    assert words in str(error.value) and "\n" not in str(error.value)
    check.check()


def test_a_plan_does_not_count_batches(untouched):
    """timm's norms count them in their own forward, which tracing runs."""
    check = untouched(timm.create_model("mobilenetv3_small_050"))
    plan(check.model, {"*": {"inject": "se"}})
    check.check()


def test_an_argument_that_may_be_none_is_not_lost():
    """fx takes it for given, which would drop the shortcut of DLA's blocks where it is not."""
    model = timm.create_model("dla46_c").eval()
    hybrid = apply(plan(copy.deepcopy(model), {"level*": {"wrap": "se"}}))
    assert torch.equal(hybrid(images("timm/dla46_c")), model(images("timm/dla46_c")))


@pytest.mark.parametrize("target", ["patch_embed", "pos_drop", "norm_pre", "blocks", "blocks.3.attn"])
def test_channels_of_tokens_are_found(target):
    """196 patches of 192 channels are no image of 196 channels."""
    (edit,) = plan(timm.create_model("vit_tiny_patch16_224"), {target: {"wrap": "se"}}).edits
    assert (edit.params["channels"], edit.channel_dim) == (192, -1)


@pytest.mark.parametrize("arguments", [{"in_chans": 1}, {"img_size": 96}, {"img_size": (96, 160)}], ids=str)
@torch.no_grad()
def test_arguments_that_change_the_input(arguments):
    hybrid = HybridBuilder().from_timm("test_vit", None, {"*": {"inject": "se"}}, **arguments).eval()
    channels, height, width = hybrid.report.input_shape
    assert hybrid(torch.randn(2, channels, height, width)).shape == (2, 1000)
    assert [(stage.channels, stage.stride) for stage in hybrid.stage_info] == [(64, 16)]


def test_an_unknown_model():
    with pytest.raises(ValueError, match="timm has no model 'resnt18', did you mean 'resnet18'"):
        HybridBuilder().from_timm("resnt18", None)
