"""fuse on blocks and models of torchvision and timm: the same numbers, gradients and names, and the way back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchvision_customizer._torchvision import models
from torchvision_customizer.fusion import Form, Fused, NotFusable, fusable, fusable_kinds, fuse, kinds, unfuse

timm = pytest.importorskip("timm")
from timm.layers import DropPath, EcaModule, EffectiveSEModule, SEModule  # noqa: E402
from timm.layers.cbam import CbamModule  # noqa: E402
from timm.models._efficientnet_blocks import SqueezeExcite  # noqa: E402
from torchvision.ops import StochasticDepth  # noqa: E402
from torchvision.ops.misc import SqueezeExcitation  # noqa: E402

C = 16
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "torchvision se": lambda: SqueezeExcitation(C, 4),
    "torchvision se of efficientnet": lambda: SqueezeExcitation(C, 4, activation=nn.SiLU),
    "torchvision se of mobilenet": lambda: SqueezeExcitation(C, 4, scale_activation=nn.Hardsigmoid),
    "timm se": lambda: SEModule(C, rd_channels=4),
    "timm se without bias": lambda: SEModule(C, rd_channels=4, bias=False, act_layer=nn.SiLU),
    "timm se, hard gate": lambda: SEModule(C, rd_channels=4, gate_layer="hard_sigmoid"),
    "timm se of efficientnet": lambda: SqueezeExcite(C, act_layer=nn.SiLU),
    "timm eca": lambda: EcaModule(C),
    "timm eca of five": lambda: EcaModule(kernel_size=5, gate_layer="hard_sigmoid"),
    "timm cbam": lambda: CbamModule(C, rd_channels=4),
    "timm cbam with bias": lambda: CbamModule(C, rd_channels=4, mlp_bias=True, spatial_kernel_size=3, act_layer=nn.SiLU),
    "timm drop path": lambda: DropPath(0.5),
    "timm drop path, not scaled": lambda: DropPath(0.5, scale_by_keep=False),
    "timm drop path of all": lambda: DropPath(1.0),
    "torchvision stochastic depth": lambda: StochasticDepth(0.5, "row"),
}
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "timm effective se": (lambda: EffectiveSEModule(C), "one layer of all channels by all channels"),
    "timm se with max pool": (lambda: SEModule(C, add_maxpool=True), "adds a max pool"),
    "timm se with norm": (lambda: SEModule(C, norm_layer=nn.BatchNorm2d), "a norm between its two layers"),
    "timm eca with mlp": (lambda: EcaModule(C, use_mlp=True), "it is no single Conv1d"),
    "timm cbam of two gates": (lambda: two_gates(), "gates of channels and of positions are not the same"),
    "torchvision stochastic depth of batches": (lambda: StochasticDepth(0.5, "batch"), "it drops whole batches"),
    "an activation the op has not": (lambda: SEModule(C, act_layer=nn.Tanh), "its activation is Tanh; the op has relu, silu"),
    "a gate the op has not": (lambda: SEModule(C, gate_layer=nn.Tanh), "its gate is Tanh; the op has sigmoid, hard_sigmoid"),
    "a subclass": (lambda: type("MySE", (SEModule,), {})(C), "class MySE is derived from timm.layers.squeeze_excite.SEModule"),
    "a parametrized layer": (
        lambda: parametrized(SEModule(C), "fc1"),
        "its fc1 is ParametrizedConv2d, and no plain Conv2d",
    ),
    "a hook": (lambda: hooked(SEModule(C), ""), "it has hooks"),
    "a hook on a layer": (lambda: hooked(SEModule(C), "fc2"), "a part of it has hooks"),
}


def two_gates() -> nn.Module:
    block = CbamModule(C)
    block.spatial.gate = nn.Hardsigmoid()
    return block


def parametrized(block: nn.Module, name: str) -> nn.Module:
    nn.utils.parametrizations.weight_norm(block.get_submodule(name))
    return block


def hooked(block: nn.Module, name: str) -> nn.Module:
    block.get_submodule(name).register_forward_hook(lambda *_: None)
    return block


def moved(model: nn.Module) -> nn.Module:
    """The model with norms that do something, so that a norm forgotten or folded wrongly shows."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in filter(torch.is_tensor, (module.weight, module.running_var)):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in filter(torch.is_tensor, (module.bias, module.running_mean)):
                nn.init.normal_(tensor, std=0.1)
    return model


