"""``tvc benchmark --exported``: files side by side with the model they were made from, and what is asked of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from torchvision_customizer.bench import plot, results, runs, tables
from torchvision_customizer.bench.exported import shipped_variants
from torchvision_customizer.bench.results import ModelCase, ModelResult, Run
from torchvision_customizer.bench.suite import HEADLINE, SHIPPED, SHIPPED_BOUNDS, SHIPPED_PATCHES
from torchvision_customizer.cli import main
from torchvision_customizer.deploy import FORMATS, export
from torchvision_customizer.hybrid import save
from torchvision_customizer.ops import native_status
from torchvision_customizer.recipe import Recipe, build_recipe

for extra in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(extra, reason=f"exported files are compared with onnxruntime's, which needs {extra}")
pytestmark = pytest.mark.skipif(
    not native_status().cpu_loaded, reason=f"files with tvc ops need libtvc_ops: {native_status().cpu_reason}"
)

RECIPE = "cifar_se_resnet20"
MACHINE = {
    "date": "2026-01-01 00:00 UTC",
    "device": "Test CPU",
    "threads": "2",
    "torch": "2.13.0",
    "ops": "native, avx2",
    "copy_gb_s": "10.0",
}


def tvc(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["benchmark", "--exported", "--quick", "--rounds", "2", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model, ``model``, and files of it: ``model.pt`` for any batch, ``model.onnx`` for batches of 2."""
    torch.manual_seed(1)
    folder, model = tmp_path_factory.mktemp("exported"), build_recipe(Recipe.from_yaml(RECIPE)).eval()
    example = torch.zeros(2, 3, 32, 32)
    save(model, folder / "model")
    export(model, folder / "model.pt", "torchscript", example, verify=False)
    export(model, folder / "model.onnx", "onnx", example, verify=False, dynamic_batch=False)
    return folder


def test_files_stand_next_to_their_model(folder: Path, tmp_path: Path) -> None:
    files = (folder / "model.pt", folder / "model.onnx")
    result = tvc(*files, "--backbone", folder / "model", "--json", "--plot", tmp_path / "files.png")
    assert result.exit_code == 0, result.output
    run = results.from_json(json.loads(result.stdout))
    (found,) = run.exported
    assert run.patched == run.library == ()
    assert (found.case.batch, found.case.input_size, found.case.dtype) == (2, 32, "fp32")
    assert list(found.seconds) == ["eager", "fused", "torchscript: model.pt", "onnx: model.onnx"]
    assert set(found.differences) == set(found.seconds) - {"eager"}
    assert all(0 <= difference < 1e-4 for difference in found.differences.values())
    assert (tmp_path / "files.png").stat().st_size > 10_000


def test_files_are_compared_with_one_another(folder: Path) -> None:
    result = tvc(folder / "model.onnx", folder / "model.pt")
    assert result.exit_code == 0, result.output
    assert "What ships" in result.output and "eager" not in result.output


def test_files_of_another_model_are_not_timed(folder: Path) -> None:
    result = tvc(folder / "model.pt", "--recipe", RECIPE, "--batch", "1")
    assert result.exit_code == 1
    assert "the logits of torchscript: model.pt differ by" in result.output and "from those of eager" in result.output


@pytest.mark.full
def test_a_model_is_written_in_every_format(tmp_path: Path) -> None:
    result = tvc("--recipe", RECIPE, "--batch", "1,2", "--json")
    assert result.exit_code == 0, result.output
    run = results.from_json(json.loads(result.stdout))
    assert [found.case.batch for found in run.exported] == [1, 2]
    for found in run.exported:
        assert list(found.seconds) == ["eager", "fused", *shipped_variants("fp32", compiled=False)]
    runs.save(run, tmp_path, "exported", runs.title(run))
    assert "| onnx, translated |" in (tmp_path / "exported.md").read_text()
    (line, *_) = csv.DictReader(io.StringIO((tmp_path / "exported.csv").read_text()))
    assert line["mode"] == "exported" and line["variant"] == "eager"
    assert results.read(tmp_path / "exported.json") == run


