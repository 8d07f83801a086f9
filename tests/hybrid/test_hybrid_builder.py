"""``HybridBuilder``: weights from everywhere, heads, freezing, the report; and what is said of weights that do not fit."""

import copy
import io
import pickle
import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from torchvision_customizer._torchvision import models
from torchvision_customizer.errors import PatchError, WeightsError
from torchvision_customizer.hybrid import HybridBuilder, HybridModel, apply, create_hybrid, plan, unpatch

SE_EVERYWHERE = {"layer*": {"inject": "se"}}
builder = HybridBuilder()


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def saved(tmp_path):
    """Saves an object under a name in a folder of its own."""

    def save(content, name="weights.pth"):
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(content, path)
        else:
            torch.save(content, path)
        return path

    return save


def random_resnet18(**options):
    return builder.from_torchvision("resnet18", weights=None, **options)


class TestWeights:
    @pytest.mark.parametrize(
        "weights",
        ["DEFAULT", "IMAGENET1K_V2", "ResNet50_Weights.IMAGENET1K_V2", models.ResNet50_Weights.IMAGENET1K_V2],
        ids=str,
    )
    def test_of_torchvision_by_every_name(self, build, hub, weights):
        original = build("resnet50")
        hub(models.ResNet50_Weights.IMAGENET1K_V2, original.state_dict())
        model = builder.from_torchvision("resnet50", weights=weights)
        assert all(torch.equal(model.state_dict()[key], value) for key, value in original.state_dict().items())
        assert str(model.report.weights) == "IMAGENET1K_V2: 320 of 320 tensors, 100.00% of the parameters"

    def test_default_is_default(self, build, hub):
        hub(models.ResNet18_Weights.DEFAULT, build().state_dict())
        for model in (builder.from_torchvision("resnet18"), create_hybrid("resnet18")):
            assert torch.equal(model.eval()(images()), build().eval()(images()))

    @pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors"])
    @pytest.mark.parametrize("as_text", [True, False])
    def test_of_a_file(self, build, saved, name, as_text):
        path = saved(build().state_dict(), name)
        model = builder.from_torchvision("resnet18", weights=str(path) if as_text else path, patches=SE_EVERYWHERE)
        assert torch.equal(model.eval()(images()), build().eval()(images()))
        assert model.report.weights.tensors_loaded == model.report.weights.tensors_total == 122

    @pytest.mark.parametrize(
        "wrapped",
        [
            lambda tensors: {"state_dict": tensors, "epoch": 3},
            lambda tensors: {"model": {f"module.{key}": value for key, value in tensors.items()}, "optimizer": {"lr": 0.1}},
            lambda tensors: {f"_orig_mod.{key}": value for key, value in tensors.items()},
            lambda tensors: {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")},
            lambda tensors: {key: value.half() for key, value in tensors.items()},
        ],
        ids=["checkpoint", "data parallel", "compiled", "old", "half"],
    )
    def test_of_files_as_they_are_found(self, build, saved, wrapped):
        path = saved(wrapped(build().state_dict()))
        model = builder.from_torchvision("resnet18", weights=path)
        torch.testing.assert_close(model.conv1.weight, build().conv1.weight, rtol=1e-3, atol=1e-3)
        assert model.conv1.weight.dtype == torch.float32

    def test_of_a_patched_model(self, saved):
        trained = random_resnet18(patches=SE_EVERYWHERE, num_classes=7)
        for parameter in trained.parameters():
            parameter.data.normal_(std=0.05)
        path = saved(trained.state_dict())
        model = builder.from_checkpoint(path, "resnet18", patches=SE_EVERYWHERE, num_classes=7, strict=True)
        assert torch.equal(model.eval()(images()), trained.eval()(images()))
        assert model.report.weights.tensors_loaded == model.report.weights.tensors_total == 154
        assert model.report.weights.new == ()

    def test_with_more_patches_than_the_file(self, saved):
        path = saved(random_resnet18(patches={"layer4": {"inject": "se"}}).state_dict())
        model = builder.from_checkpoint(path, "resnet18", patches=SE_EVERYWHERE)
        assert (model.report.weights.tensors_loaded, model.report.weights.tensors_total) == (130, 130)
        with pytest.raises(WeightsError, match=r"130 of 154 tensors fit; 24 missing, first 'layer1\.0\.se\.fc1\.weight'"):
            builder.from_checkpoint(path, "resnet18", patches=SE_EVERYWHERE, strict=True)

    def test_a_wrong_patch_does_not_wait_for_a_download(self, hub, monkeypatch):
        monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloads"))
        with pytest.raises(PatchError, match="layr4"):
            builder.from_torchvision("resnet18", patches={"layr4": {"inject": "se"}})

    def test_no_network(self, hub, monkeypatch):
        def fail(*_, **__):
            raise OSError("no route to host")

        monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
        with pytest.raises(WeightsError) as error:
            builder.from_torchvision("resnet18", patches=SE_EVERYWHERE)
        for word in ("IMAGENET1K_V1", "resnet18", "https://download.pytorch.org", "no route to host", "checkpoints/resnet18"):
            assert word in str(error.value)

    @pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 and then nothing", b"<html>404</html>"])
    def test_a_damaged_file_in_the_hub_cache(self, hub, damage):
        path = hub(models.ResNet18_Weights.DEFAULT, {})
        path.write_bytes(damage)
        with pytest.raises(WeightsError, match=r"resnet18-.*\.pth cannot be read as weights") as error:
            builder.from_torchvision("resnet18")
        assert "\n" not in str(error.value)

    def test_another_model_in_the_hub_cache(self, build, hub):
        hub(models.ResNet18_Weights.DEFAULT, build("resnet50").state_dict())
        with pytest.raises(WeightsError, match=r"resnet18-.*\.pth does not fit resnet18: \d+ of 122 tensors fit"):
            builder.from_torchvision("resnet18")

    def test_names_that_are_none(self):
        table = [
            ("IMAGENET1K_V2", ["resnet18", "'IMAGENET1K_V2'", "did you mean 'IMAGENET1K_V1'?", "DEFAULT", "a path"]),
            ("default", ["did you mean 'DEFAULT'?"]),
            ("ResNet50_Weights.IMAGENET1K_V1", ["resnet18", "'ResNet50_Weights.IMAGENET1K_V1'"]),
            (models.ResNet50_Weights.IMAGENET1K_V2, ["ResNet50_Weights.IMAGENET1K_V2", "resnet18", "IMAGENET1K_V1"]),
            (True, ["weights must be a name", "ResNet18_Weights", "True"]),
        ]
        for weights, words in table:
            with pytest.raises(WeightsError) as error:
                builder.from_torchvision("resnet18", weights=weights)
            for word in words:
                assert word in str(error.value), weights

    def test_files_that_are_not_there(self, saved, tmp_path):
        saved({}, "resnet18.pth")
        table = [
            (tmp_path / "resnt18.pth", ["there is no file", "resnt18.pth", "did you mean 'resnet18.pth'?"]),
            (str(tmp_path / "nowhere" / "resnet18.pth"), ["there is no file", "no folder", "nowhere"]),
            (tmp_path, ["is a folder"]),
        ]
        for path, words in table:
            with pytest.raises(WeightsError) as error:
                builder.from_torchvision("resnet18", weights=path)
            for word in words:
                assert word in str(error.value), path

    def test_files_that_do_not_fit(self, build, saved, tmp_path):
        (tmp_path / "garbage.safetensors").write_bytes(b"nonsense")
        (tmp_path / "garbage.pth").write_bytes(b"nonsense")
        cut = saved(build().state_dict(), "cut.pth")
        cut.write_bytes(cut.read_bytes()[:100_000])
        patched = random_resnet18(patches=SE_EVERYWHERE).state_dict()
        tensors = build().state_dict()
        table = [
            (tmp_path / "garbage.safetensors", ["cannot be read as weights", "damaged"]),
            (tmp_path / "garbage.pth", ["cannot be read as weights", "damaged"]),
            (cut, ["cannot be read as weights", "damaged"]),
            (saved(build(), "module.pth"), ["cannot be read as weights", "pickled objects", "save a state dict"]),
            (saved({"epoch": 1, "lr": 0.1}, "none.pth"), ["holds no state dict", "epoch, lr"]),
            (saved([1, 2], "list.pth"), ["holds no state dict", "list"]),
            (saved({"a.b": torch.ones(1)}, "other.pth"), ["none of its 1 tensors fits", "'a.b'", "'conv1.weight'"]),
            (
                saved(build("resnet50").state_dict(), "resnet50.pth"),
                [
                    "does not fit resnet18",
                    "of 122 tensors fit",
                    "of another shape, first 'layer1.0.conv1.weight'",
                    "[64, 64, 1, 1]",
                ],
            ),
            (saved(patched, "patched.pth"), ["122 of 122 tensors fit", "32 unknown, first 'layer1.0.se.fc1.weight'"]),
            (
                saved({k: v for k, v in tensors.items() if "layer4" not in k}, "part.pth"),
                ["30 missing, first 'layer4.0.conv1.weight'"],
            ),
            (
                saved(build(num_classes=10).state_dict(), "ten.pth"),
                ["120 of 122", "2 of another shape, first 'fc.weight'", "[10, 512]", "[1000, 512]", "give num_classes"],
            ),
        ]
        for path, words in table:
            with pytest.raises(WeightsError) as error:
                builder.from_torchvision("resnet18", weights=path)
            assert "\n" not in str(error.value)
            for word in [str(path), *words]:
                assert word in str(error.value), path

    def test_a_new_module_is_there_as_a_whole_or_not(self, saved):
        tensors = random_resnet18(patches=SE_EVERYWHERE).state_dict()
        del tensors["layer1.0.se.fc1.bias"]
        with pytest.raises(WeightsError, match=r"153 of 154 tensors fit; 1 missing, first 'layer1\.0\.se\.fc1\.bias'"):
            builder.from_torchvision("resnet18", weights=saved(tensors), patches=SE_EVERYWHERE)


class TestHead:
    @pytest.fixture
    def cached(self, build, hub):
        original = build()
        hub(models.ResNet18_Weights.DEFAULT, original.state_dict())
        return original.eval()

    @pytest.mark.parametrize("num_classes", [None, 1000])
    def test_stays_where_the_number_stays(self, cached, num_classes):
        model = builder.from_torchvision("resnet18", num_classes=num_classes).eval()
        assert torch.equal(model(images()), cached(images()))
        assert model.report.head is None

    def test_another_number(self, cached):
        model = builder.from_torchvision("resnet18", num_classes=10, patches=SE_EVERYWHERE).eval()
        assert model(images()).shape == (2, 10)
        assert [key for key in model.state_dict() if ".se." not in key] == list(cached.state_dict())
        cached.fc, model.fc = nn.Identity(), nn.Identity()
        assert torch.equal(model(images()), cached(images()))

    def test_another_number_is_reported(self, cached):
        report = builder.from_torchvision("resnet18", num_classes=10).report
        assert report.weights.new == ("fc.weight", "fc.bias")
        assert (report.weights.tensors_loaded, report.weights.tensors_total) == (120, 122)
        assert "fc: new, 10 classes in place of 1000" in str(report)
        assert report.parameters_before == sum(p.numel() for p in cached.parameters())
        assert report.parameters_after == report.parameters_before - 990 * 513
        assert report.flops_after == report.flops_before - 2 * 990 * 512

    def test_none(self, cached):
        model = builder.from_torchvision("resnet18", num_classes=0, patches=SE_EVERYWHERE).eval()
        cached.fc = nn.Identity()
        assert torch.equal(model(images()), cached(images()))
        assert "fc: removed, the model gives 512 features" in model.modifications
        assert model.report.weights.tensors_loaded == model.report.weights.tensors_total == 120

    def test_of_another_file(self, build, saved):
        path = saved(build(num_classes=10).state_dict())
        kept = builder.from_torchvision("resnet18", weights=path, num_classes=10)
        assert torch.equal(kept.eval()(images()), build(num_classes=10).eval()(images()))
        assert kept.report.weights.new == ()
        new = builder.from_torchvision("resnet18", weights=path, num_classes=5)
        assert new.report.weights.new == ("fc.weight", "fc.bias")
        assert new.fc.out_features == 5
        none = builder.from_torchvision("resnet18", weights=path, num_classes=0)
        assert none(images()).shape == (2, 512)

    def test_dropout_keeps_the_names(self, cached):
        model = builder.from_torchvision("resnet18", dropout=0.5, patches=SE_EVERYWHERE)
        assert [key for key in model.state_dict() if ".se." not in key] == list(cached.state_dict())
        assert torch.equal(model.eval()(images()), cached(images()))
        assert isinstance(model.fc, nn.Linear)
        assert model.report.head.dropout == 0.5 and "dropout 0.5 before it" in str(model.report)
        model.train()
        features = torch.ones(1, 512)
        torch.manual_seed(0)
        assert not torch.equal(model.fc(features), model.fc(features))
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.jit.script(model)):
            copied.train()
            assert not torch.equal(copied.fc(features), copied.fc(features))
            assert torch.equal(copied.eval()(images()), cached(images()))
            model.train()

    def test_stays_when_patches_go(self, cached):
        model = unpatch(builder.from_torchvision("resnet18", num_classes=10, dropout=0.1, patches=SE_EVERYWHERE))
        assert type(model) is models.ResNet
        assert model.fc.out_features == 10

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"num_classes": -1}, ["num_classes", "at least 0", "-1"]),
            ({"num_classes": "10"}, ["num_classes", "integer", "'10'"]),
            ({"dropout": 1.0}, ["dropout", "1.0"]),
            ({"dropout": -0.1}, ["dropout", "-0.1"]),
            ({"dropout": 0.5, "num_classes": 0}, ["dropout", "num_classes=0"]),
        ],
    )
    def test_errors(self, options, words):
        with pytest.raises(ValueError) as error:
            random_resnet18(**options)
        for word in words:
            assert word in str(error.value)


