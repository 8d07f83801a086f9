"""C++ without Python: tvc-run, and a foreign project that links the ops, built and run as a user does it."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from torchvision_customizer import _cmake, ops
from torchvision_customizer._torchvision import models
from torchvision_customizer.blocks import CBAMBlock, SEBlock
from torchvision_customizer.cli import main
from torchvision_customizer.deploy import export
from torchvision_customizer.deploy.preprocessing import Preprocessing
from torchvision_customizer.fusion import fuse

ROOT = Path(__file__).parents[2]
# Kept from run to run: LibTorch's headers take a compiler half a minute, and then only what has changed is compiled.
# The same folders as in the pages, whose blocks are run below.
BUILD = ROOT / "build"
READMES = [ROOT / "README.md", ROOT / "docs" / "deployment.md", ROOT / "examples" / "cpp" / "README.md"]
IMAGENET = Preprocessing(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256)
CLASSES = [f"class № {i}" for i in range(1000)]

pytestmark = [
    pytest.mark.xdist_group("cpp"),  # one process builds
    pytest.mark.skipif(
        not ops.native_status().cpu_loaded, reason=f"C++ programs link libtvc_ops: {ops.native_status().cpu_reason}"
    ),
    pytest.mark.skipif(
        shutil.which("cmake") is None or shutil.which("c++") is None, reason="needs cmake and a C++ compiler, c++, on the PATH"
    ),
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        yield


def configure(source: Path, build: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """CMake as the README calls it. Python is named only for a source tree, which has no torch beside it."""
    command = ["cmake", "-S", str(source), "-B", str(build), f"-DPython3_EXECUTABLE={sys.executable}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def built(source: Path, target: str) -> Path:
    configured = configure(source, BUILD / target, f"-DTvcOps_DIR={_cmake.cmake_dir()}")
    assert configured.returncode == 0, configured.stderr
    done = subprocess.run(["cmake", "--build", str(BUILD / target)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return BUILD / target / target


@pytest.fixture(scope="session")
def tvc_run() -> Path:
    return built(_cmake.cmake_dir() / "runner", "tvc-run")


@pytest.fixture(scope="session")
def classify() -> Path:
    return built(ROOT / "examples" / "cpp", "classify")


@dataclass(frozen=True)
class Exported:
    """A patched and fused model, as a file and in eager."""

    path: Path
    model: nn.Module

    def logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(x)


def awake(model: nn.Module) -> nn.Module:
    """Inserted blocks start as the identity. Here they are to do something."""
    for module in model.modules():
        if isinstance(module, (SEBlock, CBAMBlock)):
            for parameter in module.parameters():
                if not parameter.count_nonzero():
                    nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    from torchvision_customizer.hybrid import HybridBuilder

    torch.manual_seed(0)
    model = awake(HybridBuilder().from_torchvision("resnet18", None, {"layer*": {"inject": "se"}}))
    assert fuse(model).fused
    path = tmp_path_factory.mktemp("resnet") / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        report = export(model, path, verify=False, preprocessing=IMAGENET, classes=CLASSES)
    assert "tvc::squeeze_excite" in report.ops
    return Exported(path, model)


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A real photograph, in colour: it comes with matplotlib."""
    from matplotlib import cbook

    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB")


def pixels(path: Path) -> Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1).contiguous()


def preprocessed(path: Path, steps: Preprocessing = IMAGENET) -> Tensor:
    """torchvision's own."""
    presets = importlib.import_module(f"{models.__name__.split('.')[0]}.transforms._presets")
    preset = presets.ImageClassification(
        crop_size=steps.crop,
        resize_size=steps.resize,
        mean=steps.mean,
        std=steps.std,
        interpolation=presets.InterpolationMode(steps.interpolation),
        antialias=steps.antialias,
    )
    return preset(pixels(path))[None]


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    # Without what could lead to Python, and with as many threads as eager: sums are then of the same parts.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_"))}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def outputs(program: Path, folder: Path, model: Path, *arguments: object) -> tuple[Tensor, dict[str, Any]]:
    """All that ``tvc-run`` answers."""
    done = run(program, model, *arguments, "--json", "--output", folder / "outputs.npy")
    assert done.returncode == 0, done.stderr
    return torch.from_numpy(np.load(folder / "outputs.npy")), json.loads(done.stdout)


