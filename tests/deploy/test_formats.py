"""The options of an export, in every format that takes them: what the file then takes, says and gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchvision_customizer import HybridBuilder, Recipe, build_recipe, load, ops, save
from torchvision_customizer.blocks import SEBlock
from torchvision_customizer.deploy import FORMATS, Preprocessing, export, load_exported, metadata_of, verify
from torchvision_customizer.deploy.known import known_classes, known_preprocessing

EXAMPLE = torch.zeros(1, 3, 16, 16)
# AOTInductor compiles for half a minute; the matrix has it with the options that it starts from.
EACH = pytest.mark.parametrize(
    "format", [pytest.param(name, marks=[pytest.mark.full] if name == "aoti" else []) for name in FORMATS]
)
native = pytest.mark.skipif(
    not ops.native_status().cpu_loaded, reason=f"a file with tvc ops needs libtvc_ops: {ops.native_status().cpu_reason}"
)


def with_se() -> nn.Module:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return nn.Sequential(conv, norm, SEBlock(8, reduction=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def written(model: nn.Module, folder: Path, format: str, **options: Any) -> tuple[dict[str, Any], Any]:
    """What a file says of itself, and its model; portable, unless something else is said."""
    path = folder / "model.pt2"
    export(model, path, format, EXAMPLE, verify=False, **{"fused": False, **options})
    return metadata_of(path), load_exported(path)


def agree(program: Any, model: nn.Module, x: Tensor, tolerance: float = 1e-5) -> None:
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), atol=tolerance, rtol=tolerance)


@EACH
def test_the_model_is_not_changed(format: str, tmp_path: Path) -> None:
    model = with_se().train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # onnxruntime has no convolution of bfloat16, nor of float64, on the CPU.
    written(model, tmp_path, format, dtype="fp16" if format == "onnx" else "bf16", channels_last=True, fold_norms=True)
    assert model.training and not model[1].training and isinstance(model[1], nn.BatchNorm2d)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype and tensor.stride() == before[name].stride()
        assert torch.equal(tensor, before[name])


@EACH
def test_dtype(format: str, tmp_path: Path) -> None:
    name, dtype, limit = ("fp16", torch.float16, 5e-3) if format == "onnx" else ("fp64", torch.float64, 1e-12)
    metadata, program = written(with_se(), tmp_path, format, dtype=name)
    assert metadata["input_dtype"] == str(dtype).removeprefix("torch.")
    agree(program, with_se().to(dtype).eval(), torch.randn(3, 3, 16, 16, dtype=dtype), limit)


@EACH
def test_channels_last(format: str, tmp_path: Path) -> None:
    metadata, program = written(with_se(), tmp_path, format, channels_last=True)
    assert metadata["channels_last"] is True
    agree(program, with_se().eval(), torch.randn(3, 3, 16, 16).contiguous(memory_format=torch.channels_last))


@EACH
def test_dynamic_size(format: str, tmp_path: Path) -> None:
    metadata, program = written(with_se(), tmp_path, format, dynamic_size=True)
    assert metadata["input_shape"] == [None, 3, None, None]
    for shape in ((1, 3, 16, 16), (2, 3, 33, 20)):
        agree(program, with_se().eval(), torch.randn(shape))


@pytest.mark.parametrize(
    "format", [name for name, kind in FORMATS.items() if "dynamic_batch" in kind.options and name != "aoti"]
)
def test_fixed_batch(format: str, tmp_path: Path) -> None:
    metadata, program = written(with_se(), tmp_path, format, dynamic_batch=False)
    assert metadata["input_shape"] == [1, 3, 16, 16]
    agree(program, with_se().eval(), torch.randn(1, 3, 16, 16))
    with pytest.raises(Exception, match=r"(?i)guard|expected|dimension"):
        program(torch.randn(2, 3, 16, 16))


@EACH
def test_norms_folded(format: str, tmp_path: Path) -> None:
    _, program = written(with_se(), tmp_path, format, fold_norms=True)
    agree(program, with_se().eval(), torch.randn(2, 3, 16, 16))
    if format == "torchscript":
        assert not any("running_mean" in name for name in program.state_dict())


@native
@pytest.mark.full
def test_verified_with_options(tmp_path: Path) -> None:
    """The copy that a file is compared with has its type and layout; also when it is verified later, from its metadata."""
    path, model = tmp_path / "model.pt2", with_se()
    options: dict[str, Any] = {"dtype": torch.bfloat16, "channels_last": True, "dynamic_size": True}
    report = export(model, path, "pt2", EXAMPLE, fold_norms=True, **options)
    assert report.verification is not None
    tried = [(c.inputs, c.input_shape) for c in report.verification.comparisons]
    assert tried[-1] == ("photographs", (5, 3, 48, 80)) and len(tried) == 7
    again = verify(path, model, example_input=torch.zeros(1, 3, 24, 24, dtype=torch.bfloat16))
    assert again.comparisons[0].input_shape == (1, 3, 24, 24)
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"format": "torchscript", "dynamic_batch": False},
            "dynamic_batch is not an option of torchscript; .* take it: pt2, aoti",
        ),
        ({"format": "pt2", "opset": 18}, "opset is not an option of pt2"),
        ({"dtype": "float8"}, "dtype must be one of fp32, fp16, bf16, fp64, got 'float8'"),
        ({"dtype": torch.int8}, r"dtype must be one of torch.float32, .*, got torch.int8"),
        ({"classes": ["cat", "dog"]}, "there are 2 classes, and the model has 4 outputs"),
        ({"classes": "cats"}, "classes must be a list of names, got 'cats'"),
        ({"format": "pt2", "path": "model.pt"}, "by a name that ends in .pt2, got model.pt"),
        (
            {"example_input": torch.zeros(2, 5), "channels_last": True},
            r"channels_last is for images .* the example is \(2, 5\)",
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments = {"path": "model.pt2", "example_input": EXAMPLE, **options}
    with pytest.raises(ValueError, match=f"^export: .*{message}"):
        export(with_se(), tmp_path / arguments.pop("path"), **arguments)
    assert not list(tmp_path.iterdir())


def test_an_unknown_option_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="dynamic"):
        export(with_se(), tmp_path / "model.pt", dynamic=True)  # type: ignore[call-arg]


IMAGENET = Preprocessing(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 232)


@EACH
def test_given_metadata(format: str, tmp_path: Path) -> None:
    metadata, _ = written(with_se(), tmp_path, format, preprocessing=IMAGENET, classes=["cat", "dog", "Kälte", "狐"])
    assert metadata["preprocessing"] == {
        **{"resize": 232, "crop": 224, "interpolation": "bilinear", "antialias": True},
        **{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }
    assert metadata["classes"] == ["cat", "dog", "Kälte", "狐"]


def test_known_of_torchvisions_weights() -> None:
    """As though they had been loaded: the metadata need the enum, and not the file."""
    from torchvision_customizer.hybrid.model import note
    from torchvision_customizer.hybrid.report import WeightsMatch

    model = HybridBuilder().from_torchvision("resnet50", None)
    assert known_preprocessing(model) is None and known_classes(model) is None
    note(model, weights=WeightsMatch("IMAGENET1K_V2", 1, 1, 1, 1))
    assert known_preprocessing(model) == IMAGENET
    classes = known_classes(model)
    assert classes is not None and len(classes) == 1000 and classes[0] == "tench"


def test_known_of_timm() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", pretrained=False)
    config = model.pretrained_cfg
    known = known_preprocessing(model)
    assert known is not None and known.crop == 224 and known.resize == int(224 / config["crop_pct"])
    assert known.mean == tuple(config["mean"]) and known.interpolation == config["interpolation"]


def test_known_of_a_recipe(tmp_path: Path) -> None:
    """What the section ``export`` says goes along with a saved folder."""
    recipe = {
        "input_shape": [1, 28, 28],
        "stem": {"type": "simple", "channels": 8},
        "stages": [{"pattern": "conv", "channels": 8, "blocks": 1}],
        "head": {"type": "linear", "num_classes": 2},
        "export": {"mean": [0.13], "std": [0.31], "classes": ["odd", "even"]},
    }
    model = build_recipe(Recipe.from_dict(recipe))
    save(model, tmp_path / "saved")
    for each in (model, load(tmp_path / "saved")):
        assert known_preprocessing(each) == Preprocessing(28, (0.13,), (0.31,))
        assert known_classes(each) == ("odd", "even")
    oblong = build_recipe(Recipe.from_dict({**recipe, "input_shape": [1, 28, 32]}))
    with pytest.raises(ValueError, match=r"for square images, and its input is 28×32; give preprocessing=None"):
        known_preprocessing(oblong)
    export(model, tmp_path / "model.pt", fused=False, verify=False)
    assert metadata_of(tmp_path / "model.pt")["input_shape"] == [None, 1, 28, 28]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, (0.5,), (0.5,)), "crop must be above 0"),
        ((224, (0.5,), (0.5,), 200), "resize at least crop, got 224 and 200"),
        ((224, (0.5,), (0.5, 0.5)), "as many channels"),
        ((224, (0.5,), (0.0,)), "std must be above 0"),
        ((224, (0.5,), (0.5,), 224, "lanczos"), "interpolation must be one of nearest, bilinear, bicubic, got 'lanczos'"),
    ],
)
def test_wrong_preprocessing(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"preprocessing: .*{message}"):
        Preprocessing(*arguments)
