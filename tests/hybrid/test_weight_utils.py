"""Weights that fit in part. The numbers of defects are those of the list of what version 2.1 got wrong."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from torchvision_customizer._torchvision import models
from torchvision_customizer.blocks import CBAMBlock, SEBlock
from torchvision_customizer.errors import WeightsError
from torchvision_customizer.hybrid import HybridBuilder, apply, plan
from torchvision_customizer.hybrid.weight_utils import (
    WeightLoadingReport,
    count_matching_params,
    get_layer_shapes,
    match_state_dict,
    partial_load,
    transfer_weights,
)


def values(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def toy(classes=4, width=8):
    """A convolution, two norms and a layer, whose norms are not at their start."""
    model = nn.Sequential()
    model.conv = nn.Conv2d(3, width, 3)
    model.bn = nn.BatchNorm2d(width)
    model.ln = nn.LayerNorm(width)
    model.fc = nn.Linear(width, classes)
    nn.init.uniform_(model.bn.weight, 0.5, 1.5)
    return model


class TestPartialLoad:
    def test_a_plain_state_dict_into_a_patched_model(self, build):
        """Defect 7 (hybrid): 0 of 122 tensors were found, because no name was torchvision's."""
        patches = {"layer*": {"inject": "se"}}
        model, original = HybridBuilder().from_torchvision("resnet18", weights=None, patches=patches), build().eval()
        report = partial_load(model, original.state_dict(), verbose=False)
        assert report.total_loaded == 122 and not report.skipped_unexpected and not report.newly_initialized
        assert all(".se." in name for name in report.skipped_missing)
        x = torch.randn(2, 3, 32, 32)
        assert torch.equal(model.eval()(x), original(x))

    @pytest.mark.parametrize("how", ["kaiming", "xavier", "zero"])
    def test_new_layers_do_not_die(self, how):
        """Defect 15: "new" vectors were set to 0, weights of norms among them."""
        model = toy()
        before = values(model)
        report = partial_load(model, {"fc.bias": torch.ones(4)}, verbose=False, init_new_layers=how)
        assert report.newly_initialized == ["conv.weight", "conv.bias", "fc.weight"]
        assert moved(model, before) == {"conv.weight", "conv.bias", "fc.weight", "fc.bias"}
        assert torch.equal(model.conv.bias, torch.zeros(8)) and torch.equal(model.fc.bias, torch.ones(4))
        assert (model.fc.weight == 0).all() == (how == "zero")

    def test_draws_as_wide_as_it_should(self):
        model = nn.Sequential(nn.Linear(512, 400), nn.Linear(512, 400))
        source = {"0.weight": torch.zeros(400, 512)}
        for how, deviation in (("kaiming", (2 / 512) ** 0.5), ("xavier", (2 / 912) ** 0.5)):
            partial_load(model, source, verbose=False, init_new_layers=how)
            assert model[1].weight.std().item() == pytest.approx(deviation, rel=0.02)

    @pytest.mark.parametrize("how", ["keep", None])
    def test_keeps_the_start_of_the_target(self, how):
        """Defect 15: existing good initialisation was overwritten."""
        model = toy()
        before = values(model)
        report = partial_load(model, {"fc.bias": torch.ones(4)}, verbose=False, init_new_layers=how)
        assert moved(model, before) == {"fc.bias"} == set(report.loaded)
        assert report.newly_initialized == []

    @pytest.mark.parametrize("block", ["se", "eca", "cbam"])
    @pytest.mark.parametrize("how", ["kaiming", "xavier", "zero"])
    def test_new_modules_stay_the_identity(self, build, block, how):
        """Defect 8 (hybrid), 15: what was new was drawn anew, whatever its start was for."""
        original = build()
        model = apply(plan(models.resnet18(), {"layer4": {"inject": block}}))
        partial_load(model, original.state_dict(), verbose=False, init_new_layers=how)
        x = torch.randn(2, 3, 32, 32)
        assert torch.equal(model.eval()(x), original.eval()(x))

    @pytest.mark.parametrize("how", ["kaiming", "xavier", "zero"])
    def test_blocks_of_this_package_keep_their_start(self, how):
        model = nn.Sequential(nn.Linear(8, 8), SEBlock(8, init="paper"), CBAMBlock(8, init="identity"))
        before = values(model)
        report = partial_load(model, {"0.weight": torch.eye(8)}, verbose=False, init_new_layers=how)
        assert moved(model, before) == {"0.weight", "0.bias"} and report.newly_initialized == ["0.bias"]

    def test_a_tensor_that_has_two_names_is_loaded_once_for_both(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        report = partial_load(model, {"0.weight": torch.eye(4)}, verbose=False)
        assert torch.equal(model[1].weight, torch.eye(4))
        assert report.newly_initialized == ["0.bias", "1.bias"]
        assert report.parameter_ratio == 16 / 24

    def test_types_are_converted(self):
        source = toy().double()
        model = toy().half()
        report = partial_load(model, source.state_dict(), strict=True, verbose=False)
        assert report.load_ratio == 1.0 and model.conv.weight.dtype == torch.float16
        assert torch.equal(model.conv.weight, source.conv.weight.half())

    def test_prints_the_report(self, capsys):
        report = partial_load(toy(), toy(5).state_dict())
        assert capsys.readouterr().out.strip() == report.summary()


WRAPPERS = {
    "data parallel": lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
    "compiled": lambda tensors: {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()},
    "both": lambda tensors: {f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()},
    "the other way": lambda tensors: {f"_orig_mod.module.{name}": tensor for name, tensor in tensors.items()},
    "averaged": lambda tensors: {
        "n_averaged": torch.tensor(3),
        **{f"module.{name}": tensor for name, tensor in tensors.items()},
    },
    "timm": lambda tensors: {"state_dict_ema": tensors, "epoch": 3},
    "torchvision": lambda tensors: {"model_ema": {"n_averaged": torch.tensor(3), **WRAPPERS["both"](tensors)}},
    "ema": lambda tensors: {"ema": tensors, "step": torch.tensor(5)},
    "weights first": lambda tensors: {"model_ema": {"fc.bias": torch.zeros(4)}, "model": tensors},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("in_file", [False, True])
def test_wrappers(wrapper, in_file, tmp_path):
    """Defect 17: a prefix that a wrapper had put before the names, and nothing was loaded."""
    source = toy()
    content = WRAPPERS[wrapper](source.state_dict())
    if in_file:
        torch.save(content, tmp_path / "weights.pt")
        content = tmp_path / "weights.pt"
    model = toy()
    assert partial_load(model, content, strict=True, verbose=False).load_ratio == 1.0
    assert not moved(model, source.state_dict())


def test_wrappers_of_the_target():
    source = toy()
    for model in (nn.DataParallel(toy()), AveragedModel(toy())):
        report = partial_load(model, source.state_dict(), verbose=False)
        assert len(report.loaded) == 11 and report.loaded[0] == "module.conv.weight"
        assert torch.equal(model.module.conv.weight, source.conv.weight)


def test_a_file_of_safetensors(tmp_path):
    source, model = toy(), toy()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    partial_load(model, str(tmp_path / "weights.safetensors"), strict=True, verbose=False)
    assert not moved(model, source.state_dict())


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


class TestErrors:
    """Defect 17: ``ignore_mismatch=False`` did nothing, and ``strict`` never raised."""

    TENSORS = toy().state_dict()
    TABLE = (
        (toy(5).state_dict(), {"ignore_mismatch": False}, ["9 of 11", "2 of another shape", "'fc.weight'", "[5, 8]", "[4, 8]"]),
        (toy(5).state_dict(), {"strict": True}, ["2 of another shape", "'fc.weight'"]),
        (without(TENSORS, "fc.bias"), {"strict": True}, ["10 of 11", "1 missing", "'fc.bias'"]),
        ({**TENSORS, "extra": torch.ones(1)}, {"strict": True}, ["11 of 11", "1 unknown", "'extra'"]),
        ({"a.weight": torch.ones(1)}, {}, ["Sequential", "none of its 1 tensors fits", "'a.weight'", "'conv.weight'"]),
        ({"conv.weight": torch.ones(1)}, {}, ["none of its 1 tensors fits"]),
        ({}, {}, ["the mapping holds no state dict"]),
        ({1: torch.ones(1)}, {}, ["no state dict, but the keys 1"]),
        ({"state": 1}, {}, ["no state dict, but the keys state"]),
        ("weights.pt", {}, ["there is no file weights.pt"]),
        (3, {}, ["a model, a state dict or a path", "3"]),
        ({"conv.weight": torch.ones(8, 3, 3, 3, device="meta")}, {}, ["'conv.weight'", "source", "meta"]),
    )

    @pytest.mark.parametrize("number", range(len(TABLE)))
    def test_what_does_not_fit(self, number, untouched):
        source, options, words = self.TABLE[number]
        model = toy()
        check = untouched(model)
        with pytest.raises(WeightsError) as error:
            partial_load(model, source, verbose=False, **options)
        check.check()
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)

    def test_an_unknown_start(self):
        with pytest.raises(
            ValueError, match=r"init_new_layers must be one of kaiming, .* got 'kaming', did you mean 'kaiming'\?"
        ):
            partial_load(toy(), toy(), init_new_layers="kaming")

    def test_a_target_without_values(self):
        with pytest.raises(WeightsError, match=r"'conv\.weight' of the target is on the meta device"):
            partial_load(toy().to("meta"), toy())

    def test_old_files_do_not_count_batches(self):
        assert (
            partial_load(toy(), without(self.TENSORS, "bn.num_batches_tracked"), strict=True, verbose=False).total_loaded == 10
        )

    def test_strict_lets_everything_fit(self):
        assert partial_load(toy(), self.TENSORS, strict=True, verbose=False).load_ratio == 1.0


class TestReport:
    def test_numbers(self):
        """Defect 17: ``load_ratio`` was that of neither side."""
        source = {**without(toy(5).state_dict(), "bn.bias"), "a": torch.ones(1), "b": torch.ones(1), "c": torch.ones(1)}
        report = partial_load(toy(), source, verbose=False)
        assert report.skipped_shape_mismatch == [("fc.weight", (5, 8), (4, 8)), ("fc.bias", (5,), (4,))]
        assert (report.skipped_missing, report.skipped_unexpected) == (["bn.bias"], ["a", "b", "c"])
        assert (report.total_loaded, report.total_skipped, report.load_ratio) == (8, 6, 8 / 11)
        assert report.by_child == {"conv": (224, 224), "bn": (8, 16), "ln": (16, 16), "fc": (0, 36)}
        assert report.parameter_ratio == 248 / 292

    def test_text(self):
        report = partial_load(toy(), {**toy(5).state_dict(), **{name: torch.ones(1) for name in "abcd"}}, verbose=False)
        text = report.summary()
        assert "loaded 9 of the target's 11 tensors (81.8%), 87.67% of its parameters" in text
        assert "  fc              0.00%" in text and "  conv          100.00%" in text
        assert "of another shape: 2 (fc.weight [5, 8] -> [4, 8], fc.bias [5] -> [4])" in text
        assert "not in the target: 4 (a, b, c and 1 more)" in text
        assert "newly initialized: 2 (fc.weight, fc.bias)" in text and "not in the source" not in text

    def test_of_nothing(self):
        report = WeightLoadingReport()
        assert (report.load_ratio, report.parameter_ratio, report.total_skipped) == (0.0, 0.0, 0)


class TestTransfer:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"exclude_patterns": ["fc"]}, {"conv", "bn", "ln"}),
            ({"include_patterns": ["^conv", r"\.bias$"], "exclude_patterns": ["^[bl]n"]}, {"conv", "fc.bias"}),
            ({"include_patterns": "conv"}, {"conv"}),
        ],
    )
    def test_what_is_left_out_is_not_touched(self, options, expected):
        """Defect 16: every tensor that was left out was drawn anew, and gammas became 0."""
        source, target = toy(), toy()
        for tensor in source.state_dict().values():
            tensor.add_(1)
        before = values(target)
        report = transfer_weights(source, target, **options)
        changed = {name for name in before if name.startswith(tuple(expected))}
        assert moved(target, before) == changed == set(report.loaded)
        assert report.newly_initialized == [] and set(report.skipped_missing) == set(before) - changed

    @pytest.mark.parametrize(
        ("mapping", "rename"),
        [
            ({"fc": "conv"}, None),
            ({"": "encoder"}, lambda name: f"encoder.{name}"),
            ({"layer1": "stage1"}, lambda name: name.replace("layer1.", "stage1.")),
            (
                {"bn.weight": "gamma", "bn": "norm"},
                lambda name: "gamma" if name == "bn.weight" else name.replace("bn.", "norm."),
            ),
        ],
    )
    def test_names_are_mapped_by_segments(self, mapping, rename):
        if rename is None:
            source, target = nn.Sequential(), nn.Sequential()
            source.fc, target.conv = nn.Linear(2, 2), nn.Linear(2, 2)
            assert transfer_weights(source, target, mapping).loaded == ["conv.weight", "conv.bias"]
            return
        source = toy()
        source.layer1, source.layer10 = nn.Linear(2, 2), nn.Linear(2, 2)
        target = Renamed(source.state_dict(), rename)
        report = transfer_weights(source, target, mapping)
        assert report.load_ratio == 1.0
        for name, tensor in source.state_dict().items():
            assert torch.equal(target.state_dict()[rename(name)], tensor), name

    def test_two_can_be_swapped(self):
        source = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        target = copy.deepcopy(source)
        transfer_weights(source, target, {"0": "1", "1": "0"})
        assert torch.equal(target[0].weight, source[1].weight) and torch.equal(target[1].bias, source[0].bias)

    def test_from_everywhere(self, tmp_path):
        source = toy()
        torch.save(source.state_dict(), tmp_path / "weights.pt")
        for each in (source, source.state_dict(), tmp_path / "weights.pt", nn.DataParallel(source)):
            target = toy()
            assert transfer_weights(each, target).load_ratio == 1.0
            assert not moved(target, source.state_dict())

    TABLE = (
        ({"layer_mapping": {"cnv": "conv"}}, ["layer_mapping", "source", "'cnv'", "did you mean 'conv'?"]),
        ({"layer_mapping": {"conv": "cnv"}}, ["layer_mapping", "target", "'cnv'", "did you mean 'conv'?"]),
        ({"layer_mapping": {"bn": "ln"}}, ["'bn.weight' and 'ln.weight'", "both go to 'ln.weight'"]),
        ({"include_patterns": ["fc", "xyz"]}, ["include_patterns", "'xyz'"]),
        ({"exclude_patterns": ["xyz"]}, ["exclude_patterns", "'xyz'"]),
        ({"exclude_patterns": [""]}, ["the patterns leave nothing"]),
        ({"include_patterns": []}, ["the patterns leave nothing"]),
        (
            {"layer_mapping": {"fc": "ln"}, "include_patterns": ["fc.weight"]},
            ["nothing can be taken over into this Sequential"],
        ),
    )

    @pytest.mark.parametrize("number", range(len(TABLE)))
    def test_errors(self, number, untouched):
        options, words = self.TABLE[number]
        target = toy()
        check = untouched(target)
        with pytest.raises(WeightsError) as error:
            transfer_weights(toy(), target, **options)
        check.check()
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)

    def test_no_regular_expression(self):
        with pytest.raises(ValueError, match=r"exclude_patterns: '\(' is no regular expression"):
            transfer_weights(toy(), toy(), exclude_patterns=["("])


