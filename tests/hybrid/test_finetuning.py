"""What is trained, and how fast. The numbers of defects are those of the list of what version 2.1 got wrong."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from torchvision_customizer._torchvision import models
from torchvision_customizer.hybrid import HybridBuilder, apply, plan
from torchvision_customizer.hybrid.finetuning import GradualUnfreezing, freeze, parameter_groups, unfreeze
from torchvision_customizer.hybrid.levels import find_levels

SE_EVERYWHERE = {"layer*": {"inject": "se"}}
IMAGE = (3, 32, 32)
BATCH = (2, *IMAGE)
RESNET18 = ["conv1", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)), "fc"]


def resnet18(**options):
    return HybridBuilder().from_torchvision("resnet18", weights=None, **options)


def names_of(model, groups):
    """The names of each group's parameters, by the group's name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {group["name"]: [names[parameter] for parameter in group["params"]] for group in groups}


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def steps(model, number, lr=0.01):
    """Train on noise; returns the names of everything in the state dict that has moved."""
    before = copy.deepcopy(model.state_dict())
    groups = parameter_groups(model, lr, weight_decay=0.1)
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(number):
        model.train()
        model(torch.randn(BATCH, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


class Residual(nn.Module):
    def __init__(self, width, shortcut=True):
        super().__init__()
        # The order of definition is not that of execution.
        self.act = nn.ReLU(inplace=True)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
        self.shortcut = shortcut

    def forward(self, x):
        y = self.layers(x)
        if self.shortcut:
            y += x
        return self.act(y)


class Net(nn.Module):
    """Everything in the wrong order, with parameters of its own, and a head that is not run."""

    def __init__(self):
        super().__init__()
        self.a_head = nn.Linear(4, 2)
        self.blocks = nn.ModuleList(Residual(4, shortcut=index > 0) for index in range(3))
        self.aux = nn.Linear(4, 2)
        self.z_stem = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))

    def forward(self, x):
        x = self.norm(self.z_stem(x)) + self.token
        for block in self.blocks:
            x = block(x)
        return self.a_head(x.flatten(1) if x.dim() < 3 else x.mean(0))


class TestLevels:
    def test_are_those_of_the_order_of_execution(self):
        levels = find_levels(Net(), (4,))
        assert [level.name for level in levels] == ["z_stem", "blocks.0", "blocks.1", "blocks.2", "a_head"]
        assert list(levels[0].parameters) == ["z_stem.weight", "z_stem.bias", "token", "norm.weight", "norm.bias"]
        assert list(levels[1].parameters) == [f"blocks.0.layers.{n}.{leaf}" for n in (0, 1) for leaf in ("weight", "bias")]
        assert list(levels[4].parameters) == ["a_head.weight", "a_head.bias", "aux.weight", "aux.bias"]

    def test_an_addition_may_be_a_module(self):
        class Add(nn.Module):
            def forward(self, pair):
                return torch.stack(pair).sum(0)

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
                self.add = Add()

            def forward(self, x):
                return self.add((self.layers(x), x))

        assert [level.name for level in find_levels(nn.Sequential(Block(), Block()), (4,))] == ["0", "1"]

    @pytest.mark.parametrize("wrap", [nn.Sequential, AveragedModel])
    def test_do_not_change_with_a_wrapper(self, wrap):
        levels = find_levels(Net(), (4,))
        wrapped = find_levels(wrap(Net()), (4,))
        assert [len(level.parameters) for level in wrapped] == [len(level.parameters) for level in levels]

    @pytest.mark.parametrize(
        ("name", "number", "some"),
        [
            ("resnet18", 10, RESNET18),
            ("vgg11", 11, ["features.0", "classifier.0", "classifier.6"]),
            ("mobilenet_v2", 20, ["features.0.0", "features.1", "features.18.0", "classifier.1"]),
            ("squeezenet1_1", 10, ["features.0", "features.3", "classifier.1"]),
            ("shufflenet_v2_x0_5", 19, ["conv1.0", "stage2.0", "conv5.0", "fc"]),
            ("efficientnet_b0", 19, ["features.1.0", "features.2.0"]),
            ("densenet121", 63, ["features.denseblock1.denselayer6"]),
            ("convnext_tiny", 23, ["features.1.0", "features.2.1"]),
            ("swin_t", 17, ["features.1.1", "features.2"]),
            ("vit_b_16", 14, ["conv_proj", "encoder.layers.encoder_layer_11"]),
            ("googlenet", 13, ["inception4a", "fc"]),
        ],
    )
    def test_of_torchvision(self, name, number, some):
        """Defect 14 (hybrid): stages were read off names, and those of some models were wrong."""
        with torch.device("meta"):
            model = models.get_model(name).eval()
        levels = find_levels(model, (3, 224, 224))
        assert len(levels) == number
        assert [level.name for level in levels if level.name in some] == some
        found = Counter(name for level in levels for name in level.parameters)
        assert found == Counter(name for name, _ in model.named_parameters())

    def test_do_not_change_with_patches(self):
        patches = {"layer*": {"inject": "se"}, "layer2": {"wrap": "eca"}, "conv1": {"wrap": "se"}}
        model = apply(plan(models.resnet18(), patches))
        new = [edit.child_path for edit in model.report.edits]
        levels = find_levels(model, IMAGE, new)
        original = find_levels(models.resnet18(), IMAGE)
        assert [(level.name, list(level.parameters)) for level in levels] == [
            (level.name, list(level.parameters)) for level in original
        ]

    def test_nothing_is_touched(self, build, untouched):
        model = build().train()
        model.conv1.register_forward_hook(lambda *_: pytest.fail("a hook was called"))
        check, state = untouched(model), torch.get_rng_state()
        find_levels(model, IMAGE)
        check.check()
        assert torch.equal(torch.get_rng_state(), state)
        assert all(not module._forward_pre_hooks_with_kwargs for module in model.modules())

    def test_another_input(self):
        with pytest.raises(ValueError, match=r"does not run on a batch of 7, .*; give example_input"):
            find_levels(Net(), (7,))


