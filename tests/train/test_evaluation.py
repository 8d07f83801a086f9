"""evaluate: the numbers against a plain count, with uneven last batches and several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchvision_customizer.train.evaluation import Evaluation, evaluate

COUNT, CLASSES = 101, 7
SCORES = torch.randn(COUNT, CLASSES, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, CLASSES - 1, (COUNT,), generator=torch.Generator().manual_seed(2))


def loader(batch_size: int = 16) -> DataLoader[tuple[Tensor, ...]]:
    """Images that are their own scores."""
    return DataLoader(TensorDataset(SCORES, LABELS), batch_size=batch_size)


def check(found: Evaluation) -> None:
    assert found.count == COUNT
    assert found.top1 == pytest.approx((SCORES.argmax(1) == LABELS).double().mean().item())
    ranks = SCORES.argsort(1, descending=True)
    assert found.top5 == pytest.approx((ranks[:, :5] == LABELS[:, None]).any(1).double().mean().item())
    assert found.loss == pytest.approx(nn.functional.cross_entropy(SCORES, LABELS).item(), rel=1e-5)
    plain = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    for label, taken in zip(LABELS.tolist(), SCORES.argmax(1).tolist(), strict=True):
        plain[label, taken] += 1
    assert torch.equal(found.confusion, plain)


@pytest.mark.parametrize("batch_size", [1, 16, 101, 500])
def test_against_a_plain_count(batch_size: int) -> None:
    check(evaluate(nn.Identity(), loader(batch_size)))


def test_per_class() -> None:
    found = evaluate(nn.Identity(), loader(), classes=list("abcdefg"))
    for label, share in enumerate(found.per_class[:-1]):
        mine = SCORES[label == LABELS].argmax(1) == label
        assert share == pytest.approx(mine.double().mean().item())
    assert found.per_class[-1] is None, "no image is of the last class"
    true, taken, count = found.most_confused(1)[0]
    off = found.confusion - found.confusion.diagonal().diag()
    assert count == off.max() == found.confusion["abcdefg".index(true), "abcdefg".index(taken)]
    assert f"{count} of {true} for {taken}" in found.summary() and "101 images: accuracy" in found.summary()


def test_few_classes_have_no_top5() -> None:
    data = DataLoader(TensorDataset(SCORES[:, :5], LABELS.clamp(max=4)), batch_size=10)
    found = evaluate(nn.Identity(), data)
    assert found.top5 is None and "top-5" not in found.summary()


def test_labels_as_shares_and_more_than_one_output() -> None:
    class Auxiliary(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x * 0

    data = DataLoader(TensorDataset(SCORES, nn.functional.one_hot(LABELS, CLASSES).float()), batch_size=16)
    check(evaluate(Auxiliary(), data))


def test_the_model_is_as_it_was() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(CLASSES))
    model.train()
    model[1].eval()  # frozen
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = evaluate(model, loader()), evaluate(model, loader())
    assert first.loss == second.loss, "nothing is dropped"
    assert model.training and model[0].training and not model[1].training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_own_criterion() -> None:
    found = evaluate(nn.Identity(), loader(), criterion=nn.CrossEntropyLoss(label_smoothing=0.1))
    assert found.loss == pytest.approx(nn.functional.cross_entropy(SCORES, LABELS, label_smoothing=0.1).item(), rel=1e-5)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="the loader has no image"):
        evaluate(nn.Identity(), [])
    with pytest.raises(ValueError, match="the model tells 7 classes apart, and there are 3 names"):
        evaluate(nn.Identity(), loader(), classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="the model tells 3 classes apart, and an image is of class 5"):
        evaluate(lambda x: x[:, :3], loader())


def test_plain_values_and_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = evaluate(nn.Identity(), loader(), classes=[f"class {number}" for number in range(CLASSES)])
    again = json.loads(json.dumps(found.to_dict()))
    assert again["top1"] == found.top1 and again["confusion"] == found.confusion.tolist() and len(again["per_class"]) == CLASSES
    right = Evaluation(100, 0.0, 1.0, 1.0, torch.eye(50, dtype=torch.int64) * 2, tuple(map(str, range(50))))
    for name, evaluation, darkest in (("some", found, None), ("right", right, (8, 48, 107))):
        picture = Image.open(evaluation.plot(tmp_path / f"{name}.png")).convert("RGB")
        colours = {colour for _, colour in picture.getcolors(1 << 20) or ()}
        assert len(colours) > 20 and (darkest is None or darkest in colours)


_PROCESS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from accelerate import Accelerator
from torch import nn
from test_evaluation import loader
from torchvision_customizer.train.evaluation import evaluate
accelerator = Accelerator(cpu=True)
found = evaluate(nn.Identity(), accelerator.prepare(loader(batch_size=8)), accelerator=accelerator)
assert accelerator.num_processes == 3
with open(f"{sys.argv[2]}/{accelerator.process_index}.json", "w") as stream:
    json.dump(found.to_dict(), stream)
"""


@pytest.mark.full  # test_processes.py has three in the normal tier, through Trainer
def test_three_processes_count_every_image_once(tmp_path: Path) -> None:
    """101 images in batches of 8 for each of three processes: the last ones are uneven, and accelerate fills them up."""
    pytest.importorskip("accelerate")
    script = tmp_path / "script.py"
    script.write_text(_PROCESS)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", str(script), str(Path(__file__).parent)]
    done = subprocess.run([sys.executable, *command, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for rank in range(3):
        values = json.loads((tmp_path / f"{rank}.json").read_text())
        check(
            Evaluation(
                values["count"],
                values["loss"],
                values["top1"],
                values["top5"],
                torch.tensor(values["confusion"]),
                tuple("abcdefg"),
            )
        )
