"""``Trainer``: what its arguments do, and that the model is afterwards what it was, but for its weights."""

from __future__ import annotations

import json
import math
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

pytest.importorskip("accelerate")

from torchvision_customizer import Trainer, TrainingMetrics, load
from torchvision_customizer.fusion.fusing import is_fused
from torchvision_customizer.recipe.schema import Training
from torchvision_customizer.train.batches import split_batch
from torchvision_customizer.train.config import fit_options, trainer_options


def data(count=22, classes=4, size=8):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    return TensorDataset(torch.randn(count, 3, size, size, generator=generator) + labels[:, None, None, None], labels)


def loader(batch=4, shuffle=True, **options):
    return DataLoader(data(**options), batch, shuffle=shuffle)


def net(norm=True):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 4))


def fit(model, *loaders, seed=0, **options):
    machine = {key: options.pop(key) for key in ("precision", "channels_last", "compile", "fused") if key in options}
    return Trainer(model, "cpu", seed=seed, **machine).fit(
        *(loaders or (loader(), loader(shuffle=False))), **{"epochs": 2, "verbose": False, **options}
    )


def weights(model):
    return torch.cat([p.detach().flatten().float() for p in model.state_dict().values()])


class TestCallsOf21:
    def test_positional_arguments(self):
        model = net()
        trainer = Trainer(model, "cpu")
        assert trainer.device == torch.device("cpu") and trainer.model is model
        metrics = trainer.fit(loader(), loader(), 2, 0.01, "sgd", "step", nn.CrossEntropyLoss(), False)
        assert isinstance(metrics, TrainingMetrics)
        lists = (metrics.train_losses, metrics.train_accs, metrics.val_losses, metrics.val_accs, metrics.epoch_times)
        assert [len(values) for values in lists] == [2] * 5
        assert metrics.best_val_acc == max(metrics.val_accs)
        loss, accuracy = trainer.evaluate(loader())
        assert loss > 0 and 0 <= accuracy <= 1
        assert (loss, accuracy) == pytest.approx((metrics.val_losses[-1], metrics.val_accs[-1]))

    @pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
    @pytest.mark.parametrize("scheduler", ["cosine", "step", "onecycle", None])
    def test_its_own_functions(self, name, scheduler):
        trainer = Trainer(net(), "cpu")
        optimizer = trainer._create_optimizer(name, lr=0.01)
        assert type(optimizer).__name__.lower() == name
        made = trainer._create_scheduler(scheduler, optimizer, epochs=10, steps_per_epoch=100)
        assert (made is None) == (scheduler is None)

    def test_names_are_where_they_were(self):
        from torchvision_customizer import hybrid, train
        from torchvision_customizer.hybrid import trainer

        for name in ("Trainer", "TrainingMetrics", "quick_train"):
            assert getattr(hybrid, name) is getattr(trainer, name) is getattr(train, name)

    def test_a_frozen_backbone(self, hybrid):
        model = hybrid(freeze_backbone=True)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        fit(model, loader(size=32), epochs=1)
        moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        assert moved and all(name.startswith("fc.") or ".se." in name for name in moved)


