"""Optimizers and schedules by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from torchvision_customizer.recipe import catalogue
from torchvision_customizer.recipe.schema import FitOptions
from torchvision_customizer.train.optim import SCHEDULERS, make_optimizer, make_scheduler


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def rates(name, epochs=6, steps=10, lr=0.1, **options):
    optimizer = torch.optim.SGD(net().parameters(), lr=lr)
    schedule = make_scheduler(name, optimizer, epochs, steps, **options)
    found = []
    for _ in range(epochs * steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return found


@pytest.mark.parametrize("name", [name for name in catalogue.optimizers() if name not in ("LBFGS", "SparseAdam", "Muon")])
def test_every_optimizer_of_torch_by_name(name):
    """The recipe's list, but those that need a closure, sparse gradients, or matrices only."""
    optimizer = make_optimizer(net(), name.upper(), 0.01)
    assert type(optimizer).__name__ == name
    assert len({id(p) for group in optimizer.param_groups for p in group["params"]}) == 6


def test_defaults_are_those_of_2_1():
    sgd, adamw, adam = (make_optimizer(net(), name, 0.1) for name in ("sgd", "adamw", "adam"))
    assert {group["momentum"] for group in sgd.param_groups} == {0.9}
    assert [max(group["weight_decay"] for group in o.param_groups) for o in (sgd, adamw, adam)] == [5e-4, 0.01, 0]


def test_norms_and_biases_are_not_decayed():
    model = net()
    decays = {p: group["weight_decay"] for group in make_optimizer(model, "sgd", 0.1).param_groups for p in group["params"]}
    assert [decays[p] for p in model.parameters()] == [5e-4, 0, 0, 0, 5e-4, 0]


def test_layer_decay(hybrid):
    groups = make_optimizer(hybrid(), "adamw", 0.1, layer_decay=0.5).param_groups
    assert len({group["lr"] for group in groups}) > 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamm", {}, "unknown optimizer 'adamm', did you mean 'adam'"),
        ("adam", {"momentum": 0.9}, "Adam has no momentum"),
        ("rprop", {"weight_decay": 0.1}, "Rprop has no weight_decay"),
    ],
)
def test_errors_of_optimizers(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(net(), name, 0.1, **options)


def test_cosine():
    found = rates("cosine", min_lr=0.01)
    assert found == pytest.approx([0.01 + 0.045 * (1 + math.cos(math.pi * step / 60)) for step in range(60)])
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer := torch.optim.SGD(net().parameters(), lr=0.1), 60)
    for rate in rates("cosine"):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        expected.step()


@pytest.mark.parametrize("epochs", range(1, 8))
def test_step(epochs):
    """Defect 29: of one epoch, and of two, ``step`` was a ZeroDivisionError."""
    length = 10 * max(1, epochs // 3)
    assert rates("step", epochs) == pytest.approx([0.1 * 0.1 ** (step // length) for step in range(10 * epochs)])


def test_step_of_its_own_length():
    assert rates("step", step_size=2, gamma=0.5)[::10] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


def test_onecycle_is_that_of_torch():
    optimizer = torch.optim.SGD(net().parameters(), lr=0.1, momentum=0.9)
    expected = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=60)
    for rate in rates("onecycle")[:-1]:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        expected.step()


def test_warm_up():
    found = rates("constant", warmup_epochs=1.0)
    assert found[:10] == pytest.approx([0.1 * (step + 1) / 11 for step in range(10)])
    assert found[10:] == [0.1] * 50
    assert rates("cosine", warmup_epochs=1.5)[15:] == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * step / 45)) for step in range(45)]
    )
    assert rates("step", warmup_epochs=1.0)[20] == pytest.approx(0.01)  # epochs are counted from the beginning
    onecycle = rates("onecycle", warmup_epochs=1.0)
    assert onecycle.index(max(onecycle)) == 9


def test_no_schedule():
    assert make_scheduler(None, torch.optim.SGD(net().parameters(), lr=0.1), 2, 2) is None
    assert rates("none") == [0.1] * 60


def test_groups_keep_their_ratio():
    optimizer = torch.optim.SGD([{"params": net().parameters(), "lr": 0.1}, {"params": net().parameters(), "lr": 0.01}])
    schedule = make_scheduler("cosine", optimizer, 1, 5, min_lr=0.05)
    for _ in range(5):
        rate, smaller = (group["lr"] for group in optimizer.param_groups)
        assert smaller == pytest.approx(rate / 10)
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.005])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "unknown scheduler 'cosin', did you mean 'cosine'"),  # defect 29: it was no schedule, without a word
        ("cosine", {"step_size": 3}, "step_size is of the scheduler step, and this is cosine"),
        ("step", {"min_lr": 0.1}, "min_lr is of the scheduler cosine"),
        ("cosine", {"warmup_epochs": 6}, "warmup_epochs must be less than the 6 epochs"),
        ("cosine", {"min_lr": 1.0}, "min_lr must be at most lr"),
    ],
)
def test_errors_of_schedules(name, options, message):
    with pytest.raises(ValueError, match=message):
        rates(name, **options)


def test_the_recipe_knows_the_same_schedules():
    for name in SCHEDULERS:
        assert FitOptions(scheduler=name).scheduler == name
