"""tvc train, tvc evaluate, and what takes the folder that training writes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from small_sets import FASHION, fashion, write_folder, write_idx

import torchvision_customizer as tvc
from torchvision_customizer.cli import main
from torchvision_customizer.recipe import Recipe

pytest.importorskip("accelerate")

RECIPE = """
name: tiny
input_shape: [1, 28, 28]
stem: simple(16)
stages: ["residual+se(32) x 1 | downsample"]
head: linear(10)
training: {dataset: mnist, epochs: 3, batch_size: 20, lr: 0.01, val_fraction: 0.2, seed: 1, augment: none}
"""


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def ok(*words: object) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("trained")
    write_idx(folder / "data", train=250, test=60)
    (folder / "recipe.yaml").write_text(RECIPE)
    words = ["--recipe", folder / "recipe.yaml", "--data-dir", folder / "data", "--device", "cpu"]
    printed = ok("train", *words, "--output", folder / "run")
    return {"folder": folder, "run": folder / "run", "words": words, "printed": printed}


def test_what_training_writes(trained: dict[str, Any]) -> None:
    run_folder, printed = trained["run"], trained["printed"]
    names = {path.name for path in run_folder.iterdir()}
    assert names >= {"best", "last", "checkpoints", "metrics.jsonl", "history.json", "history.csv", "evaluation.json"}
    metrics = tvc.TrainingMetrics.from_json(run_folder / "history.json")
    assert metrics.to_dict() == printed["metrics"] and len(metrics) == 3
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["val_acc"] for line in lines] == metrics.val_accs
    assert printed["split"] == "test" and printed["evaluation"]["count"] == 60
    assert json.loads((run_folder / "evaluation.json").read_text()) == printed["evaluation"]
    assert printed["evaluation"]["top1"] > 0.4, "a tenth would be guessed"


def test_pictures(trained: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    for name in ("history.png", "confusion.png"):
        assert str(trained["run"] / name) in trained["printed"]["files"]
        assert Image.open(trained["run"] / name).width > 400


def test_the_recipe_of_the_model_says_how_it_was_trained(trained: dict[str, Any]) -> None:
    config = Recipe.from_yaml(trained["run"] / "best" / "recipe.yaml").config
    assert config.training is not None and config.export is not None
    assert config.training.epochs == 3 and config.training.data_dir == str(trained["folder"] / "data")
    assert config.export.mean == [0.1307] and config.export.classes is not None and config.export.classes[3] == "3 - three"


def test_evaluate(trained: dict[str, Any]) -> None:
    """The model of the best epoch, on the images that it was evaluated with, prepared in the same way."""
    found = ok("evaluate", trained["run"], "--device", "cpu")
    assert found["confusion"] == trained["printed"]["evaluation"]["confusion"] and found["split"] == "test"
    best = trained["printed"]["metrics"]["best_val_acc"]
    held_out = ok("evaluate", trained["run"], "--split", "val", "--device", "cpu")
    assert held_out["count"] == 50 and held_out["top1"] == pytest.approx(best), "the same images are held out"
    table = run("evaluate", trained["run"], "--plot", trained["folder"] / "c.png")
    assert table.exit_code == 0 and "3 - three" in table.stdout and (trained["folder"] / "c.png").exists()


def test_build_export_and_evaluate_take_the_folder(trained: dict[str, Any], tmp_path: Path) -> None:
    expected = trained["printed"]["evaluation"]["confusion"]
    ok("build", "--recipe", trained["run"], "--output", tmp_path / "copy")
    assert ok("evaluate", tmp_path / "copy", "--device", "cpu")["confusion"] == expected
    ok("export", "--recipe", trained["run"], "--output", tmp_path / "model.pt", "--no-verify")
    data = ["--data", "mnist", "--data-dir", trained["folder"] / "data"]
    assert ok("evaluate", tmp_path / "model.pt", *data, "--batch-size", 7)["confusion"] == expected
    wrong = run("build", "--recipe", trained["run"], "--num-classes", "3", "--output", tmp_path / "other")
    assert wrong.exit_code == 2 and "--num-classes is for a recipe" in wrong.stderr


def test_resume(trained: dict[str, Any], tmp_path: Path) -> None:
    again = run("train", *trained["words"], "--output", trained["run"])
    assert again.exit_code == 1 and "go on with it by --resume" in again.stderr
    words = [*trained["words"], "--scheduler", "constant", "--limit", 40, "--output", tmp_path / "run"]
    assert run("train", *words, "--epochs", "1").exit_code == 0
    printed = ok("train", *words, "--epochs", "2", "--resume")
    assert len(printed["metrics"]["train_losses"]) == 2
    assert ok("train", *words, "--epochs", "2", "--resume")["metrics"] == printed["metrics"], "it was over"


def test_overrides_and_a_new_head(trained: dict[str, Any], tmp_path: Path) -> None:
    """A recipe for ten classes on images of three, from the command line alone."""
    write_folder(tmp_path / "insects", ("train", "val"), count=8)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("[1, 28, 28]", "[3, 16, 16]"))
    words = ["--recipe", tmp_path / "recipe.yaml", "--set", "training.label_smoothing=0.1", "--set", "stages[0].blocks=2"]
    words += ["--data", tmp_path / "insects", "--epochs", 1, "--lr", 0.005, "--batch-size", 6, "--workers", 0, "--seed", 3]
    result = run("train", *words, "--optimizer", "adamw", "--device", "cpu", "--output", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert "insects in" in result.stdout and "3 classes, 3×16×16" in result.stdout
    assert "on the validation images" in result.stdout and f"tvc evaluate {tmp_path / 'run'}" in result.stdout
    config = Recipe.from_yaml(tmp_path / "run" / "best" / "recipe.yaml").config
    assert config.head is not None and config.head.num_classes == 3 and config.training is not None
    assert config.training.model_dump(include={"lr", "label_smoothing", "optimizer", "seed", "val_fraction"}) == {
        "lr": 0.005,
        "label_smoothing": 0.1,
        "optimizer": "adamw",
        "seed": 3,
        "val_fraction": 0.2,
    }
    other = run("evaluate", tmp_path / "run", "--data", "mnist", "--data-dir", trained["folder"] / "data")
    assert other.exit_code == 1 and "was trained on other classes" in other.stderr


def test_a_backbone_with_a_patch(tmp_path: Path) -> None:
    write_folder(tmp_path / "insects", ("train",), count=4)
    common = ["--epochs", 1, "--batch-size", 4, "--workers", 0, "--input-size", 32, "--device", "cpu"]
    words = ["--backbone", "mobilenet_v3_small", "--patch", "features.11=inject:se", "--data", tmp_path / "insects"]
    first = ok("train", *words, *common, "--output", tmp_path / "run")
    model: Any = tvc.load(tmp_path / "run")
    assert model.classifier[-1].out_features == 3 and model.modifications[0].startswith("features.11.se: se")
    found = ok("evaluate", tmp_path / "run", "--split", "val", "--workers", 0, "--device", "cpu")
    assert found["confusion"] == first["evaluation"]["confusion"]
    words = ["--recipe", tmp_path / "run", "--patch", "features.8=inject:eca"]
    result = run("train", *words, *common, "--output", tmp_path / "more")
    assert result.exit_code == 0, result.stderr
    again: Any = tvc.load(tmp_path / "more")
    assert {*model.modifications} < {*again.modifications} and "features.8.eca: eca" in " ".join(again.modifications)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "expected one of --recipe and --backbone"),
        (["--recipe", "resnet_base"], 2, "nothing says what to train on"),
        (["--recipe", "cifar_resnet20", "--data-dir", "nowhere"], 1, "CIFAR10 was not found; it was looked for in nowhere"),
        (["--recipe", "cifar_resnet20", "--data", "cifr10"], 1, "there is no data set 'cifr10', did you mean 'CIFAR10'"),
        (["--recipe", "cifar_resnet20", "--augment", "mixed"], 1, "'none', 'basic', 'randaugment' or 'trivialaugment'"),
        (["--recipe", "cifar_resnet20", "--epochs", "0"], 2, "--epochs"),
        (["--recipe", "cifar_resnet20", "--device", "cuda"], 1, "torch finds no GPU"),
    ],
)
def test_errors(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    import torch

    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = run("train", *words, "--output", tmp_path / "run")
    assert result.exit_code == code and message in result.stderr and not (tmp_path / "run").exists()


def test_what_evaluate_cannot_know(tmp_path: Path) -> None:
    tvc.save(tvc.build_recipe("mnist_net"), tmp_path / "model")
    (tmp_path / "file.pt").write_text("no model")
    for model, message in ((tmp_path / "file.pt", "is no exported model"), (tmp_path, "is not a saved model")):
        result = run("evaluate", model, "--data", "mnist")
        assert result.exit_code == 1 and message in result.stderr
    assert "does not exist" in run("evaluate", tmp_path / "nothing").stderr
    result = run("evaluate", tmp_path / "model", "--data-dir", tmp_path)
    assert result.exit_code == 1 and "MNIST was not found" in result.stderr, "the recipe says MNIST"


@fashion
def test_fashion_mnist_on_a_slice(tmp_path: Path) -> None:
    """The shipped recipe, from the command line alone: a thirtieth of what test_fashion_mnist does."""
    words = ["--recipe", "fashion_mnist_resnet8", "--data-dir", FASHION, "--device", "cpu", "--limit", 1200, "--epochs", 3]
    printed = ok("train", *words, "--batch-size", 32, "--output", tmp_path / "run")
    assert printed["evaluation"]["top1"] > 0.5 and printed["evaluation"]["count"] == 1200


@pytest.mark.full
@pytest.mark.alone
@fashion
def test_fashion_mnist(tmp_path: Path) -> None:
    """88 % of the test images are right after at most six minutes of CPU time on two cores."""
    start = time.process_time()
    printed = ok("train", "--recipe", "fashion_mnist_resnet8", "--device", "cpu", "--output", tmp_path / "run")
    seconds = time.process_time() - start
    assert printed["evaluation"]["count"] == 10_000
    assert printed["evaluation"]["top1"] > 0.88
    assert seconds < 360
    assert {"history.json", "history.csv", "history.png", "best", "last"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
