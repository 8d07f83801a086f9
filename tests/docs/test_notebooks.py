"""The notebooks of examples/ run from their first cell to their last, in a kernel of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from torchvision_customizer.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))

pytestmark = pytest.mark.full


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient and ipykernel")
    nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat")
    if not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("the notebooks need Fashion-MNIST in /usr/share/datasets/fashion-mnist")
    if path.stem == "serve_from_cpp":
        result = CliRunner().invoke(main, ["doctor", "--cmake-dir"])
        if result.exit_code or shutil.which("cmake") is None or shutil.which("c++") is None:
            pytest.skip(f"needs the CMake package, cmake and c++: {result.output}")
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), f"{path.name} has outputs: clear them"
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
