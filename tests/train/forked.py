"""Trainings in processes that are killed, or that train together: a program that imports torch once, and forks.

    python tests/train/forked.py kills COUNT FOLDER
    python tests/train/forked.py processes FOLDER

Each writes FOLDER/found.json, which the tests look at. This process itself computes nothing, so that there is no thread that a
fork would lose. A forked process begins as a fresh one does, with torch imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from torchvision_customizer.train import Trainer

assert "accelerate" not in sys.modules  # so that it can be missing, once


def in_process(work: Callable[[], Any], **environment: str) -> int:
    """Fork, and work there. The id of the process."""
    process = os.fork()
    if process:
        return process
    try:
        os.environ.update(environment)
        torch.set_num_threads(1)
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait(process: int) -> int:
    """Its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class Images(Dataset):
    """Images with noise of all three kinds of random numbers."""

    def __init__(self, count: int, noise: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.randint(0, 4, (count,), generator=generator)
        self.images = torch.randn(count, 3, 8, 8, generator=generator) + self.labels[:, None, None, None]
        self.noise = noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.images[index]
        if self.noise:
            image = image * (1 + random.random()) + float(np.random.rand()) + 0.1 * torch.randn(image.shape)
        return image, self.labels[index]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


# ---- kills ----

# 45 images in batches of 4: 12 batches, 6 updates of two batches, and a last batch of one image.
EPOCHS, UPDATES = 3, 6


def train(output: Path, workers: int) -> None:
    """The training that is killed. What is random before it, and in it, is not the same in any two processes without a seed."""
    torch.manual_seed(time.time_ns() % 2**32)
    loader = DataLoader(Images(45), 4, shuffle=True, num_workers=workers)
    Trainer(network(), "cpu", seed=5).fit(
        loader,
        DataLoader(Images(20, noise=False), 8),
        epochs=EPOCHS,
        lr=0.05,
        optimizer="sgd",
        warmup_epochs=0.5,
        accumulate=2,
        clip_grad_norm=1.0,
        ema=0.9,
        output=output,
        resume=True,
        checkpoint_every=2,
        keep=2,
        verbose=False,
    )


def result(output: Path) -> dict[str, Any]:
    """What a training has come to, without times."""
    last = (output / "last").resolve()
    state = torch.load(last / "state.pt", weights_only=True)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    digests = {
        name: hashlib.sha256((last / name).read_bytes()).hexdigest() for name in ("model.safetensors", "training.safetensors")
    }
    tensors = [tensor for values in state["optimizer"]["state"].values() for tensor in values.values() if tensor is not None]
    digests["optimizer"] = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()
    kept = [{key: row[key] for key in row if key not in ("epoch_time", "images_per_second")} for row in rows]
    return {
        "last": last.name,
        "best": (output / "best").resolve().name,
        "checkpoints": sorted(os.listdir(output / "checkpoints")),
        "digests": digests,
        "rows": kept,
    }


def killing_at_write(output: Path, workers: int, number: int | None, count: Path | None = None) -> None:
    """Train, and be killed at the given one of the steps by which checkpoints are written, renamed, linked and deleted."""
    seen = 0

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.symlink", "os.mkdir", "os.rmdir", "os.remove") and str(output) in str(
            arguments[0]
        ):
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(look)
    train(output, workers)
    if count is not None:
        count.write_text(str(seen))


