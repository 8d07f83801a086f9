"""Prove that an exported file gives the numbers of its model, in a process that has only torch, or only onnxruntime."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import OPS, native_status
from . import _fresh_onnx, _fresh_process, _metadata
from ._fresh_process import tensors
from .onnx_translation import need
from .verification_inputs import in_form, inputs_for, is_channels_last, like_example

#: The largest difference allowed, as a share of the largest absolute value of the eager output: some roundings of each type.
#: A fused TorchScript file or exported program runs the kernels of eager, and comes much nearer; portable files, Inductor and
#: onnxruntime add in another order, and Inductor and onnxruntime round half types less often.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}

_RUNS = 3


class VerificationError(RuntimeError):
    """An exported file did not load in a fresh process, or gave other numbers. ``report`` holds them, where there are any."""

    def __init__(self, message: str, report: VerifyReport | None = None) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Comparison:
    """One input, run by the file and by eager.

    Attributes:
        inputs: what it is: ``noise``, ``photographs``, or ``given`` where the caller gave it.
        input_shape: shape of the input.
        difference: largest absolute difference of any output; not finite when an output is not.
        limit: what is allowed: the tolerance of the output's type times the largest absolute value of the eager output.
        file_ms: milliseconds of one run of the file, after its first ones.
        eager_ms: milliseconds of one eager run, after a first one.
    """

    inputs: str
    input_shape: tuple[int, ...]
    difference: float
    limit: float
    file_ms: float
    eager_ms: float

    @property
    def agrees(self) -> bool:
        return self.difference <= self.limit  # False for NaN


@dataclass(frozen=True)
class VerifyReport:
    """What :func:`verify` found: a comparison for each input, and the seconds the file took to load."""

    path: Path
    libraries: tuple[Path, ...]
    load_seconds: float
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        return all(comparison.agrees for comparison in self.comparisons)

    @property
    def largest_difference(self) -> float:
        return max(comparison.difference for comparison in self.comparisons)

    def summary(self) -> str:
        """One sentence."""
        worst = max(self.comparisons, key=lambda c: float("inf") if not c.agrees else c.difference)
        sizes = ", ".join(dict.fromkeys(str(comparison.input_shape[0]) for comparison in self.comparisons))
        kinds = " and ".join(dict.fromkeys(comparison.inputs for comparison in self.comparisons))
        images = [max(comparison.input_shape[0], 1) for comparison in self.comparisons]
        file, eager = (
            sum(times) / sum(images)
            for times in zip(*((comparison.file_ms, comparison.eager_ms) for comparison in self.comparisons), strict=True)
        )
        verdict = "agrees with eager" if self.passed else "differs from eager"
        return (
            f"{self.path.name} {verdict} in a fresh process, {kinds}, batch sizes {sizes}: "
            f"largest difference {worst.difference:.3g}, allowed {worst.limit:.3g}; "
            f"{file:.1f} ms an image, eager {eager:.1f}"
        )


def verify(
    path: str | os.PathLike[str],
    model: nn.Module,
    inputs: Tensor | Sequence[Tensor] | None = None,
    *,
    example_input: Tensor | None = None,
    timeout: float = 600.0,
) -> VerifyReport:
    """Run an exported file in a fresh Python process without this package, and compare it with ``model`` in eval mode.

    The process is isolated (``python -I``), loads ``libtvc_ops`` where the file needs it, runs every input several times, and
    must not have imported this package or torchvision by the end.

    Args:
        path: a file that :func:`export` has written, or a TorchScript file, exported program or AOTInductor package of another
            program.
        model: the model it was exported from; it is not changed. A copy of it is compared, of the type and in the layout that
            the file's metadata say.
        inputs: what to run. By default noise and photographs (three that come with this package) in batches of 1, 2 and 5, or
            of the size that the file takes; and of another height and width where it takes any.
        example_input: one input, whose shape after the batch, type, device and layout those take. By default as the file's
            metadata say; and what they leave open as the model's parameters are, and of the shape that it was patched for.
        timeout: seconds after which the process is ended.

    Returns:
        The largest difference, what was allowed, and the times, for each input.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no exported model, is damaged, or is of a newer version.
        VerificationError: it does not load or run there, it took too long, or the numbers differ. The file stays where it is.
    """
    path = Path(path)
    try:
        format, metadata = _metadata.read(path)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"verify: {error}") from error
    options = _metadata.options_of(metadata)
    dtype = None if metadata is None else getattr(torch, metadata["input_dtype"])
    example = like_example(model, example_input)
    if example_input is None and metadata is not None:
        shape = [known if said is None else said for said, known in zip(metadata["input_shape"], example.shape, strict=True)]
        example = example.new_zeros(shape, dtype=dtype)
    options = replace(options, channels_last=options.channels_last or is_channels_last(example))
    if options.channels_last:
        example = example.contiguous(memory_format=torch.channels_last)
    if inputs is None:
        batches = inputs_for(example, options)
    else:
        batches = (("given", x) for x in ([inputs] if isinstance(inputs, Tensor) else inputs))
    # A file that says nothing about itself may need the ops: load them where they are to be had.
    unknown = metadata is None and format != "onnx" and native_status().cpu_loaded
    ops = tuple(OPS) if unknown else (metadata or {"ops": ()})["ops"]
    libraries = native_libraries(ops, example.device, path.name)
    eager = in_form(model, dtype, options.channels_last)
    return compare(path, path, format, eager, batches, libraries, timeout)


def compare(
    file: Path,
    path: Path,
    format: str,
    eager: nn.Module,
    inputs: Iterable[tuple[str, Tensor]],
    libraries: tuple[Path, ...],
    timeout: float = 600.0,
) -> VerifyReport:
    """:func:`verify` with everything decided; reports and errors call ``file``, which may have another name yet, ``path``."""
    kinds, batches = zip(*inputs, strict=True)
    with tempfile.TemporaryDirectory(prefix="tvc-verify-") as folder:
        found, outputs = _run_fresh(file, path.name, format, libraries, batches, Path(folder), timeout)
    comparisons = []
    with torch.no_grad():
        for kind, x, results, seconds in zip(kinds, batches, outputs, found["seconds"], strict=True):
            expected = tensors(eager(x))  # on the CPU, so whatever was under way has ended
            start = time.perf_counter()
            tensors(eager(x))
            eager_seconds = time.perf_counter() - start
            difference, limit = _largest_difference(expected, results)
            comparisons.append(Comparison(kind, tuple(x.shape), difference, limit, seconds * 1e3, eager_seconds * 1e3))
    report = VerifyReport(path, libraries, found["load_seconds"], tuple(comparisons))
    if not report.passed:
        raise VerificationError(report.summary(), report)
    return report


def native_libraries(ops: Sequence[str], device: torch.device, place: str) -> tuple[Path, ...]:
    """The libraries a process must load before it can run a file with these ``tvc`` ops.

    Raises:
        RuntimeError: they are not in use here; the message begins with ``place`` and says why not.
    """
    if not ops:
        return ()
    status = native_status()
    if not status.cpu_loaded or status.library_path is None:
        raise RuntimeError(
            f"{place}: the model calls {', '.join(ops)}, which a process without torchvision_customizer finds only in "
            f'libtvc_ops, by torch.ops.load_library(".../libtvc_ops.so"), and that is not in use here: {status.cpu_reason}; '
            "a file exported with fused=False does not call them"
        )
    libraries = [status.library_path]
    if device.type == "cuda" and status.cuda_loaded and status.cuda_library_path is not None:
        libraries.append(status.cuda_library_path)
    return tuple(libraries)


def _largest_difference(expected: list[Tensor], results: Sequence[list[Tensor]]) -> tuple[float, float]:
    """The largest difference of the file's results from eager's, and what is allowed there."""
    pairs = []
    for result in results:
        if [t.shape for t in result] != [t.shape for t in expected]:
            return float("nan"), 0.0
        for want, got in zip(expected, result, strict=True):
            if want.numel():
                difference = (got.double() - want.double()).abs().max().item()
                pairs.append((difference, TOLERANCES.get(want.dtype, 0.0) * want.double().abs().max().item()))
    # The pair that is nearest to its limit, or furthest beyond. NaN is the worst of all.
    return max(pairs, key=lambda pair: pair[0] - pair[1] if pair[0] <= pair[1] else float("inf"), default=(0.0, 0.0))


def _send_tensors(batches: Sequence[Tensor], path: Path, name: str) -> None:
    torch.save([x.cpu() for x in batches], path)


def _receive_tensors(path: Path, count: int) -> list[list[list[Tensor]]]:
    return torch.load(path, weights_only=True)


def _send_arrays(batches: Sequence[Tensor], path: Path, name: str) -> None:
    import numpy

    if batches[0].dtype == torch.bfloat16:
        raise VerificationError(f"{name} cannot be verified: numpy, which onnxruntime takes its input from, has no bfloat16")
    with path.open("wb") as stream:
        arrays: Any = {str(index): x.cpu().numpy() for index, x in enumerate(batches)}
        numpy.savez(stream, **arrays)


def _receive_arrays(path: Path, count: int) -> list[list[list[Tensor]]]:
    import numpy

    found: list[list[list[Tensor]]] = [[[], []] for _ in range(count)]
    with numpy.load(path) as arrays:
        for key in arrays.files:  # in the order they were written
            index, run, _ = map(int, key.split())
            found[index][run].append(torch.from_numpy(arrays[key]))
    return found


@dataclass(frozen=True)
class _Process:
    """A kind of fresh process.

    Attributes:
        script: the module that it runs.
        packages: what it imports.
        forbidden: what it must not have imported by the end.
        send: writes inputs for it; an error begins with the name that is given.
        receive: reads what it has returned for a number of inputs: for each the outputs of its first and last run.
    """

    script: ModuleType
    packages: tuple[str, ...]
    forbidden: tuple[str, ...]
    send: Callable[[Sequence[Tensor], Path, str], None]
    receive: Callable[[Path, int], list[list[list[Tensor]]]]


_TORCH = _Process(_fresh_process, ("torch",), ("torchvision_customizer", "torchvision"), _send_tensors, _receive_tensors)
#: By format; the others need torch.
_PROCESSES = {
    "onnx": _Process(_fresh_onnx, ("onnxruntime", "numpy"), (*_TORCH.forbidden, "torch"), _send_arrays, _receive_arrays)
}


def _folders(packages: Sequence[str], name: str) -> list[str]:
    """Where packages are installed, for a process that sees neither PYTHONPATH nor a user's folder."""
    folders = []
    for package in packages:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            need(package, name)  # raises what to install
            raise ImportError(f"{name}: {package} is installed in a way that has no folder")
        folders.append(str(Path(found.origin).parent.parent))
    return list(dict.fromkeys(folders))