def run(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output and all gradients of a forward and backward from a given seed."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    model.zero_grad()
    out = model(x)
    out.square().mean().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"out": out.detach(), "x": x.grad, **found}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_block_computes_the_same(make: Callable[[], nn.Module], training: bool) -> None:
    x = torch.randn(3, C, 7, 5)
    model = moved(nn.Sequential(make())).train(training)
    plain, kind, attributes = copy.deepcopy(model), type(model[0]), set(vars(model[0]))
    parameters, keys = dict(model.named_parameters()), list(model.state_dict())
    report = fuse(model)
    assert [(block.module, block.kind) for block in report.blocks] == [("0", kinds.full_name(kind))]
    assert isinstance(model[0], Fused)
    assert list(model.state_dict()) == keys
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert_same(run(model, x), run(plain, x))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.jit.script(model)):
        torch.manual_seed(2)
        expected = model(x)
        torch.manual_seed(2)
        assert torch.equal(copied(x), expected)
    assert unfuse(model) is model
    assert type(model[0]) is kind
    assert set(vars(model[0])) - {"__overloads__"} == attributes  # which scripting leaves behind
    assert_same(run(model, x), run(plain, x), rtol=0, atol=0)


@pytest.mark.parametrize("make, reason", REFUSED.values(), ids=REFUSED)
def test_block_is_left_and_the_report_says_why(make: Callable[[], nn.Module], reason: str) -> None:
    model = nn.Sequential(make())
    kind = type(model[0])
    with pytest.warns(UserWarning, match="fused nothing"):
        report = fuse(model)
    assert [place.module for place in report.untouched] == ["0"]
    assert reason in report.untouched[0].reason
    assert type(model[0]) is kind


