"""tvc list-blocks, list-backbones and doctor."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner, Result

from torchvision_customizer import ops, registry
from torchvision_customizer.cli import main


def tvc(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def test_list_blocks() -> None:
    result = tvc("list-blocks")
    assert result.exit_code == 0
    for name in registry.list():
        assert name in result.output
    blocks = json.loads(tvc("list-blocks", "--json").output)
    assert [block["name"] for block in blocks] == registry.list()
    assert all(block["description"] for block in blocks)


def test_list_blocks_of_a_category() -> None:
    """Defect 28: with a category, version 2.1 made the list and printed nothing."""
    names = registry.list("attention")
    result = tvc("list-blocks", "--category", "attention")
    assert result.exit_code == 0
    assert f"attention ({len(names)})" in result.output and all(f" {name} " in result.output for name in names)
    assert "Blocks (" in result.output and " mish " not in result.output
    result = tvc("list-blocks", "--category", "attention", "--json")
    assert [block["name"] for block in json.loads(result.output)] == names
    result = tvc("list-blocks", "--category", "atention")
    assert result.exit_code == 1
    assert "did you mean 'attention'?" in result.stderr


def test_list_blocks_filtered() -> None:
    def found(*args: str) -> list[str]:
        return [block["name"] for block in json.loads(tvc("list-blocks", "--json", *args).output)]

    assert {"bottleneck", "wide_bottleneck"} <= set(found("--filter", "bottleneck"))
    assert "se" in found("--filter", "seblock"), "by an alias, and case does not count"
    assert "cbam" in found("--filter", "positions (cbam)"), "by the description"
    names = {known for known, name in registry.names().items() if known.endswith("_norm")}
    assert set(found("--filter", "*_norm")) == {registry.canonical_name(name) for name in names}
    names = found("--filter", "conv", "--category", "block")
    assert "coord_conv" in names and set(names) < set(found("--filter", "conv"))


def test_list_blocks_that_match_nothing() -> None:
    result = tvc("list-blocks", "--filter", "botleneck*")
    assert result.exit_code == 1
    assert "no block matches 'botleneck*', did you mean 'bottleneck'?" in result.stderr


def test_list_blocks_says_all_of_each() -> None:
    blocks = json.loads(tvc("list-blocks", "--json").output)
    assert all(block.keys() == {"name", "category", "description", "aliases", "signature", "paper"} for block in blocks)
    (block,) = [block for block in blocks if block["name"] == "se"]
    assert block["signature"].startswith("SEBlock(channels: int, reduction: int = 16")
    assert block["paper"] == "https://arxiv.org/abs/1709.01507" and "SEBlock" in block["aliases"]


@pytest.mark.parametrize("width", [80, 120])
def test_list_blocks_fits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is wider than the terminal, and no name or address is broken."""
    monkeypatch.setenv("COLUMNS", str(width))
    lines = tvc("list-blocks").output.splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    words = {word for line in lines for word in line.split()}
    for name in registry.list():
        info = registry.info(name)
        assert {name, *info["aliases"]} <= words
        assert info["paper"] is None or info["paper"] in words


def test_list_backbones() -> None:
    result = tvc("list-backbones", "--json")
    assert result.exit_code == 0, result.stderr
    names = [backbone["name"] for backbone in json.loads(result.output)]
    assert {"resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d"} <= set(names)
    table = tvc("list-backbones")
    assert all(name in table.output for name in names)


def test_list_backbones_filtered() -> None:
    names = [backbone["name"] for backbone in json.loads(tvc("list-backbones", "--filter", "wide", "--json").output)]
    assert names and all("wide" in name for name in names)
    assert json.loads(tvc("list-backbones", "--filter", "wide*_2", "--json").output)
    nothing = tvc("list-backbones", "--filter", "resnte50")
    assert nothing.exit_code == 1
    assert "no backbone matches 'resnte50', did you mean 'resnet50'?" in nothing.stderr


def test_doctor_names_who_answers() -> None:
    result = tvc("doctor")
    assert result.exit_code == 0, result.output
    report = json.loads(tvc("doctor", "--json").output)
    assert report["problem"] is None
    assert report["versions"]["torch"] == torch.__version__
    for answer in ops.who_answers():
        assert {"op": answer.op, "device": answer.device, "answer": answer.answer, "reason": answer.reason} in report["ops"]
        assert answer.op in result.output
    public = {name for name in ops.OPS if not name.startswith("_")}
    assert {op["op"] for op in report["ops"]} == public
    assert all(op["reason"] for op in report["ops"]), "every answer has its reason"


def test_doctor_without_native_ops() -> None:
    code = "from torchvision_customizer.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--json"],
        env={**os.environ, "TVC_DISABLE_NATIVE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert {op["answer"] for op in report["ops"] if op["device"] == "cpu"} == {"reference"}
    assert "TVC_DISABLE_NATIVE is set" in report["native"]["CPU library"]


@pytest.mark.skipif(not ops.native_status().cpu_loaded, reason="there is no native library whose loading could fail")
def test_doctor_of_a_library_that_does_not_load() -> None:
    code = (
        "import torch; from torchvision_customizer.cli import main\n"
        "def fail(path): raise OSError(f'{path}: undefined symbol: _ZN3tvc')\n"
        "torch.ops.load_library = fail; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "doctor", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert "undefined symbol: _ZN3tvc" in report["problem"]
    assert report["ops"] == [] and report["versions"]["torch"] == torch.__version__
    done = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "The ops do not load: " in done.stderr and "Traceback" not in done.stderr