class TestGroups:
    def test_rates_by_depth(self):
        model = resnet18()
        groups = model.parameter_groups(lr=0.1, weight_decay=0.05, layer_decay=0.5)
        names = names_of(model, groups)
        assert list(names) == [name + suffix for name in RESNET18 for suffix in ("", " (no decay)")]
        assert names["layer1.0"] == ["layer1.0.conv1.weight", "layer1.0.conv2.weight"]
        assert names["conv1 (no decay)"] == ["bn1.weight", "bn1.bias"]
        for group in groups:
            scale = 0.5 ** (9 - RESNET18.index(group["name"].partition(" ")[0]))
            assert (group["lr"], group["lr_scale"]) == (0.1 * scale, scale)
            assert group["weight_decay"] == (0.0 if "no decay" in group["name"] else 0.05)

    def test_every_trainable_parameter_once(self):
        model = resnet18(patches=SE_EVERYWHERE, num_classes=10)
        model.freeze("layer1.*", "bn1")
        for layer_decay in (1.0, 0.7):
            groups = model.parameter_groups(0.1, layer_decay=layer_decay)
            found = Counter(name for names in names_of(model, groups).values() for name in names)
            assert found == Counter(trainable(model))

    def test_what_is_new_has_its_own(self):
        model = resnet18(patches={**SE_EVERYWHERE, "layer2": {"wrap": "eca"}}, num_classes=10)
        names = names_of(model, groups := model.parameter_groups(0.1, 0.01, layer_decay=0.7, new_lr=0.3))
        new = {name for name, _ in model.named_parameters() if ".se." in name or ".eca." in name}
        assert {*names["new modules"], *names.get("new modules (no decay)", ())} == new
        assert names["new head"] == ["fc.weight"] and names["new head (no decay)"] == ["fc.bias"]
        assert "fc" not in names
        by_name = {group["name"]: group for group in groups}
        assert by_name["new modules"]["lr"] == by_name["new head"]["lr"] == 0.3
        assert by_name["new head"]["lr_scale"] == pytest.approx(3)
        # The head is a level, be it new or not.
        assert by_name["layer4.1"]["lr"] == pytest.approx(0.07)

    def test_a_head_that_a_file_had_is_not_new(self, build, tmp_path):
        torch.save(build(num_classes=10).state_dict(), tmp_path / "weights.pt")
        model = HybridBuilder().from_torchvision("resnet18", weights=tmp_path / "weights.pt", num_classes=10)
        assert [group["name"] for group in model.parameter_groups(0.1, new_lr=1.0)] == ["model", "model (no decay)"]

    def test_without_levels_the_model_is_not_run(self):
        model = Net()
        model.forward = None
        groups = parameter_groups(model, 0.1, 0.01)
        assert [(group["name"], group["lr"]) for group in groups] == [("model", 0.1), ("model (no decay)", 0.1)]
        assert "token" in names_of(model, groups)["model (no decay)"]

    def test_weights_and_vectors(self):
        model = nn.Sequential(nn.Linear(4, 1), nn.LayerNorm((2, 3)), nn.Conv2d(1, 1, 1))
        model.gamma = nn.Parameter(torch.ones(4, 1, 1))
        names = names_of(model, parameter_groups(model, 0.1, 0.01))
        assert names["model"] == ["0.weight", "2.weight"]
        assert names["model (no decay)"] == ["gamma", "0.bias", "1.weight", "1.bias", "2.bias"]

    def test_shared_parameters_are_in_one_group(self):
        model = Net()
        model.blocks[2].layers[0].weight = model.z_stem.weight
        groups = parameter_groups(model, 0.1, layer_decay=0.5, example_input=(2, 4))
        assert names_of(model, groups)["z_stem"] == ["blocks.2.layers.0.weight"]
        torch.optim.AdamW(groups)

    def test_a_least_rate(self):
        groups = parameter_groups(Net(), 0.1, layer_decay=0.1, min_scale=0.05, example_input=(2, 4))
        assert sorted({group["lr_scale"] for group in groups}) == [0.05, 0.1, 1.0]

    def test_a_schedule_keeps_the_proportions(self):
        optimizer = torch.optim.SGD(parameter_groups(Net(), 0.1, layer_decay=0.5, example_input=(2, 4)))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        for _ in range(4):
            optimizer.step()
            schedule.step()
        groups = optimizer.param_groups
        assert [group["lr"] / group["lr_scale"] for group in groups] == pytest.approx([groups[-1]["lr"]] * len(groups))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"lr": 0}, ["lr", "above 0", "0"]),
            ({"lr": float("nan")}, ["lr", "nan"]),
            ({"lr": "0.1"}, ["lr", "'0.1'"]),
            ({"lr": 0.1, "weight_decay": -1}, ["weight_decay", "at least 0", "-1"]),
            ({"lr": 0.1, "layer_decay": 0}, ["layer_decay", "above 0 and up to 1"]),
            ({"lr": 0.1, "layer_decay": 1.1}, ["layer_decay", "1.1"]),
            ({"lr": 0.1, "new_lr": 0}, ["new_lr", "above 0"]),
            ({"lr": 0.1, "min_scale": 2}, ["min_scale", "from 0 to 1", "2"]),
            ({"lr": 0.1, "layer_decay": 0.5}, ["does not run on a batch of 3×224×224", "give example_input"]),
        ],
    )
    def test_errors(self, options, words):
        with pytest.raises(ValueError) as error:
            parameter_groups(Net(), **options)
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)

    def test_nothing_to_train(self):
        with pytest.raises(ValueError, match="this Linear has no trainable parameters"):
            parameter_groups(nn.Linear(1, 1).requires_grad_(False), 0.1)


