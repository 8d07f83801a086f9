"""Checkpoints: what is in them, which are kept, what goes on from them, and what is said where that cannot be."""

from __future__ import annotations

import json
import os
import random
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset, WeightedRandomSampler

pytest.importorskip("accelerate")

from torchvision_customizer import Trainer, load
from torchvision_customizer.errors import WeightsError
from torchvision_customizer.train.checkpoint import random_state, set_random_state
from torchvision_customizer.train.interrupt import Interrupted


class Noisy(Dataset):
    def __init__(self, count=22):
        self.labels = torch.arange(count) % 4

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        noise = torch.randn(3, 8, 8) + random.random() + float(np.random.rand())
        return noise + self.labels[index], self.labels[index]


def loader(**options):
    return DataLoader(Noisy(), 4, **{"shuffle": True, **options})


def validation():
    return DataLoader(
        TensorDataset(torch.stack([torch.full((3, 8, 8), float(label)) for label in range(4)]), torch.arange(4)), 2
    )


def net(classes=4):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, classes))


def fit(output, train=None, val=None, model=None, seed=4, **options):
    model = net() if model is None else model
    torch.manual_seed(random.SystemRandom().randrange(2**32))  # nothing may hang on it
    options = {"epochs": 2, "lr": 0.02, "verbose": False, **options}
    metrics = Trainer(model, "cpu", seed=seed).fit(train or loader(), val or validation(), output=output, **options)
    return model, metrics


def same(first, second):
    values = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in values)


def names(output):
    return sorted(os.listdir(output / "checkpoints"))


def numbers(metrics):
    return metrics.train_losses, metrics.train_accs, metrics.val_losses, metrics.val_accs


SAMPLERS = {
    "shuffled": {},
    "workers that stay": {"num_workers": 2, "persistent_workers": True},
    "a generator of its own": {"generator": torch.Generator},
    "weighted": {"shuffle": False, "sampler": lambda: WeightedRandomSampler([1.0, 2.0] * 11, 18)},
    "with replacement": {
        "shuffle": False,
        "sampler": lambda: RandomSampler(Noisy(), replacement=True, num_samples=18, generator=torch.Generator()),
    },
    "weighted, a generator of its own": {
        "shuffle": False,
        "sampler": lambda: WeightedRandomSampler([1.0, 2.0] * 11, 18, generator=torch.Generator().manual_seed(3)),
    },
    "in order": {"shuffle": False, "drop_last": True},
}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_it_goes_on_from_any_checkpoint(kind, tmp_path):
    """In the middle of an epoch and between two, with any sampler, as if it had never stopped."""

    def make():
        return loader(**{key: value() if callable(value) else value for key, value in SAMPLERS[kind].items()})

    model, metrics = fit(tmp_path / "whole", make(), checkpoint_every=1, keep=50)
    steps = 2 * len(make())
    assert names(tmp_path / "whole") == [f"step-{step:08d}" for step in range(1, steps + 1)]
    for step in (2, len(make()), len(make()) + 3):
        place = tmp_path / "whole" / "checkpoints" / f"step-{step:08d}"
        again, found = fit(tmp_path / f"from-{step}", make(), resume=place)
        assert same(model, again), step
        assert numbers(found) == numbers(metrics), step


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "scheduler": "onecycle", "warmup_epochs": 0.5},
        {"optimizer": "sgd", "scheduler": "step", "ema": 0.9, "accumulate": 2, "clip_grad_norm": 0.1},
        {"optimizer": "rmsprop", "scheduler": None, "label_smoothing": 0.1},
    ],
    ids=lambda options: options["optimizer"],
)
def test_with_any_option(options, tmp_path):
    model, metrics = fit(tmp_path / "whole", checkpoint_every=2, keep=50, **options)
    place = sorted((tmp_path / "whole" / "checkpoints").iterdir())[0]
    again, found = fit(tmp_path / "again", resume=place, **options)
    assert same(model, again) and numbers(found) == numbers(metrics)


def test_gradual_unfreezing_goes_on(hybrid, tmp_path):
    def run(output, **options):
        torch.manual_seed(1)
        images = TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 4)
        return fit(
            output,
            DataLoader(images, 4),
            DataLoader(images, 4),
            hybrid("squeezenet1_1", {"features.12": {"wrap": "se"}}),
            epochs=3,
            gradual_unfreezing=1,
            **options,
        )[0]

    model = run(tmp_path / "whole", keep=9, checkpoint_every=1)
    assert same(model, run(tmp_path / "again", resume=tmp_path / "whole" / "checkpoints" / "step-00000003"))
    loaded = load(tmp_path / "whole" / "last")  # it has a recipe, and is a model that load knows
    assert same(model, loaded)


