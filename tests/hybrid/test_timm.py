"""Twenty models of timm, each of another family, keep the promises that torchvision's keep."""

import copy
import functools

import pytest
import torch
from torch import nn

import torchvision_customizer._torchvision  # noqa: F401  before timm
from torchvision_customizer.errors import PatchError
from torchvision_customizer.hybrid import HybridBuilder, HybridModel, apply, load, plan, save, unpatch
from torchvision_customizer.hybrid.builder import _timm_last_layers
from torchvision_customizer.hybrid.model import note
from torchvision_customizer.hybrid.probe import input_shape_of
from torchvision_customizer.hybrid.views import anatomy_of

timm = pytest.importorskip("timm")

USUAL = ("convnext_atto", "deit_tiny_distilled_patch16_224", "mobilenetv3_small_050", "resnet18")
MODELS = (
    *USUAL,
    "cspresnet50",
    "densenet121",
    "dla46_c",
    "edgenext_xx_small",
    "efficientnet_b0",
    "ghostnet_050",
    "hrnet_w18_small",
    "legacy_seresnet18",
    "mixer_s32_224",
    "mobilevit_xxs",
    "nf_resnet26",
    "pit_ti_224",
    "poolformer_s12",
    "regnety_002",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
)
BLOCKS = {
    "se": "se",
    "eca": "eca",
    "cbam": "cbam",
    "drop_path": {"type": "drop_path", "params": {"drop_prob": 0.2}, "schedule": "linear"},
}
# timm's own models that TorchScript refuses, patched or not.
NOT_SCRIPTABLE = {"hrnet_w18_small"}
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
every_model = pytest.mark.parametrize(
    # By the scope, tests are ordered by their model, and each is made once.
    "name",
    [pytest.param(name, marks=[] if name in USUAL else pytest.mark.full, id=name) for name in MODELS],
    scope="module",
)


def images(name, batch=2):
    config = timm.get_pretrained_cfg(name)
    size = config.input_size[1] if config.fixed_input_size else 64
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(3))


@functools.lru_cache(maxsize=1)
def original(name):
    """A model in evaluation mode in which everything shows in the logits; see ``test_every_backbone``."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for parameter in model.parameters():
        if parameter.abs().max() < 1e-3:
            parameter.data.normal_(std=0.02)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.0)
        norm.train().momentum = None
    with torch.no_grad():
        model(images(name, batch=4))
    for norm in norms:
        norm.eval().momentum = 0.1
    return model


def patched(name, block="se"):
    return apply(plan(copy.deepcopy(original(name)), {"*": {"inject": BLOCKS[block]}}))


def train_new_modules(model):
    """Let the new modules do something, so that losing one is seen."""
    generator = torch.Generator().manual_seed(2)
    for edit in model._hybrid_state.edits:
        for parameter in model.get_submodule(edit.child_path).parameters():
            parameter.data.normal_(std=0.05, generator=generator)
    return model


def test_the_models_are_twenty_and_timm_has_them():
    assert len(MODELS) == 20 and set(MODELS) <= set(timm.list_models())


@every_model
@torch.no_grad()
def test_every_block_starts_as_the_same_function(name):
    model = original(name)
    x = images(name)
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


@every_model
def test_heads(name):
    x = images(name)
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


@every_model
@torch.no_grad()
def test_stages_are_those_of_feature_info(name):
    model, x = original(name), images(name)
    assert input_shape_of(None, model) == timm.get_pretrained_cfg(name).input_size
    stages = anatomy_of(model, tuple(x.shape[1:])).stages
    known = {info["reduction"]: info["num_chs"] for info in model.feature_info}
    assert [stage.stride for stage in stages] == list(known)
    expected = [OTHER_CHANNELS.get(name, {}).get(number, channels) for number, channels in enumerate(known.values())]
    assert [stage.channels for stage in stages] == expected

    hybrid = patched(name)
    assert [stage.channels for stage in hybrid.stage_info] == expected
    assert [output.size(1) for output in hybrid.get_stage_outputs(x)] == expected
    assert len(hybrid.explain().splitlines()) > len(stages)


@every_model
@torch.no_grad()
def test_copies_files_and_scripts_agree(name, tmp_path):
    hybrid = train_new_modules(patched(name))
    note(hybrid, backbone_name=name, library="timm")
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
        assert torch.equal(scripted(x), expected)


@every_model
@torch.no_grad()
def test_exported_and_compiled_models_agree(name):
    hybrid = train_new_modules(patched(name))
    x = images(name)
    program = torch.export.export(hybrid, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=16)},))
    more = torch.cat([x, x.flip(3)])[:3]
    torch.testing.assert_close(program.module()(more), hybrid(more))
    torch._dynamo.reset()
    compiled = torch.compile(hybrid, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), hybrid(x))


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
    assert torch.equal(hybrid(images("dla46_c")), model(images("dla46_c")))


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