class TestFreezing:
    def test_a_frozen_backbone_does_not_move(self):
        """Defect 12 (hybrid): statistics of frozen norms moved, and new modules were frozen with the rest."""
        model = resnet18(patches=SE_EVERYWHERE, num_classes=4, freeze_backbone=True)
        assert steps(model, 20) == {name for name in model.state_dict() if ".se." in name or name.startswith("fc.")}

    def test_frozen_modules_do_not_move(self):
        """Defect 12 (hybrid), for modules that are named."""
        model = resnet18(num_classes=4)
        model.freeze("conv1", "bn1", "layer[123]")
        assert all(name.startswith(("layer4.", "fc.")) for name in steps(model, 3))
        model.unfreeze("layer3.1", "type:BatchNorm2d")
        assert model.layer1[0].bn1.training and model.layer3[1].bn1.training
        moved = steps(model, 1)
        assert {"layer3.1.conv1.weight", "layer1.0.bn1.running_mean"} <= moved
        assert "layer1.0.conv1.weight" not in moved and "layer3.0.conv1.weight" not in moved

    def test_an_old_gradient_does_not_move_them(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        model(torch.ones(1, 3)).sum().backward()
        before = model[0].weight.clone()
        freeze(model, "0")
        optimizer.step()
        assert torch.equal(model[0].weight, before)

    @pytest.mark.parametrize("block", ["se", "eca", "cbam"])
    def test_new_modules_that_start_as_the_identity_move_at_once(self, block):
        """Defect 12 (hybrid): in a frozen backbone they could not; and starting as the identity must not hold them."""
        model = resnet18(patches={"layer*": {"inject": block}}, num_classes=4, freeze_backbone=True)
        edits = [edit.child_path for edit in model.report.edits]
        moved = steps(model, 1)
        assert len(edits) == 8
        for path in edits:
            assert any(name.startswith(f"{path}.") for name in moved), path
        moved = steps(model, 2)
        parameters = {name for name, _ in model.named_parameters() if name.startswith(tuple(f"{path}." for path in edits))}
        assert len(parameters & moved) > len(parameters) // 2

    def test_a_model_of_another_class(self, untouched):
        """Defect 12 (hybrid): freezing that the next ``train()`` undoes is refused."""
        model = models.resnet18()
        check = untouched(model)
        with pytest.raises(ValueError, match=r"layer1\.0\.bn1, a batch norm, .* this ResNet is no HybridModel; apply\(plan"):
            freeze(model, ["fc", "layer1"])
        check.check()
        assert len(trainable(model)) == 62
        freeze(model, ["fc", "**.conv1"])  # there is none in these
        assert not model.fc.weight.requires_grad and not model.layer4[1].conv1.weight.requires_grad
        hybrid = apply(plan(model, {}))
        hybrid.freeze("layer1")
        assert not hybrid.train().layer1[0].bn1.training

    def test_a_hybrid_model_in_another(self):
        model = nn.Sequential(resnet18(patches=SE_EVERYWHERE), nn.Linear(1000, 2))
        freeze(model, "0.layer1")
        model.train()
        assert not model[0].layer1[0].bn1.training and model[0].layer2[0].bn1.training
        names = names_of(model, parameter_groups(model, 0.1, new_lr=0.2))
        assert all(".se." in name for name in names["new modules"]) and len(names["new modules"]) == 16 - 4

    def test_evaluation_stays(self):
        model = resnet18().eval()
        model.freeze("layer1")
        model.unfreeze("layer1")
        assert not any(module.training for module in model.modules())

    @pytest.mark.parametrize(
        ("patterns", "words"),
        [
            ("layr4", ["HybridResNet", "ResNet", "'layr4'", "did you mean 'layer4'?"]),
            (["fc", "layer9.*"], ["'layer9.*'"]),
            ("relu", ["'relu' matches relu", "nothing there has parameters"]),
            ([], ["no module is named"]),
            ("type:Conv3d", ["'type:Conv3d'", "did you mean 'Conv2d'?"]),
        ],
    )
    @pytest.mark.parametrize("function", [freeze, unfreeze])
    def test_errors(self, patterns, words, function):
        model = resnet18()
        with pytest.raises(ValueError) as error:
            function(model, patterns)
        assert len(trainable(model)) == 62
        for word in words[1:] if words[0] == "HybridResNet" else words:
            assert word in str(error.value)


class TestGradualUnfreezing:
    def test_from_the_output_to_the_input(self):
        model = resnet18(patches=SE_EVERYWHERE, num_classes=10, freeze_backbone=True)
        unfreezing = GradualUnfreezing(model, every=2)
        new = {name for name in trainable(model) if ".se." in name}
        assert len(new) == 32 and trainable(model) == new | {"fc.weight", "fc.bias"}
        names = [unfreezing.step() for _ in range(20)]
        assert [name for step in names for name in step] == RESNET18[-2::-1]
        assert [bool(step) for step in names[:6]] == [False, True] * 3
        assert trainable(model) == {name for name, _ in model.named_parameters()}
        assert all(norm.training for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))

    def test_norms_follow(self):
        model = resnet18()
        unfreezing = GradualUnfreezing(model, levels=3)
        assert unfreezing.step() == ["layer3.1", "layer4.0", "layer4.1"]
        assert model.train().layer4[0].bn1.training and not model.layer3[0].bn1.training

    def test_an_optimizer_that_was_made_before(self):
        model = Net()
        optimizer = torch.optim.SGD(parameter_groups(model, 0.1, 0.1, layer_decay=0.5, example_input=(2, 4)), momentum=0.9)
        unfreezing = GradualUnfreezing(model, example_input=(2, 4))
        moved = []
        for _ in range(3):
            before = copy.deepcopy(model.state_dict())
            model(torch.randn(2, 4)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            moved.append(
                {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
            )
            unfreezing.step()
        assert moved == [{"a_head"}, {"a_head", "blocks"}, {"a_head", "blocks"}]
        assert len(trainable(model)) == 4 + 3 * 4

    def test_goes_on(self):
        model, other = resnet18(), resnet18()
        unfreezing, resumed = GradualUnfreezing(model), GradualUnfreezing(other)
        for _ in range(3):
            unfreezing.step()
        resumed.load_state_dict(unfreezing.state_dict())
        assert trainable(other) == trainable(model)
        assert resumed.step() == unfreezing.step() == ["layer3.0"]
        with pytest.raises(ValueError, match="with 10 levels"):
            GradualUnfreezing(Net(), example_input=(2, 4)).load_state_dict(unfreezing.state_dict())

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: GradualUnfreezing(resnet18(), every=0), "every must be an integer of at least 1, got 0"),
            (lambda: GradualUnfreezing(resnet18(), levels=1.5), r"levels must be an integer of at least 1, got 1\.5"),
            (lambda: GradualUnfreezing(models.resnet18()), "bn1, a batch norm, .* is no HybridModel"),
            (lambda: GradualUnfreezing(Net()), "give example_input"),
        ],
    )
    def test_errors(self, make, words):
        with pytest.raises(ValueError, match=words):
            make()
