"""The Python of the README runs, block after block, as a reader would type it."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from torchvision_customizer._torchvision import models
from torchvision_customizer.bench.suite import COMPILED, MODEL_VARIANTS

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision_customizer import ops

    if not ops.native_status().cpu_loaded:
        pytest.skip("exporting a fused model needs the native library")
    assert len(BLOCKS) == 5
    # Random tensors under the name of the file that torchvision would download.
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.save(models.resnet50().state_dict(), folder / models.ResNet50_Weights.IMAGENET1K_V2.url.rpartition("/")[2])
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(block, names)
    assert (tmp_path / "resnet50_se.pt").exists()
    original = names["original"]
    assert type(original) is models.ResNet


def test_the_demo_names_every_variant() -> None:
    """`make demo` takes too long for a test; that it did not know a new variant was found by hand."""
    path = Path(__file__).parents[1] / "examples" / "demo.py"
    spec = importlib.util.spec_from_file_location("demo", path)
    assert spec is not None and spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    assert {*MODEL_VARIANTS} - {COMPILED} == {*demo.NAMES}
