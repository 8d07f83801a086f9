"""tvc inspect."""

from __future__ import annotations

import json

from click.testing import CliRunner, Result

from torchvision_customizer.cli import main


def inspect(*args: str) -> Result:
    return CliRunner().invoke(main, ["inspect", "--backbone", "resnet18", *args])


def test_patched() -> None:
    result = inspect("--patch", "layer4=inject:se")
    assert result.exit_code == 0, result.stderr
    assert "resnet18: 2 new modules" in result.stdout
    for line in ("0.se: se(channels=512", "1.se: se(channels=512", "Weights: random", "3×224×224"):
        assert line in result.stdout


def test_json_adds_up() -> None:
    result = inspect("--patch", "layer*=inject:se", "--num-classes", "10", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [edit["child_path"] for edit in report["edits"]] == [
        f"layer{stage}.{block}.se" for stage in (1, 2, 3, 4) for block in (0, 1)
    ]
    *parts, total = report["parts"]
    assert total["part"] == "total"
    for counted in ("parameters", "flops"):
        for when in (0, 1):
            assert sum(part[counted][when] for part in parts) == total[counted][when]
    assert total["parameters"][0] == 11_689_512  # torchvision's own count, with 1000 classes
    assert report["head"]["classes"] == 10


def test_unpatched() -> None:
    result = inspect()
    assert result.exit_code == 0, result.stderr
    assert "nothing is changed" in result.stdout
    before, after = json.loads(inspect("--json").stdout)["parts"][-1]["parameters"]
    assert before == after == 11_689_512
