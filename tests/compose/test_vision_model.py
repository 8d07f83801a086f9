"""Whole models: they train, script, export, save and load, and say what they are."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import torchvision_customizer as tvc
from torchvision_customizer import (
    Compose,
    DetectionHead,
    Head,
    PatchStem,
    SegmentationHead,
    Sequential,
    SimpleStem,
    Stage,
    Stem,
    TransitionLayer,
    VisionModel,
    build_vision_model,
    ops,
    registry,
)
from torchvision_customizer.compose import piece_from_config, residual

MODELS = {
    "readme": lambda: Stem(8) >> Stage(12, blocks=2) >> Head(10),
    "suffixes": lambda: (
        SimpleStem(4) >> Stage(8, 1, "residual+se+drop_path") >> Stage(8, 1, "bottleneck+eca", stride=2) >> Head(3, hidden=6)
    ),
    "mobile": lambda: (
        SimpleStem(4) >> Stage(8, 1, "mbconv+cbam", stride=2) >> Stage(8, 1, "fused_mbconv") * 2 >> Head(3, pool="gem")
    ),
    "dense": lambda: Stem(4) >> Stage(8, 2, "dense", growth_rate=4) >> TransitionLayer() >> Stage(8, 1, "depthwise") >> Head(3),
    "branches": lambda: (
        PatchStem(4, 4)
        >> (Stage(4, 1, "conv") | nn.Conv2d(4, 2, 1))
        >> residual(Stage(6, 1, "grouped_bottleneck", groups=2))
        >> Head(0)
    ),
    "others": lambda: nn.Conv2d(3, 4, 3) >> Stage(8, 1, "wide_bottleneck+se", norm="group") >> nn.Dropout2d(0.2) >> Head(3),
    "segmentation": lambda: (
        Stem(4) >> Stage(8, 1, "residual+cbam") >> SegmentationHead(3, hidden_channels=4, upsample_factor=4)
    ),
    "detection": lambda: SimpleStem(4) >> Stage(8, 1, stride=2) >> DetectionHead(2, 3),
    "composed": lambda: Compose((3, 40, 48), [Stem(4), Stage(8, 1), nn.ReLU(), Head(3, pool=None)]),
    "sequential": lambda: Sequential(Stem(4), Stage(8, 1)),
}
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def x():
    return torch.randn(2, 3, 40, 48)


@every_model
def test_every_parameter_is_trained_by_an_optimizer_made_at_once(name, x):
    """Defect 23: what was made by the first forward was unknown to the optimizer."""
    model = MODELS[name]()
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for module in model.modules():
        if isinstance(module, tvc.DropPath):
            module.drop_prob = 0.0
    model(x).square().sum().backward()
    optimizer.step()
    assert before.keys() == dict(model.named_parameters()).keys()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert not torch.equal(parameter, before[key]) or parameter.grad.abs().max() < 1e-6, key


@every_model
def test_scripted_exported_and_copied_models_agree(name, x):
    """Models of version 2.1 could not be scripted."""
    model = MODELS[name]().eval()
    expected = model(x)
    scripted = torch.jit.script(model)
    assert torch.equal(scripted(x), expected)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(x), expected)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    anew = MODELS[name]().eval()
    anew.load_state_dict(model.state_dict())
    assert torch.equal(anew(x), expected)


@every_model
def test_exported_models_take_any_batch_and_size(name, x):
    model = MODELS[name]().eval()
    sizes = {0: torch.export.Dim("batch", min=1, max=64)}
    if name != "composed":
        sizes |= {2: 8 * torch.export.Dim("height", min=2, max=64), 3: 8 * torch.export.Dim("width", min=2, max=64)}
        other = torch.randn(3, 3, 64, 32)
    else:
        other = torch.randn(3, 3, 40, 48)
    exported = torch.export.export(model, (x,), dynamic_shapes=(sizes,)).module()
    torch.testing.assert_close(exported(other), model(other))


@pytest.mark.parametrize("name", ["suffixes"])
def test_compiles_in_one_graph(name, x):
    model = MODELS[name]()
    for mode in (True, False):
        torch.manual_seed(3)
        expected = model.train(mode)(x)
        torch.manual_seed(3)
        found = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(found, expected)


@every_model
def test_layouts_and_types(name, x):
    model = MODELS[name]().eval()
    expected = model(x)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), expected)
    half = copy.deepcopy(model).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.1 * expected.abs().max().item(), rtol=0.1)


@pytest.mark.parametrize(
    "piece",
    [
        lambda **place: Stem(4, **place),
        lambda **place: SimpleStem(4, **place),
        lambda **place: PatchStem(4, **place),
        lambda **place: (
            SimpleStem(4, **place) >> Stage(8, 1, "mbconv", **place) >> TransitionLayer(**place) >> Head(2, **place)
        ),
        lambda **place: Stem(4, **place) >> SegmentationHead(2, **place),
        lambda **place: Stem(4, **place) >> DetectionHead(2, **place),
    ],
)
def test_device_and_type(piece):
    made = piece(dtype=torch.float64)
    assert {p.dtype for p in made.parameters()} == {torch.float64}
    assert {p.device.type for p in piece(device="meta").parameters()} == {"meta"}


def test_the_example_of_the_introduction():
    """The line as version 2.1 prints it runs, and a step lowers the loss (defects 21 and 23)."""
    torch.manual_seed(0)
    model = Stem(64) >> Stage(128, blocks=2) >> Head(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([1, 2, 3, 4])
    losses = []
    for _ in range(2):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_the_example_of_compose():
    """Defect 21: the docstring's own example raised in forward."""
    layers = [Stem(8), Stage(16, blocks=3, pattern="residual"), Stage(32, blocks=3, pattern="residual", downsample=True)]
    model = Compose(input_shape=(3, 64, 64), layers=[*layers, Head(num_classes=1000)])
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)
    assert model.input_shape == (3, 64, 64)


