"""What a patched model promises: it is the same function, of the same class, with the same names; everywhere."""

import copy
import io
import pickle

import pytest
import torch

from torchvision_customizer._torchvision import models
from torchvision_customizer.hybrid import HybridBuilder, HybridModel, OpenedBlock, apply, plan, unpatch

SE_EVERYWHERE = {"layer*": {"inject": "se"}}
BLOCKS = {
    "resnet18": 8,
    "resnet34": 16,
    "resnet50": 16,
    "resnet101": 33,
    "resnet152": 50,
    "wide_resnet50_2": 16,
    "wide_resnet101_2": 33,
    "resnext50_32x4d": 16,
    "resnext101_32x8d": 33,
    "resnext101_64x4d": 33,
}
# One of each kind of block, and all others in the full tier.
backbones = pytest.mark.parametrize(
    "name", [name if name in ("resnet18", "resnet50") else pytest.param(name, marks=pytest.mark.full) for name in BLOCKS]
)
# A stage, a block, a child of torch, several at one place, and the places that a block offers.
MIXED = {
    "layer*": {"inject": "se"},
    "layer4": [{"inject": "se"}, {"wrap": "se"}],
    "layer1.0": {"wrap": "se"},
    "layer2.*": {"inject": {"type": "se", "at": "before:conv2"}},
    "layer3.0": [{"inject": {"type": "se", "at": "input"}}, {"inject": {"type": "se", "at": "after:relu[0]"}}],
    "conv1": {"wrap": "se"},
    "bn1": [{"wrap": "se"}, {"wrap": {"type": "se", "params": {"reduction": 4}}}],
    "layer2.0.downsample": {"wrap": "se"},
    "layer3.0.downsample.1": {"wrap": "se"},
}


def images(size=64):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def patched(model, patches=SE_EVERYWHERE):
    return apply(plan(copy.deepcopy(model), patches))


def train_new_modules(model):
    """Let the new modules do something, so that losing one is seen."""
    generator = torch.Generator().manual_seed(2)
    for edit in model.report.edits:
        for parameter in model.get_submodule(edit.child_path).parameters():
            parameter.data.normal_(std=0.1, generator=generator)
    return model


def assert_same_outputs(a, b, x):
    for mode in (False, True):
        state = copy.deepcopy((a.state_dict(), b.state_dict()))
        assert torch.equal(a.train(mode)(x), b.train(mode)(x)), mode
        a.load_state_dict(state[0])
        b.load_state_dict(state[1])


@backbones
def test_same_function_same_names(build, name):
    original = build(name)
    model = patched(original)
    assert isinstance(model, models.ResNet) and isinstance(model, HybridModel)
    blocks = [m for m in model.modules() if isinstance(m, OpenedBlock)]
    assert len(blocks) == len(model.report.edits) == BLOCKS[name]
    before, after = original.state_dict(), model.state_dict()
    assert [key for key in after if ".se." not in key] == list(before)
    for key, value in before.items():
        assert torch.equal(after[key], value), key
    assert all(key.split(".")[-3] == "se" and key.count(".") == 4 for key in after if key not in before)

    x = images()
    for mode in (False, True):  # batch statistics last: they move the running ones
        assert torch.equal(model.train(mode)(x), original.train(mode)(x)), mode
    for key, value in original.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_gradients_are_the_original_s(build, name):
    original = build(name).train()
    model = patched(original)
    x = images()
    for each in (original, model):
        each(x).square().mean().backward()
    gradients = dict(model.named_parameters())
    for key, parameter in original.named_parameters():
        torch.testing.assert_close(gradients[key].grad, parameter.grad, rtol=1e-3, atol=1e-5)
    # The last layer of each new block learns at once; what is before it does from the second step on.
    for edit in model.report.edits:
        assert model.get_submodule(edit.child_path).fc2.weight.grad.abs().sum() > 0


@backbones
def test_a_plain_state_dict_loads(build, name):
    other = build(name)
    model = apply(plan(models.get_model(name), SE_EVERYWHERE))
    found = model.load_state_dict(other.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert all(".se." in key for key in found.missing_keys)
    assert torch.equal(model.eval()(images()), other.eval()(images()))


@pytest.mark.parametrize(
    ("name", "patches"),
    [
        pytest.param("resnet18", MIXED, id="resnet18-mixed"),
        pytest.param("resnet50", SE_EVERYWHERE, id="resnet50-every", marks=pytest.mark.full),
        pytest.param("resnet18", SE_EVERYWHERE, id="resnet18-every"),
        pytest.param("resnet50", MIXED, id="resnet50-mixed", marks=pytest.mark.full),
        pytest.param("resnext50_32x4d", MIXED, id="resnext50-mixed", marks=pytest.mark.full),
        pytest.param("wide_resnet50_2", SE_EVERYWHERE, id="wide_resnet50-every", marks=pytest.mark.full),
    ],
)
class TestEverywhere:
    """Copies, files, compilers: the new modules are there, and say the same."""

    @pytest.fixture
    def model(self, build, name, patches):
        return train_new_modules(patched(build(name), patches)).eval()

    def test_starts_as_the_same_function(self, build, name, patches):
        assert_same_outputs(patched(build(name), patches), build(name), images())

    def test_deepcopy(self, model):
        copied = copy.deepcopy(model)
        assert_same_outputs(copied, model, images())
        assert type(copied) is type(model)
        assert [type(m).__name__ for m in copied.modules()] == [type(m).__name__ for m in model.modules()]
        assert not {id(p) for p in copied.parameters()} & {id(p) for p in model.parameters()}
        assert str(copied.report) == str(model.report)
        assert type(unpatch(copied)) is models.ResNet
        assert isinstance(model, HybridModel)

    def test_pickle(self, model):
        loaded = pickle.loads(pickle.dumps(model))
        assert_same_outputs(loaded, model, images())
        assert list(loaded.state_dict()) == list(model.state_dict())
        assert [type(m).__name__ for m in loaded.modules()] == [type(m).__name__ for m in model.modules()]
        assert str(loaded.report) == str(model.report)
        assert type(unpatch(loaded)) is models.ResNet

    def test_save(self, model):
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        assert torch.equal(torch.load(buffer, weights_only=False)(images()), model(images()))

    def test_script(self, model):
        scripted = torch.jit.script(model)
        assert torch.equal(scripted(images()), model(images()))
        assert torch.equal(torch.jit.script(model.train())(images()), model(images()))

    def test_export(self, model):
        program = torch.export.export(model, (images(),))
        torch.testing.assert_close(program.module()(images()), model(images()), rtol=0, atol=0)

    def test_a_second_unpatch_or_patch_is_the_first(self, build, name, patches, model):
        trained = {key: value.clone() for key, value in model.state_dict().items()}
        original = build(name)
        restored = unpatch(model)
        assert type(restored) is models.ResNet and restored is model
        assert str(restored) == str(original)
        assert list(restored.state_dict()) == list(original.state_dict())
        assert_same_outputs(restored, original, images())
        again = apply(plan(restored, patches))
        assert list(again.state_dict()) == list(trained)


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.full)])
def test_compile_with_no_graph_break(build, name):
    model = train_new_modules(patched(build(name))).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images()), model(images()), rtol=1e-4, atol=1e-5)