class TestFreezing:
    def test_new_modules_and_the_head_stay_trainable(self):
        model = random_resnet18(patches=SE_EVERYWHERE, num_classes=10, freeze_backbone=True)
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trainable == {n for n, _ in model.named_parameters() if ".se." in n or n.startswith("fc.")}
        assert model.count_parameters(trainable_only=True) == 89_080 + 5_130
        assert model.count_parameters() == sum(p.numel() for p in model.parameters())

    def test_frozen_norms_do_not_move(self):
        model = random_resnet18(patches=SE_EVERYWHERE, freeze_backbone=True, unfreeze_stages=[3])
        before = copy.deepcopy(model.state_dict())
        model.train()(images()).sum().backward()
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert moved and all(name.startswith("layer4.") for name in moved)
        assert not model.bn1.training and model.layer4[0].bn1.training

    def test_unfreezing(self):
        model = random_resnet18(freeze_backbone=True)
        assert model.training and not model.bn1.training
        model.unfreeze_all()
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert model.bn1.training
        model.eval().freeze_backbone([0, -1])
        assert model.layer1[0].conv1.weight.requires_grad and model.layer4[0].conv1.weight.requires_grad
        assert not model.conv1.weight.requires_grad and not model.layer2[0].conv1.weight.requires_grad
        assert not any(module.training for module in model.modules())

    def test_a_copy_stays_frozen(self):
        copied = copy.deepcopy(random_resnet18(freeze_backbone=True)).train()
        assert not copied.bn1.training

    @pytest.mark.parametrize("stages", [[4], [-5], [0, 99]])
    def test_no_such_stage(self, stages):
        model = random_resnet18()
        with pytest.raises(ValueError, match=rf"there is no stage {stages[-1]} \(stages: 0: layer1, .*3: layer4\)"):
            model.freeze_backbone(stages)
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_unfreezing_what_is_not_frozen(self):
        with pytest.raises(ValueError, match=r"unfreeze_stages .* needs freeze_backbone=True"):
            random_resnet18(unfreeze_stages=[1])