class TestDefect29:
    def test_step_with_one_epoch_and_two(self):
        """It was a ZeroDivisionError."""
        for epochs in (1, 2):
            fit(net(), scheduler="step", epochs=epochs)

    def test_an_unknown_scheduler_is_an_error(self):
        """It was the same as none."""
        with pytest.raises(ValueError, match="scheduler"):
            fit(net(), scheduler="cosin")

    def test_without_validation_there_are_no_numbers_of_it(self):
        """They were 0.0, and the best epoch the first one."""
        metrics = fit(net(), loader(), lr=0.01, epochs=3)
        assert metrics.val_losses == metrics.val_accs == [None] * 3
        assert metrics.best_val_acc is None
        assert metrics.best_epoch == min(range(3), key=metrics.train_losses.__getitem__) == 2
        metrics.summary()

    def test_no_optimizer_is_adam(self):
        """It was an AttributeError, although the type allowed None."""
        models = net(), net()
        fit(models[0], optimizer=None)
        fit(models[1], optimizer="adam")
        assert torch.equal(weights(models[0]), weights(models[1]))

    @pytest.mark.parametrize("kind", ["dict", "three", "list"])
    def test_batches_need_not_be_pairs(self, kind):
        """They had to be (x, y)."""
        make = {
            "dict": lambda x, y: {"pixel_values": x, "labels": y, "name": "?"},
            "three": lambda x, y: (x, y, "?"),
            "list": lambda x, y: [x, y],
        }[kind]
        batches = [make(*batch) for batch in loader(shuffle=False)]
        models = net(), net()
        fit(models[0], batches)
        fit(models[1], loader(shuffle=False))
        assert torch.equal(weights(models[0]), weights(models[1]))

    def test_the_mean_is_over_images(self):
        """It was over batches, of which the last one is smaller."""
        model = net()
        whole = next(iter(DataLoader(data(), 22)))
        with torch.no_grad():
            logits = model.eval()(whole[0])
        loss, accuracy = Trainer(model, "cpu").evaluate(loader(4))
        assert loss == pytest.approx(nn.functional.cross_entropy(logits, whole[1]).item(), abs=1e-6)
        assert accuracy == pytest.approx((logits.argmax(1) == whole[1]).double().mean().item())


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"epochs": 0}, "fit: epochs .* greater than or equal to 1, got 0"),
            ({"lr": -1.0}, "fit: lr"),
            ({"lr": math.nan}, "fit: lr"),
            ({"optimizer": "adamm"}, "did you mean 'adam'"),
            ({"ema": 1.0}, "fit: ema"),
            ({"keep": 0}, "fit: keep"),
            ({"checkpoint_every": 3}, "checkpoint_every needs output"),
            ({"resume": True}, "resume=True needs output"),
            ({"tracker": "tensorboard"}, "tracker needs output"),
            ({"label_smoothing": 0.1, "criterion": nn.CrossEntropyLoss()}, "label_smoothing is of the default criterion"),
        ],
    )
    def test_what_is_not_allowed(self, options, message):
        model = net()
        before = weights(model)
        with pytest.raises(ValueError, match=message):
            fit(model, **options)
        assert torch.equal(before, weights(model)) and not vars(model).keys() - vars(net()).keys()

    def test_early_stopping_needs_validation(self):
        with pytest.raises(ValueError, match="early_stopping goes by the accuracy on val_loader"):
            fit(net(), loader(), early_stopping=1)

    def test_options_of_the_optimizer_are_not_for_one_that_is_made(self):
        model = net()
        with pytest.raises(ValueError, match="weight_decay is for an optimizer by name"):
            fit(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), weight_decay=0.1)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"precision": "fp8"}, "Trainer: precision"),
            ({"sync_batch_norm": True}, "torch has no SyncBatchNorm for CPUs"),
            ({"seed": -1}, "Trainer: seed"),
        ],
    )
    def test_of_the_trainer(self, options, message):
        with pytest.raises(ValueError, match=message):
            Trainer(net(), "cpu", **options)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_device_that_is_not_there(self):
        with pytest.raises(ValueError, match="torch finds no GPU"):
            Trainer(net(), "cuda")

    def test_an_unknown_argument(self):
        with pytest.raises(TypeError, match="label_smothing"):
            fit(net(), label_smothing=0.1)

    def test_every_option_of_a_recipe_has_its_place(self):
        """Each of the section `training` is of the trainer, of fit, of the data, or of the model."""
        training = Training(lr=0.1, ema=0.9, seed=3)
        machine, run = trainer_options(training), fit_options(training)
        assert machine["seed"] == 3 and (run["lr"], run["ema"]) == (0.1, 0.9)
        others = {"dataset", "data_dir", "val_fraction", "batch_size", "augment", "mixup", "cutmix", "workers"}
        others |= {"freeze_backbone", "unfreeze_stages"}
        assert set(Training.model_fields) - others == {*machine, *run}
        assert not machine.keys() & run.keys()
        Trainer(net(), "cpu", **machine).fit(loader(), verbose=False, **{**run, "epochs": 1})
        assert fit_options(None) == fit_options(Training())