class Renamed(nn.Module):
    """Holds zeros of the shapes of a state dict under other names."""

    def __init__(self, tensors, rename):
        super().__init__()
        for name, tensor in tensors.items():
            *path, leaf = rename(name).split(".")
            holder = self
            for segment in path:
                if segment not in holder._modules:
                    holder.add_module(segment, nn.Module())
                holder = holder._modules[segment]
            holder.register_buffer(leaf, torch.zeros_like(tensor))


RENAMINGS = {
    "prefix": lambda name: f"backbone.{name}",
    "stages": lambda name: name.replace("layer", "stage"),
    "layers": lambda name: name.replace("conv", "c").replace("bn", "norm").replace("downsample", "shortcut"),
    "all": lambda name: ".".join(["net", *(f"x{segment}" for segment in name.split(".")[:-1]), name.rpartition(".")[2]]),
}


class TestMatching:
    def test_exact(self):
        assert match_state_dict(toy(5), toy()) == {name: name for name in toy().state_dict() if not name.startswith("fc.")}

    @pytest.mark.parametrize("renaming", RENAMINGS)
    def test_renamed(self, renaming):
        """Defect 18: 85 to 89 of 122 tensors were right."""
        tensors = models.resnet18().state_dict()
        rename = RENAMINGS[renaming]
        target = {rename(name): tensor for name, tensor in tensors.items()}
        assert match_state_dict(tensors, target, fuzzy_match=True) == {name: rename(name) for name in tensors}

    def test_with_more_and_with_less(self):
        """New modules find no partner, and do not lead astray those that have one; nor does a head of another size."""
        source = models.resnet18(num_classes=10).state_dict()
        patched = apply(plan(models.resnet18(), {"layer*": {"inject": "se"}})).state_dict()
        target = {f"net.{name}": tensor for name, tensor in patched.items()}
        expected = {name: f"net.{name}" for name in source if not name.startswith("fc.")}
        assert match_state_dict(source, target, fuzzy_match=True) == expected
        assert match_state_dict(target, source, fuzzy_match=True) == {b: a for a, b in expected.items()}

    def test_equal_names_are_not_parted(self):
        source = {"a.weight": torch.ones(2), "b.weight": torch.ones(2)}
        target = {"b.weight": torch.ones(2), "c.weight": torch.ones(2)}
        found = match_state_dict(source, target, fuzzy_match=True)
        assert found["b.weight"] == "b.weight" and len(set(found.values())) == len(found)

    def test_a_head_that_is_defined_first(self):
        tensors = models.resnet18().state_dict()
        rename = {name: name if name.startswith("fc.") else f"net.{name}" for name in tensors}
        target = {rename[name]: tensors[name] for name in ("fc.weight", "fc.bias", *tensors)}
        assert match_state_dict(tensors, target, fuzzy_match=True) == rename

    def test_is_the_same_in_every_process(self):
        """Defect 18: the result changed with PYTHONHASHSEED."""
        program = (
            "import torch; from torchvision_customizer.hybrid.weight_utils import match_state_dict as match;"
            "a = {f'a{i}.weight': torch.ones(i % 3) for i in range(30)};"
            "b = {f'b{i}.weight': torch.ones(i % 4) for i in range(30)};"
            "print(match(a, b, fuzzy_match=True))"
        )
        outputs = {
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", program],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("0", "1")
        }
        assert len(outputs) == 1 and outputs.pop().count(":") > 10

    def test_counts(self):
        assert count_matching_params(toy(5), toy()) == (9, 11, 9 / 11)
        assert count_matching_params(toy(5).state_dict(), models.resnet18())[0] == 0
        assert get_layer_shapes(toy())["conv.weight"] == (8, 3, 3, 3)
        assert list(get_layer_shapes(toy())) == list(toy().state_dict())
