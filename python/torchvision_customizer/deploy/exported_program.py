"""``pt2``: an exported program, the graph of ``torch.export`` with its weights. AOTInductor and ONNX are made from it, too."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..ops import OPS
from . import _metadata
from .formats import ExportOptions, Format


def write(model: nn.Module, path: Path, example: Tensor, options: ExportOptions) -> tuple[str, ...]:
    """Export ``model`` into ``path``.

    Returns:
        The ``tvc`` ops the file calls.

    Raises:
        RuntimeError: ``torch.export`` cannot make a graph of the model.
        OSError: ``path`` cannot be written.
    """
    program = program_of(model, example, options)
    ops = ops_in(program)
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "tvc":
            # torch shows it where the op is missing, and has no other place for a word of ours.
            node.meta["stack_trace"] = _metadata.LOAD_FIRST
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch misses a tensor that is its memory in one row where weights are channels_last, and takes them all the same.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group", category=UserWarning)
        torch.export.save(program, buffer, extra_files={_metadata.NAME: _metadata.describe("pt2", example, ops, options)})
    path.write_bytes(buffer.getbuffer())
    return ops


def program_of(model: nn.Module, example: Tensor, options: ExportOptions) -> ExportedProgram:
    """``model`` as an exported program for inference, with or without ``tvc`` ops as the options say.

    Raises:
        RuntimeError: ``torch.export`` cannot make a graph of the model, or not one for every size that is asked for.
    """
    sizes: dict[int, Any] = {}
    if options.dynamic_batch:
        sizes[0] = Dim("batch", min=1)
        if example.size(0) == 1:  # torch.export takes a size of 1 for one that never changes
            example = example.expand(2, *example.shape[1:]).clone(memory_format=torch.preserve_format)
    if options.dynamic_size:
        sizes |= {dim: Dim.AUTO for dim in range(2, example.dim())}
    try:
        with torch.no_grad():
            program = torch.export.export(model, (example,), dynamic_shapes=(sizes,) if sizes else None)
    except (RuntimeError, ValueError, TypeError, AssertionError, torch._dynamo.exc.TorchDynamoException) as error:
        asked = " for any " + " and ".join(["batch"] * options.dynamic_batch + ["size"] * options.dynamic_size) if sizes else ""
        raise RuntimeError(f"export: torch.export makes no graph of {type(model).__name__}{asked}: {error}") from error
    return program if options.fused else portable(program)


def portable(program: ExportedProgram) -> ExportedProgram:
    """The program with the reference of each ``tvc`` op, in plain aten, in the place of its call."""
    called = {op.overload: op.reference for op in OPS.values() if f"tvc::{op.name}" in ops_in(program)}
    if not called:
        return program
    with warnings.catch_warnings():
        # Of torch 2.13 about itself.
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)
        return program.run_decompositions(called)


def ops_in(program: ExportedProgram) -> tuple[str, ...]:
    """The ``tvc`` ops that a program calls."""
    called = {
        node.target._schema.name
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    }
    return tuple(sorted(name for name in called if name.startswith("tvc::")))


FORMAT = Format(name="pt2", suffix=".pt2", fused=True, options=frozenset({"dynamic_batch"}), write=write)
