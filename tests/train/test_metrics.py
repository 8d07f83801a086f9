"""TrainingMetrics, and the file that grows line by line."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from torchvision_customizer.train.metrics import MetricsFile, TrainingMetrics, write_whole


@pytest.fixture
def run() -> TrainingMetrics:
    metrics = TrainingMetrics()
    for epoch, accuracy in enumerate((0.6, 0.8, 0.8, 0.7)):
        metrics.update(epoch, 1.0 / (epoch + 1), accuracy - 0.1, 1.1 / (epoch + 1), accuracy, 2.5, 0.1 / (epoch + 1))
    return metrics


def test_the_lists_and_the_best(run: TrainingMetrics) -> None:
    assert run.train_losses == [1.0, 0.5, 1 / 3, 0.25] and run.val_accs == [0.6, 0.8, 0.8, 0.7]
    assert run.train_accs == pytest.approx([0.5, 0.7, 0.7, 0.6]) and run.epoch_times == [2.5] * 4 and len(run) == 4
    assert (run.best_val_acc, run.best_epoch) == (0.8, 1), "of equals the first"


def test_the_call_of_version_2_1() -> None:
    metrics = TrainingMetrics()
    metrics.update(0, 2.3, 0.1, 2.2, 0.2, 12.0)
    metrics.update(epoch=1, train_loss=2.0, train_acc=0.3, val_loss=1.9, val_acc=0.4, epoch_time=11.0)
    assert (metrics.best_val_acc, metrics.best_epoch) == (0.4, 1)
    assert "best validation accuracy: 40.00%, after epoch 2" in metrics.summary()


def test_no_epoch() -> None:
    """The summary of 2.1 failed."""
    metrics = TrainingMetrics()
    assert metrics.summary() == "No epoch was trained."
    assert metrics.best_val_acc is None and metrics.best_epoch is None


def test_without_validation_nothing_is_made_up() -> None:
    """2.1 noted an accuracy of 0.0, and called it the best."""
    metrics = TrainingMetrics()
    assert metrics.update(0, 1.0, 0.5, epoch_time=1.0)
    assert metrics.update(1, 0.8, 0.6, epoch_time=1.0)
    assert not metrics.update(2, 0.9, 0.6, epoch_time=1.0)
    assert metrics.val_losses == [None] * 3 and metrics.val_accs == [None] * 3
    assert metrics.best_val_acc is None and metrics.best_epoch == 1, "that of the lowest loss"
    assert "validation accuracy" not in metrics.summary() and "there was no validation" in metrics.summary()


def test_an_accuracy_of_zero_that_was_measured() -> None:
    metrics = TrainingMetrics()
    assert metrics.update(0, 1.0, 0.0, 1.0, 0.0)
    assert metrics.best_val_acc == 0.0 and metrics.best_epoch == 0


def test_a_resumed_run_forgets_what_comes_again(run: TrainingMetrics) -> None:
    assert not run.update(2, 0.3, 0.7, 0.3, 0.75, 3.0)
    assert run.val_accs == [0.6, 0.8, 0.75] and run.learning_rates == [0.1, 0.05, None] and len(run) == 3
    with pytest.raises(ValueError, match="the next epoch is 3, got 5"):
        run.update(5, 0.3, 0.7)


def test_json(run: TrainingMetrics, tmp_path: Path) -> None:
    run.update(4, 0.2, 0.9)
    file = run.to_json(tmp_path / "history.json")
    again = TrainingMetrics.from_json(file)
    assert again.to_dict() == run.to_dict() == json.loads(file.read_text())
    assert json.loads(file.read_text())["best_epoch"] == 1
    for text in ("{}", "[]", "no json", '{"train_losses": [1.0]}'):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"history\.json holds no metrics of a run"):
            TrainingMetrics.from_json(file)


def test_csv(run: TrainingMetrics, tmp_path: Path) -> None:
    run.update(4, 0.2, 0.9)
    with run.to_csv(tmp_path / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [float(row["val_acc"]) for row in rows[:4]] == run.val_accs[:4] and rows[4]["val_acc"] == ""


@pytest.mark.parametrize("epochs", [1, 4])
def test_plot(run: TrainingMetrics, tmp_path: Path, epochs: int) -> None:
    pytest.importorskip("matplotlib")
    metrics = TrainingMetrics()
    for epoch in range(epochs):
        metrics.update(epoch, run.train_losses[epoch], run.train_accs[epoch], run.val_losses[epoch], run.val_accs[epoch])
    picture = Image.open(metrics.plot(tmp_path / "history.png")).convert("RGB")
    colours = {colour for _, colour in picture.getcolors(1 << 20) or ()}
    assert picture.width > 1000 and {(0xE6, 0x9F, 0x00), (0x00, 0x72, 0xB2)} <= colours, "both curves"
    with pytest.raises(ValueError, match="no epoch was trained"):
        TrainingMetrics().plot(tmp_path / "empty.png")


def test_a_plot_without_validation(run: TrainingMetrics, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    metrics = TrainingMetrics()
    metrics.update(0, 1.0, 0.5)
    picture = Image.open(metrics.plot(tmp_path / "history.png")).convert("RGB")
    assert (0x00, 0x72, 0xB2) not in {colour for _, colour in picture.getcolors(1 << 20) or ()}


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_file_grows_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with MetricsFile(file) as metrics:
        for step in (1, 2, 3):
            metrics.write({"step": step, "loss": 1 / step})
            assert lines(file)[-1] == {"step": step, "loss": 1 / step}, "at once"
    MetricsFile(file).close()
    assert file.read_text() == "", "a new run begins anew"


def test_a_resumed_file_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for file, steps in ((undisturbed, range(1, 9)), (killed, range(1, 7))):
        with MetricsFile(file) as metrics:
            for step in steps:
                metrics.write({"step": step, "loss": math.sqrt(step)})
    with killed.open("a") as stream:
        stream.write('{"step": 7, "lo')
    with MetricsFile(killed, resume_step=4) as metrics:
        for step in range(5, 9):
            metrics.write({"step": step, "loss": math.sqrt(step)})
    assert killed.read_bytes() == undisturbed.read_bytes()
    with MetricsFile(tmp_path / "gone.jsonl", resume_step=4) as metrics:
        metrics.write({"step": 5})
    assert lines(tmp_path / "gone.jsonl") == [{"step": 5}]


def test_a_file_is_there_as_a_whole_or_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_whole(tmp_path / "file.txt", "before")
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode, "its rights are those of any new file"

    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_whole(file, "after")
    assert file.read_text() == "before" and {path.name for path in tmp_path.iterdir()} == {"file.txt", "plain"}