class TestReport:
    def test_numbers(self):
        model = builder.from_torchvision("resnet50", weights=None, patches=SE_EVERYWHERE)
        report = model.report
        assert len(report.edits) == 16
        assert report.parameters_before == 25_557_032
        assert report.parameters_after == sum(p.numel() for p in model.parameters())
        assert report.flops_before == 8_178_368_512
        assert 0 < report.flops_after - report.flops_before < 0.001 * report.flops_before
        assert report.weights is None
        text = str(report)
        assert text.startswith("resnet50, 16 new modules\n")
        assert "layer1.0.se: se(channels=256, init=identity) at residual, after bn3, 8,464 parameters" in text
        assert "weights     random" in text and "parameters  25.557 M -> 28.088 M (+9.90%)" in text and "(3×224×224)" in text

    def test_touches_nothing(self, untouched):
        model = random_resnet18(patches=SE_EVERYWHERE)
        model.conv1.register_forward_hook(lambda *_: pytest.fail("the report called a hook"))
        check, state = untouched(model), torch.get_rng_state()
        assert model.report.flops_after
        check.check()
        assert torch.equal(torch.get_rng_state(), state)

    def test_of_an_unchanged_model(self):
        model = random_resnet18()
        assert isinstance(model, HybridModel) and isinstance(model, models.ResNet)
        assert (model.backbone_name, model.modifications) == ("resnet18", [])
        assert "parameters  11.690 M, unchanged" in str(model.report)

    def test_of_a_model_from_elsewhere(self, build):
        model = apply(plan(build(), {"layer4": {"wrap": "se"}}))
        assert model.backbone_name is None
        assert str(model.report).startswith("HybridResNet, 1 new module\n")

    def test_modifications_and_explanation(self):
        model = random_resnet18(patches={"layer4.1": {"inject": "se"}}, num_classes=3)
        assert [line.partition(":")[0] for line in model.modifications] == ["layer4.1.se", "fc"]
        lines = model.explain().splitlines()
        assert lines[0].startswith("resnet18: ")
        place = next(number for number, line in enumerate(lines) if line.lstrip().startswith("stage 3"))
        assert lines[place].endswith("layer4.0 to layer4.1: 512 channels, stride 32") or "layer4: 512 channels" in lines[place]
        assert "layer4.1.se" in lines[place + 1]
        assert lines[-1].lstrip().startswith("+ fc: new, 3 classes")

    def test_verbose_prints_it(self, capsys):
        model = random_resnet18(verbose=True)
        assert capsys.readouterr().out.strip() == str(model.report)
        random_resnet18()
        assert capsys.readouterr().out == ""


