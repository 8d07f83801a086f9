"""tvc completion, and what shells complete by it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from torchvision_customizer import registry
from torchvision_customizer.cli import main
from torchvision_customizer.hybrid.backbones import list_backbones
from torchvision_customizer.recipe import list_templates

SHELLS = ("bash", "zsh", "fish")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["completion", *args])


def words_of(shell: str, *words: str) -> dict[str, str]:
    """The environment in which a shell asks for what completes the last of some words."""
    answer = {"_TVC_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(["tvc", *words])}
    return {**os.environ, **answer, "COMP_CWORD": words[-1] if shell == "fish" else str(len(words))}


def complete(shell: str, *words: str) -> list[str]:
    """What a shell is answered."""
    result = CliRunner().invoke(main, env=words_of(shell, *words), prog_name="tvc")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    return lines[1::3] if shell == "zsh" else [line.partition(",")[2].partition("\t")[0] for line in lines]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_for_each_shell(shell: str) -> None:
    result = run(shell)
    assert result.exit_code == 0, result.stderr
    assert f"_TVC_COMPLETE={shell}_complete" in result.stdout
    assert shell != "zsh" or result.stdout.startswith("#compdef tvc\n")
    assert json.loads(run(shell, "--json").stdout) == {"shell": shell, "script": result.stdout}


def test_another_shell() -> None:
    result = run("csh")
    assert result.exit_code == 2
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in result.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_completed(shell: str) -> None:
    assert complete(shell, "list-b") == ["list-backbones", "list-blocks"]
    assert "--patch" in complete(shell, "inspect", "--p")
    assert complete(shell, "inspect", "--backbone", "resnet5") == ["resnet50"]
    assert complete(shell, "inspect", "--block", "wide") == ["wide_bottleneck"]
    assert complete(shell, "inspect", "wide_") == ["wide_resnet101_2", "wide_resnet50_2", "wide_bottleneck"]
    assert complete(shell, "inspect", "--recipe", "se_") == ["se_resnet50"]
    assert complete(shell, "export", "--backbone", "vgg16") == ["vgg16", "vgg16_bn"]
    assert complete(shell, "benchmark", "--backbone", "vgg16") == ["vgg16", "vgg16_bn"]
    assert complete(shell, "diff", "resnet18", "resnet5") == ["resnet50"]
    assert complete(shell, "list-blocks", "--category", "at") == ["attention"]
    assert complete(shell, "completion", "z") == ["zsh"]


def test_all_names_are_completed() -> None:
    assert complete("zsh", "inspect", "--backbone", "") == list_backbones()
    assert complete("zsh", "inspect", "--block", "") == registry.list()
    assert complete("zsh", "inspect", "--recipe", "") == list_templates()
    assert complete("zsh", "list-blocks", "--category", "") == registry.categories()


@pytest.mark.parametrize("words, answer", [(("inspect", "./sav"), "dir,./sav"), (("inspect", "--recipe", "./m"), "file,./m")])
def test_folders_and_files_are_left_to_the_shell(words: tuple[str, ...], answer: str) -> None:
    result = CliRunner().invoke(main, env=words_of("bash", *words), prog_name="tvc")
    assert result.output == f"{answer}\n"


@pytest.mark.parametrize(
    "words", [("inspect", "wide_"), ("inspect", "--recipe", "se_"), ("list-blocks", "--category", "at"), ("li",)], ids=" ".join
)
def test_completing_does_not_import_torch(words: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from torchvision_customizer.cli import main\n"
        "try: main(prog_name='tvc')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'torchvision', 'rich', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=words_of("bash", *words), capture_output=True, text=True, check=True
    )
    *answers, imported = done.stdout.splitlines()
    assert answers and imported == "[]"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(tmp_path: Path) -> None:
    """The script, read by bash itself."""
    command = tmp_path / "tvc"
    code = "from torchvision_customizer.cli import main; main(prog_name='tvc')"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    command.chmod(0o755)
    script = run("bash").stdout
    script += "COMP_WORDS=(tvc inspect wide) COMP_CWORD=2; _tvc_completion tvc; echo ${COMPREPLY[*]}\ncomplete -p tvc\n"
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, check=True)
    names, registration = done.stdout.splitlines()
    assert names == "wide_resnet101_2 wide_resnet50_2 wide_bottleneck"
    assert registration.endswith("-F _tvc_completion tvc")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_shell_reads_its_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    done = subprocess.run([shell, "-n"], input=run(shell).stdout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
