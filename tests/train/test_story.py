"""The story of the package, as examples/fine_tune.py tells it: on a slice, and for every format that there is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from small_sets import FASHION, fashion

from torchvision_customizer import ops
from torchvision_customizer.train.sets import open_set

pytest.importorskip("accelerate")
native = pytest.mark.skipif(not ops.native_status().cpu_loaded, reason="a file with tvc ops needs libtvc_ops")


def example() -> Any:
    path = Path(__file__).parents[2] / "examples" / "fine_tune.py"
    spec = importlib.util.spec_from_file_location("fine_tune", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@native
@fashion
def test_the_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = example()
    found = module.half(open_set("fashion_mnist", FASHION), 1000)
    assert len(found.train) == len(found.test) == 1000 and found.classes[-1] == "Coat"
    accuracy = module.story(found, tmp_path, (2, 2))
    assert accuracy["trained"] == accuracy["patched"] > 0.4
    assert accuracy["fine-tuned"] > accuracy["patched"]
    assert accuracy["exported"] == accuracy["fine-tuned"]
    assert "1000 images: accuracy" in capsys.readouterr().out


@pytest.mark.full
@native
@fashion
def test_the_example_as_it_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    example().main(["--data-dir", str(FASHION)])
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split(":")[0].strip() for line in lines] == ["trained", "patched", "fine-tuned", "exported"]
    assert float(lines[2].split()[1].rstrip("%")) > 85