def test_no_python_in_the_process(tvc_run: Path, classify: Path) -> None:
    for program in (tvc_run, classify):
        needed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
        names = [line.split()[0] for line in needed.splitlines()]
        assert {"libtvc_ops.so", "libtorch_cpu.so"} <= set(names) and "not found" not in needed
        assert not [name for name in names if "python" in name]


def test_photograph(tvc_run: Path, resnet: Exported, photo: Image.Image, tmp_path: Path) -> None:
    """A PNG and a JPEG, upright and across: top-k as in eager, and every logit within 1e-5."""
    files = [tmp_path / "photo.png", tmp_path / "photo.jpg", tmp_path / "across.jpg"]
    photo.save(files[0])
    photo.save(files[1], quality=85)
    photo.rotate(90, expand=True).crop((0, 100, 600, 399)).save(files[2], quality=85)  # an odd number is cut off
    found, report = outputs(tvc_run, tmp_path, resnet.path, *files)
    assert report["format"] == "torchscript" and "tvc::squeeze_excite" in report["ops"]
    assert [result["input"] for result in report["results"]] == [str(file) for file in files]
    for logits, result, file in zip(found, report["results"], files, strict=True):
        expected = resnet.logits(preprocessed(file))[0]
        assert (logits - expected).abs().max() <= 1e-5
        scores, indices = expected.topk(5)
        (top,) = result["top"]
        assert [guess["class"] for guess in top] == indices.tolist()
        assert [guess["label"] for guess in top] == [CLASSES[index] for index in indices]
        assert [guess["score"] for guess in top] == pytest.approx(scores.tolist(), abs=1e-5)
        assert [guess["probability"] for guess in top] == pytest.approx(expected.softmax(0)[indices].tolist(), rel=1e-4)


def test_text(tvc_run: Path, resnet: Exported, photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "photo.png")
    (tmp_path / "labels.txt").write_text("\n".join(f"label {i}" for i in range(1000)))
    best = resnet.logits(preprocessed(tmp_path / "photo.png")).softmax(1)[0].max(0)
    done = run(tvc_run, resnet.path, tmp_path / "photo.png", "--top", 3, "--labels", tmp_path / "labels.txt", "--time", 2)
    lines = done.stdout.splitlines()
    assert lines[0] == str(tmp_path / "photo.png") and len(lines) == 5, done.stderr
    assert lines[1].split() == [f"{best.values * 100:.2f}", "%", str(best.indices.item()), "label", str(best.indices.item())]
    assert "ms an image (median of 2, " in lines[-1] and f"threads: {torch.get_num_threads()}" in lines[-1]


def test_foreign_project(classify: Path, resnet: Exported, photo: Image.Image, tmp_path: Path) -> None:
    photo.crop((0, 0, 400, 300)).save(tmp_path / "photo.png")
    done = run(classify, resnet.path, tmp_path / "photo.png")
    assert done.returncode == 0, done.stderr
    scores, indices = resnet.logits(preprocessed(tmp_path / "photo.png"))[0].topk(5)
    answers = [line.split() for line in done.stdout.splitlines()]
    assert [int(index) for index, _ in answers] == indices.tolist()
    assert [float(score) for _, score in answers] == pytest.approx(scores.tolist(), abs=1e-5)

    done = run(classify, tmp_path / "nothing.pt", tmp_path / "photo.png")
    assert done.returncode == 1 and "nothing.pt" in done.stderr


