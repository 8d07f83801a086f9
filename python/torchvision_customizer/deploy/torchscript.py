"""TorchScript: the format that a C++ program loads with LibTorch alone, and ``libtvc_ops`` where the model calls its ops."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import OPS
from . import _metadata
from .formats import ExportOptions, Format


def write(model: nn.Module, path: Path, example: Tensor, options: ExportOptions) -> tuple[str, ...]:
    """Script ``model`` into ``path``.

    Returns:
        The ``tvc`` ops the file calls.

    Raises:
        RuntimeError: TorchScript cannot compile the model; the message shows the line.
        OSError: ``path`` cannot be written.
    """
    with _quiet():
        try:
            scripted: torch.jit.ScriptModule = torch.jit.script(model)
        except (RuntimeError, torch.jit.frontend.FrontendError) as error:
            raise RuntimeError(f"export: TorchScript cannot compile {type(model).__name__}: {error}") from error
        if not options.fused and ops_in(scripted):
            scripted = portable(scripted)
        ops = ops_in(scripted)
        buffer = io.BytesIO()  # torch's own writing to a full disk ends in an error that does not say so
        torch.jit.save(
            scripted, buffer, _extra_files={_metadata.NAME: _metadata.describe("torchscript", example, ops, options)}
        )
    path.write_bytes(buffer.getbuffer())
    return ops


def ops_in(scripted: torch.jit.ScriptModule) -> tuple[str, ...]:
    called: list[str] = torch.jit.export_opnames(scripted)
    return tuple(sorted(name for name in called if name.startswith("tvc::")))


def portable(scripted: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """A copy of a scripted module with the scripted reference of each op in the place of its call.

    A copy, because modules of one class share their compiled methods, also with what is scripted later.
    """
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    # torch.jit.load, which keeps the unit of all functions to itself. The stubs of torch know neither as it is.
    bindings: Any = torch._C
    unit = bindings.CompilationUnit()
    copied = bindings.import_ir_module_from_buffer(unit, buffer.getvalue(), None, {}, False)
    formulas: dict[str, Any] = {}
    for function in unit.get_functions():  # methods, too
        _decompose(function.graph, formulas)
    return torch.jit._recursive.wrap_cpp_module(copied)


def _decompose(graph: Any, formulas: dict[str, Any]) -> None:
    """Put scripted references in the place of ops; ``formulas`` keeps those that have been scripted."""
    for op in OPS.values():
        in_place = op.name.endswith("_")
        for call in graph.findAllNodes(f"tvc::{op.name}", True):
            formula = _formula(op.name.strip("_") if in_place else op.name, formulas)
            with graph.insert_point_guard(call):
                results = graph.insertGraph(formula, list(call.inputs()))
                if call.outputsSize() > 1:
                    unpacked = graph.insertNode(graph.create("prim::TupleUnpack", results, call.outputsSize()))
                    results = list(unpacked.outputs())
                if in_place:
                    no_block = graph.insertConstant(False)
                    graph.insertNode(graph.create("aten::copy_", [next(call.inputs()), results[0], no_block], 1))
            for old, new in zip(call.outputs(), results, strict=not in_place):
                old.replaceAllUsesWith(new)
            call.destroy()
    torch._C._jit_pass_lint(graph)


def _formula(name: str, formulas: dict[str, Any]) -> Any:
    if name not in formulas:
        formula = OPS[name].formula
        assert formula is not None
        formulas[name] = torch.jit.script(formula).graph.copy()
        torch._C._jit_pass_inline(formulas[name])
    return formulas[name]


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # torch.export is to follow TorchScript. Until torch takes it away, this is what loads in C++ without a compiler.
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        yield


FORMAT = Format(name="torchscript", fused=True, write=write)