@pytest.mark.full
def test_aotinductor_is_among_them() -> None:
    arguments = ["benchmark", "--exported", "--rounds", "2", "--recipe", RECIPE, "--batch", "2", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    (found,) = results.from_json(json.loads(result.stdout)).exported
    assert list(found.seconds) == ["eager", "fused", *SHIPPED]


def test_every_format_ships() -> None:
    assert {shipped.format for shipped in SHIPPED.values()} == set(FORMATS)
    assert not any(SHIPPED[name].format == "onnx" for name in shipped_variants("bf16", compiled=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda folder: [folder / "model.onnx", "--batch", "4"], "model.onnx takes batches of 2, and these are of 4"),
        (lambda folder: [folder / "model.pt", "--input-size", "64"], "model.pt takes images of 32, and these are of 64"),
        (lambda folder: [folder / "model.pt", "--dtype", "bf16"], "model.pt takes fp32, and the images are bf16"),
        (lambda folder: [folder / "model.pt", folder / "model.pt"], "two files are called 'torchscript: model.pt' here"),
        (lambda folder: [folder / "none.pt"], "there is no file"),
        (lambda folder: [folder / "model" / "recipe.yaml"], "recipe.yaml is no exported model"),
        (lambda folder: [folder / "model" / "model.safetensors"], "model.safetensors is no exported model"),
    ],
)
def test_files_are_refused_with_the_reason(folder: Path, arguments: Callable[[Path], list[str | Path]], message: str) -> None:
    result = tvc(*arguments(folder))
    assert result.exit_code == 1, result.output
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("benchmark", "model.pt"), "model.pt is for --exported"),
        (("benchmark", "--weights", "DEFAULT"), "--weights is for --exported"),
        (("benchmark", "--exported", "--training"), "without --training"),
        (("benchmark", "--exported", "--ops"), "name one of them"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


def shipped_result(torchscript: float = 0.8, patches: tuple[str, ...] = SHIPPED_PATCHES[0]) -> ModelResult:
    case = ModelCase(HEADLINE.backbone, patches, 8, "fp32", "channels_last", False, 224, exported=True)
    times = {
        "eager": 1.2,
        "fused": 0.9,
        "torchscript, plain": 1.1,
        "torchscript": torchscript,
        "aoti, references": 1.0,
        "aoti": 0.9,
    }
    seconds = {name: [value * 0.1] * 5 for name, value in times.items()}
    return ModelResult(case=case, fused_places=16, seconds=seconds, differences={"fused": 1e-6}, other_load=0.0)


def test_what_is_asked_of_what_ships() -> None:
    for patches in SHIPPED_PATCHES:
        held = tables.exported_verdicts([shipped_result(patches=patches)])
        assert len(held) == len(SHIPPED_BOUNDS) and all(verdict.held for verdict in held)
    missed = tables.exported_verdicts([shipped_result(torchscript=1.0)])
    assert [verdict.held for verdict in missed] == [False, False, True]
    assert tables.exported_verdicts([shipped_result(patches=("layer4=inject:se",))]) == []


def test_results_can_be_drawn_and_written(tmp_path: Path) -> None:
    run = Run(MACHINE, {"rounds": 5}, (), (shipped_result(), shipped_result(patches=SHIPPED_PATCHES[1])))
    assert results.from_json(json.loads(json.dumps(results.to_json(run)))) == run
    plot.draw(run, tmp_path / "shipped.png", runs.title(run))
    assert (tmp_path / "shipped.png").stat().st_size > 10_000
    assert "| torchscript, plain / torchscript ≥ 1.2 | 1.38" in tables.markdown(run, "What ships", "shipped.png")


def test_the_set_of_a_machine_has_what_is_asked() -> None:
    assert "exported" in runs.PARTS
    cases = [case for patches in SHIPPED_PATCHES for case in runs.shipped_cases(patches)]
    assert {(case.patches, case.batch) for case in cases} == {(p, b) for p in SHIPPED_PATCHES for b in HEADLINE.batches}
