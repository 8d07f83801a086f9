"""fuse and unfuse, on every way a block can write its tail, and on a patched ResNet."""

from __future__ import annotations

import copy
import operator
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from torchvision_customizer.blocks import SEBlock
from torchvision_customizer.fusion import FuseReport, fuse, unfuse

CHANNELS = 8
Tail = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Block(nn.Module):
    """A residual block whose tail is given: ``tail(self, branch, identity)``."""

    def __init__(self, tail: Tail, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.gelu = nn.GELU()
        self.tanh_gelu = nn.GELU(approximate="tanh")
        self.se = SEBlock(CHANNELS, reduction=2)
        self.shortcut = shortcut or nn.Identity()
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.conv(x)))
        y = self.se(self.norm(self.conv(y)))
        return self.tail(self, y, self.shortcut(x))


class LeafTracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def trace(block: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(block, LeafTracer().trace(block), "PatchedBlock")


def network(tail: Tail, shortcut: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, CHANNELS, 1), trace(Block(tail, shortcut)), nn.Conv2d(CHANNELS, 4, 1))


def image(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 9, 7, generator=torch.Generator().manual_seed(1))


def relu_of_sum_plus_sum(m: nn.Module, y: Tensor, identity: Tensor) -> Tensor:
    total = y + identity
    return torch.relu(total) + total


FUSIBLE: dict[str, tuple[Tail, str]] = {
    "add": (lambda m, y, i: m.relu(y + i), "relu"),
    "add, identity first": (lambda m, y, i: m.relu(i + y), "relu"),
    "torch.add": (lambda m, y, i: m.relu(torch.add(y, i)), "relu"),
    "torch.add, identity first": (lambda m, y, i: m.relu(torch.add(i, y)), "relu"),
    "method add": (lambda m, y, i: m.relu(y.add(i)), "relu"),
    "method add_": (lambda m, y, i: m.relu(y.add_(i)), "relu"),
    "F.relu": (lambda m, y, i: F.relu(y + i), "relu"),
    "F.relu, in place": (lambda m, y, i: F.relu(y + i, inplace=True), "relu"),
    "torch.relu": (lambda m, y, i: torch.relu(y + i), "relu"),
    "method relu": (lambda m, y, i: (y + i).relu(), "relu"),
    "method relu_": (lambda m, y, i: (y + i).relu_(), "relu"),
    "F.silu": (lambda m, y, i: F.silu(y + i), "silu"),
    "F.hardswish": (lambda m, y, i: F.hardswish(y + i), "hardswish"),
    "GELU": (lambda m, y, i: m.gelu(y + i), "gelu"),
    "GELU by tanh stays": (lambda m, y, i: m.tanh_gelu(y + i), "none"),
    "F.gelu by tanh stays": (lambda m, y, i: F.gelu(y + i, approximate="tanh"), "none"),
    "no activation": (lambda m, y, i: y + i, "none"),
    "another activation": (lambda m, y, i: torch.tanh(y + i), "none"),
    "another activation, in place": (lambda m, y, i: (y + i).tanh_(), "none"),
    "sum used twice": (relu_of_sum_plus_sum, "none"),
    "called twice": (lambda m, y, i: m.relu(m.se(y) + i), "relu"),
    "doubled by relu": (lambda m, y, i: m.relu(y + i) * 2, "relu"),
}

REFUSED: dict[str, tuple[Tail, str]] = {
    "output used elsewhere": (lambda m, y, i: m.relu(y + i) + y, "its output is used in 2 places"),
    "no addition": (lambda m, y, i: m.relu(y * i), "goes into mul, which is no addition"),
    "returned": (lambda m, y, i: y, "its output is returned"),
    "a number": (lambda m, y, i: m.relu(y + 1), "what is added is no other tensor"),
    "itself": (lambda m, y, i: m.relu(y + y), "what is added is no other tensor"),
    "a factor": (lambda m, y, i: m.relu(torch.add(y, i, alpha=2)), "the addition has a factor"),
    "residual changed in place": (lambda m, y, i: m.relu(i.add_(y)), "changes the residual in place"),
    "residual needed by a later one": (lambda m, y, i: F.silu(y + i) + i, "the residual is used again"),
}


def grads(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(x).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tail, post", FUSIBLE.values(), ids=FUSIBLE)
def test_fuses_and_computes_the_same(tail: Tail, post: str) -> None:
    model, x = network(tail), image()
    plain, keys, code = copy.deepcopy(model), list(model.state_dict()), model[1].code
    report = fuse(model, example_input=x)
    assert report.fused == report.tails
    assert [(place.block, place.module, place.post) for place in report.tails] == [("1", "1.se", post)]
    assert list(model.state_dict()) == keys
    assert model[1].code != code

    expected, actual = grads(plain.train(), x), grads(model.train(), x)
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(model.eval()(x), plain.eval()(x))

    assert unfuse(model) is model
    assert sorted(model[1].code.splitlines()) == sorted(code.splitlines())
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("tail, reason", REFUSED.values(), ids=REFUSED)
def test_leaves_other_tails_and_says_why(tail: Tail, reason: str) -> None:
    model, x = network(tail), image()
    code = model[1].code
    with pytest.warns(UserWarning, match="fused nothing, left 1 place"):
        report = fuse(model, example_input=x)
    assert not report.fused
    assert reason in report.untouched[0].reason
    assert "1.se" in report.summary()
    assert model[1].code == code


def test_addition_in_place_in_the_graph() -> None:
    """The tracer writes ``+`` for ``+=``; a graph made otherwise may hold the operator itself."""
    model, x = network(FUSIBLE["add"][0]), image()
    (add,) = model[1].graph.find_nodes(op="call_function", target=operator.add)
    add.target = operator.iadd
    model[1].recompile()
    expected = model.eval()(x)
    assert len(fuse(model, example_input=x).fused) == 1
    torch.testing.assert_close(model(x), expected)
    unfuse(model)
    assert "+=" in model[1].code


def test_broadcast_residual_is_not_fused() -> None:
    model, x = network(FUSIBLE["add"][0], shortcut=nn.AdaptiveAvgPool2d(1)), image()
    with pytest.warns(UserWarning):
        report = fuse(model, example_input=x)
    assert "the residual has shape (2, 8, 1, 1) and its output (2, 8, 9, 7)" in report.untouched[0].reason


def test_input_used_in_between_is_not_fused() -> None:
    class Reused(Block):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            z = self.se(y)
            return self.relu(z + y.mul_(2))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), trace(Reused(lambda m, y, i: y)))
    with pytest.warns(UserWarning):
        assert "its input is used again before the addition" in fuse(model, example_input=image()).untouched[0].reason