def test_list_backbones():
    assert builder.list_backbones() == sorted(builder.list_backbones())
    assert {"resnet18", "wide_resnet50_2", "resnext101_64x4d"} <= set(builder.list_backbones())


def test_an_unknown_backbone():
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet5', did you mean 'resnet50'\?"):
        builder.from_torchvision("resnet5")


def test_builders_keep_nothing():
    first = random_resnet18(patches=SE_EVERYWHERE)
    second = random_resnet18(patches={"layer4": {"wrap": "se"}})
    assert (len(first.modifications), len(second.modifications)) == (8, 1)
    assert vars(builder) == {}


def test_the_state_dict_travels(saved):
    model = random_resnet18(patches=SE_EVERYWHERE)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    random_resnet18(patches=SE_EVERYWHERE).load_state_dict(torch.load(buffer, weights_only=True))


@pytest.mark.alone
def test_patching_costs_little_time():
    """At most half a second more than torchvision's constructor, which is what the best of a few runs shows on a quiet core."""

    def seconds(make):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            make()
            times.append(time.perf_counter() - start)
        return min(times)

    plain = seconds(models.resnet50)
    patched = seconds(lambda: builder.from_torchvision("resnet50", weights=None, patches=SE_EVERYWHERE))
    # Twice the bound: a machine that runs other tests at the same time is no quiet one.
    assert patched - plain < 1.0