def test_tensors(tvc_run: Path, resnet: Exported, photo: Image.Image, tmp_path: Path) -> None:
    """Floats go in as they are, in batches too; uint8 is an image."""
    photo.save(tmp_path / "photo.png")
    image = pixels(tmp_path / "photo.png")
    x = preprocessed(tmp_path / "photo.png")
    batch = torch.cat([x, x.flip(3)])
    np.save(tmp_path / "batch.npy", batch.numpy())
    np.save(tmp_path / "double.npy", x[0].double().numpy())
    np.save(tmp_path / "image.npy", image.numpy())
    torch.save(x, tmp_path / "saved.pt")
    torch.save(image, tmp_path / "image.pt")
    names = ("batch.npy", "double.npy", "image.npy", "saved.pt", "image.pt")
    found, report = outputs(tvc_run, tmp_path, resnet.path, *(tmp_path / name for name in names))
    expected = resnet.logits(batch)
    torch.testing.assert_close(found, expected[[0, 1, 0, 0, 0, 0]], rtol=0, atol=1e-5)
    assert [result["shape"] for result in report["results"]] == [[2, 1000], *[[1, 1000]] * 4]
    assert [len(result["top"]) for result in report["results"]] == [2, 1, 1, 1, 1]


def test_time_and_threads(tvc_run: Path, tmp_path: Path) -> None:
    export(nn.Conv2d(3, 4, 3), tmp_path / "conv.pt", example_input=torch.zeros(1, 3, 8, 8), verify=False)
    np.save(tmp_path / "x.npy", torch.randn(3, 8, 8).numpy())
    _, report = outputs(tvc_run, tmp_path, tmp_path / "conv.pt", tmp_path / "x.npy", "--time", 3, "--threads", 2)
    (result,) = report["results"]
    assert result["runs"] == 3 and report["threads"] == 2
    assert 0 < result["fastest_ms"] <= result["median_ms"] <= result["slowest_ms"]


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("size", [(500, 375), (120, 333), (64, 64), (40, 200)], ids=str)
@pytest.mark.parametrize(
    "interpolation, antialias",
    [("bilinear", True), ("bilinear", False), ("bicubic", True), ("bicubic", False), ("nearest", False)],
)
def test_preprocessing_is_torchvisions(
    tvc_run: Path, photo: Image.Image, tmp_path: Path, size: tuple[int, int], interpolation: str, antialias: bool
) -> None:
    """To the bit: made smaller and larger, on edge and across."""
    steps = Preprocessing(61, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 64, interpolation, antialias)
    photo.resize(size).save(tmp_path / "photo.png")
    example = torch.zeros(1, 3, 61, 61)
    export(Same(), tmp_path / "same.pt", example_input=example, verify=False, preprocessing=steps, classes=None)
    found, _ = outputs(tvc_run, tmp_path, tmp_path / "same.pt", tmp_path / "photo.png")
    assert torch.equal(found, preprocessed(tmp_path / "photo.png", steps))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_kinds_of_png(tvc_run: Path, photo: Image.Image, tmp_path: Path, mode: str) -> None:
    """Grey, with alpha, with a palette, of 1 and 16 bits: as Pillow reads them."""
    small = photo.resize((32, 24))
    if mode == "I;16":
        grey = np.asarray(small.convert("L")).astype(np.uint16)
        Image.fromarray(grey * 257).save(tmp_path / "photo.png")
        small.convert("L").save(tmp_path / "same.png")
    else:
        small.convert(mode).save(tmp_path / "photo.png")
        Image.open(tmp_path / "photo.png").convert("RGB").save(tmp_path / "same.png")
    steps = Preprocessing(24, (0.0,) * 3, (1.0,) * 3)
    example = torch.zeros(1, 3, 24, 24)
    export(Same(), tmp_path / "same.pt", example_input=example, verify=False, preprocessing=steps, classes=None)
    found, _ = outputs(tvc_run, tmp_path, tmp_path / "same.pt", tmp_path / "photo.png")
    assert torch.equal(found, preprocessed(tmp_path / "same.png", steps))


def test_grey_jpeg(tvc_run: Path, photo: Image.Image, tmp_path: Path) -> None:
    photo.convert("L").save(tmp_path / "photo.jpg")
    steps = Preprocessing(24, (0.0,) * 3, (1.0,) * 3)
    example = torch.zeros(1, 3, 24, 24)
    export(Same(), tmp_path / "same.pt", example_input=example, verify=False, preprocessing=steps, classes=None)
    found, _ = outputs(tvc_run, tmp_path, tmp_path / "same.pt", tmp_path / "photo.jpg")
    assert torch.equal(found, preprocessed(tmp_path / "photo.jpg", steps))


