"""Several processes train as one does on the same global batch, and count every image once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate")
FORKED = Path(__file__).with_name("forked.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("processes")
    done = subprocess.run([sys.executable, FORKED, "processes", folder], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "found.json").read_text())
    assert not any("codes" in run[0] for run in found.values()), done.stderr
    return found


@pytest.mark.parametrize("name", ["two", "two, accumulating"])
def test_two_processes_give_the_loss_curve_of_one(found, name):
    one, two = found["one"][0], found[name][0]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["train_losses"][-1] < one["train_losses"][0]
    for curve in ("train_losses", "train_accs", "val_losses", "weights"):
        assert two[curve] == pytest.approx(one[curve], abs=1e-5), curve


@pytest.mark.parametrize("name", ["two", "three, uneven"])
def test_all_processes_have_the_same_weights_and_metrics(found, name):
    for other in found[name][1:]:
        for value in ("weights", "train_losses", "val_losses", "evaluated"):
            assert other[value] == found[name][0][value]


@pytest.mark.parametrize("name", ["three, uneven", "three, and fewer images than fill a batch of each"])
def test_every_image_counts_once(found, name):
    """46 images in batches of three times 5, and 7: the last ones are padded, and the metrics are those of the whole set."""
    ran = found[name][0]
    assert ran["processes"] == 3
    assert [ran["train_losses"][0], ran["train_accs"][0]] == pytest.approx(ran["trained at once"], abs=1e-6)
    assert ran["evaluated"] == pytest.approx(ran["evaluated at once"], abs=1e-6)
    validated = sorted(index for process in found[name] for index in process["validated"])
    assert validated == sorted(list(range(17)) * 3)  # three epochs


def test_several_processes_go_on_in_the_middle_of_an_epoch(found):
    assert found["resumed"][0]["weights"] == found["two"][0]["weights"]
    assert found["resumed"][0]["train_losses"] == found["two"][0]["train_losses"]


LAUNCHERS = {
    "torchrun": "torch.distributed.run --nproc-per-node=2",
    "accelerate": "accelerate.commands.launch --cpu --num_processes=2 --num_machines=1 --mixed_precision=no",
}


@pytest.mark.full
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launched_script(launcher, tmp_path):
    """The same script under ``torchrun`` and ``accelerate launch``."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from torch import nn\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "from torchvision_customizer import Trainer\n"
        "torch.manual_seed(0)\n"
        "data = TensorDataset(torch.randn(20, 3, 4, 4), torch.arange(20) % 3)\n"
        "trainer = Trainer(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), 'cpu')\n"
        "trainer.fit(DataLoader(data, 5, shuffle=True), DataLoader(data, 3), epochs=2, output='out')\n"
    )
    command = [sys.executable, "-m", *LAUNCHERS[launcher].split(), script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == 1  # the first process speaks
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "out" / "best" / "model.safetensors").exists()
