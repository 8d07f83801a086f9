"""ONNX: the format of onnxruntime, TensorRT, OpenVINO and others that run a model without torch.

``import onnx`` is the package of that name here too: imports are absolute, and this is ``torchvision_customizer.deploy.onnx``.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from . import _metadata
from .exported_program import ops_in, program_of
from .formats import ExportOptions, Format
from .onnx_translation import DEFAULT_OPSET, check_opset, need, onnx_translation_table, translated_ops

#: What one file holds: ONNX is written as Protocol Buffers, whose messages end at 2 GiB.
LIMIT = (1 << 31) - 1
#: The key of the metadata among the file's ``metadata_props``.
KEY = "torchvision_customizer"
_DYNAMIC = ("batch", "height", "width")


def write(model: nn.Module, path: Path, example: Tensor, options: ExportOptions) -> tuple[str, ...]:
    """Write ``model`` into ``path``, weights and all.

    Returns:
        The ``tvc`` ops the file calls, which are none: ONNX has operators of its own for each.

    Raises:
        ImportError: onnx or onnxscript is not installed; the message says what to install.
        ValueError: an opset that cannot be written; the message says which can.
        RuntimeError: the model has no graph, or one that ONNX has no operators for, or is larger than an ONNX file can be.
        OSError: ``path`` cannot be written.
    """
    opset = DEFAULT_OPSET if options.opset is None else options.opset
    check_opset(opset, "export")
    size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    if size > LIMIT:
        raise RuntimeError(
            f"export: the weights take {size / 1e9:.2f} GB, and an ONNX file holds at most {LIMIT / 1e9:.2f} GB; "
            "write half of it with dtype='fp16', or another format"
        )
    with _quiet():
        proto = to_onnx(program_of(model, example, options), opset)
    proto.metadata_props.add(key=KEY, value=_metadata.describe("onnx", example, (), options))
    path.write_bytes(proto.SerializeToString())
    return ()


def to_onnx(program: ExportedProgram, opset: int) -> Any:
    """An exported program of one input as an ``onnx.ModelProto``, which ONNX's checker has passed.

    What is dynamic in the program is so in the file. The input is called ``input``; the output ``output``, or ``output_0`` and
    on where there are several. A ``tvc`` op that the program calls is translated as a whole.

    Raises:
        RuntimeError: ONNX has no operators for something in it, or not at this opset.
    """
    onnx, table = need("onnx", "export"), onnx_translation_table(opset)
    unknown = set(ops_in(program)) - {f"tvc::{name}" for name in translated_ops()}
    if unknown:
        raise RuntimeError(f"export: ONNX has no translation of {', '.join(sorted(unknown))}; a portable file needs none")
    outputs = len(program.graph_signature.user_outputs)
    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            custom_translation_table=table,
            verbose=False,
            input_names=["input"],
            output_names=["output"] if outputs == 1 else [f"output_{index}" for index in range(outputs)],
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise RuntimeError(f"export: the model cannot be said in ONNX: {_first_cause(error)}") from error
    assert made is not None
    proto = made.model_proto
    (found,) = (entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if found != opset:
        raise RuntimeError(f"export: this model cannot be written at opset {opset}, and can at {found}")
    _name_dimensions(proto)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise RuntimeError(f"export: ONNX's checker refuses what torch made of the model: {error}") from error
    return proto


def metadata_of(path: Path) -> str | None:
    """The JSON in a file's metadata, or None where it has none because something else wrote it.

    Raises:
        ImportError: onnx is not installed; the message says what to install.
        ValueError: it is no ONNX file, or a damaged one.
    """
    onnx = need("onnx", str(path))
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load_model(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path} is no exported model, or a damaged one: it cannot be read as ONNX") from error
    # Nothing else marks an ONNX file, and one that was cut off between two fields can be read.
    if not proto.graph.output or not proto.opset_import:
        raise ValueError(f"{path} is no exported model, or a damaged one: it has no graph, as ONNX has")
    return next((entry.value for entry in proto.metadata_props if entry.key == KEY), None)


def _first_cause(error: BaseException) -> str:
    """What went wrong; the errors round it are advice on reporting it to torch."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch 2.13 says to itself: it copies its own graphs by what it has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        yield


def _name_dimensions(proto: Any) -> None:
    """Call what is dynamic by its name, where torch has s77 and the like, in the input and in all that follows from it."""
    dimensions = proto.graph.input[0].type.tensor_type.shape.dim
    places = (dimensions[0], *dimensions[2:])
    names = {place.dim_param: name for place, name in zip(places, _DYNAMIC, strict=False) if place.dim_param}
    if not names:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = pattern.sub(lambda found: names[found[0]], dimension.dim_param)


FORMAT = Format(name="onnx", fused=False, options=frozenset({"dynamic_batch", "opset"}), write=write)