def test_the_efficientnet_of_the_readme():
    """Defect 21: stages that change channels."""
    model = (
        Stem(8, kernel=3, pool=None)
        >> Stage(16, blocks=1, pattern="fused_mbconv", expansion=1)
        >> Stage(24, blocks=2, pattern="mbconv", expansion=4, downsample=True)
        >> Head(10, dropout=0.2)
    )
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_a_residual_stage_with_attention_takes_the_fused_tail():
    model = (Stem(4) >> Stage(8, 1, "residual+se") >> Head(2)).eval()
    called = torch.jit.export_opnames(torch.jit.script(model))
    assert "tvc::squeeze_excite" in called or "tvc::_squeeze_excite_" in called
    graph = torch.export.export(model, (torch.randn(1, 3, 32, 32),)).graph
    calls = [node for node in graph.nodes if node.target is torch.ops.tvc.squeeze_excite.default]
    assert len(calls) == 1 and calls[0].args[7] is not None and calls[0].args[8] == "relu"
    x = torch.randn(1, 3, 32, 32)
    with ops.reference():
        expected = model(x)
    torch.testing.assert_close(model(x), expected)


class TestVisionModel:
    def test_names_are_stable(self):
        model = Stem(4) >> Stage(8, 1) * 2 >> Head(2)
        assert list(dict(model.named_children())) == ["stem", "stages", "head"]
        keys = model.state_dict().keys()
        assert {"stem.conv.weight", "stages.0.0.conv1.weight", "stages.1.0.conv1.weight", "head.classifier.weight"} <= keys
        same = VisionModel(Stem(4), [Stage(8, 1), Stage(8, 1)], Head(2))
        assert same.state_dict().keys() == keys
        longer = Stem(4) >> (Stage(8, 1) * 2 >> Head(2))
        assert longer.state_dict().keys() == keys

    def test_features_and_stages(self, x):
        model = (Stem(4) >> Stage(8, 1, stride=2) >> Stage(6, 1) >> Head(2)).eval()
        features, outputs = model.forward_features(x), model.get_stage_outputs(x)
        assert [tuple(y.shape) for y in outputs] == [(2, 8, 5, 6), (2, 6, 5, 6)]
        assert torch.equal(features, outputs[-1]) and torch.equal(model.head(features), model(x))

    def test_counts(self):
        model = Stem(4) >> Stage(8, 1) >> Head(2)
        assert model.count_parameters() == sum(p.numel() for p in model.parameters())
        model.stem.requires_grad_(False)
        assert model.count_parameters(trainable_only=True) == model.count_parameters() - model.stem.count_parameters()

    def test_what_comes_before_the_last_stem_is_the_stem(self):
        model = nn.Conv2d(3, 4, 3) >> Stem(8) >> Stage(8, 1) >> Head(2)
        assert isinstance(model.stem, Sequential) and len(model.stem) == 2 and len(model.stages) == 1
        model = Stem(4) >> Head(2)
        assert isinstance(model, VisionModel) and len(model.stages) == 0

    def test_modes_stay(self):
        stem = Stem(4).eval()
        model = stem >> Stage(8, 1)
        assert not model[0].training and model[1].training
        tail = (Stage(8, 1) >> Stage(8, 1)).eval()
        assert not any(module.training for stage in list(Stem(4) >> tail)[1:] for module in stage.modules())

    def test_explains_itself(self):
        model = Stem(8) >> Stage(16, 1, stride=2) >> Head(10)
        lines = model.explain().splitlines()
        assert lines[0] == f"VisionModel: {model.count_parameters():,} parameters, {model.count_parameters():,} of them trained"
        cells = [line.split("  ") for line in lines[1:]]
        rows = [[cell.strip() for cell in row if cell.strip()] for row in cells]
        count = [f"{part.count_parameters():,}" for part in (model.stem, model.stages[0], model.head)]
        assert rows[1:] == [
            ["stem", "Stem(8)", "8", "4", count[0]],
            ["stages.0", "Stage(16, blocks=1, stride=2)", "16", "8", count[1]],
            ["head", "Head(10)", "10", "-", count[2]],
        ]
        assert "not known yet" in (Stage(8) >> Head(2)).explain()
        assert "Stem(8)" in Stem(8).explain((3, 32, 32))
        assert "(1, 8, 8)" not in Compose((1, 8, 8), [SimpleStem(4), Head(2, pool=None)]).explain()
        with pytest.raises(ValueError, match=r"images of shape \(2, 8, 8\), give input_shape"):
            model.explain((2, 8, 8))

    def test_explaining_leaves_no_trace(self):
        model, calls = Stem(4) >> Stage(8, 1) >> Head(2), []
        model.head.register_forward_hook(lambda *args: calls.append(args))
        before = copy.deepcopy(model.state_dict())
        model.explain()
        assert not calls and model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    def test_can_be_patched_like_any_model(self, x):
        model = (Stem(4) >> Stage(8, 1) >> Head(2)).eval()
        expected = model(x)
        patched = tvc.apply(tvc.plan(copy.deepcopy(model), {"stages.0.*": {"inject": "se"}, "stem": {"wrap": "cbam"}}))
        assert torch.equal(patched(x), expected) and isinstance(patched, VisionModel)
        assert patched.state_dict().keys() > model.state_dict().keys()
        assert torch.equal(torch.jit.script(patched)(x), expected)