def test_a_longer_training_goes_on_from_a_shorter_one(tmp_path):
    fit(tmp_path, epochs=1, scheduler=None)
    model, metrics = fit(tmp_path, epochs=3, scheduler=None, resume=True)
    whole, expected = fit(tmp_path / "whole", epochs=3, scheduler=None)
    assert same(model, whole) and numbers(metrics) == numbers(expected)
    again, metrics = fit(tmp_path, epochs=3, scheduler=None, resume=True)  # nothing is left to do
    assert same(again, whole) and numbers(metrics) == numbers(expected)


def test_a_stream_goes_on_between_epochs(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return (Noisy()[index] for index in range(8))

        def __len__(self):
            return 8

    model, _ = fit(tmp_path / "whole", DataLoader(Stream(), 4), keep=9)
    place = tmp_path / "whole" / "checkpoints" / "step-00000002"
    assert same(model, fit(tmp_path / "again", DataLoader(Stream(), 4), resume=place)[0])
    with pytest.raises(ValueError, match="checkpoint_every needs a DataLoader over a data set by index"):
        fit(tmp_path / "other", DataLoader(Stream(), 4), checkpoint_every=1)


class TestInterrupted:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_it_saves_and_says_how_to_go_on(self, number, tmp_path):
        class Interrupting(Noisy):
            calls = 0

            def __getitem__(self, index):
                Interrupting.calls += 1
                if Interrupting.calls == 15:  # for the fourth batch of the first epoch
                    os.kill(os.getpid(), number)
                return super().__getitem__(index)

        before = signal.getsignal(number)
        with pytest.raises(Interrupted, match=r"batch \d of epoch 1; the state is in .*step-0000000\d: go on with resume=True"):
            fit(tmp_path, DataLoader(Interrupting(), 4, shuffle=True))
        assert signal.getsignal(number) is before
        model, metrics = fit(tmp_path, resume=True)
        whole, expected = fit(tmp_path / "whole")
        assert same(model, whole) and numbers(metrics) == numbers(expected)
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == [0, 1]

    def test_without_an_output_it_says_that_nothing_is_saved(self):
        class Interrupting(Noisy):
            def __getitem__(self, index):
                os.kill(os.getpid(), signal.SIGINT)
                return super().__getitem__(index)

        # The second signal is answered as always.
        with pytest.raises(KeyboardInterrupt):
            fit(None, DataLoader(Interrupting(), 4))

        def once(logits, targets, calls=[]):  # noqa: B006
            calls.append(1)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return nn.functional.cross_entropy(logits, targets)

        with pytest.raises(Interrupted, match="nothing is saved, as there is no output folder"):
            fit(None, criterion=once)


class TestNotFinite:
    def test_it_stops_and_keeps_the_state_before(self, tmp_path):
        model = net()
        calls = []

        def criterion(logits, targets):
            calls.append(1)
            loss = nn.functional.cross_entropy(logits, targets)
            return loss * float("nan") if len(calls) == 11 else loss  # 6 batches and 2 of validation, and the third

        with pytest.raises(FloatingPointError) as caught:
            fit(tmp_path, model=model, criterion=criterion, checkpoint_every=1)
        message = str(caught.value)
        assert "not finite in epoch 2 by batch 3 of 6: try a smaller lr" in message and "clip_grad_norm=1" in message
        assert message.endswith(f"the state before it is in {tmp_path / 'checkpoints' / 'step-00000008'}")
        assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
        kept = load_file(tmp_path / "last" / "model.safetensors")
        assert all(torch.equal(kept[name], parameter) for name, parameter in model.named_parameters())

    def test_a_diverging_training(self):
        with pytest.raises(FloatingPointError, match="try a smaller lr"):
            fit(None, optimizer="sgd", lr=1e30, scheduler=None)


class TestFolder:
    def test_the_last_and_the_best_are_kept(self, tmp_path):
        model, metrics = fit(tmp_path, epochs=6, keep=2, lr=0.1)
        accuracies = metrics.val_accs
        best = accuracies.index(max(accuracies))
        expected = {f"step-{6 * (epoch + 1):08d}" for epoch in (best, 4, 5)}
        assert set(names(tmp_path)) == expected
        assert (tmp_path / "best").resolve().name == f"step-{6 * (best + 1):08d}"
        assert (tmp_path / "last").resolve().name == "step-00000036"
        tensors = load_file(tmp_path / "last" / "model.safetensors")
        assert all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())

    def test_a_folder_with_a_training_is_not_written_over(self, tmp_path):
        fit(tmp_path, epochs=1)
        with pytest.raises(FileExistsError, match="has a training; go on with it by resume=True"):
            fit(tmp_path, epochs=1)

    def test_from_an_earlier_checkpoint_the_later_ones_are_gone(self, tmp_path):
        fit(tmp_path, epochs=3, keep=9)
        fit(tmp_path, epochs=3, keep=9, resume=tmp_path / "checkpoints" / "step-00000006", checkpoint_every=4)
        assert names(tmp_path) == [f"step-{step:08d}" for step in (6, 8, 12, 16, 18)]
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [6, 12, 18]

    def test_load_gives_the_best_model(self, hybrid, tmp_path):
        images = TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 4)
        _, metrics = fit(
            tmp_path,
            DataLoader(images, 4),
            DataLoader(images, 4),
            hybrid("squeezenet1_1", {"features.12": {"wrap": "se"}}),
            epochs=2,
            ema=0.9,
            lr=1e-4,
        )
        loaded = load(tmp_path)
        loss, accuracy = Trainer(loaded, "cpu").evaluate(DataLoader(images, 4))
        assert accuracy == metrics.best_val_acc
        assert loss == pytest.approx(metrics.val_losses[metrics.best_epoch], abs=1e-4)  # it is not fused

    def test_in_a_new_folder_there_is_a_best_one_from_the_first(self, tmp_path):
        fit(tmp_path / "old", epochs=2, keep=9)
        fit(tmp_path / "new", epochs=2, resume=tmp_path / "old" / "checkpoints" / "step-00000006")
        assert names(tmp_path / "new") == ["step-00000012"]
        assert (tmp_path / "new" / "best").resolve() == (tmp_path / "new" / "last").resolve()

    def test_one_cycle_does_not_become_longer(self, tmp_path):
        fit(tmp_path, epochs=1, scheduler="onecycle")
        with pytest.raises(ValueError, match="was made with epochs=1, and this is epochs=2"):
            fit(tmp_path, epochs=2, scheduler="onecycle", resume=True)

    def test_there_is_nothing_to_go_on_from(self, tmp_path):
        model, _ = fit(tmp_path, epochs=1, resume=True)  # so it begins
        assert same(model, fit(tmp_path / "other", epochs=1)[0])
        with pytest.raises(WeightsError, match="has no checkpoint to go on from"):
            fit(None, resume=tmp_path / "nowhere")


