"""The loop: one training, from the first batch or from a checkpoint to its end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from ..errors import WeightsError
from ..hybrid import GradualUnfreezing
from ..hybrid.saving import own_tensors
from .batches import Batches, split_batch
from .checkpoint import (
    find_checkpoint,
    go_on_from,
    random_state,
    read_checkpoint,
    set_random_state,
    set_weights,
    write_checkpoint,
)
from .config import FitOptions, TrainerOptions
from .ema import MovingAverage
from .interrupt import Interrupted, Interrupts
from .metrics import MetricsFile, TrainingMetrics
from .optim import make_optimizer, make_scheduler
from .preparing import Wrapped, example_of
from .progress import Progress
from .scoring import Criterion, add_to, averages, evaluate, in_layout, loss_of, new_sums, outputs_of

if TYPE_CHECKING:
    from accelerate import Accelerator

# Processes ask each other, and a GPU is asked, whether all is well after so many batches.
_BATCHES_BETWEEN_CHECKS = 25
Found = tuple[Path, dict[str, Any], dict[str, Tensor], dict[str, Tensor] | None]  # as read_checkpoint reads it


@dataclass
class Position:
    """Where a training is: epochs and batches of the present epoch that are done, updates of the weights, and seconds."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0


class Run:
    """One call of ``Trainer.fit``.

    Args:
        accelerator: processes, device and precision.
        model: the raw model, on the device.
        recipe: what it is made of, where that can be said.
        train: a loader.
        val: a loader, or None.
        options: of ``fit``.
        machine: of the trainer.
        optimizer: one that was made already, or None.
        scheduler: one that was made already, or None.
        criterion: a loss, or None for cross entropy.
        seed: of everything that is random.
        output: folder, or None.
        checkpoint_every: updates of the weights between checkpoints within an epoch, or None.
        keep: how many checkpoints.
        verbose: whether something is shown.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        recipe: Mapping[str, Any] | None,
        train: Any,
        val: Any,
        options: FitOptions,
        machine: TrainerOptions,
        *,
        optimizer: torch.optim.Optimizer | None,
        scheduler: LRScheduler | None,
        criterion: Criterion | None,
        seed: int,
        output: Path | None,
        checkpoint_every: int | None,
        keep: int,
        verbose: bool,
    ) -> None:
        self.accelerator, self.model, self.options, self.machine = accelerator, model, options, machine
        self.seed, self.output, self.checkpoint_every, self.keep = seed, output, checkpoint_every, keep
        self.layout = torch.channels_last if machine.channels_last else None
        self.recipe = recipe
        self.train = Batches(train, accelerator, seed)
        self.val = None if val is None else Batches(val, accelerator, seed, even=False)
        if checkpoint_every is not None and not self.train.enters:
            raise ValueError("checkpoint_every needs a DataLoader over a data set by index; others are resumed between epochs")
        if options.early_stopping is not None and val is None:
            raise ValueError("early_stopping goes by the accuracy on val_loader, and there is none")
        if criterion is not None and options.label_smoothing:
            raise ValueError("label_smoothing is of the default criterion; give your criterion its own")
        self.criterion: Criterion = criterion or nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)
        self.val_criterion: Criterion = criterion or nn.CrossEntropyLoss()

        self.updates = math.ceil(self.train.steps / options.accumulate)
        if options.gradual_unfreezing is not None:
            model.requires_grad_(True)  # the optimizer is to have them all
        self.raw_optimizer = optimizer or make_optimizer(
            model,
            options.optimizer,
            options.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            layer_decay=options.layer_decay,
        )
        self.scheduler = scheduler or make_scheduler(
            options.scheduler,
            self.raw_optimizer,
            options.epochs,
            self.updates,
            warmup_epochs=options.warmup_epochs,
            min_lr=options.min_lr,
            step_size=options.step_size,
            gamma=options.gamma,
        )
        every = options.gradual_unfreezing
        self.unfreezing = None if every is None else GradualUnfreezing(model, every, example_input=example_of(train))
        self.ema = None if options.ema is None else MovingAverage(model, options.ema)
        self.optimizer = accelerator.prepare_optimizer(self.raw_optimizer)
        self.wrapped = Wrapped(accelerator, model, machine.sync_batch_norm)

        self.metrics = TrainingMetrics()
        self.position = Position()
        self.sums = new_sums(accelerator.device)
        self.best_step = 0
        self.progress = Progress(options.epochs, verbose and accelerator.is_local_main_process)
        self.last_checkpoint: Path | None = None
        self._generators = self.train.generators()
        self._order = self._generator_states()  # as they were when the epoch began

    # ---- from and to a checkpoint ----

    def resume(self, found: Found) -> None:
        """Go on from a checkpoint.

        Raises:
            WeightsError: it is of another model.
            ValueError: it was made with other options or other data.
        """
        folder, state, weights, trained = found
        self._check(folder, state)
        set_weights(self.model, weights if trained is None else trained, folder)
        if self.ema is not None:
            set_weights(self.ema.module, weights, folder)
            self.ema.resume(state["ema_updates"])
        self.raw_optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.unfreezing is not None:
            self.unfreezing.load_state_dict(state["unfreezing"])
        self.position = Position(**state["position"])
        self.sums.copy_(torch.tensor(state["sums"], dtype=torch.float64).to(self.sums))
        if not self.accelerator.is_main_process:
            self.sums.zero_()  # they are those of all processes
        self.metrics = TrainingMetrics.from_dict(state["metrics"])
        self.best_step = state["best_step"]
        if len(state["random"]) == self.accelerator.num_processes:
            random = state["random"][self.accelerator.process_index]
            set_random_state(random)
            for generator, kept in zip(self._generators, random["order" if self.position.batch else "generators"], strict=True):
                generator.set_state(kept)
        if self.output is not None and self.accelerator.is_main_process:
            go_on_from(self.output, folder, self.best_step)
        self.last_checkpoint = folder
        self.progress.say(f"going on from {folder}")

    def _check(self, folder: Path, state: Mapping[str, Any]) -> None:
        """That a checkpoint is of this training."""
        given = self._options()
        for name, former in state["options"].items():
            if given.get(name) != former:
                raise ValueError(f"{folder} was made with {name}={former!r}, and this is {name}={given.get(name)!r}")
        if state["updates"] != self.updates:
            raise ValueError(
                f"{folder} was made with {state['updates']} updates of the weights in an epoch, "
                f"and this loader gives {self.updates}"
            )
        if state["seed"] != self.seed:
            raise ValueError(f"{folder} was made with seed {state['seed']}, and this is {self.seed}")
        processes, present = len(state["random"]), self.accelerator.num_processes
        if state["position"]["batch"] and processes != present:
            raise ValueError(f"{folder} is in the middle of an epoch of {processes} processes, and this is {present}")

    def _options(self) -> dict[str, Any]:
        """What must not change when a training goes on."""
        length = set() if self.options.scheduler == "onecycle" else {"epochs"}  # torch's OneCycleLR cannot become longer
        kept = self.options.model_dump(exclude={"early_stopping", *length})
        return {**kept, "optimizer": type(self.raw_optimizer).__name__, "scheduler": type(self.scheduler).__name__}

    def _generator_states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]

    def _save(self, best: bool = False) -> None:
        """Write a checkpoint, where there is a folder for it."""
        if self.output is None:
            return
        from accelerate.utils import gather_object

        random = {**random_state(), "generators": self._generator_states(), "order": self._order}
        states = gather_object([random]) if self.accelerator.num_processes > 1 else [random]
        sums = self.accelerator.reduce(self.sums, "sum")
        if self.accelerator.is_main_process:
            if best:
                self.best_step = self.position.step
            state = {
                "position": asdict(self.position),
                "sums": sums.tolist(),
                "optimizer": self.raw_optimizer.state_dict(),
                "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
                "unfreezing": None if self.unfreezing is None else self.unfreezing.state_dict(),
                "ema_updates": 0 if self.ema is None else self.ema.updates,
                "random": states,
                "metrics": self.metrics.to_dict(),
                "best_step": self.best_step,
                "seed": self.seed,
                "options": self._options(),
                "updates": self.updates,
            }
            evaluated, trained = (self.model, None) if self.ema is None else (self.ema.module, self.model)
            self.last_checkpoint = write_checkpoint(
                self.output, self.position.step, state, evaluated, trained, self.recipe, best, self.keep
            )
        self.accelerator.wait_for_everyone()

    # ---- the loop ----

    def go(self) -> TrainingMetrics:
        """Train to the end.

        Raises:
            FloatingPointError: the loss is not finite.
            Interrupted: Ctrl-C or SIGTERM.
        """
        accelerator, options, position = self.accelerator, self.options, self.position
        if accelerator.log_with:
            accelerator.init_trackers("torchvision_customizer", config=_plain(self._options()))
        with self._metrics_file() as file, self.wrapped, Interrupts() as interrupts, self.progress:
            try:
                while position.epoch < options.epochs and not self._is_over():
                    self._epoch(interrupts)
                    row, best = self._end_of_epoch()
                    if file is not None:
                        file.write({"step": position.step, **row})
                    if accelerator.log_with:
                        accelerator.log({name: value for name, value in row.items() if value is not None}, step=position.step)
                    self._save(best)
                    if self._agree(interrupts.requested) and position.epoch < options.epochs:
                        raise self._interrupted()
            finally:
                for tracker in accelerator.trackers:  # Accelerator.end_training would end the processes' group, too
                    tracker.finish()
        if self.ema is not None:
            set_weights(self.model, own_tensors(self.ema.module), Path())
        return self.metrics

    def _metrics_file(self) -> AbstractContextManager[MetricsFile | None]:
        if self.output is None or not self.accelerator.is_main_process:
            return nullcontext()
        return MetricsFile(self.output / "metrics.jsonl", resume_step=self.position.step)

    def _epoch(self, interrupts: Interrupts) -> None:
        """The rest of an epoch."""
        accelerator, options, position, total = self.accelerator, self.options, self.position, self.train.steps
        start = time.perf_counter() - position.seconds
        self.wrapped.model.train()
        self._order = self._generator_states()
        self.progress.start(position.epoch, total, position.batch)
        # Each step on one CPU, where it costs nothing to look; else now and then.
        watch = accelerator.device.type == "cpu" and accelerator.num_processes == 1
        for batch in self.train.epoch(position.epoch, position.batch):
            number = position.batch
            first = number - number % options.accumulate
            group = min(options.accumulate, total - first)
            updates = number == first + group - 1
            images, targets = split_batch(batch)
            with nullcontext() if updates else accelerator.no_sync(self.wrapped.model):
                outputs = outputs_of(self.wrapped.model(in_layout(self.layout, images)))
                loss = loss_of(outputs, targets, self.criterion)
                counted = self.train.counted(number, len(images))
                add_to(self.sums, loss, outputs, targets, self.criterion, counted)
                if watch and not math.isfinite(loss.item()):
                    raise self._not_finite(number)
                accelerator.backward(loss / group if group > 1 else loss)
            position.batch += 1
            if updates:
                self._update()
            self.progress.advance(len(images) * accelerator.num_processes, lambda: averages(self.sums))
            ends = position.batch == total
            if not watch and (ends or position.batch % _BATCHES_BETWEEN_CHECKS == 0) and self._agree(self._is_broken()):
                raise self._not_finite(number)
            if not updates or ends:
                continue
            position.seconds = time.perf_counter() - start
            due = self.checkpoint_every is not None and position.step % self.checkpoint_every == 0
            asked = watch or position.batch % _BATCHES_BETWEEN_CHECKS == 0 or due
            stop = self.train.enters and asked and self._agree(interrupts.requested)
            if due or stop:
                if not watch and self._agree(self._is_broken()):
                    raise self._not_finite(number)
                self._save()
            if stop:
                raise self._interrupted()
        position.seconds = time.perf_counter() - start

    def _update(self) -> None:
        """Move the weights."""
        if self.options.clip_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.options.clip_grad_norm)
        self.optimizer.step()
        if self.scheduler is not None and not self.accelerator.optimizer_step_was_skipped:
            self.scheduler.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.position.step += 1

    def _end_of_epoch(self) -> tuple[dict[str, Any], bool]:
        """Evaluate, note, and stand at the beginning of the next epoch."""
        position = self.position
        start = time.perf_counter()
        sums = self.accelerator.reduce(self.sums, "sum")
        train_loss, train_accuracy = averages(sums)
        val_loss = val_accuracy = None
        if self.val is not None:
            self.wrapped.share_buffers(*(() if self.ema is None else (self.ema.module,)))
            model = self.model if self.ema is None else self.ema.module
            val_loss, val_accuracy = evaluate(self.accelerator, model, self.val, self.val_criterion, self.layout)
        seconds = position.seconds + time.perf_counter() - start
        rate = max(group["lr"] for group in self.raw_optimizer.param_groups)
        best = self.metrics.update(position.epoch, train_loss, train_accuracy, val_loss, val_accuracy, seconds, rate)
        row = {
            "epoch": position.epoch,
            "train_loss": train_loss,
            "train_acc": train_accuracy,
            "val_loss": val_loss,
            "val_acc": val_accuracy,
            "epoch_time": seconds,
            "images_per_second": sums[3].item() / position.seconds,
            "learning_rate": rate,
        }
        seen = "" if val_loss is None else f" | validation loss {val_loss:.4f}, accuracy {val_accuracy:.2%}"
        self.progress.say(
            f"epoch {position.epoch + 1}/{self.options.epochs} | loss {train_loss:.4f}, accuracy {train_accuracy:.2%}{seen}"
            f" | {row['images_per_second']:,.0f} images/s, {seconds:.1f} s"
        )
        position.epoch, position.batch, position.seconds = position.epoch + 1, 0, 0.0
        self.sums.zero_()
        if self.unfreezing is not None and (levels := self.unfreezing.step()):
            self.progress.say(f"trained from now on, too: {', '.join(levels)}")
            self.wrapped.renew()
        return row, best

    def _is_over(self) -> bool:
        """Whether nothing has become better for too long."""
        patience, best = self.options.early_stopping, self.metrics.best_epoch
        over = patience is not None and best is not None and self.position.epoch - 1 - best >= patience
        if over:
            self.progress.say(f"stopped: no better accuracy than that of epoch {(best or 0) + 1} in {patience} epochs")
        return over

    # ---- what goes wrong ----

    def _is_broken(self) -> bool:
        return not math.isfinite(self.sums[0].item())

    def _agree(self, mine: bool) -> bool:
        """Whether any process says yes. All must ask."""
        if self.accelerator.num_processes == 1:
            return mine
        return bool(self.accelerator.reduce(torch.tensor([float(mine)], device=self.accelerator.device), "sum").item() > 0)

    def _not_finite(self, batch: int) -> FloatingPointError:
        options, position = self.options, self.position
        rate = max(group["lr"] for group in self.raw_optimizer.param_groups)
        ways = [f"a smaller lr (it is {rate:g})"]
        if not options.warmup_epochs:
            ways.append("warmup_epochs=1")
        if options.clip_grad_norm is None:
            ways.append("clip_grad_norm=1")
        if self.machine.precision == "fp16":
            ways.append("precision='bf16'")
        kept = "" if self.last_checkpoint is None else f"; the state before it is in {self.last_checkpoint}"
        return FloatingPointError(
            f"the loss is not finite in epoch {position.epoch + 1} by batch {batch + 1} of {self.train.steps}: "
            f"try {' or '.join(ways)}, and look for broken images and labels{kept}"
        )

    def _interrupted(self) -> Interrupted:
        position = self.position
        where = f"stopped after epoch {position.epoch}, batch {position.batch} of epoch {position.epoch + 1}"
        if self.output is None:
            return Interrupted(f"{where}; nothing is saved, as there is no output folder")
        return Interrupted(f"{where}; the state is in {self.last_checkpoint}: go on with resume=True")


def find_state(accelerator: Accelerator, place: Path, needed: bool) -> Found | None:
    """The checkpoint to go on from, as the first process finds and reads it; None where there is none.

    Raises:
        WeightsError: it cannot be read, or there is none and it is ``needed``.
    """
    from accelerate.utils import broadcast_object_list

    found: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            folder = find_checkpoint(place)
            if folder is None and needed:
                raise WeightsError(f"{place} has no checkpoint to go on from")
            found = [None if folder is None else (folder, *read_checkpoint(folder))]
        except WeightsError as error:
            found = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    if isinstance(found[0], WeightsError):
        raise found[0]
    state: Found | None = found[0]
    return state


def choose_seed(accelerator: Accelerator, wanted: int | None, found: Found | None) -> int:
    """The seed of a training: the one that is wanted, which is set; else that of the checkpoint; else one that torch draws."""
    from accelerate.utils import broadcast_object_list, set_seed

    if wanted is not None:
        set_seed(wanted, device_specific=True)
        return wanted
    if found is not None:
        return int(found[1]["seed"])
    drawn = [int(torch.empty((), dtype=torch.int64).random_())]
    if accelerator.num_processes > 1:
        broadcast_object_list(drawn)
    return drawn[0]


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a tracker takes."""
    return {name: value if isinstance(value, int | float | str | bool) else str(value) for name, value in options.items()}
