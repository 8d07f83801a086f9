"""``save`` and ``load``: a folder gives the same model again, or one sentence that says why not."""

import copy
import json
import os
import pickle

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import torchvision_customizer._torchvision  # noqa: F401  before timm
from torchvision_customizer import fuse
from torchvision_customizer._torchvision import models
from torchvision_customizer.errors import PatchError, WeightsError
from torchvision_customizer.hybrid import HybridBuilder, apply, load, plan, save, saving

SE_EVERYWHERE = {"layer*": {"inject": "se"}}
FILES = {"recipe.yaml", "model.safetensors", "versions.json"}
builder = HybridBuilder()


def images(size=64, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """Of no library, with a weight that has two names, and for images of one channel."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.block = models.resnet.BasicBlock(8, 8)
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(self.second(self.first(self.block(self.conv(x)).mean((2, 3)))))


def small_net(**options):
    return builder.from_module(Net(), (1, 1, 16, 16), {"block": {"inject": "se"}}, **options)


def trained(model):
    """Let every parameter show in the outputs, that of new modules too."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.02)
    return model.eval()


def resnet18(patches=SE_EVERYWHERE, **options):
    return trained(builder.from_torchvision("resnet18", None, patches, **options))


def several_times():
    model = apply(plan(resnet18(), {"type:BatchNorm2d": {"replace": "group_norm"}}))
    return trained(apply(plan(model, {"layer4": {"wrap": "cbam"}})))


MODELS = {
    "se": resnet18,
    "norms": lambda: resnet18({"type:BatchNorm2d": {"replace": "group_norm"}}),
    "several times": several_times,
    "unpatched": lambda: resnet18(None),
    "frozen": lambda: resnet18(freeze_backbone=True),
    "timm": lambda: trained(builder.from_timm("test_resnet", None, {"*": {"inject": "eca"}}, num_classes=3, in_chans=3)),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_model_comes_back(name, tmp_path):
    if name == "timm":
        pytest.importorskip("timm")
    model = MODELS[name]()
    folder = save(model, tmp_path / "model")
    assert {entry.name for entry in folder.iterdir()} == FILES
    loaded = load(folder)
    assert torch.equal(loaded(images()), model(images()))
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert (loaded.recipe, loaded.modifications) == (model.recipe, model.modifications)
    assert not loaded.training
    assert all(p.dtype == q.dtype for p, q in zip(loaded.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("arguments", [{"in_chans": 1}, {"img_size": 96}, {"img_size": (96, 160)}], ids=str)
@torch.no_grad()
def test_arguments_of_timm_come_back(arguments, tmp_path):
    pytest.importorskip("timm")
    model = trained(builder.from_timm("test_vit", None, {"*": {"inject": "se"}}, **arguments))
    channels, *size = model.report.input_shape
    x = torch.randn(2, channels, *size)
    assert torch.equal(load(save(model, tmp_path / "model"))(x), model(x))


@torch.no_grad()
def test_types_stay(tmp_path):
    model = resnet18().bfloat16()
    loaded = load(save(model, tmp_path / "model"))
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert loaded.bn1.num_batches_tracked.dtype == torch.int64
    assert torch.equal(loaded(images().bfloat16()), model(images().bfloat16()))


@pytest.mark.parametrize("inference", [False, True])
@torch.no_grad()
def test_a_fused_model_is_saved_as_it_was(inference, tmp_path):
    model = resnet18()
    expected, keys = model(images()), list(model.state_dict())
    fuse(model, inference=inference)
    fused = type(model.layer1[0]), list(model.state_dict())
    loaded = load(save(model, tmp_path / "model"))
    assert torch.equal(loaded(images()), expected) and list(loaded.state_dict()) == keys
    assert (type(model.layer1[0]), list(model.state_dict())) == fused


@pytest.mark.parametrize("head", [{}, {"num_classes": 3, "last_layer": "last"}])
@torch.no_grad()
def test_a_model_of_no_library(head, tmp_path):
    model = trained(small_net(**head))
    folder = save(model, tmp_path / "model")
    with pytest.raises(WeightsError, match=r"a Net is made by neither torchvision nor timm; give it as model="):
        load(folder)
    original = Net()
    before = copy.deepcopy(original.state_dict())
    loaded = load(folder, original)
    assert torch.equal(loaded(images(16, 1)), model(images(16, 1)))
    assert loaded.second.weight is loaded.first.weight
    assert type(original) is Net and all(torch.equal(value, before[key]) for key, value in original.state_dict().items())
    assert "second.weight" not in load_file(folder / "model.safetensors")


@torch.no_grad()
def test_a_model_of_torchvision_that_was_patched_in_place(build, tmp_path):
    model = trained(apply(plan(build(), SE_EVERYWHERE)))
    folder = save(model, tmp_path / "model")
    with pytest.raises(WeightsError, match="a ResNet is made by neither"):
        load(folder)
    assert torch.equal(load(folder, build())(images()), model(images()))


def test_memory_that_is_shared(tmp_path):
    model = small_net()
    model.register_buffer("part", model.last.weight.data[:2])
    model.register_buffer("strided", model.last.weight.data.t())
    tensors = load_file(save(model, tmp_path / "model") / "model.safetensors")
    assert torch.equal(tensors["part"], model.part) and torch.equal(tensors["strided"], model.strided)


def test_nothing_is_pickled(tmp_path, monkeypatch):
    for module, function in ((pickle, "dumps"), (pickle, "loads"), (torch, "save"), (torch, "load")):
        monkeypatch.setattr(module, function, lambda *_, **__: pytest.fail("pickles"))
    folder = save(small_net(), tmp_path / "model")
    load(folder, Net())
    for file in folder.iterdir():
        assert not file.read_bytes().startswith((b"\x80", b"PK")), file


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestFolder:
    def test_an_earlier_model_is_replaced(self, tmp_path):
        save(small_net(), tmp_path / "model")
        model = trained(small_net(num_classes=2, last_layer="last"))
        loaded = load(save(model, tmp_path / "model"), Net())
        assert torch.equal(loaded(images(16, 1)), model(images(16, 1)))
        assert [entry.name for entry in tmp_path.iterdir()] == ["model"]

    def test_folders_that_are_missing_are_made_as_others_are(self, tmp_path):
        folder = save(small_net(), tmp_path / "a" / "b")
        (tmp_path / "other").mkdir()
        assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode

    @pytest.mark.parametrize("files", [["notes.txt"], ["recipe.yaml", "notes.txt"], ["model.safetensors"]], ids=str)
    def test_something_else_is_not_touched(self, tmp_path, files):
        folder = tmp_path / "folder"
        folder.mkdir()
        for name in files:
            (folder / name).write_text("mine")
        before = contents(tmp_path)
        with pytest.raises(FileExistsError, match="exists and is no saved model, or has other files, too"):
            save(small_net(), folder)
        assert contents(tmp_path) == before

    def test_a_file_is_not_touched(self, tmp_path):
        (tmp_path / "model").write_text("mine")
        with pytest.raises(FileExistsError, match="name another folder"):
            save(small_net(), tmp_path / "model")
        assert contents(tmp_path) == {"model": b"mine"}

    def test_an_empty_folder_is_taken(self, tmp_path):
        assert save(small_net(), tmp_path) == tmp_path

    @pytest.mark.parametrize("step", ["save_file", "_sha256", "_versions"])
    def test_a_crash_leaves_the_earlier_model(self, tmp_path, monkeypatch, step):
        save(small_net(), tmp_path / "model")
        before = contents(tmp_path)

        def crash(*_, **__):
            raise OSError("no space left on device")

        monkeypatch.setattr(saving, step, crash)
        with pytest.raises(OSError, match="no space left"):
            save(trained(small_net()), tmp_path / "model")
        assert contents(tmp_path) == before
        with pytest.raises(OSError, match="no space left"):
            save(small_net(), tmp_path / "another")
        assert [entry.name for entry in tmp_path.iterdir()] == ["model"]

    def test_a_crash_while_folders_change_places(self, tmp_path, monkeypatch):
        save(small_net(), tmp_path / "model")
        before, rename = contents(tmp_path), type(tmp_path).rename

        def crash(self, target):
            if self.name == "new":
                raise OSError("crash")
            return rename(self, target)

        monkeypatch.setattr(type(tmp_path), "rename", crash)
        with pytest.raises(OSError, match="crash"):
            save(trained(small_net()), tmp_path / "model")
        assert contents(tmp_path) == before

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_parent_that_cannot_be_written(self, tmp_path):
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(PermissionError):
                save(small_net(), tmp_path / "model")
        finally:
            tmp_path.chmod(0o700)

    def test_a_parent_that_is_a_file(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(OSError):
            save(small_net(), tmp_path / "file" / "model")
        assert contents(tmp_path) == {"file": b"mine"}

    @pytest.mark.parametrize("model", [Net(), None, {"a": 1}], ids=["module", "None", "dict"])
    def test_wrong_types(self, tmp_path, model):
        with pytest.raises(ValueError, match=f"this {type(model).__name__} is neither"):
            save(model, tmp_path / "model")
        assert not (tmp_path / "model").exists()


@pytest.fixture
def folder(tmp_path):
    return save(small_net(), tmp_path / "model")


def refused(folder, *words, kind=WeightsError):
    net = Net()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(kind) as error:
        load(folder, net)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert type(net) is Net and all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


class TestDamage:
    @pytest.mark.parametrize("at", [9, 500, -1])
    def test_a_flipped_byte(self, folder, at):
        file = folder / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[at] ^= 1
        file.write_bytes(data)
        refused(folder, "is not the file that was saved", "SHA-256")

    def test_weights_that_were_cut(self, folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
        refused(folder, "is not the file that was saved")
        self.sign(folder)
        refused(folder, "model.safetensors cannot be read")

    def sign(self, folder):
        """As if the file had been written so."""
        versions = json.loads((folder / "versions.json").read_text())
        versions["sha256"] = saving._sha256(folder / "model.safetensors")
        (folder / "versions.json").write_text(json.dumps(versions))

    @pytest.mark.parametrize("name", sorted(FILES))
    def test_a_file_that_is_missing(self, folder, name):
        (folder / name).unlink()
        refused(folder, f"is not a saved model: it has no {name}")

    def test_no_folder(self, tmp_path):
        refused(tmp_path / "nowhere", "nowhere is not a saved model")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", ["cannot be read"]),
            ("[]", ["cannot be read"]),
            ("{}", ["cannot be read", "sha256"]),
            ('{"sha256": "0", "torchvision-customizer": 3}', ["cannot be read"]),
            ('{"sha256": "0", "torchvision-customizer": "new"}', ["cannot be read"]),
            ('{"sha256": "0", "torchvision-customizer": "99.1"}', ["was saved by torchvision-customizer 99.1", "install"]),
        ],
    )
    def test_versions(self, folder, text, words):
        (folder / "versions.json").write_text(text)
        refused(folder, *words)


class TestRecipe:
    @pytest.mark.parametrize(
        ("path", "value", "words"),
        [
            ("bakbone", {}, ["unknown key 'bakbone', did you mean 'backbone'?"]),
            ("backbone.pathces", {}, ["backbone.pathces: unknown key 'pathces', did you mean 'patches'?", "arguments"]),
            ("head.droput", 0.1, ["head.droput: unknown key 'droput', did you mean 'dropout'?"]),
            ("backbone", None, ["there is no model", "backbone"]),
            ("backbone.name", 3, ["backbone.name", "text", "got 3"]),
            ("backbone.library", "tinm", ["backbone.library", "'torchvision', 'timm' or 'template'", "'tinm'"]),
            ("backbone.weights", "DEFAULT", ["backbone.weights", "'DEFAULT'"]),
            ("head", {"num_classes": "3"}, ["head.num_classes", "integer", "'3'"]),
            ("input_shape", [3, "a", 16], ["input_shape[1]", "'a'"]),
            ("backbone.patches", {}, ["also has 'block.se.", "does not fit recipe.yaml"]),
        ],
    )
    def test_edited(self, folder, path, value, words):
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        part = recipe
        *outer, key = path.split(".")
        for name in outer:
            part = part.setdefault(name, {})
        part[key] = value
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        refused(folder, *words)

    @pytest.mark.parametrize(
        ("value", "kind", "words"),
        [
            ({"blok": {"inject": "se"}}, PatchError, ["no module of this Net matches 'blok'"]),
            ({"block": {"inject": {"type": "se", "reducton": 4}}}, WeightsError, ["recipe.yaml:", "unknown option 'reducton'"]),
        ],
    )
    def test_patches_that_do_not_fit(self, folder, value, kind, words):
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        recipe["backbone"]["patches"] = value
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        refused(folder, *words, kind=kind)

    def test_another_backbone(self, tmp_path):
        folder = save(resnet18(None), tmp_path / "model")
        text = (folder / "recipe.yaml").read_text()
        (folder / "recipe.yaml").write_text(text.replace("resnet18", "resnet34"))
        with pytest.raises(WeightsError, match=r"lacks 'layer1.2.bn1.bias' and \d+ more, so it does not fit recipe.yaml"):
            load(folder)
        (folder / "recipe.yaml").write_text(text.replace("resnet18", "resnet1"))
        with pytest.raises(ValueError, match="unknown backbone 'resnet1', did you mean"):
            load(folder)

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "a: b: c",
            "backbone: !!python/object/apply:os.getcwd []",
            "!!python/object:torch.nn.Linear {}",
            b"\xff\xfe\x00",
        ],
    )
    def test_no_plain_yaml(self, folder, text):
        (folder / "recipe.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        refused(folder, "recipe.yaml:")

    @pytest.mark.parametrize("text", ["", "3", "[1, 2]", "text"])
    def test_no_mapping(self, folder, text):
        (folder / "recipe.yaml").write_text(text)
        refused(folder, "recipe.yaml:")
