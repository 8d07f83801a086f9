"""ONNX: every op's translation against its reference in onnxruntime, and what a file says, takes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from torchvision_customizer import ops
from torchvision_customizer.blocks import SEBlock
from torchvision_customizer.deploy import VerificationError, export, load_exported, onnx_translation_table, verify
from torchvision_customizer.ops._math import ACTS, GATES, POSTS
from torchvision_customizer.ops.cbam import cbam_apply, cbam_channels

onnx = pytest.importorskip("onnx", reason="ONNX files are made with onnx")
pytest.importorskip("onnxscript", reason="ONNX files are made with onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX files are run with onnxruntime")

from torchvision_customizer.deploy import onnx as onnx_format  # noqa: E402
from torchvision_customizer.deploy.onnx_translation import translated_ops  # noqa: E402

EXAMPLE = torch.zeros(1, 3, 8, 8)
TOLERANCES = {torch.float32: 5e-6, torch.float16: 2e-3}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Notices of torch's and onnxscript's insides are not the user's business."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Calls(nn.Module):
    """Calls ops on its input, with weights that are its buffers; one export serves many."""

    def __init__(self, calls: list[Callable[[Calls, Tensor], Tensor]], dtype: torch.dtype) -> None:
        super().__init__()
        self.calls = calls
        generator = torch.Generator().manual_seed(0)
        for name, shape in {
            "w1": (4, 6),
            "b1": (4,),
            "w2": (6, 4),
            "b2": (6,),
            "taps": (3,),
            "plane": (1, 2, 3, 3),
            "bias": (1,),
        }.items():
            self.register_buffer(name, torch.randn(shape, generator=generator).to(dtype))
        self.register_buffer("p", torch.tensor([2.5], dtype=dtype))
        self.register_buffer("each_p", torch.linspace(1, 4, 6).to(dtype))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(call(self, x).contiguous() for call in self.calls)


def option_calls(count: int) -> list[Callable[[Calls, Tensor], Tensor]]:
    """``count`` calls of each op: 5 have every act, gate and post, 20 every pair of act and gate; odd ones on a token view."""

    def call(number: int, name: str) -> Callable[[Calls, Tensor], Tensor]:
        act, gate, post = ACTS[number % 5], GATES[number % 4], POSTS[(2 * number + 1) % 5]

        def run(m: Calls, x: Tensor) -> Tensor:
            if number % 2:
                x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
            residual = x * 0.5 + 1 if number % 3 else None
            mlp = m.w1, m.b1 if number // 2 % 2 else None, m.w2, m.b2 if number // 4 % 2 else None
            if name == "squeeze_excite":
                return ops.squeeze_excite(x, *mlp, act, gate, residual, post)
            if name == "cbam":
                return ops.cbam(x, *mlp, m.plane, m.bias if number % 2 else None, act, gate, residual, post)
            if name == "eca":
                return ops.eca(x, m.taps, gate, residual, post)
            return ops.drop_path(x, x[:, 0, 0, 0].relu(), residual, post)  # some of it 0

        return run

    return [call(number, name) for name in ("squeeze_excite", "cbam", "eca", "drop_path") for number in range(count)]


def shape_calls() -> list[Callable[[Calls, Tensor], Tensor]]:
    """Every number of dimensions, both kinds of p, and the halves of cbam."""
    shapes: list[Callable[[Tensor], Tensor]] = [lambda x: x[:, :, 0, 0], lambda x: x.flatten(2), lambda x: x.unsqueeze(2)]
    calls: list[Callable[[Calls, Tensor], Tensor]] = []
    for shape in shapes:
        calls += [
            lambda m, x, shape=shape: ops.squeeze_excite(shape(x), m.w1, m.b1, m.w2, m.b2),
            lambda m, x, shape=shape: ops.eca(shape(x), m.taps),
            lambda m, x, shape=shape: ops.drop_path(shape(x), x[:, 0, 0, 0].relu()),
            lambda m, x, shape=shape: ops.gem_pool(shape(x), m.each_p, 1e-3),
        ]
    calls += [
        lambda m, x: ops.drop_path(x[:, 0, 0, 0], x[:, 1, 0, 0].relu()),
        lambda m, x: ops.gem_pool(x, m.p),
        lambda m, x: cbam_channels(x, m.w1, m.b1, m.w2, None, "silu", "two_sigmoid")[0],
        lambda m, x: cbam_channels(x, m.w1, None, m.w2, m.b2, "gelu", "tanh1p")[1],
        lambda m, x: cbam_apply(x, x.mean((2, 3), dtype=torch.float32), x[:, :1], "tanh1p", x, "silu"),
    ]
    return calls


def run(proto: Any, x: Tensor) -> list[Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(array) for array in session.run(None, {"input": x.numpy()})]


def compare_with_references(model: Calls, opset: int, dtype: torch.dtype = torch.float32) -> Any:
    """Export with the ops whole, run at other sizes than were exported, and compare with the references."""
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with torch.no_grad(), onnx_format._quiet():
        program = torch.export.export(model, (torch.randn(2, 6, 6, 5).to(dtype),), dynamic_shapes=((sizes),))
        proto = onnx_format.to_onnx(program, opset)
    x = torch.randn(3, 6, 4, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
    with ops.reference():
        expected = model(x)
    for index, (got, want) in enumerate(zip(run(proto, x), expected, strict=True)):
        assert got.shape == want.shape and got.dtype == want.dtype, index
        limit = TOLERANCES[dtype] * max(1.0, want.abs().max().item())
        assert (got.double() - want.double()).abs().max().item() <= limit, index
    return proto


def types_in(proto: Any) -> set[str]:
    return {node.op_type for node in proto.graph.node}


def with_se() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), SEBlock(8, reduction=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return model.eval()


# ---- Translations ----


def test_every_op_that_a_model_calls_is_translated() -> None:
    called = {name for name in ops.OPS if not name.endswith(("_backward", "_"))}
    assert set(translated_ops()) == called
    assert {op._schema.name for op in onnx_translation_table()} == {f"tvc::{name}" for name in called}


@pytest.mark.parametrize("count", [5, pytest.param(20, marks=pytest.mark.full)])
def test_options_agree_with_the_references(count: int) -> None:
    types = types_in(compare_with_references(Calls(option_calls(count), torch.float32), opset=20))
    assert {"Gelu", "HardSwish", "HardSigmoid", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "ReduceMax"} <= types


def test_shapes_agree_with_the_references() -> None:
    compare_with_references(Calls(shape_calls(), torch.float32), opset=20)


def test_half_types_agree_with_the_references() -> None:
    compare_with_references(Calls(option_calls(5)[3::5], torch.float16), opset=20, dtype=torch.float16)


def test_a_table_uses_what_its_opset_has() -> None:
    def gelu(m: Calls, x: Tensor) -> Tensor:
        return ops.squeeze_excite(x, m.w1, None, m.w2, None, "gelu", "sigmoid", None, "gelu")

    types = types_in(compare_with_references(Calls([gelu], torch.float32), opset=18))
    assert "Erf" in types and "Gelu" not in types


def test_the_table_serves_torch_itself() -> None:
    model = with_se()
    with torch.no_grad(), onnx_format._quiet():
        made = torch.onnx.export(
            model, (EXAMPLE,), dynamo=True, verbose=False, custom_translation_table=onnx_translation_table(), optimize=False
        )
    assert made is not None
    assert [node.op_type for node in made.model.graph].count("Gemm") == 3
    session = onnxruntime.InferenceSession(made.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(1, 3, 8, 8)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(got), model(x), atol=1e-6)


@pytest.mark.parametrize("opset", [17, 1000])
def test_opsets_that_cannot_be_written(tmp_path: Path, opset: int) -> None:
    with pytest.raises(ValueError, match=rf"export: opset must be from 18, .* to \d+, .*, got {opset}"):
        export(with_se(), tmp_path / "model.onnx", "onnx", EXAMPLE, opset=opset)
    with pytest.raises(ValueError, match=f"onnx_translation_table: opset must be from 18, .* got {opset}"):
        onnx_translation_table(opset)
    assert not list(tmp_path.iterdir())


# ---- Files ----


@pytest.mark.parametrize(("fused", "opset"), [(None, None), (True, 22)], ids=["as it is", "fused, opset 22"])
def test_a_file_is_verified_and_says_what_it_is(tmp_path: Path, fused: bool | None, opset: int | None) -> None:
    path = tmp_path / "model.onnx"
    report = export(
        with_se().train(),
        path,
        "onnx",
        EXAMPLE,
        fused=fused,
        opset=opset,
        dynamic_size=fused is True,
        classes=["a", "b", "c", "d"],
    )
    assert report.ops == () and report.libraries == ()
    assert report.verification is not None and report.verification.passed
    assert "nothing but onnxruntime" in report.summary()
    assert list(tmp_path.iterdir()) == [path]

    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset or 20)]
    assert ("GlobalAveragePool" in types_in(proto)) is (fused is True)
    assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == ["input", "output"]
    dimensions = [dim.dim_param or dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    assert dimensions == (["batch", 3, "height", "width"] if fused else ["batch", 3, 8, 8])
    assert proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    (metadata,) = (json.loads(entry.value) for entry in proto.metadata_props if entry.key == "torchvision_customizer")
    assert metadata["format"] == "onnx" and metadata["file_version"] == 1
    assert metadata["input_shape"] == ([None, 3, None, None] if fused else [None, 3, 8, 8])
    assert metadata["ops"] == [] and metadata["library"] is None
    assert metadata["classes"] == ["a", "b", "c", "d"]


def test_a_fixed_batch_stays_fixed(tmp_path: Path) -> None:
    report = export(with_se(), tmp_path / "model.onnx", "onnx", EXAMPLE, dynamic_batch=False)
    assert report.verification is not None
    assert {comparison.input_shape for comparison in report.verification.comparisons} == {(1, 3, 8, 8)}
    shape = onnx.load(tmp_path / "model.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [1, 3, 8, 8]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export(with_se(), path, "onnx", EXAMPLE, verify=False)
    return path


def test_verify_tells_another_model(file: Path) -> None:
    model = with_se()
    assert verify(file, model).passed
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 0.1
    with pytest.raises(VerificationError, match="differs from eager"):
        verify(file, model)


def test_verify_of_damaged_files(tmp_path: Path, file: Path) -> None:
    whole, path = file.read_bytes(), tmp_path / "model.onnx"
    for content in (whole[: len(whole) // 2], whole[:4], b"\x08and no model"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"verify: .*model.onnx is no exported model, or a damaged one"):
            verify(path, with_se())


def test_a_file_of_a_newer_version(tmp_path: Path, file: Path) -> None:
    proto = onnx.load(file)
    (entry,) = proto.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), "file_version": 2})
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"file version 2, .* update it"):
        verify(tmp_path / "model.onnx", with_se())


def test_a_loaded_file_is_a_function_of_tensors(file: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(load_exported(file)(x), with_se()(x), atol=1e-6)


def test_a_file_that_onnxruntime_cannot_load(tmp_path: Path) -> None:
    export(with_se(), tmp_path / "model.onnx", "onnx", EXAMPLE, dtype="fp64", verify=False)
    with pytest.raises(RuntimeError, match=r"model.onnx: onnxruntime cannot load it: .*NOT_IMPLEMENTED"):
        load_exported(tmp_path / "model.onnx")


def test_a_file_without_metadata_can_be_verified(tmp_path: Path, file: Path) -> None:
    proto = onnx.load(file)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "model.onnx")
    report = verify(tmp_path / "model.onnx", with_se(), torch.randn(2, 3, 8, 8))
    assert report.passed and report.libraries == ()


def test_the_fresh_process_has_no_torch(tmp_path: Path, file: Path) -> None:
    """And what it is forbidden to import is found out: with numpy among it, it is."""
    import numpy

    from torchvision_customizer.deploy import _fresh_onnx

    numpy.savez(tmp_path / "inputs.npz", **{"0": EXAMPLE.numpy()})
    job = {
        "file": str(file),
        "threads": 1,
        "runs": 1,
        "inputs": str(tmp_path / "inputs.npz"),
        "outputs": str(tmp_path / "outputs.npz"),
        "folders": [str(Path(str(module.__file__)).parent.parent) for module in (onnxruntime, numpy)],
        "forbidden": ["torch", "torchvision_customizer", "numpy"],
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-I", str(_fresh_onnx.__file__), str(tmp_path / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    foreign = {name.split(".")[0] for name in json.loads(done.stdout)["foreign"]}
    assert foreign == {"numpy"}


# ---- What cannot be ----


def test_what_onnx_has_no_operator_for(tmp_path: Path) -> None:
    class Eigen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvalsh(x)

    with pytest.raises(RuntimeError, match=r"export: the model cannot be said in ONNX: .*linalg_eigh"):
        export(Eigen(), tmp_path / "model.onnx", "onnx", EXAMPLE)
    assert not list(tmp_path.iterdir())


def test_an_op_without_translation(tmp_path: Path) -> None:
    class Backward(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.tvc._gem_pool_backward(x[:, :, 0, 0], x, torch.ones(1), 1e-6, False)[0]

    with pytest.raises(RuntimeError, match="export: ONNX has no translation of tvc::_gem_pool_backward; a portable file"):
        export(Backward(), tmp_path / "model.onnx", "onnx", EXAMPLE, fused=True)
    assert not list(tmp_path.iterdir())


def test_more_weights_than_a_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_format, "LIMIT", 1000)
    with pytest.raises(RuntimeError, match=r"export: the weights take .* GB, and an ONNX file holds at most"):
        export(with_se(), tmp_path / "model.onnx", "onnx", EXAMPLE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dtype", "message"),
    [("fp64", r"model.onnx does not run in a fresh process: .*NOT_IMPLEMENTED"), ("bf16", "numpy, .* has no bfloat16")],
)
def test_types_that_onnxruntime_has_not(tmp_path: Path, dtype: str, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        export(with_se(), tmp_path / "model.onnx", "onnx", EXAMPLE, dtype=dtype, opset=22)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for call in (lambda: onnx_translation_table(), lambda: export(with_se(), tmp_path / "model.onnx", "onnx", EXAMPLE)):
        with pytest.raises(ImportError, match=rf"ONNX needs {missing}: pip install 'torchvision-customizer\[onnx\]'"):
            call()
    assert not list(tmp_path.iterdir())


def test_verification_without_onnxruntime_says_what_to_install(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    from torchvision_customizer.deploy import verification

    monkeypatch.setattr(verification.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"model.onnx: ONNX needs onnxruntime: pip install 'torchvision-customizer\[onnx\]'"):
        verify(file, with_se())
