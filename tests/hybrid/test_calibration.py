"""Calibrating: statistics are those of the data, everything else is as it was."""

import pytest
import torch
from torch import nn

from torchvision_customizer import calibrate
from torchvision_customizer.blocks import CBAMBlock, DropPath, FrozenBatchNorm


def small(norm=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Dropout(0.5), DropPath(0.5), nn.Conv2d(4, 2, 1), norm(2))


def loader(count=3):
    return [torch.randn(8, 3, 6, 6) * (1 + index) + index for index in range(count)]


def test_the_statistics_are_the_mean_over_batches():
    model, data = small(), loader()
    assert calibrate(model, data) == 2
    outputs = [model[0](x) for x in data]
    torch.testing.assert_close(model[1].running_mean, torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([y.var((0, 2, 3)) for y in outputs]).mean(0))
    assert model[1].num_batches_tracked == 3
    # The second norm sees what inference would: nothing is dropped before it.
    hidden = [model[5](torch.relu(nn.functional.batch_norm(y, None, None, training=True))) for y in outputs]
    torch.testing.assert_close(model[6].running_mean, torch.stack([y.mean((0, 2, 3)) for y in hidden]).mean(0))


@pytest.mark.parametrize("make", [lambda x: x, lambda x: (x, torch.zeros(8)), lambda x: [x, 1]])
def test_batches_may_have_targets(make):
    model, data = small(), loader()
    calibrate(model, data)
    expected = model[6].running_var.clone()
    calibrate(model, (make(x) for x in data))  # once more: what was there before does not count
    torch.testing.assert_close(model[6].running_var, expected)


def test_as_many_batches_as_asked_for():
    taken = []
    data = (taken.append(x) or x for x in loader(5))
    calibrate(model := small(), data, 2)
    assert len(taken) == model[1].num_batches_tracked == 2


def state_of(model):
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [(module.training, getattr(module, "momentum", None)) for module in model.modules()]
    return tensors, flags, [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("training", [True, False])
def test_modes_momentum_and_weights_stay(training):
    model = small().train(training)
    model[3].train(not training)
    model[1].momentum = 0.3
    tensors, flags, grads = state_of(model)
    calibrate(model, loader())
    now, now_flags, now_grads = state_of(model)
    assert (flags, grads) == (now_flags, now_grads)
    changed = {name for name in tensors if not torch.equal(tensors[name], now[name])}
    assert changed == {f"{i}.{name}" for i in (1, 6) for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert all(p.grad is None for p in model.parameters())


def test_frozen_norms_stay():
    model = small()
    model[1].requires_grad_(False)
    model[6] = FrozenBatchNorm(2)
    model.append(nn.BatchNorm2d(2))
    tensors, _, _ = state_of(model)
    assert calibrate(model, loader()) == 1
    assert torch.equal(model[1].running_mean, tensors["1.running_mean"])
    assert not torch.equal(model[7].running_mean, tensors["7.running_mean"])


def test_a_norm_that_a_block_folds_in_evaluation_is_reached():
    model = nn.Sequential(CBAMBlock(8, spatial_norm=True)).eval()
    assert calibrate(model, [torch.randn(4, 8, 5, 5)]) == 1
    assert model[0].spatial.norm.num_batches_tracked == 1


class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError("out of order")


@pytest.mark.parametrize(
    ("model", "data", "batches", "error", "words"),
    [
        (small(nn.Identity), loader(), None, ValueError, "Sequential: it has no batch norm with running statistics"),
        (small().requires_grad_(False), loader(), None, ValueError, "its 2 batch norms are frozen"),
        (small(), [], None, ValueError, "the loader has no batch"),
        (small(), loader(), 0, ValueError, "batches must be at least 1, got 0"),
        (small(), [loader()[0], {"image": 1}], None, ValueError, "tuple that begins with one, got dict"),
        (nn.Sequential(small(), Fails()), loader(), None, RuntimeError, "out of order"),
    ],
)
def test_after_an_error_nothing_has_changed(model, data, batches, error, words):
    tensors, flags, grads = state_of(model)
    with pytest.raises(error, match=words):
        calibrate(model, data, batches)
    now, now_flags, now_grads = state_of(model)
    assert (flags, grads) == (now_flags, now_grads)
    assert all(torch.equal(tensors[name], now[name]) for name in tensors)
