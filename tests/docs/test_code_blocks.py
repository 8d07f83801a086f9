"""Every code block of the README, the documentation and the docstrings runs, page by page, as a reader would type it.

Blocks of one page share their names and a folder. What a ``python`` or ``sh`` block prints is compared with the ``text`` block
behind it, where there is one; ``...`` stands for anything. A ``yaml`` block is the file that its first line names. Blocks
behind ``<!-- skip: next if(not FULL, reason="...") -->`` wait for the full tier.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
import subprocess
import sys
import tomllib
import unittest
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

from torchvision_customizer import ops, registry
from torchvision_customizer._torchvision import models
from torchvision_customizer.cli import main
from torchvision_customizer.compose import patterns
from torchvision_customizer.recipe import load_yaml_config

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

sys.path.insert(0, str(ROOT / "docs"))


def run_python(example: Example) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        PythonEvaluator()(example)
    example.namespace["printed"] = printed.getvalue()


def run_shell(example: Example) -> None:
    printed = []
    for line in example.parsed.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[0] == "tvc":
            result = CliRunner().invoke(main, words[1:], prog_name="tvc")
            assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
            printed.append(result.output)
        elif words[0] == "make":
            assert all(re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for word in words[1:]), line
        elif "pip" in words:
            extras = {extra for names in re.findall(r"\[([\w,]+)\]", line) for extra in names.split(",")}
            assert extras <= {*PYPROJECT["project"]["optional-dependencies"]}, line
        elif words[0] == "cd":
            assert (ROOT / words[1]).is_dir() or words[1] == "torchvision-customizer", line
        else:
            words[0] = sys.executable if words[0] == "python" else words[0]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            printed.append(done.stdout)
    example.namespace["printed"] = "".join(printed)


def check_usage(example: Example) -> None:
    """Commands that take long, behind ``$``: that they take what they are given."""
    for line in re.findall(r"^\$ tvc (.*)", example.parsed, re.MULTILINE):
        command: click.Command = main
        name, words = "tvc", shlex.split(line, comments=True)
        context = click.Context(command, info_name=name)
        while isinstance(command, click.Group):
            name, *words = words
            found = command.get_command(context, name)
            assert found is not None, line
            command = found
        command.make_context(name, words, parent=context)


def compare_output(example: Example) -> None:
    printed = example.namespace.pop("printed")
    if printed is None:
        return  # the block before it waits for the full tier
    wanted = str(example.parsed)
    assert doctest.OutputChecker().check_output(wanted, printed, FLAGS), f"printed is\n{printed}\nand shown is\n{wanted}"


def write_file(example: Example) -> None:
    """``# name.yaml`` at its head; it is a recipe that can be read."""
    found = re.match(r"# ([\w./-]+)\n", example.parsed)
    path = Path(found[1] if found else "recipe.yaml")
    path.write_text(example.parsed)
    load_yaml_config(path)


PAGES = Sybil(
    parsers=[
        SkipParser(),
        CodeBlockParser("python", run_python),
        CodeBlockParser("sh", run_shell),
        CodeBlockParser("yaml", write_file),
        CodeBlockParser("text", compare_output),
        CodeBlockParser("console", check_usage),
    ]
)
DOCSTRINGS = Sybil(parsers=[DocTestParser(optionflags=FLAGS)])
# Languages of blocks that are not run here; bash and C++ are, by tests/deploy/test_cpp.py.
SHOWN = {"bash", "console", "cpp", "cmake"}


def written_pages() -> Iterator[Path]:
    yield ROOT / "README.md"
    yield ROOT / "CONTRIBUTING.md"
    yield ROOT / "recipes" / "README.md"
    yield ROOT / "benchmarks" / "README.md"
    yield from sorted((ROOT / "docs").glob("*.md"))


def tiers() -> Iterator[object]:
    for path in written_pages():
        name = str(path.relative_to(ROOT))
        yield pytest.param(path, False, id=name)
        if "not FULL" in path.read_text(encoding="utf-8"):
            yield pytest.param(path, True, id=f"{name}-full", marks=pytest.mark.full)


@pytest.fixture(autouse=True)
def _a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder; what torchvision would download has random numbers, each time the same. What a page registers is
    forgotten after it.
    """
    monkeypatch.chdir(tmp_path)
    registry.list()  # what is shipped is there
    for module, table in ((registry, "_entries"), (registry, "_holders"), (patterns, "_patterns")):
        monkeypatch.setattr(module, table, dict(getattr(module, table)))

    def random_tensors(self: models.WeightsEnum, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        name = type(self).__name__.removesuffix("_Weights").lower()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return models.get_model(name, weights=None).state_dict()

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", random_tensors)


def run(sybil: Sybil, path: Path, **names: object) -> int:
    document = sybil.parse(path)
    document.namespace.update(names)
    count = 0
    for example in document.examples():
        try:
            example.evaluate()
        except unittest.SkipTest:
            document.namespace["printed"] = None
        count += 1
    return count


needs_native = pytest.mark.skipif(
    not ops.native_status().cpu_loaded, reason="pages export fused models, which needs the native library"
)


@needs_native
@pytest.mark.parametrize(("path", "full"), [*tiers()])
def test_page(path: Path, full: bool) -> None:
    run(PAGES, path, FULL=full)


@pytest.mark.parametrize("path", [*written_pages()], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_says_what_it_is(path: Path) -> None:
    fences = re.findall(r"^ *```(\S*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert {*fences[::2]} <= {"python", "sh", "yaml", "text", *SHOWN} and {*fences[1::2]} <= {""}


def test_the_catalogue_of_blocks(tmp_path: Path) -> None:
    import _pages

    from torchvision_customizer import registry

    (tmp_path / "blocks.md").write_text(_pages.blocks())
    assert run(PAGES, tmp_path / "blocks.md") == 1 + 2 * len(registry.list())


SOURCES = sorted((ROOT / "python").rglob("*.py"))
WITH_EXAMPLES = [path for path in SOURCES if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_docstrings(path: Path) -> None:
    assert run(DOCSTRINGS, path) > 0
