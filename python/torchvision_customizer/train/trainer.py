"""``Trainer``: train a model on one core or on many machines, with the same few lines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from .batches import Batches
from .checkpoint import find_checkpoint
from .config import FitOptions, TrainerOptions, check_options
from .launch import make_accelerator, on_device, processes
from .metrics import TrainingMetrics
from .optim import make_optimizer, make_scheduler
from .preparing import example_of, fused, recipe_of
from .presets import open_small_set
from .run import Run, choose_seed, find_state
from .scoring import Criterion, evaluate

AnyPath = str | os.PathLike[str]


class Trainer:
    """Trains and evaluates a model.

    The same script runs on one process, and under ``torchrun`` or ``accelerate launch`` on several GPUs and hosts; each process
    then takes batches of the loader's size, so that an update of the weights sees as many times more images.

        trainer = Trainer(model)
        metrics = trainer.fit(train_loader, val_loader, epochs=10, output="runs/first")
        metrics.plot("runs/first/history.png")

    Args:
        model: any model that gives logits; it is moved to the device, and trained in place.
        device: ``auto`` (what accelerate finds: a GPU where there is one), ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32``, or ``bf16`` or ``fp16`` for automatic mixed precision.
        channels_last: run the model on images in channels_last.
        compile: run the model through ``torch.compile``.
        fused: fuse blocks while the model is trained (see ``fuse``). Afterwards, and in what is saved, it is as it was.
        sync_batch_norm: statistics of batch norms over the images of all processes; for GPUs only, as torch has none for CPUs.
        seed: of everything that is random. Without one, what ``torch.manual_seed`` has set decides.

    Attributes:
        model: the model.
        device: where it is.

    Raises:
        ImportError: accelerate is not installed.
        ValueError: an option that is not allowed, or a device that is not there.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str | torch.device = "auto",
        *,
        precision: str = "fp32",
        channels_last: bool = False,
        compile: bool = False,
        fused: bool = True,
        sync_batch_norm: bool = False,
        seed: int | None = None,
    ) -> None:
        given = {
            "precision": precision,
            "channels_last": channels_last,
            "compile": compile,
            "fused": fused,
            "sync_batch_norm": sync_batch_norm,
            "seed": seed,
        }
        self.options = check_options(TrainerOptions, "Trainer", given)
        state = processes(device)
        wanted = state.device if device == "auto" else torch.device(device)
        if sync_batch_norm and state.device.type == "cpu":
            raise ValueError("Trainer: sync_batch_norm is for GPUs, torch has no SyncBatchNorm for CPUs")
        self.device: torch.device = state.device if wanted.index is None else wanted
        self.model = model.to(self.device)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def fit(
        self,
        train_loader: Any,
        val_loader: Any = None,
        epochs: int = 10,
        lr: float = 1e-3,
        optimizer: str | torch.optim.Optimizer | None = "adam",
        scheduler: str | LRScheduler | None = "cosine",
        criterion: Criterion | None = None,
        verbose: bool = True,
        *,
        momentum: float | None = None,
        weight_decay: float | None = None,
        layer_decay: float | None = None,
        step_size: int | None = None,
        gamma: float | None = None,
        warmup_epochs: float = 0.0,
        min_lr: float = 0.0,
        label_smoothing: float = 0.0,
        clip_grad_norm: float | None = None,
        accumulate: int = 1,
        gradual_unfreezing: int | None = None,
        ema: float | None = None,
        early_stopping: int | None = None,
        output: AnyPath | None = None,
        resume: bool | AnyPath = False,
        checkpoint_every: int | None = None,
        keep: int = 3,
        tracker: Any = None,
    ) -> TrainingMetrics:
        """Train the model. Afterwards it has the last weights, or their moving average where there is an ``ema``.

        With an ``output``, the state is written there after each epoch, and also where the training is stopped by Ctrl-C or
        SIGTERM. A training that goes on from there ends with the weights of one that was never stopped: on CPUs bit by bit, if
        the loader is a ``DataLoader`` with a data set by index, and random numbers in it come from python, numpy or torch.

        Args:
            train_loader: a ``DataLoader``, or what can be iterated over again and again and has a length. Batches are
                (images, targets), or a mapping with them; targets are classes (N,) or probabilities (N, classes).
            val_loader: the same, for validation after each epoch.
            epochs: how often the data is gone through.
            lr: learning rate.
            optimizer: a name of ``torch.optim``, with 2.1's defaults for SGD and AdamW; or an optimizer, which has rates of its
                own. None is Adam.
            scheduler: ``cosine``, ``step``, ``onecycle``, ``constant``, a scheduler of torch, or None; a step each update.
            criterion: a loss of (logits, targets), a mean over images; by default cross entropy.
            verbose: a line for each epoch, and a bar on a terminal.
            momentum: of the optimizer, by default 0.9 for SGD.
            weight_decay: not of norms, biases and other vectors; by default 5e-4 for SGD and 0.01 for AdamW.
            layer_decay: factor of the rate from one level of the model to the one before it (see ``parameter_groups``).
            step_size: of ``step``, in epochs; by default a third of them.
            gamma: of ``step``, by default 0.1.
            warmup_epochs: in which the rate rises.
            min_lr: where ``cosine`` ends.
            label_smoothing: of the default criterion, in training.
            clip_grad_norm: the highest norm of the gradients.
            accumulate: batches to an update of the weights.
            gradual_unfreezing: begin with the head, and train one more level after so many epochs (see ``GradualUnfreezing``).
            ema: decay of a moving average of the weights, which is then what is evaluated and saved.
            early_stopping: stop after so many epochs without a better accuracy on ``val_loader``.
            output: a folder for checkpoints (``last`` and ``best`` are links, and ``load(output)`` gives the best) and for
                ``metrics.jsonl``, which has a line for each epoch.
            resume: True to go on from the last checkpoint of ``output``, and to begin where there is none; or a checkpoint, or
                another training's folder.
            checkpoint_every: updates of the weights between checkpoints within an epoch.
            keep: how many of the last checkpoints are kept, besides the best.
            tracker: ``tensorboard``, or another of accelerate's trackers, or a list of them; in ``output``.

        Returns:
            Numbers for each epoch.

        Raises:
            ValueError: an option that is not allowed, or that contradicts another or the checkpoint.
            FileExistsError: ``output`` has a training, and ``resume`` is False.
            WeightsError: the checkpoint is missing, damaged, or of another model.
            FloatingPointError: the loss is not finite any more; the message says what to try, and the checkpoints stay.
            KeyboardInterrupt: it was stopped; the message says how to go on.
        """
        name = optimizer if isinstance(optimizer, str) else "adam"
        options = check_options(
            FitOptions,
            "fit",
            {
                "epochs": epochs,
                "lr": lr,
                "optimizer": name,
                "scheduler": scheduler.lower() if isinstance(scheduler, str) else None,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "layer_decay": layer_decay,
                "step_size": step_size,
                "gamma": gamma,
                "warmup_epochs": warmup_epochs,
                "min_lr": min_lr,
                "label_smoothing": label_smoothing,
                "clip_grad_norm": clip_grad_norm,
                "accumulate": accumulate,
                "gradual_unfreezing": gradual_unfreezing,
                "ema": ema,
                "early_stopping": early_stopping,
            },
        )
        folder = None if output is None else Path(output).expanduser()
        for option, count in (("checkpoint_every", checkpoint_every), ("keep", keep)):
            if count is not None and (not isinstance(count, int) or count < 1):
                raise ValueError(f"fit: {option} must be an integer of at least 1, got {count!r}")
        for option, needs in (("checkpoint_every", checkpoint_every), ("tracker", tracker), ("resume=True", resume is True)):
            if folder is None and needs:
                raise ValueError(f"fit: {option} needs output, the folder for it")
        if isinstance(optimizer, torch.optim.Optimizer):
            for option, value in (("momentum", momentum), ("weight_decay", weight_decay), ("layer_decay", layer_decay)):
                if value is not None:
                    raise ValueError(f"fit: {option} is for an optimizer by name; give yours its own")
        with on_device(self.device):
            accelerator = make_accelerator(self.device, self.options.precision, self.options.compile, folder, tracker)
            found = None
            if resume:
                place = folder if isinstance(resume, bool) else Path(resume)
                found = None if place is None else find_state(accelerator, place, needed=resume is not True)
            elif folder is not None and find_checkpoint(folder) is not None:
                raise FileExistsError(f"fit: {folder} has a training; go on with it by resume=True, or name another folder")
            seed = choose_seed(accelerator, self.options.seed, found)
            recipe, shape = recipe_of(self.model), example_of(train_loader)
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            with fused(self.model, self.options.fused, shape):
                run = Run(
                    accelerator,
                    self.model,
                    recipe,
                    train_loader,
                    val_loader,
                    options,
                    self.options,
                    optimizer=optimizer if isinstance(optimizer, torch.optim.Optimizer) else None,
                    scheduler=scheduler if isinstance(scheduler, LRScheduler) else None,
                    criterion=criterion,
                    seed=seed,
                    output=folder,
                    checkpoint_every=checkpoint_every,
                    keep=keep,
                    verbose=verbose,
                )
                if found is not None:
                    run.resume(found)
                metrics = run.go()
        if verbose and accelerator.is_local_main_process:
            print(metrics.summary())
        return metrics

    def fit_mnist(
        self, epochs: int = 5, batch_size: int = 64, lr: float = 1e-3, data_dir: AnyPath = "./data", **options: Any
    ) -> TrainingMetrics:
        """Train on MNIST, in images of 32×32 and as many channels as the model takes, and validate on its test images.

        Args:
            epochs: how often the images are gone through.
            batch_size: images to a batch.
            lr: learning rate.
            data_dir: where the set is looked for, and downloaded to where it is nowhere.
            options: others of :meth:`fit`.
        """
        return self._fit_small_set("mnist", epochs, batch_size, lr, data_dir, False, options)

    def fit_cifar10(
        self,
        epochs: int = 10,
        batch_size: int = 128,
        lr: float = 1e-3,
        data_dir: AnyPath = "./data",
        augment: bool | str = True,
        **options: Any,
    ) -> TrainingMetrics:
        """Train on CIFAR-10, as :meth:`fit_mnist` does; ``augment`` is a name of ``open_data``, True is ``basic``."""
        return self._fit_small_set("cifar10", epochs, batch_size, lr, data_dir, augment, options)

    def fit_cifar100(
        self,
        epochs: int = 20,
        batch_size: int = 128,
        lr: float = 1e-3,
        data_dir: AnyPath = "./data",
        augment: bool | str = True,
        **options: Any,
    ) -> TrainingMetrics:
        """Train on CIFAR-100, as :meth:`fit_cifar10` does."""
        return self._fit_small_set("cifar100", epochs, batch_size, lr, data_dir, augment, options)

    def _fit_small_set(
        self,
        name: str,
        epochs: int,
        batch_size: int,
        lr: float,
        data_dir: AnyPath,
        augment: bool | str,
        options: dict[str, Any],
    ) -> TrainingMetrics:
        data = open_small_set(self.model, name, batch_size, data_dir, augment, seed=self.options.seed or 0)
        return self.fit(data.train, data.val, epochs=epochs, lr=lr, **options)

    def evaluate(self, loader: Any, criterion: Criterion | None = None) -> tuple[float, float]:
        """Mean loss over the images of a loader, and accuracy as a share; over all processes, each image once.

        Args:
            loader: as ``val_loader`` of :meth:`fit`.
            criterion: a loss, by default cross entropy.
        """
        with on_device(self.device):
            accelerator = make_accelerator(self.device, self.options.precision, False, None, None)
            batches = Batches(loader, accelerator, even=False)
            layout = torch.channels_last if self.options.channels_last else None
            return evaluate(accelerator, self.model, batches, criterion or nn.CrossEntropyLoss(), layout)

    # ---- version 2.1 had them, and its users call them ----

    def _create_optimizer(self, optimizer_name: str, lr: float) -> torch.optim.Optimizer:
        return make_optimizer(self.model, optimizer_name, lr)

    def _create_scheduler(
        self, scheduler_name: str | None, optimizer: torch.optim.Optimizer, epochs: int, steps_per_epoch: int
    ) -> LRScheduler | None:
        return make_scheduler(scheduler_name, optimizer, epochs, steps_per_epoch)
