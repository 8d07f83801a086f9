"""export and verify: what is written runs in a process of its own and gives the same numbers, or is not written."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from torchvision_customizer import ops
from torchvision_customizer.blocks import SEBlock
from torchvision_customizer.deploy import TOLERANCES, VerificationError, export, metadata_of, verify
from torchvision_customizer.fusion import fuse

native = pytest.mark.skipif(
    not ops.native_status().cpu_loaded, reason=f"a file with tvc ops needs libtvc_ops: {ops.native_status().cpu_reason}"
)
EXAMPLE = torch.zeros(1, 3, 16, 16)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


def with_se() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), SEBlock(8, reduction=2), nn.BatchNorm2d(8))


class Liar(nn.Module):
    """Scripted, it computes something else."""

    def __init__(self, error: float = 0.01) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale
        if torch.jit.is_scripting():
            return y * (1.0 + self.error)
        return y


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """torch's notices that TorchScript is to go are not the user's business."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_plain_model(tmp_path: Path) -> None:
    model, path = plain(), tmp_path / "model.pt"
    report = export(model, path, example_input=EXAMPLE)
    assert report.path == path and report.bytes == path.stat().st_size
    assert report.ops == () and report.libraries == ()
    assert report.verification is not None and report.verification.passed
    tried = [(c.inputs, c.input_shape) for c in report.verification.comparisons]
    assert tried == [(kind, (n, 3, 16, 16)) for kind in ("noise", "photographs") for n in (1, 2, 5)]
    assert "agrees with eager in a fresh process, noise and photographs, batch sizes 1, 2, 5" in report.summary()
    assert "ms an image, eager" in report.summary()
    assert "nothing but torch" in report.summary()
    assert list(tmp_path.iterdir()) == [path]


def test_metadata(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    export(plain(), path, example_input=EXAMPLE, verify=False)
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("extra/torchvision_customizer.json"))
        metadata = json.loads(archive.read(name))
    assert metadata["torch"] == torch.__version__
    assert metadata["input_shape"] == [None, 3, 16, 16]
    assert metadata["input_dtype"] == "float32"
    assert metadata["ops"] == [] and metadata["library"] is None
    assert metadata["file_version"] == 1 and metadata["format"] == "torchscript"
    assert metadata["channels_last"] is False and metadata["preprocessing"] is None and metadata["classes"] is None
    assert metadata == metadata_of(path)


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_model_with_ops(tmp_path: Path, dtype: torch.dtype) -> None:
    report = export(with_se().to(dtype), tmp_path / "model.pt", example_input=EXAMPLE.to(dtype))
    assert report.ops == ("tvc::_squeeze_excite_", "tvc::squeeze_excite")
    assert report.libraries[0] == ops.native_status().library_path
    assert str(report.libraries[0]) in report.summary()
    assert report.verification is not None and report.verification.passed


@native
def test_patched_fused_resnet_within_1e_5(tmp_path: Path) -> None:
    from torchvision_customizer.hybrid import HybridBuilder

    torch.manual_seed(0)
    model = HybridBuilder().from_torchvision("resnet18", None, {"layer*": {"inject": "se"}})
    for module in model.modules():
        if isinstance(module, SEBlock):
            nn.init.normal_(module.fc2.weight, std=0.5)
    fuse(model)
    example = torch.zeros(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    report = export(model.to(memory_format=torch.channels_last), tmp_path / "model.pt", example_input=example)
    assert report.verification is not None
    assert report.verification.largest_difference <= 1e-5


@pytest.mark.skipif(ops.native_status().cpu_loaded, reason="the native library is loaded")
def test_ops_without_the_library_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"export: the model calls tvc::squeeze_excite, .* libtvc_ops, .* not in use here"):
        export(with_se(), tmp_path / "model.pt", example_input=EXAMPLE)
    assert not list(tmp_path.iterdir())


def test_training_flags_come_back(tmp_path: Path) -> None:
    model = plain().train()
    model[1].eval()  # a frozen norm
    export(model, tmp_path / "model.pt", example_input=EXAMPLE, verify=False)
    assert model.training and not model[1].training
    export(model, tmp_path / "model.pt", example_input=EXAMPLE)
    assert model.training and not model[1].training


