"""What every registered block promises, and what each promises besides."""

import copy
import inspect

import pytest
import torch

from torchvision_customizer import ops, registry
from torchvision_customizer.blocks import SEBlock

CHANNELS = 32
# Arguments that a block needs besides the number of channels, by name.
ARGUMENTS: dict[str, dict[str, object]] = {}


def make(name, **more):
    """The block ``name`` for CHANNELS channels."""
    accepted = inspect.signature(registry.get(name)).parameters
    channels = {key: CHANNELS for key in ("channels", "in_channels", "out_channels", "dim") if key in accepted}
    return registry.get(name, **channels, **ARGUMENTS.get(name, {}), **more)


def start_as_identity():
    return [name for name in registry.list() if "init" in inspect.signature(registry.get(name)).parameters]


every_block = pytest.mark.parametrize("name", registry.list())


@every_block
def test_every_parameter_gets_a_gradient(name):
    block = make(name)
    x = torch.randn(2, CHANNELS, 5, 7, requires_grad=True)
    block(x).square().sum().backward()
    assert x.grad is not None
    for key, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@every_block
def test_scripted_exported_and_copied_blocks_agree(name):
    block = make(name).eval()
    x = torch.randn(2, CHANNELS, 5, 7)
    expected = block(x)
    assert torch.equal(torch.jit.script(block)(x), expected)
    assert torch.equal(torch.export.export(block, (x,)).module()(x), expected)
    assert torch.equal(copy.deepcopy(block)(x), expected)


@every_block
def test_device_and_type_are_honoured(name):
    block = make(name, dtype=torch.float64)
    assert {parameter.dtype for parameter in block.parameters()} <= {torch.float64}
    assert block(torch.randn(2, CHANNELS, 5, 7, dtype=torch.float64)).dtype == torch.float64
    assert {parameter.device.type for parameter in make(name, device="meta").parameters()} <= {"meta"}


@pytest.mark.parametrize("name", start_as_identity())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_identity_start_is_exact(name, dtype):
    block = make(name, init="identity", dtype=dtype)
    x = torch.randn(2, CHANNELS, 5, 7).to(dtype)
    assert torch.equal(block(x), x)
    assert torch.equal(block(x.to(memory_format=torch.channels_last)), x)


@pytest.mark.parametrize("name", start_as_identity())
def test_identity_start_learns(name):
    torch.manual_seed(0)
    block = make(name, init="identity")
    x = torch.randn(4, CHANNELS, 5, 7)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (block(x) - 0.5 * x).square().mean().backward()
        optimizer.step()
    assert not torch.equal(block(x), x)


@every_block
def test_a_listed_paper_is_an_address(name):
    paper = registry.info(name)["paper"]
    assert paper is None or paper.startswith("https://")


class TestSEBlock:
    def test_computes_the_paper_s_formula(self):
        block = SEBlock(32, reduction=4, dtype=torch.float64)
        x = torch.randn(3, 32, 4, 6, dtype=torch.float64)
        gate = torch.sigmoid(block.fc2(torch.relu(block.fc1(x.mean((2, 3))))))
        torch.testing.assert_close(block(x), x * gate[:, :, None, None])

    def test_takes_the_tail_of_a_residual_block(self):
        block = SEBlock(32)
        x, residual = torch.randn(2, 2, 32, 4, 6).unbind(0)
        torch.testing.assert_close(block(x, residual, "relu"), torch.relu(block(x) + residual))

    @pytest.mark.parametrize(
        ("channels", "reduction", "reduced"), [(64, 16, 4), (64, 1, 64), (8, 16, 1), (1, 16, 1), (30, 4, 7)]
    )
    def test_hidden_channels(self, channels, reduction, reduced):
        assert SEBlock(channels, reduction).fc1.out_features == reduced

    def test_first_arguments_are_those_of_2_1(self):
        block = SEBlock(64, 8, "silu")
        assert (block.fc1.out_features, block.activation, block.gate) == (8, "silu", "sigmoid")

    def test_native_and_reference_agree(self):
        block, x = SEBlock(32), torch.randn(2, 32, 5, 7)
        native = block(x)
        with ops.reference():
            torch.testing.assert_close(block(x), native)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"channels": 0}, ["channels", "at least 1", "0"]),
            ({"channels": 8.0}, ["channels", "integer", "8.0"]),
            ({"channels": 8, "reduction": 0}, ["reduction", "at least 1", "0"]),
            ({"channels": 8, "activation": "rulu"}, ["activation", "'rulu'", "did you mean 'relu'?", "hardswish"]),
            ({"channels": 8, "gate": "sigmod"}, ["gate", "'sigmod'", "did you mean 'sigmoid'?"]),
            ({"channels": 8, "init": "identitty"}, ["init", "did you mean 'identity'?"]),
            ({"channels": 8, "init": "identity", "gate": "sigmoid"}, ["gate", "two_sigmoid, tanh1p", "'sigmoid'"]),
        ],
    )
    def test_errors(self, arguments, words):
        with pytest.raises(ValueError) as error:
            SEBlock(**arguments)
        for word in ["SEBlock", *words]:
            assert word in str(error.value)