class TestAnotherTraining:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"lr": 0.5}, r"was made with lr=0\.02, and this is lr=0\.5"),
            ({"optimizer": "sgd"}, "was made with optimizer='Adam', and this is optimizer='SGD'"),
            ({"ema": 0.5}, "was made with ema=None"),
            ({"scheduler": "onecycle"}, "was made with scheduler='LambdaLR', and this is scheduler='OneCycleLR'"),
            ({"seed": 9}, "was made with seed 4, and this is 9"),
            ({"train": DataLoader(Noisy(), 11)}, "6 updates of the weights in an epoch, and this loader gives 2"),
        ],
    )
    def test_is_refused(self, options, message, tmp_path):
        fit(tmp_path, epochs=1)
        with pytest.raises(ValueError, match=message):
            fit(tmp_path, resume=True, **options)

    def test_of_another_model_too(self, tmp_path):
        fit(tmp_path, epochs=1)
        with pytest.raises(WeightsError, match=r"is of another model: it differs in '6\.weight'"):
            fit(tmp_path, resume=True, model=net(classes=5))

    @pytest.mark.parametrize("name", ["state.pt", "model.safetensors", "versions.json"])
    @pytest.mark.parametrize("damage", ["cut", "missing"])
    def test_a_damaged_file(self, name, damage, tmp_path):
        fit(tmp_path, epochs=1)
        file = tmp_path / "last" / name
        file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:-20])
        place = tmp_path / "checkpoints" / "step-00000006"
        with pytest.raises(WeightsError, match=r"step-00000006|no checkpoint"):
            fit(tmp_path / "other", resume=place)

    def test_nothing_pickled_is_run(self, tmp_path):
        import hashlib

        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "evil"),)

        fit(tmp_path, epochs=1)
        torch.save({"file_version": 1, "evil": Evil()}, tmp_path / "last" / "state.pt")
        versions = tmp_path / "last" / "versions.json"
        digest = hashlib.sha256((tmp_path / "last" / "state.pt").read_bytes()).hexdigest()
        versions.write_text(json.dumps({**json.loads(versions.read_text()), "sha256 of state.pt": digest}))
        with pytest.raises(WeightsError, match="UnpicklingError"):
            fit(tmp_path, resume=True)
        assert not (tmp_path / "evil").exists()


def test_random_states_come_back():
    state = random_state()
    buffer = json.dumps(state["numpy"]), state["python"], state["torch"].clone()

    def draw():
        return random.random(), float(np.random.randn()), torch.randn(3).tolist()

    first = draw()
    assert draw() != first
    set_random_state(state)
    assert draw() == first
    assert json.dumps(state["numpy"]) == buffer[0]