class TestWhatOptionsDo:
    def test_accumulated_batches_are_one_batch(self):
        """The last group too, which is smaller."""
        models = net(norm=False), net(norm=False)
        fit(models[0], loader(2, count=20), optimizer="sgd", lr=0.1, accumulate=4)
        fit(models[1], loader(8, count=20), optimizer="sgd", lr=0.1)
        assert torch.allclose(weights(models[0]), weights(models[1]), atol=1e-6)

    def test_clipping(self):
        model = net()
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        fit(model, loader(22), epochs=1, optimizer=optimizer, scheduler=None, clip_grad_norm=1e-3)
        step = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
        assert step.norm().item() == pytest.approx(1e-3, rel=1e-3)

    def test_label_smoothing_is_for_training_only(self):
        plain, smooth = fit(net(), lr=1e-12), fit(net(), lr=1e-12, label_smoothing=0.5)
        assert smooth.train_losses != plain.train_losses
        assert smooth.val_losses == pytest.approx(plain.val_losses)

    def test_own_scheduler_steps_each_update(self):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        metrics = fit(model, optimizer=optimizer, scheduler=scheduler, epochs=1)
        assert metrics.learning_rates == pytest.approx([0.1 * 0.5**6])

    def test_a_moving_average_is_what_is_evaluated_and_left(self):
        """Against an average by hand: 5 updates, of which the first gives the weights themselves."""
        model, seen = net(norm=False), []
        criterion = nn.CrossEntropyLoss()

        def note(logits, targets):
            if len(seen) < 5:  # then it is evaluated
                seen.append([p.detach().clone() for p in model.parameters()])
            return criterion(logits, targets)

        metrics = fit(model, loader(count=20), loader(), criterion=note, epochs=1, ema=0.5, lr=0.05, scheduler=None)
        twin = net(norm=False)
        fit(twin, loader(count=20), epochs=1, lr=0.05, scheduler=None)
        seen.append([p.detach().clone() for p in twin.parameters()])
        expected = seen[1]
        for number, values in enumerate(seen[2:], start=1):
            decay = min(0.5, (1 + number) / (10 + number))
            expected = [decay * mean + (1 - decay) * value for mean, value in zip(expected, values, strict=True)]
        for mean, parameter in zip(expected, model.parameters(), strict=True):
            assert torch.allclose(mean, parameter, atol=1e-6)
        assert Trainer(model, "cpu").evaluate(loader()) == pytest.approx((metrics.val_losses[-1], metrics.val_accs[-1]))

    def test_early_stopping(self):
        metrics = fit(net(), epochs=20, lr=1e-12, early_stopping=3)
        assert len(metrics) == 4 and metrics.best_epoch == 0

    def test_gradual_unfreezing(self, hybrid):
        model = hybrid()
        seen = []
        criterion = nn.CrossEntropyLoss()

        def note(logits, targets):
            seen.append({name for name, p in model.named_parameters() if p.requires_grad and ".se." not in name})
            return criterion(logits, targets)

        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        fit(model, loader(22, size=32), epochs=3, criterion=note, gradual_unfreezing=1)
        assert [sorted({name.split(".")[0] for name in names}) for names in seen] == [
            ["fc"],
            ["fc", "layer4"],
            ["fc", "layer4"],
        ]
        assert seen[0] < seen[1] < seen[2]
        moved = {name for name, p in model.named_parameters() if not torch.equal(before[name], p) and ".se." not in name}
        assert moved == seen[2]

    def test_targets_may_be_probabilities(self):
        pairs = [(x, nn.functional.one_hot(y, 4).float() * 0.9 + 0.025) for x, y in loader(shuffle=False)]
        metrics = fit(net(), pairs, loader(), lr=0.01, epochs=5)
        assert metrics.train_accs[-1] > 0.25 and metrics.train_losses[-1] < metrics.train_losses[0]

    def test_auxiliary_heads_are_trained(self):
        outputs = namedtuple("outputs", ["logits", "aux_logits"])

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.aux = net(), net()

            def forward(self, x):
                return outputs(self.body(x), self.aux(x)) if self.training else self.body(x)

        model = Net()
        before = weights(model.aux)
        fit(model)
        assert not torch.equal(before, weights(model.aux))

    def test_seeds(self):
        models = [net() for _ in range(4)]
        for model, seed in zip(models, (1, 1, 2, None), strict=True):
            torch.manual_seed(seed or 8)
            fit(model, seed=seed)
        first, second, third, _ = map(weights, models)
        assert torch.equal(first, second) and not torch.equal(first, third)
        again = net()
        torch.manual_seed(8)  # without a seed, what torch was set to decides
        fit(again, seed=None)
        assert torch.equal(weights(again), weights(models[3]))