def test_half_and_channels_last(tvc_run: Path, tmp_path: Path) -> None:
    """The input takes the type and layout that the file wants."""
    model = awake(nn.Sequential(nn.Conv2d(3, 8, 3), SEBlock(8, reduction=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    export(
        model,
        tmp_path / "model.pt",
        example_input=torch.zeros(1, 3, 16, 16),
        verify=False,
        dtype="bf16",
        channels_last=True,
    )
    x = torch.randn(2, 3, 16, 16)
    np.save(tmp_path / "x.npy", x.numpy())
    found, _ = outputs(tvc_run, tmp_path, tmp_path / "model.pt", tmp_path / "x.npy")
    model.to(torch.bfloat16).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = model(x.bfloat16().contiguous(memory_format=torch.channels_last))
    assert torch.equal(found, expected.float())


def test_aot_inductor_package(tvc_run: Path, photo: Image.Image, tmp_path: Path) -> None:
    """The compiled package calls the fused ops, and answers like eager."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 7, 4), SEBlock(16, reduction=4), CBAMBlock(16, reduction=4), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    model.append(nn.Linear(64, 10))
    path = tmp_path / "model.pt2"
    report = export(awake(model), path, "aoti", torch.zeros(1, 3, 224, 224), verify=False, preprocessing=IMAGENET)
    assert {"tvc::squeeze_excite", "tvc::cbam"} <= set(report.ops)
    photo.save(tmp_path / "photo.png")
    x = torch.cat([preprocessed(tmp_path / "photo.png"), torch.randn(2, 3, 224, 224)])
    np.save(tmp_path / "batch.npy", x.numpy())
    found, answer = outputs(tvc_run, tmp_path, path, tmp_path / "photo.png", tmp_path / "batch.npy")
    with torch.no_grad():
        expected = model(x)
    assert answer["format"] == "aoti"
    torch.testing.assert_close(found, expected[[0, 0, 1, 2]], rtol=0, atol=1e-5)


def shown() -> list[str]:
    blocks = [block for file in READMES for block in re.findall(r"```bash\n(.*?)```", file.read_text(), re.DOTALL)]
    return list(dict.fromkeys(block for block in blocks if "--cmake-dir" in block))


@pytest.mark.full  # each builds its program anew
@pytest.mark.parametrize("block", shown(), ids=lambda block: block.splitlines()[-1].split()[0].rpartition("/")[2])
def test_what_the_readmes_show(
    tvc_run: Path, classify: Path, photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str
) -> None:
    """As a reader types it in a clone of the project, with random weights under the name of those to download."""
    weights = models.ResNet18_Weights.DEFAULT
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(models.resnet18().state_dict(), tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    photo.save(tmp_path / "photo.png")
    photo.save(tmp_path / "photo.jpg")
    # The clone is here, what the block writes is not. CMake keeps the full paths.
    block = block.replace(" examples/", f" {ROOT}/examples/").replace("build/", f"{BUILD}/")
    done = subprocess.run(["bash", "-e", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split(), "the last line shows a class"


# ---- what goes wrong ----


def with_metadata(path: Path, change: Callable[[dict[str, Any]], object] | str) -> None:
    """Write a small model whose metadata are changed, or replaced by a text."""
    export(Same(), path, example_input=torch.zeros(1, 3, 8, 8), verify=False)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in entries if name.endswith("extra/torchvision_customizer.json"))
    if isinstance(change, str):
        entries[name] = change.encode()
    else:
        metadata = json.loads(entries[name])
        change(metadata)
        entries[name] = json.dumps(metadata).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update(file_version=7), "is of version 7, and this tvc-run reads up to 1: update"),
        (lambda m: m.update(ops=["tvc::teleport"]), "calls tvc::teleport, which .*libtvc_ops.so does not have: update"),
        (lambda m: m.update(input_dtype="int4"), "metadata of .* is damaged: unknown input_dtype 'int4'"),
        (lambda m: m.update(preprocessing={"crop": 8}), "metadata of .* is damaged: its preprocessing is not complete"),
        ('{"file_version": 1,', "metadata of .* is damaged: no JSON at character 19"),
        ("[" * 100, "metadata of .* is damaged: no JSON at character"),
    ],
    ids=["newer", "missing op", "type", "preprocessing", "cut", "deep"],
)
def test_metadata_that_cannot_be(
    tvc_run: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object] | str, message: str
) -> None:
    with_metadata(tmp_path / "model.pt", change)
    np.save(tmp_path / "x.npy", torch.zeros(1, 3, 8, 8).numpy())
    fails(run(tvc_run, tmp_path / "model.pt", tmp_path / "x.npy"), message)


def fails(done: subprocess.CompletedProcess[str], message: str, code: int = 1) -> None:
    """One sentence, on stderr."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("tvc-run: ") and done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr


def test_models_that_are_none(tvc_run: Path, resnet: Exported, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", torch.zeros(1, 3, 224, 224).numpy())
    whole = resnet.path.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("no archive")
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("other/version", "3")
    program = torch.export.export(Same(), (torch.zeros(1, 3, 8, 8),))
    torch.export.save(program, tmp_path / "program.pt2")
    for name, message in {
        "nothing.pt": "cannot read .*nothing.pt: No such file",
        ".": "is a folder",
        "cut.pt": "cut.pt is no exported model, or a damaged one: .*central directory$",
        "text.pt": "text.pt is no exported model, or a damaged one",
        "tensor.pt": "is neither a TorchScript file",
        "other.zip": "is neither a TorchScript file nor an AOTInductor package",
        "program.pt2": "is an exported program, which only Python runs; export it with --format aoti or torchscript",
    }.items():
        fails(run(tvc_run, tmp_path / name, tmp_path / "x.npy"), message)


def test_inputs_that_are_none(tvc_run: Path, photo: Image.Image, tmp_path: Path) -> None:
    example = torch.zeros(1, 3, 224, 224)
    export(Same(), tmp_path / "model.pt", example_input=example, verify=False, preprocessing=IMAGENET, classes=None)
    photo.save(tmp_path / "photo.png")
    photo.save(tmp_path / "photo.jpg")
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg")
    np.save(tmp_path / "x.npy", torch.zeros(1, 3, 224, 224).numpy())
    for name in ("photo.png", "photo.jpg", "x.npy"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"cut-{name}").write_bytes(content[: len(content) // 2])
    torch.save(torch.ones(3, 224, 224), tmp_path / "x.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:2000])
    torch.save({"x": torch.ones(3, 224, 224)}, tmp_path / "dict.pt")
    torch.save(torch.ones(3, 224, 224, dtype=torch.int32), tmp_path / "int.pt")
    np.save(tmp_path / "long.npy", np.zeros((3, 224, 224), dtype=np.int64))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.zeros((3, 224, 224), dtype=np.float32)))
    np.save(tmp_path / "small.npy", np.zeros((1, 3, 32, 32), dtype=np.float32))
    np.save(tmp_path / "flat.npy", np.zeros((7,), dtype=np.float32))
    np.save(tmp_path / "grey.npy", np.zeros((1, 224, 224), dtype=np.uint8))
    (tmp_path / "text.txt").write_text("not an image")
    (tmp_path / "empty.png").write_text("")
    for name, message in {
        "nothing.png": "cannot read .*nothing.png: No such file",
        ".": "is a folder",
        "cut-photo.png": "cut-photo.png is a damaged PNG: the file ends too early",
        "cut-photo.jpg": "cut-photo.jpg cannot be decoded as JPEG: ",
        "cut-x.npy": "its header says 150528 elements of type '<f4', and .* bytes follow",
        "cut.pt": "cut.pt is no tensor saved by torch, or a damaged one",
        "cmyk.jpg": "cmyk.jpg cannot be decoded as JPEG: Unsupported color conversion",
        "dict.pt": "dict.pt holds a .*; tvc-run reads one tensor",
        "int.pt": "is of type Int; it must be uint8",
        "long.npy": "holds elements of type '<i8'; float32, float64, float16 and uint8 are read",
        "fortran.npy": "is in Fortran order",
        "small.npy": r"small.npy is \(1, 3, 32, 32\), and .*model.pt takes \(any, 3, 224, 224\)",
        "flat.npy": r"flat.npy is \(7\), and .*model.pt takes \(any, 3, 224, 224\)",
        "grey.npy": "grey.npy has 1 channels, and .* takes images of 3",
        "text.txt": "is no PNG or JPEG, no .npy array and no tensor saved by torch",
        "empty.png": "is no PNG or JPEG",
    }.items():
        fails(run(tvc_run, tmp_path / "model.pt", tmp_path / name), message)


def test_images_without_preprocessing(tvc_run: Path, photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "photo.png")
    export(Same(), tmp_path / "same.pt", example_input=torch.zeros(1, 3, 8, 8), verify=False)
    fails(run(tvc_run, tmp_path / "same.pt", tmp_path / "photo.png"), "does not say how images are pre-processed")


def test_model_that_fails_as_it_runs(tvc_run: Path, tmp_path: Path) -> None:
    """A file without metadata takes what comes; what TorchScript says of it is a page, and its cause one line."""
    torch.jit.save(torch.jit.script(nn.Conv2d(3, 4, 3)), tmp_path / "model.pt")
    np.save(tmp_path / "x.npy", np.zeros((1, 5, 8, 8), dtype=np.float32))
    fails(run(tvc_run, tmp_path / "model.pt", tmp_path / "x.npy"), r"does not run on .*, \(1, 5, 8, 8\): .*to have 3 channels")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no MODEL given; see tvc-run --help"),
        (["model.pt"], "no INPUT given"),
        (["model.pt", "x.npy", "--topk", "3"], "there is no option --topk"),
        (["model.pt", "x.npy", "--top"], "--top takes a value"),
        (["model.pt", "x.npy", "--top", "0"], "--top takes a number from 1 on, got '0'"),
        (["model.pt", "x.npy", "--time", "3s"], "--time takes a number from 1 on, got '3s'"),
    ],
    ids=" ".join,
)
def test_wrong_usage(tvc_run: Path, arguments: list[str], message: str) -> None:
    fails(run(tvc_run, *arguments), message, code=2)


def test_labels_and_outputs_that_cannot_be(tvc_run: Path, resnet: Exported, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", torch.zeros(1, 3, 224, 224).numpy())
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    command = (tvc_run, resnet.path, tmp_path / "x.npy")
    fails(run(*command, "--labels", tmp_path / "labels.txt"), "labels.txt names 2 classes, and the model answers for 1000")
    fails(run(*command, "--labels", tmp_path / "nothing.txt"), "cannot read labels from .*nothing.txt")
    fails(run(*command, "--output", tmp_path / "nowhere" / "y.npy"), "cannot write .*y.npy: No such file or directory")
    assert not list(tmp_path.glob("*.tmp"))


def test_help(tvc_run: Path) -> None:
    done = run(tvc_run, "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: tvc-run [OPTIONS] MODEL INPUT...")
    assert max(len(line) for line in done.stdout.splitlines()) <= 120
    assert run(tvc_run, "--version").stdout.strip().endswith(f"torch {torch.__version__.split('+')[0]}")


# ---- the CMake package ----

PROJECT = """
cmake_minimum_required(VERSION 3.22)
project(trial LANGUAGES C CXX)
{}
file(WRITE ${{CMAKE_BINARY_DIR}}/main.cpp "int main() {{}}")
add_executable(trial ${{CMAKE_BINARY_DIR}}/main.cpp)
target_link_libraries(trial PRIVATE TvcOps::ops)
"""


def project(folder: Path, find: str) -> Path:
    (folder / "source").mkdir()
    (folder / "source" / "CMakeLists.txt").write_text(PROJECT.format(find))
    return folder / "source"


@pytest.mark.parametrize("find", ["find_package(TvcOps 3.0 REQUIRED)", "find_package(Torch REQUIRED)\nfind_package(TvcOps)"])
def test_the_library_is_kept(tmp_path: Path, find: str) -> None:
    """A program that names no symbol of the ops is linked to them all the same, and finds them; and torch's own package may
    come first."""
    if "find_package(Torch" in find and torch.version.cuda is not None:
        pytest.skip("find_package(Torch) of a CUDA build of torch asks for its CUDA toolkit")
    source = project(tmp_path, find)
    torch_root = torch.utils.cmake_prefix_path
    done = configure(source, tmp_path / "build", f"-DTvcOps_DIR={_cmake.cmake_dir()}", f"-DCMAKE_PREFIX_PATH={torch_root}")
    assert done.returncode == 0, done.stderr
    subprocess.run(["cmake", "--build", str(tmp_path / "build")], capture_output=True, check=True)
    assert run(tmp_path / "build" / "trial").returncode == 0
    needed = subprocess.run(["ldd", str(tmp_path / "build/trial")], capture_output=True, text=True, check=True).stdout
    assert f"libtvc_ops.so => {_cmake.cmake_dir().parent / 'libtvc_ops.so'}" in needed


def test_cuda_target(tmp_path: Path) -> None:
    """The CUDA kernels are linked, kept and found too: with a stand-in for libtorch_cuda where this torch has none."""
    if not (_cmake.cmake_dir().parent / "libtvc_ops_cuda.so").is_file():
        pytest.skip("the library was built without CUDA (no nvcc, or -DTVC_CUDA=OFF)")
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    installed = Path(torch.__file__).parent
    (tmp_path / "torch" / "include").symlink_to(installed / "include")
    for library in (installed / "lib").glob("*.so*"):
        (tmp_path / "torch" / "lib" / library.name).symlink_to(library)
    cuda = tmp_path / "torch" / "lib" / "libtorch_cuda.so"
    if not cuda.exists():
        stub = ROOT / "csrc" / "cuda" / "stub" / "torch_cuda.cpp"
        subprocess.run(["c++", "-shared", "-fPIC", f"-Wl,-soname,{cuda.name}", stub, "-o", cuda], check=True)
    source = project(tmp_path, "find_package(TvcOps REQUIRED)")
    (source / "CMakeLists.txt").write_text((source / "CMakeLists.txt").read_text().replace("::ops)", "::ops_cuda)"))
    arguments = (f"-DTvcOps_DIR={_cmake.cmake_dir()}", f"-DTvcOps_TORCH_ROOT={tmp_path / 'torch'}")
    done = configure(source, tmp_path / "build", *arguments)
    assert done.returncode == 0, done.stderr
    subprocess.run(["cmake", "--build", str(tmp_path / "build")], capture_output=True, check=True)
    needed = subprocess.run(["ldd", str(tmp_path / "build/trial")], capture_output=True, text=True, check=True).stdout
    assert "libtvc_ops.so" in needed and "libtvc_ops_cuda.so" in needed and "not found" not in needed
    assert run(tmp_path / "build" / "trial").returncode == 0


@pytest.mark.parametrize(
    "find, arguments, message",
    [
        ("find_package(TvcOps REQUIRED)", ["-DTvcOps_TORCH_ROOT=/nowhere"], r"No torch in '/nowhere', .* lib/libtorch.so"),
        ("find_package(TvcOps 99 REQUIRED)", [], r"requested\s+version \"99\""),
    ],
    ids=["torch", "version"],
)
def test_what_cmake_does_not_find(tmp_path: Path, find: str, arguments: list[str], message: str) -> None:
    done = configure(project(tmp_path, find), tmp_path / "build", f"-DTvcOps_DIR={_cmake.cmake_dir()}", *arguments)
    assert done.returncode != 0
    assert re.search(message, " ".join(done.stderr.split())), done.stderr


def test_doctor_prints_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    result = CliRunner().invoke(main, ["doctor", "--cmake-dir"])
    assert result.exit_code == 0
    folder = Path(result.output.rstrip("\n"))
    assert (folder / "TvcOpsConfig.cmake").is_file() and (folder / "runner" / "CMakeLists.txt").is_file()
    assert json.loads(CliRunner().invoke(main, ["doctor", "--cmake-dir", "--json"]).output) == {"cmake_dir": str(folder)}

    monkeypatch.setattr(_cmake.importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["doctor", "--cmake-dir"])
    assert result.exit_code == 1
    assert "there is no CMake package: this is a pure-Python installation (built with TVC_NATIVE=0)" in result.stderr