def killing_after(output: Path, workers: int, seconds: float) -> None:
    """Train, and be killed after a time."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
    train(output, workers)


def without_accelerate(message: Path) -> str:
    """What ``Trainer`` says where accelerate is not installed."""

    def ask() -> None:
        sys.modules["accelerate"] = None  # type: ignore[assignment]
        try:
            Trainer(nn.Linear(2, 2))
        except ImportError as error:
            message.write_text(str(error))

    assert wait(in_process(ask)) == 0
    return message.read_text()


def kills(count: int, folder: Path) -> dict[str, Any]:
    """Undisturbed trainings, and ``count`` that are killed at random moments and gone on with."""
    found: dict[str, Any] = {"undisturbed": {}, "killed": [], "without accelerate": without_accelerate(folder / "message")}
    import accelerate.data_loader  # noqa: F401  before forking, as it takes time

    seconds = {}
    for workers in (0, 2):
        output = folder / f"undisturbed-{workers}"
        start = time.perf_counter()
        code = wait(in_process(lambda: killing_at_write(output, workers, None, folder / "writes")))  # noqa: B023
        seconds[workers] = time.perf_counter() - start
        found["undisturbed"][workers] = {"code": code, **result(output)}
    writes = int((folder / "writes").read_text())
    draw = random.Random(6)
    for number in range(count):
        workers = (0, 2)[number % 2]
        output = folder / f"killed-{number}"
        if number % 3 == 1:
            at, moment = f"write {(step := draw.randrange(writes))} of {writes}", draw.random()
            code = wait(in_process(lambda: killing_at_write(output, workers, step)))  # noqa: B023
        else:
            moment = draw.uniform(0.1, 0.9) * seconds[workers]
            while True:
                at = f"{moment:.2f} s of {seconds[workers]:.2f} s"
                code = wait(in_process(lambda: killing_after(output, workers, moment)))  # noqa: B023
                if code:
                    break
                moment /= 2  # it was faster this time, and is done
                output = output.with_name(output.name + "-again")
        left = sorted(os.listdir(output / "checkpoints")) if (output / "checkpoints").exists() else []
        resumed = wait(in_process(lambda: train(output, workers)))  # noqa: B023
        found["killed"].append(
            {
                "workers": workers,
                "at": at,
                "code": code,
                "left": left,
                "resumed": resumed,
                **(result(output) if not resumed else {}),
            }
        )
    return found


# ---- several processes ----


def plain_network() -> nn.Module:
    """Without batch norms, whose statistics would be those of a process's own batch, and without dropout."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))


def train_together(folder: Path, count: int, images: int, batch: int, options: dict[str, Any]) -> None:
    """One process of several."""
    import accelerate

    record: list[int] = []

    class Watched(Images):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            record.append(index)
            return super().__getitem__(index)

    torch.manual_seed(3)
    trainer = Trainer(plain_network(), "cpu", seed=7)
    train_loader = DataLoader(Images(images, noise=False), batch, shuffle=True)
    val = DataLoader(Watched(17, noise=False), 4)
    metrics = trainer.fit(train_loader, val, epochs=3, optimizer="sgd", verbose=False, **{"lr": 0.05, **options})
    seen = list(record)
    state = accelerate.PartialState()
    loss, accuracy = trainer.evaluate(val)
    rank = state.process_index
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

    def at_once(data: Images) -> tuple[float, float]:
        with torch.no_grad():
            logits = trainer.model.eval()(data.images)
        right = logits.argmax(1) == data.labels
        return nn.functional.cross_entropy(logits, data.labels).item(), right.double().mean().item()

    found = {
        "processes": state.num_processes,
        "train_losses": metrics.train_losses,
        "train_accs": metrics.train_accs,
        "val_losses": metrics.val_losses,
        "evaluated": [loss, accuracy],
        "evaluated at once": at_once(val.dataset),
        "trained at once": at_once(train_loader.dataset),
        "validated": seen,
        "weights": weights.tolist(),
    }
    (folder / f"{count}-{images}-{rank}.json").write_text(json.dumps(found))
    if state.num_processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def together(folder: Path, count: int, images: int, batch: int, **options: Any) -> list[dict[str, Any]]:
    """Several processes that train together, over gloo."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    started = []
    for rank in range(count):
        environment = {} if count == 1 else {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "ACCELERATE_USE_CPU": "true",
        }  # fmt: skip
        started.append(in_process(lambda: train_together(folder, count, images, batch, options), **environment))
    codes = [wait(process) for process in started]
    if any(codes):
        return [{"codes": codes}]
    return [json.loads((folder / f"{count}-{images}-{rank}.json").read_text()) for rank in range(count)]


def processes(folder: Path) -> dict[str, Any]:
    import accelerate.data_loader  # noqa: F401

    return {
        "one": together(folder, 1, 48, 8),
        "two": together(folder, 2, 48, 4),
        "two, accumulating": together(folder, 2, 48, 2, accumulate=2),
        "three, uneven": together(folder, 3, 46, 5, lr=1e-12),
        "three, and fewer images than fill a batch of each": together(folder, 3, 7, 5, lr=1e-12),
        "resumed": resumed(folder),
    }


def resumed(folder: Path) -> list[dict[str, Any]]:
    """Two processes, stopped after one epoch and gone on with."""
    output = folder / "resumed"
    together(folder, 2, 48, 4, output=output, early_stopping=None, checkpoint_every=4, keep=50)
    checkpoint = sorted((output / "checkpoints").iterdir())[1]  # in the second epoch
    return together(folder, 2, 48, 4, output=folder / "gone-on", resume=checkpoint)


if __name__ == "__main__":
    what, *numbers, where = sys.argv[1:]
    place = Path(where)
    found = kills(int(numbers[0]), place) if what == "kills" else processes(place)
    (place / "found.json").write_text(json.dumps(found))