def _run_fresh(
    file: Path, name: str, format: str, libraries: Sequence[Path], batches: Sequence[Tensor], folder: Path, timeout: float
) -> tuple[dict[str, Any], list[list[list[Tensor]]]]:
    """Run the file in a process of its own: what that printed, and for each batch the outputs of its first and last run."""
    fresh, sent, returned = _PROCESSES.get(format, _TORCH), folder / "inputs", folder / "outputs.npz"
    job = {
        "file": str(file.resolve()),
        "format": format,
        "libraries": [str(library) for library in libraries],
        "device": str(batches[0].device),
        "threads": torch.get_num_threads(),
        "runs": _RUNS,
        "inputs": str(sent),
        "outputs": str(returned),
        "folders": _folders(fresh.packages, name),
        "forbidden": fresh.forbidden,
    }
    fresh.send(batches, sent, name)
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-I", "-W", "ignore::DeprecationWarning", str(Path(str(fresh.script.__file__)).resolve())]
    try:
        done = subprocess.run(
            [*command, str(folder / "job.json")],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            cwd=folder,
        )
    except subprocess.TimeoutExpired as error:
        raise VerificationError(f"{name}: the fresh process had not finished after {timeout:g} s") from error
    if done.returncode:
        raise VerificationError(f"{name} does not run in a fresh process: {_reason(done)}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["foreign"]:
        raise VerificationError(f"{name} made the fresh process import {', '.join(found['foreign'])}")
    return found, fresh.receive(returned, len(batches))


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """What a process died of: the first line of its last exception, or its exit code."""
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line and not line[0].isspace() and _is_exception(line.split(":")[0])]
    if not errors:
        return f"exit code {done.returncode}; {lines[-1] if lines else 'it printed nothing'}"
    following = lines[lines.index(errors[-1]) + 1 :]
    detail = next((line.strip() for line in following if line.strip()), "")
    return f"{errors[-1].strip()} {detail}".strip()


def _is_exception(name: str) -> bool:
    return "Error" in name or name.startswith("onnxruntime.")  # whose exceptions are called Fail, InvalidGraph and the like