def test_a_fused_block_is_trained() -> None:
    """An optimizer made before fusing trains the fused model, and unfusing keeps what was learnt."""
    x = torch.randn(4, C, 5, 5)
    model = nn.Sequential(SqueezeExcitation(C, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model(x).detach()
    fuse(model)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    after = model(x).detach()
    assert not torch.allclose(after, before)
    torch.testing.assert_close(unfuse(model)(x), after)


def test_kinds_are_registered_once_and_by_anybody() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x

    class FusedDoubled(Fused):
        def forward(self, x: Tensor) -> Tensor:
            return self.fused_factor * x

    name = kinds.full_name(Doubled)

    @fusable(name)
    def doubled(block: Any) -> Form:
        if block.training:
            raise NotFusable("it is in training mode")
        return Form(FusedDoubled, {"factor": 2})

    try:
        assert name in fusable_kinds()
        with pytest.raises(ValueError, match="knows already"):
            fusable(name)(doubled)
        model, x = nn.Sequential(Doubled()), torch.randn(2, 3)
        with pytest.warns(UserWarning, match="it is in training mode"):
            fuse(model)
        assert fuse(model.eval()).blocks[0].kind == name
        assert torch.equal(model(x), 2 * x)
        assert "factor=2" in repr(model)
        assert type(unfuse(model)[0]) is Doubled
    finally:
        del kinds._kinds[name]


def timm_resnet(attention: str, **options: float) -> nn.Module:
    return timm.create_model("resnet18", num_classes=10, block_args={"attn_layer": attention}, **options)


SMALL = {
    "mobilenet_v3_small": (lambda: models.mobilenet_v3_small(num_classes=10), 9, 0, 34),
    "efficientnet_b0": (lambda: models.efficientnet_b0(num_classes=10), 32, 9, 49),
    "regnet_y_400mf": (lambda: models.regnet_y_400mf(num_classes=10), 16, 0, 53),
    "swin_t": (lambda: models.swin_t(num_classes=10), 12, 24, 0),
    "resnet18": (lambda: models.resnet18(num_classes=10), 0, 0, 20),
    "timm seresnet18": (lambda: timm.create_model("seresnet18", num_classes=10), 8, 8, 20),
    "timm ecaresnet": (lambda: timm_resnet("eca", drop_path_rate=0.3), 15, 8, 20),
    "timm cbamresnet": (lambda: timm_resnet("cbam"), 8, 8, 28),
    "timm efficientnet_b0": (lambda: timm.create_model("efficientnet_b0", num_classes=10), 16, 0, 49),
}


# The others are long.
NORMAL = ("mobilenet_v3_small", "timm cbamresnet")


def models_to_test() -> list[Any]:
    return [pytest.param(*case, id=name, marks=() if name in NORMAL else pytest.mark.full) for name, case in SMALL.items()]


@pytest.mark.parametrize("make, blocks, tails, norms", models_to_test())
@pytest.mark.filterwarnings("ignore:fuse. nothing to fuse")
def test_models_in_inference(make: Callable[[], nn.Module], blocks: int, tails: int, norms: int) -> None:
    x = torch.randn(2, 3, 64, 64)
    model = moved(make()).eval()
    keys, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    with torch.no_grad():
        expected = model(x)
        report = fuse(model, example_input=x)
        assert (len(report.blocks), len(report.tails), report.norms) == (blocks, tails, ())
        assert not report.untouched
        assert list(model.state_dict()) == keys
        assert relative(model(x), expected) < 1e-4
        report = fuse(model, inference=True, example_input=x)
        assert (len(report.blocks), len(report.tails), len(report.norms)) == (0, 0, norms)
        assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
        assert relative(model(x), expected) < 1e-4
        if norms:
            with pytest.raises(RuntimeError, match="fused for inference"):
                model.train()
            model.eval()
        again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
        assert relative(again(x), expected) < 1e-4
        assert not fuse(model, inference=True, example_input=x).fused
        for fused in (model, again):
            unfuse(fused)
            assert torch.equal(fused(x), expected)
            assert list(fused.state_dict()) == keys
            assert [type(module) for module in fused.modules()] == classes


@pytest.mark.full
@pytest.mark.parametrize("make, blocks, tails, norms", SMALL.values(), ids=SMALL)
@pytest.mark.filterwarnings("ignore:fuse. nothing to fuse")
def test_models_in_training(make: Callable[[], nn.Module], blocks: int, tails: int, norms: int) -> None:
    """In float64: norms over few positions amplify what float32 rounds. With the same seed, the same branches are dropped."""
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    plain = moved(make()).double().train()
    fused = copy.deepcopy(plain)
    fuse(fused, example_input=x)
    assert_same(run(fused, x), run(plain, x), rtol=1e-6, atol=1e-9)


@pytest.mark.full
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "timm seresnet18", "timm ecaresnet", "timm cbamresnet"])
def test_models_script_export_and_compile(name: str) -> None:
    x = torch.randn(2, 3, 64, 64)
    model = moved(SMALL[name][0]()).eval()
    with torch.no_grad():
        expected = model(x)
        for inference in (False, True):
            fuse(model, inference, x)
            assert relative(torch.jit.script(model)(x), expected) < 1e-4
            assert relative(torch.jit.freeze(torch.jit.script(model))(x), expected) < 1e-4
            assert relative(torch.export.export(model, (x,)).module()(x), expected) < 1e-4
            assert relative(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected) < 1e-4