class TestConfig:
    def test_is_what_was_written(self):
        model = (
            SimpleStem(4, norm="group") >> Stage(8, 1, "residual+se", se_reduction=2) * 2 >> Head(3, hidden=(6,), dropout=0.1)
        )
        config = model.get_config()
        stage = {"type": "stage", "channels": 8, "blocks": 1, "pattern": "residual+se", "se_reduction": 2}
        assert config == {
            "stem": {"type": "simple", "channels": 4, "norm": "group"},
            "stages": [stage, stage],
            "head": {"type": "linear", "num_classes": 3, "hidden": [6], "dropout": 0.1},
        }

    @pytest.mark.parametrize("name", ["readme", "suffixes", "mobile", "dense", "segmentation", "detection"])
    def test_makes_the_model_anew(self, name):
        model = MODELS[name]()
        anew = VisionModel.from_config(model.get_config())
        shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (model, anew)]
        assert shapes[0] == shapes[1] and anew.get_config() == model.get_config()

    def test_is_plain(self):
        piece = Stage(8, in_channels=4, dtype=torch.float64, device="cpu")
        assert piece.get_config() == {"type": "stage", "channels": 8, "in_channels": 4}
        assert piece_from_config(piece.get_config()).in_channels == 4
        assert Stage(8, 1, "conv", groups=2).get_config()["groups"] == 2

    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ({"stem": {"channels": 4, "type": "cnov"}, "head": {}}, ["unknown type 'cnov'", "did you mean 'conv'?"]),
            ({"stem": {"chanels": 4, "type": "conv"}, "head": {}}, ["Stem has no argument 'chanels'", "'channels'?"]),
            ({"steem": {}, "head": {}}, ["unknown key 'steem'", "did you mean 'stem'?"]),
        ],
    )
    def test_errors(self, config, words):
        with pytest.raises(ValueError) as error:
            VisionModel.from_config(config)
        for word in words:
            assert word in str(error.value)

    @pytest.mark.parametrize(
        "model", [MODELS["branches"], MODELS["others"], lambda: Sequential(Stem(4)), lambda: Stem(4) | Stem(4)]
    )
    def test_other_modules_have_none(self, model):
        with pytest.raises(ValueError, match="plain values"):
            model().get_config()