def test_wrong_numbers_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("what was there")
    with pytest.raises(VerificationError, match=r"model.pt differs from eager .* largest difference .*, allowed") as caught:
        export(Liar(), path, example_input=EXAMPLE)
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]
    report = caught.value.report
    assert report is not None and not report.passed
    assert report.largest_difference > 1e-3

    export(Liar(), path, example_input=EXAMPLE, verify=False)
    assert path.stat().st_size > 100


def test_not_a_number_is_no_agreement(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="nan"):
        export(Liar(float("nan")), tmp_path / "model.pt", example_input=EXAMPLE)
    assert not list(tmp_path.iterdir())


def test_verify_tells_another_model(tmp_path: Path) -> None:
    path, model = tmp_path / "model.pt", plain()
    export(model, path, example_input=EXAMPLE, verify=False)
    assert verify(path, model, torch.randn(3, 3, 20, 12)).passed
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 0.01
    with pytest.raises(VerificationError, match="differs from eager"):
        verify(path, model, example_input=EXAMPLE)
    assert path.exists()


def test_verify_takes_a_file_without_metadata(tmp_path: Path) -> None:
    model = plain().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model), tmp_path / "model.pt")
    assert verify(tmp_path / "model.pt", model, example_input=EXAMPLE).passed


@pytest.mark.parametrize(
    "content, message",
    [("no archive", "verify: .* is no exported model, or a damaged one"), (None, "there is no file")],
    ids=["damaged", "missing"],
)
def test_verify_of_no_file(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        verify(path, plain())


def test_verify_of_a_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(plain().state_dict(), path)
    with pytest.raises(ValueError, match=r"weights.pt is no exported model: an archive that is neither"):
        verify(path, plain())


def test_wrong_input_says_what_went_wrong(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"the model does not take an input of \(1, 5, 16, 16\): .*expected input.* to have 3 channels"
    ):
        export(plain(), tmp_path / "model.pt", example_input=torch.zeros(1, 5, 16, 16))
    assert not list(tmp_path.iterdir())


def test_too_slow(tmp_path: Path) -> None:
    path, model = tmp_path / "model.pt", plain()
    export(model, path, example_input=EXAMPLE, verify=False)
    with pytest.raises(VerificationError, match=r"had not finished after 0.01 s"):
        verify(path, model, example_input=EXAMPLE, timeout=0.01)


def test_a_process_that_imports_us_is_found_out(tmp_path: Path) -> None:
    """The check of the fresh process can fail: with torch itself forbidden, it does."""
    from torchvision_customizer.deploy import _fresh_process

    path, model = tmp_path / "model.pt", plain()
    export(model, path, example_input=EXAMPLE, verify=False)
    torch.save([EXAMPLE], tmp_path / "inputs.pt")
    job = {
        "file": str(path),
        "format": "torchscript",
        "libraries": [],
        "device": "cpu",
        "threads": 1,
        "runs": 1,
        "inputs": str(tmp_path / "inputs.pt"),
        "outputs": str(tmp_path / "outputs.pt"),
        "folders": [str(Path(torch.__file__).parent.parent)],
        "forbidden": ["torch"],
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-I", "-W", "ignore", str(_fresh_process.__file__), str(tmp_path / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "torch" in json.loads(done.stdout)["foreign"]


@pytest.mark.parametrize(
    "path, error",
    [("nowhere/model.pt", FileNotFoundError), (".", IsADirectoryError), ("/proc/model.pt", OSError)],
    ids=["no folder", "a folder", "not writable"],
)
def test_paths_that_cannot_be_written(tmp_path: Path, path: str, error: type[OSError]) -> None:
    with pytest.raises(error, match="export: "):
        export(plain(), tmp_path / path, example_input=EXAMPLE)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"format must be one of torchscript, pt2, .*, got 'torchscrip', did you mean 'torchscript'"
    ):
        export(plain(), tmp_path / "model.pt", "torchscrip")


def test_model_that_cannot_be_scripted(tmp_path: Path) -> None:
    class Unscriptable(nn.Module):
        def forward(self, *xs: Tensor) -> Tensor:
            return xs[0]

    with pytest.raises(RuntimeError, match="export: TorchScript cannot compile Unscriptable: "):
        export(Unscriptable(), tmp_path / "model.pt", example_input=EXAMPLE)
    assert not list(tmp_path.iterdir())


def test_tolerances_are_a_few_roundings() -> None:
    for dtype, tolerance in TOLERANCES.items():
        assert torch.finfo(dtype).eps <= tolerance <= 1e4 * torch.finfo(dtype).eps