@pytest.mark.parametrize("watched", ["se", "relu"])
def test_modules_with_hooks_are_not_fused(watched: str) -> None:
    model, seen = network(FUSIBLE["add"][0]), []
    model[1].get_submodule(watched).register_forward_hook(lambda module, args, out: seen.append(out))
    with pytest.warns(UserWarning):
        assert "has hooks" in fuse(model, example_input=image()).untouched[0].reason


def test_block_outside_a_graph_is_reported() -> None:
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), SEBlock(CHANNELS))
    with pytest.warns(UserWarning):
        report = fuse(model)
    assert report.untouched[0].module == "1"
    assert "not called by the graph of a patched block" in report.untouched[0].reason


def test_nothing_to_fuse_is_a_warning() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with pytest.warns(UserWarning, match="nothing to fuse"):
        report = fuse(model)
    assert report == FuseReport()
    assert unfuse(model) is model


def test_twice_is_once() -> None:
    model, x = network(FUSIBLE["add"][0]), image()
    fuse(model, example_input=x)
    code = model[1].code
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = fuse(model, example_input=x)
    assert "already" in report.untouched[0].reason
    assert model[1].code == code
    unfuse(model)
    assert "+" in model[1].code


def test_fuse_after_unpatch_finds_nothing() -> None:
    from torchvision_customizer.hybrid import unpatch

    model = resnet()
    fuse(model)
    x = torch.randn(1, 3, 64, 64)
    unpatch(model)
    plain = model.eval()(x)
    with pytest.warns(UserWarning, match="nothing to fuse"):
        fuse(model)
    assert torch.equal(unfuse(model)(x), plain)


def test_wrong_example_leaves_the_model() -> None:
    model = network(FUSIBLE["add"][0])
    code = model[1].code
    with pytest.raises(ValueError, match=r"failed on an input of shape \(2, 5, 8, 8\).*example_input"):
        fuse(model, example_input=torch.zeros(1, 5, 8, 8))
    assert model[1].code == code
    assert not model[1]._forward_pre_hooks


def test_probe_moves_no_statistics() -> None:
    model, x = network(FUSIBLE["add"][0]).train(), image()
    before = copy.deepcopy(model.state_dict())
    fuse(model, example_input=x)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_run_and_unfuse(copied: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = resnet(), torch.randn(2, 3, 64, 64)
    plain = copy.deepcopy(model).eval()
    fuse(model.eval(), example_input=x)
    again = copied(model)
    assert torch.equal(again(x), model(x))
    assert "'relu'" in again.layer1[0].code
    unfuse(again)
    assert "'relu'" not in again.layer1[0].code
    assert torch.equal(again(x), plain(x))
    assert "'relu'" in model.layer1[0].code


def resnet() -> nn.Module:
    """A ResNet-18 with SE in every block, whose gates are not at their identity start."""
    from torchvision_customizer.hybrid import HybridBuilder

    model = HybridBuilder().from_torchvision("resnet18", None, {"layer*": {"inject": "se"}}, num_classes=10)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SEBlock):
                nn.init.normal_(module.fc2.weight, std=0.5)
    return model


@pytest.fixture(scope="module")
def fused_resnet() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = resnet()
    fused = copy.deepcopy(plain)
    report = fuse(fused)
    assert len(report.tails) == 8 and not report.untouched
    assert all(place.post == "relu" for place in report.tails)
    return plain, fused


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_resnet_agrees(fused_resnet: tuple[nn.Module, nn.Module], memory_format: torch.memory_format) -> None:
    plain, fused = (copy.deepcopy(model).to(memory_format=memory_format) for model in fused_resnet)
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=memory_format)
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x), rtol=1e-5, atol=1e-5)
    # In float64: norms over the few positions of a small input amplify what float32 rounds, in one form as in the other.
    expected, actual = grads(plain.double().train(), x.double()), grads(fused.double().train(), x.double())
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-6, atol=1e-9, msg=lambda t, name=name: f"{name}: {t}")
    assert list(fused.state_dict()) == list(plain.state_dict())


def test_resnet_scripts_exports_and_compiles(fused_resnet: tuple[nn.Module, nn.Module]) -> None:
    fused, x = copy.deepcopy(fused_resnet[1]).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = fused(x)
        torch.testing.assert_close(torch.jit.script(fused)(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.export.export(fused, (x,)).module()(x), expected, rtol=1e-5, atol=1e-5)
        compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