def test_build_vision_model():
    model = build_vision_model((1, 28, 28), 10, 4, [4, 8, 8], [1, 2, 1], "residual+se", se_reduction=2, norm="group")
    assert [len(stage) for stage in model.stages] == [1, 2, 1]
    assert [y.shape[-1] for y in model.get_stage_outputs(torch.randn(1, 1, 32, 32))] == [8, 4, 2]
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert len(build_vision_model(stem_channels=4, stage_channels=[4, 4], blocks_per_stage=1).stages) == 2
    with pytest.raises(ValueError, match="one number for each of 2 stages"):
        build_vision_model(stage_channels=[4, 4], blocks_per_stage=[1])
    with pytest.raises(ValueError, match="no option 'grups'"):
        build_vision_model(stage_channels=[4], grups=3)


@pytest.mark.parametrize("shape", [(3, 8), (3, 8, 8, 8), (0, 8, 8), (3, 8.0, 8)])
def test_compose_needs_a_shape(shape):
    with pytest.raises(ValueError, match="input_shape"):
        Compose(shape, [Stem(4)])


def test_compose_runs_what_it_is_given():
    with pytest.raises(ValueError, match=r"Stem\(4\) gives 4×2×2, and Sequential|does not take"):
        Compose((3, 8, 8), [Stem(4), nn.Sequential(nn.Flatten(), nn.Linear(4, 2))])


def test_registry_blocks_script_in_a_model():
    model = (SimpleStem(8) >> registry.get("eca", channels=8) >> Head(2)).eval()
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(torch.jit.script(model)(x), model(x))


def test_fuse_finds_tails_that_are_fused_as_written(recwarn):
    model = (Stem(8) >> Stage(8, pattern="residual+se") >> Head(3)).eval()
    report = tvc.fuse(model)
    assert report.written == ("stages.0.0.attention", "stages.0.1.attention") and not report.untouched
    assert report.summary() == "fused nothing, 2 tails fused as written" and not recwarn.list