class TestHowItRuns:
    def test_it_is_fused_while_it_trains_and_not_afterwards(self, hybrid, tmp_path):
        model, seen = hybrid(), []
        keys = list(model.state_dict())
        criterion = nn.CrossEntropyLoss()

        def note(logits, targets):
            seen.append(is_fused(model))
            return criterion(logits, targets)

        fit(model, loader(11, size=32), epochs=1, criterion=note, output=tmp_path)
        assert seen == [True, True] and not is_fused(model) and list(model.state_dict()) == keys
        assert not is_fused(load(tmp_path))
        reference = hybrid()
        reference.load_state_dict({**reference.state_dict()})
        fit(reference, loader(11, size=32), epochs=1, criterion=note, fused=False)
        assert seen[2:] == [False, False]

    def test_fused_and_reference_training_agree(self, hybrid):
        first = hybrid()
        second = hybrid()
        second.load_state_dict(first.state_dict())
        one, two = (
            fit(model, loader(11, size=32), epochs=1, optimizer="sgd", lr=1e-3, fused=fused)
            for model, fused in ((first, True), (second, False))
        )
        assert one.train_losses == pytest.approx(two.train_losses, abs=1e-4)

    @pytest.mark.parametrize("options", [{"precision": "bf16"}, {"channels_last": True}], ids=str)
    def test_precision_and_layout(self, options):
        """Nothing of accelerate's stays in the model, and trainers of several kinds live in one process."""
        model, seen = net(), []
        model[0].register_forward_hook(lambda module, args, output: seen.append((output.dtype, output)))
        fit(model, epochs=1, **options)
        dtype, output = seen[0]
        assert dtype == (torch.bfloat16 if "precision" in options else torch.float32)
        assert output.is_contiguous(memory_format=torch.channels_last) == ("channels_last" in options)
        assert not vars(model).keys() - vars(net()).keys()
        assert next(model.parameters()).dtype == torch.float32
        fit(model, epochs=1)
        assert seen[-1][0] == torch.float32

    @pytest.mark.full
    def test_compiled(self):
        models = net(), net()
        # Not by Adam: the gradient of a bias before a norm is rounding, which Adam makes as large as any.
        fit(models[0], compile=True, optimizer="sgd")
        fit(models[1], optimizer="sgd")
        assert torch.allclose(weights(models[0]), weights(models[1]), atol=1e-5)
        assert not vars(models[0]).keys() - vars(net()).keys()

    def test_the_loader_is_left_as_it_is(self):
        train = loader()
        sampler, batch_sampler = train.sampler, train.batch_sampler
        fit(net(), train)
        assert train.sampler is sampler and train.batch_sampler is batch_sampler and batch_sampler.sampler is sampler
        assert len(list(train)) == 6

    def test_a_stream(self):
        class Stream(IterableDataset):
            def __iter__(self):
                return iter(data())

            def __len__(self):
                return 22

        metrics = fit(net(), DataLoader(Stream(), 4), lr=0.01, epochs=3)
        assert metrics.train_losses[-1] < metrics.train_losses[0]

        class Endless(IterableDataset):
            def __iter__(self):
                return iter(data())

        with pytest.raises(TypeError, match="length"):
            fit(net(), DataLoader(Endless(), 4))

    def test_no_batch(self):
        with pytest.raises(ValueError, match="the loader has no batch"):
            fit(net(), DataLoader(data(3), 4, drop_last=True))

    def test_a_batch_of_another_kind(self):
        with pytest.raises(TypeError, match=r"must have images .* and targets .*, got pictures, labels"):
            split_batch({"pictures": torch.zeros(1), "labels": torch.zeros(1)})
        with pytest.raises(TypeError, match="got Tensor"):
            split_batch(torch.zeros(2, 3))

    def test_random_numbers_of_the_data_set_are_those_of_the_batch(self):
        """Drawing more of them in the model changes no image."""

        class Noise(Dataset):
            def __len__(self):
                return 8

            def __getitem__(self, index):
                return torch.randn(3, 8, 8), 0

        def images(dropout):
            seen = []
            model = nn.Sequential(nn.Dropout(dropout), nn.Flatten(), nn.Linear(192, 2))
            model[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
            fit(model, DataLoader(Noise(), 4))
            return torch.cat(seen)

        first = images(0.0)
        assert torch.equal(first, images(0.9))
        assert len({image.sum().item() for image in first}) == 16  # no two of two epochs are the same


class TestWhatOneSees:
    def test_a_line_for_each_epoch(self, capsys):
        Trainer(net(), "cpu").fit(loader(), loader(), epochs=2)
        lines = capsys.readouterr().out.splitlines()
        assert "epoch 1/2 | loss" in lines[0] and "validation loss" in lines[0] and "images/s" in lines[0]
        assert lines[1].startswith("epoch 2/2")
        fit(net())
        assert capsys.readouterr().out == ""

    def test_a_bar_on_a_terminal(self, monkeypatch, capsys):
        from torchvision_customizer.train import progress

        monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LOOKS", 0.0)
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "150")
        Trainer(net(), "cpu").fit(loader(), epochs=1)
        shown = capsys.readouterr().out
        assert "6/6" in shown and "images/s" in shown and "epoch 1/1 | loss" in shown

    def test_a_metrics_file(self, tmp_path):
        metrics = fit(net(), output=tmp_path, epochs=3)
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == [0, 1, 2] and [row["step"] for row in rows] == [6, 12, 18]
        for key in ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_time"):
            assert [row[key] for row in rows] == getattr(metrics, {"epoch_time": "epoch_times"}.get(key, _plural(key)))

    def test_tensorboard(self, tmp_path):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        metrics = fit(net(), output=tmp_path, tracker="tensorboard")
        (events,) = tmp_path.rglob("events.*0")
        found = EventAccumulator(str(events)).Reload()
        assert [event.value for event in found.Scalars("val_acc")] == pytest.approx(metrics.val_accs)

    def test_a_tracker_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match="tensorbored"):
            fit(net(), output=tmp_path, tracker="tensorbored")


def _plural(key):
    return key.replace("loss", "losses").replace("acc", "accs")
