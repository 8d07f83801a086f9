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

SHELLS = ("bash", "zsh", "fish")
NAMES = {"_TVC_BACKBONES": "resnet18 resnet50 vgg16", "_TVC_BLOCKS": "residual se"}


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["completion", *args])


def complete(shell: str, *words: str) -> list[str]:
    """What a shell is answered that completes the last of some words."""
    environment = {"_TVC_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(["tvc", *words]), **NAMES}
    environment["COMP_CWORD"] = words[-1] if shell == "fish" else str(len(words))
    result = CliRunner().invoke(main, env={**os.environ, **environment}, prog_name="tvc")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    return lines[1::3] if shell == "zsh" else [line.partition(",")[2].partition("\t")[0] for line in lines]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_for_each_shell(shell: str) -> None:
    result = run(shell)
    assert result.exit_code == 0, result.stderr
    setting = "set -gx _TVC_{} '{}'\n" if shell == "fish" else "export _TVC_{}='{}'\n"
    assert setting.format("BACKBONES", " ".join(list_backbones())) in result.stdout
    assert setting.format("BLOCKS", " ".join(registry.list())) in result.stdout
    assert f"_TVC_COMPLETE={shell}_complete" in result.stdout
    assert shell != "zsh" or result.stdout.startswith("#compdef tvc\n")
    without = run(shell, "--no-names").stdout
    assert "_TVC_BACKBONES" not in without and "_TVC_BLOCKS" not in without
    assert set(without.splitlines()) < set(result.stdout.splitlines())
    assert json.loads(run(shell, "--json").stdout) == {"shell": shell, "script": result.stdout}


def test_another_shell() -> None:
    result = run("csh")
    assert result.exit_code == 2
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in result.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_completed(shell: str) -> None:
    assert complete(shell, "list-b") == ["list-backbones", "list-blocks"]
    assert "--patch" in complete(shell, "inspect", "--p")
    assert complete(shell, "inspect", "--backbone", "resnet") == ["resnet18", "resnet50"]
    assert complete(shell, "inspect", "--block", "re") == ["residual"]
    assert complete(shell, "inspect", "res") == ["resnet18", "resnet50", "residual"]
    assert complete(shell, "export", "--backbone", "v") == ["vgg16"]
    assert complete(shell, "benchmark", "--backbone", "v") == ["vgg16"]
    assert complete(shell, "diff", "resnet18", "resnet5") == ["resnet50"]
    assert complete(shell, "completion", "z") == ["zsh"]


def test_folders_are_left_to_the_shell() -> None:
    environment = {"_TVC_COMPLETE": "bash_complete", "COMP_WORDS": "tvc inspect ./sav", "COMP_CWORD": "2", **NAMES}
    result = CliRunner().invoke(main, env={**os.environ, **environment}, prog_name="tvc")
    assert result.output == "dir,./sav\n"


def test_completing_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from torchvision_customizer.cli import main\n"
        "try: main(prog_name='tvc')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'torchvision', 'pydantic', 'rich', 'yaml', 'numpy') if name in sys.modules])"
    )
    environment = {"_TVC_COMPLETE": "bash_complete", "COMP_WORDS": "tvc inspect res", "COMP_CWORD": "2", **NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["plain,resnet18", "plain,resnet50", "plain,residual", "[]"]


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