class Residual(nn.Module):
    """A block of somebody's, with attention or drop path of a library at its end."""

    def __init__(self, attention: nn.Module, drop: nn.Module | None = None, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(C)
        self.attention = attention
        self.drop = drop
        self.shortcut = shortcut or nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.norm(self.conv(x)))
        if self.drop is not None:
            y = self.drop(y)
        return self.act(y + self.shortcut(x))


def residual(attention: nn.Module, **others: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, C, 1), moved(Residual(attention, **others)))


TAILS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "se": (lambda: residual(SEModule(C)), "1.attention"),
    "eca": (lambda: residual(EcaModule(C)), "1.attention"),
    "cbam": (lambda: residual(CbamModule(C)), "1.attention"),
    "stochastic depth": (lambda: residual(StochasticDepth(0.5, "row")), "1.attention"),
    "se and drop path": (lambda: residual(SEModule(C), drop=DropPath(0.5)), "1.drop"),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("make, last", TAILS.values(), ids=TAILS)
def test_the_tail_of_a_library_block(make: Callable[[], nn.Module], last: str, training: bool) -> None:
    model, x = make().double().train(training), torch.randn(3, 3, 6, 5, dtype=torch.float64)
    plain = copy.deepcopy(model)
    report = fuse(model, example_input=x)
    assert [(tail.block, tail.module, tail.post) for tail in report.tails] == [("1", last, "relu")]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert type(model[1]).__name__ == "FusedResidual"
    assert_same(run(model, x), run(plain, x), rtol=1e-8, atol=1e-10)

    def seeded(model: nn.Module) -> Tensor:
        torch.manual_seed(3)
        with torch.no_grad():  # where the tail overwrites what the norm made
            return model(x)

    torch.testing.assert_close(seeded(model), seeded(plain))
    unfuse(model)
    assert type(model[1]) is Residual
    assert torch.equal(seeded(model), seeded(plain))


def test_what_stands_against_a_library_tail() -> None:
    x = torch.randn(2, 3, 6, 5)
    broadcast = residual(SEModule(C), shortcut=nn.AdaptiveAvgPool2d(1))
    assert "the residual has shape (2, 16, 1, 1)" in fuse(broadcast, example_input=x).untouched[-1].reason
    assert type(broadcast[1]) is Residual

    shared = residual(SEModule(C))
    shared.append(shared[1])
    report = fuse(shared, example_input=x)
    assert "several names" in report.untouched[-1].reason and shared[1] is shared[2]

    class Branching(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x

    dynamic = nn.Sequential(Branching(SEModule(C)))
    report = fuse(dynamic, example_input=torch.randn(2, C, 6, 5))
    assert len(report.blocks) == 1 and "the tail of this block stays: it cannot be opened" in report.untouched[-1].reason


def test_an_input_the_model_does_not_take() -> None:
    """By default blocks are fused and tails are not; an input that was given is an error, and nothing is changed."""
    model = residual(SEModule(C))
    with pytest.raises(ValueError, match="give one that the model takes as example_input"):
        fuse(model, example_input=torch.randn(1, 5, 6, 6))
    assert not any(isinstance(module, Fused) for module in model.modules())
    model = nn.Sequential(model[1])  # takes 16 channels
    report = fuse(model)
    assert len(report.blocks) == 1 and not report.tails
    assert "the tail of this block stays: fuse: the forward that tells shapes failed" in report.untouched[-1].reason
    assert len(fuse(model, example_input=torch.randn(1, C, 6, 6)).tails) == 1


def folds(*layers: nn.Module) -> dict[str, str]:
    """What is folded in a Sequential, and why the rest is not."""
    model = moved(nn.Sequential(*layers)).eval()
    with torch.no_grad():
        x = torch.randn(2, C, 8, 8)
        expected = model(x)
        report = fuse(model, inference=True)
        assert relative(model(x), expected) < 1e-5
    return {norm.module: norm.conv for norm in report.norms} | {
        place.module: place.reason for place in report.untouched if "norm" in place.reason
    }


def convolution(**options: Any) -> nn.Module:
    return nn.Conv2d(C, C, 3, padding=1, **options)


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = convolution(), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class Untraceable(UsedTwice):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) if y.sum() != 0 else y


