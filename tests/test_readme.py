"""What the README shows runs: Python block after block, as a reader would type it, recipes, and what the commands are given."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest
import torch

from torchvision_customizer._torchvision import models
from torchvision_customizer.bench.suite import COMPILED, MODEL_VARIANTS
from torchvision_customizer.cli import main
from torchvision_customizer.recipe import load_yaml_recipe

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
RECIPES = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^tvc .*", README, re.MULTILINE)


def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision_customizer import ops

    if not ops.native_status().cpu_loaded:
        pytest.skip("exporting a fused model needs the native library")
    assert len(BLOCKS) == 12
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


@pytest.mark.parametrize("text", RECIPES)
def test_recipes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert load_yaml_recipe(path, weights=None)(torch.randn(2, 3, 64, 64)).shape == (2, 12)
    assert len(RECIPES) == 1


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_take_what_they_are_given(line: str) -> None:
    """Only that: what they do, the tests of the command line try."""
    command: click.Command = main
    name, *words = shlex.split(line, comments=True)[0:]
    context = click.Context(command, info_name=name)
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
    command.make_context(name, words, parent=context)
    assert len(COMMANDS) > 8


def test_the_demo_names_every_variant() -> None:
    """`make demo` takes too long for a test; that it did not know a new variant was found by hand."""
    path = Path(__file__).parents[1] / "examples" / "demo.py"
    spec = importlib.util.spec_from_file_location("demo", path)
    assert spec is not None and spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    assert {*MODEL_VARIANTS} - {COMPILED} == {*demo.NAMES}
