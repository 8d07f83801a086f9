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
from timm.layers import EffectiveSEModule, SEModule  # noqa: E402
from timm.models._efficientnet_blocks import SqueezeExcite  # noqa: E402
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
}
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "timm effective se": (lambda: EffectiveSEModule(C), "one layer of all channels by all channels"),
    "timm se with max pool": (lambda: SEModule(C, add_maxpool=True), "adds a max pool"),
    "timm se with norm": (lambda: SEModule(C, norm_layer=nn.BatchNorm2d), "a norm between its two layers"),
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
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
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


SMALL = {
    "mobilenet_v3_small": (lambda: models.mobilenet_v3_small(num_classes=10), 9, 0, 34),
    "efficientnet_b0": (lambda: models.efficientnet_b0(num_classes=10), 16, 0, 49),
    "regnet_y_400mf": (lambda: models.regnet_y_400mf(num_classes=10), 16, 0, 53),
    "resnet18": (lambda: models.resnet18(num_classes=10), 0, 0, 20),
    "timm seresnet18": (lambda: timm.create_model("seresnet18", num_classes=10), 8, 8, 20),
    "timm efficientnet_b0": (lambda: timm.create_model("efficientnet_b0", num_classes=10), 16, 0, 49),
}


@pytest.mark.parametrize("make, blocks, tails, norms", SMALL.values(), ids=SMALL)
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
    """In float64: norms over few positions amplify what float32 rounds."""
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    plain = moved(make()).double().train()
    fused = copy.deepcopy(plain)
    fuse(fused, example_input=x)
    assert_same(run(fused, x), run(plain, x), rtol=1e-6, atol=1e-9)


@pytest.mark.full
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "timm seresnet18"])
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