@pytest.mark.filterwarnings("ignore:fuse. ")
def test_which_norms_are_folded() -> None:
    norm = nn.BatchNorm2d
    assert folds(convolution(), norm(C), norm(C))["1"] == "0"
    assert "which is BatchNorm2d and no plain convolution" in folds(convolution(), norm(C), norm(C))["2"]
    assert folds(convolution(groups=4, bias=False), norm(C, affine=False)) == {"1": "0"}
    assert folds(nn.ConvTranspose2d(C, C, 2), norm(C)) == {"1": "0"}
    assert folds(nn.Sequential(nn.ReLU(), convolution()), norm(C)) == {"1": "0.1"}
    assert "ReLU" in folds(convolution(), nn.ReLU(), norm(C))["2"]
    assert "no running statistics" in folds(convolution(), norm(C, track_running_stats=False))["1"]
    assert "has hooks" in folds(hooked(convolution(), ""), norm(C))["1"]
    shared = convolution()
    assert "called several times" in folds(shared, norm(C), shared, norm(C))["1"]
    assert "ParametrizedConv2d" in folds(nn.utils.parametrizations.weight_norm(convolution()), norm(C))["1"]
    assert "is used elsewhere" in folds(UsedTwice())["0.norm"]
    assert "cannot be traced" in folds(Untraceable())["0.norm"]


def test_folding_needs_evaluation_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, C, 1), nn.BatchNorm2d(C))
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        fuse(model, inference=True)
    assert type(model[1]) is nn.BatchNorm2d


def test_unfolding_follows_the_model() -> None:
    """A folded model that was converted gets its norms back in its new type."""
    model = moved(nn.Sequential(nn.Conv2d(3, C, 1), nn.BatchNorm2d(C))).eval()
    fuse(model, inference=True)
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    model.double()
    unfuse(model)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float64}
    assert model(torch.randn(2, 3, 4, 4, dtype=torch.float64)).dtype == torch.float64


def test_folded_patched_model() -> None:
    """A patched ResNet: its tails are fused and overwrite what the convolution made, now that there is no norm."""
    from torchvision_customizer.hybrid import HybridBuilder

    patches = {
        "layer*": [{"inject": "eca"}, {"inject": {"type": "drop_path", "params": {"drop_prob": 0.2}, "schedule": "linear"}}]
    }
    model = moved(HybridBuilder().from_torchvision("resnet18", None, patches, num_classes=10)).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        report = fuse(model, inference=True)
        assert (len(report.tails), len(report.norms)) == (8, 20)
        assert "'relu', True)" in model.layer1[0].code
        assert relative(model(x), expected) < 1e-4
        assert torch.equal(unfuse(model)(x), expected)


def test_attention_overwrites_only_what_nobody_holds() -> None:
    def attention(*layers: nn.Module) -> nn.Module:
        return nn.Sequential(*layers, SEModule(C)).eval()

    for layers, overwrites in (
        ([convolution()], True),
        ([nn.Sequential(convolution(), nn.BatchNorm2d(C), nn.ReLU(inplace=True)), nn.Dropout()], True),
        ([hooked(convolution(), "")], False),
        ([nn.ReLU(inplace=True)], False),
        ([nn.Identity()], False),
        ([], False),
    ):
        model, x = attention(*layers), torch.randn(2, C, 6, 5)
        with torch.no_grad():
            expected, kept = model(x), x.clone()
            fuse(model)
            assert not model[-1].fused_overwrites
            fuse(model, inference=True)
            assert model[-1].fused_overwrites is overwrites
            torch.testing.assert_close(model(x.clone()), expected)
            if not isinstance(layers[0] if layers else None, nn.ReLU):
                model(x)
                assert torch.equal(x, kept)
        model(x.clone().requires_grad_() * 1).sum().backward()