def test_compiled_training_step(build):
    model = train_new_modules(patched(build("resnet18"))).train()
    other = copy.deepcopy(model)
    torch.compile(model, fullgraph=True, backend="aot_eager")(images()).square().mean().backward()
    other(images()).square().mean().backward()
    for (key, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.full  # test_fuse.py compiles one in the normal tier
def test_compile_with_inductor():
    torch.manual_seed(0)
    one_block = torch.nn.Sequential(models.resnet.BasicBlock(16, 16))
    model = train_new_modules(apply(plan(one_block, {"0": {"inject": "se"}}, example_input=(2, 16, 8, 8)))).eval()
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_compile_whole_models_with_inductor(build):
    model = train_new_modules(patched(build("resnet18"))).eval()
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(images()), model(images()), rtol=1e-3, atol=1e-4)


@backbones
def test_unpatch_gives_the_original_back(build, name):
    original = build(name)
    model = patched(original)
    restored = unpatch(model)
    assert restored is model
    assert type(restored) is type(original)
    assert str(restored) == str(original)
    assert list(restored.state_dict()) == list(original.state_dict())
    for key, value in original.state_dict().items():
        assert torch.equal(restored.state_dict()[key], value), key
    assert vars(restored).keys() == vars(original).keys()
    assert [type(m) for m in restored.modules()] == [type(m) for m in original.modules()]


def test_a_block_stays_what_users_know(build):
    model = patched(build("resnet50"), MIXED)
    block = model.layer4[0]
    assert type(block).__name__ == "PatchedBottleneck"
    assert block.conv1.out_channels == 512
    assert block.stride == 2
    assert isinstance(model.layer4, torch.nn.Sequential) and len(model.layer4) == 4
    assert isinstance(model.conv1, torch.nn.Conv2d) and model.conv1.stride == (2, 2)
    assert torch.fx.symbolic_trace(model) is not None


def test_channels_last_and_bfloat16(build):
    model, original = patched(build("resnet18")).eval(), build("resnet18").eval()
    x = images().to(memory_format=torch.channels_last)
    for each in (model, original):
        each.to(memory_format=torch.channels_last)
    assert torch.equal(model(x), original(x))
    for each in (model, original):
        each.bfloat16()
    assert torch.equal(model(x.bfloat16()), original(x.bfloat16()))


def test_new_modules_follow_type_and_device(build):
    model = patched(build("resnet18").double())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    with torch.device("meta"):
        empty = models.resnet18()
    assert {parameter.device.type for parameter in apply(plan(empty, SE_EVERYWHERE)).parameters()} == {"meta"}


def test_new_modules_follow_the_mode(build):
    assert not any(module.training for module in patched(build("resnet18").eval(), MIXED).modules())
    assert all(module.training for module in patched(build("resnet18").train(), MIXED).modules())


def test_hooks_of_a_block_stay(build):
    model, calls = build("resnet18"), []
    model.layer1[0].register_forward_hook(lambda *_: calls.append("called"))
    apply(plan(model, SE_EVERYWHERE)).eval()(images())
    unpatch(model)(images())
    assert calls == ["called"] * 2


def test_paper_init_is_the_published_block(build):
    patches = {"layer4": {"inject": {"type": "se", "init": "paper"}}}
    model, original = patched(build("resnet18"), patches).eval(), build("resnet18").eval()
    assert model.layer4[0].se.gate == "sigmoid"
    assert not torch.equal(model(images()), original(images()))


@backbones
def test_weights_of_the_hub_cache(build, hub, name):
    weights = models.get_model_weights(name).DEFAULT
    original = build(name).eval()
    hub(weights, original.state_dict())
    model = HybridBuilder().from_torchvision(name, weights=weights.name, patches=SE_EVERYWHERE).eval()
    assert torch.equal(model(images()), original(images()))
    assert model.report.weights.tensors_loaded == model.report.weights.tensors_total == len(original.state_dict())
