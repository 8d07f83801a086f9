"""Prove that an exported file gives the numbers of the model it was made from, in a process that has only torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..hybrid.model import HybridModel
from ..hybrid.probe import DEFAULT_INPUT
from ..ops import OPS, native_status
from . import _fresh_process, _metadata
from ._fresh_process import tensors

#: The largest difference allowed, as a share of the largest absolute value of the eager output. An exported file runs the same
#: kernels in the same types, so these are a few roundings of each type and no more.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

BATCH_SIZES = (1, 2, 5)
_RUNS = 3
_FORBIDDEN = ("torchvision_customizer", "torchvision")


class VerificationError(RuntimeError):
    """An exported file did not load in a fresh process, or gave other numbers. ``report`` holds them, where there are any."""

    def __init__(self, message: str, report: VerifyReport | None = None) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Comparison:
    """One input, run by the file and by eager.

    Attributes:
        input_shape: shape of the input.
        difference: largest absolute difference of any output; not finite when an output is not.
        limit: what is allowed: the tolerance of the output's type times the largest absolute value of the eager output.
        file_ms: milliseconds of one run of the file, after its first ones.
        eager_ms: milliseconds of one eager run, after a first one.
    """

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
        sizes = ", ".join(str(comparison.input_shape[0]) for comparison in self.comparisons)
        verdict = "agrees with eager" if self.passed else "differs from eager"
        return (
            f"{self.path.name} {verdict} in a fresh process, batch sizes {sizes}: "
            f"largest difference {worst.difference:.3g}, allowed {worst.limit:.3g}"
        )


def verify(
    path: str | os.PathLike[str],
    model: nn.Module,
    inputs: Tensor | Sequence[Tensor] | None = None,
    *,
    example_input: Tensor | None = None,
    timeout: float = 600.0,
) -> VerifyReport:
    """Run an exported file in a fresh Python process that imports only torch, and compare it with ``model`` in eval mode.

    The process is isolated (``python -I``), loads ``libtvc_ops`` where the file needs it, runs every input several times, and
    must not have imported this package or torchvision by the end.

    Args:
        path: a TorchScript file.
        model: the model it was exported from; its training flags are as before when this returns.
        inputs: what to run. By default random inputs of batch sizes 1, 2 and 5, the same ones each time.
        example_input: one input, whose shape after the batch, type, device and layout the random ones take. By default
            the shape the model was patched for, or (N, 3, 224, 224), of the type and on the device of its parameters.
        timeout: seconds after which the process is ended.

    Returns:
        The largest difference, what was allowed, and the times, for each input.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TorchScript file.
        VerificationError: it does not load or run there, it took too long, or the numbers differ. The file stays where it is.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"verify: there is no file {path}")
    if inputs is None:
        batches = list(random_inputs(like_example(model, example_input)))
    else:
        batches = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    metadata = _metadata.read(path)
    # A file that says nothing about itself may need the ops: load them where they are to be had.
    ops = tuple(OPS) if metadata is None and native_status().cpu_loaded else (metadata or {"ops": ()})["ops"]
    libraries = native_libraries(ops, batches[0].device, path.name)

    return compare(path, path, model, batches, libraries, timeout)


def compare(
    file: Path,
    path: Path,
    model: nn.Module,
    batches: Sequence[Tensor],
    libraries: tuple[Path, ...],
    timeout: float = 600.0,
) -> VerifyReport:
    """:func:`verify` with everything decided; reports and errors call ``file``, which may have another name yet, ``path``."""
    with tempfile.TemporaryDirectory(prefix="tvc-verify-") as folder:
        found, outputs = _run_fresh(file, path.name, libraries, batches, Path(folder), timeout)
    comparisons = []
    with evaluating(model), torch.no_grad():
        for x, results, seconds in zip(batches, outputs, found["seconds"], strict=True):
            expected = tensors(model(x))  # on the CPU, so whatever was under way has ended
            start = time.perf_counter()
            tensors(model(x))
            eager_seconds = time.perf_counter() - start
            difference, limit = _largest_difference(expected, results)
            comparisons.append(Comparison(tuple(x.shape), difference, limit, seconds * 1e3, eager_seconds * 1e3))
    report = VerifyReport(path, libraries, found["load_seconds"], tuple(comparisons))
    if not report.passed:
        raise VerificationError(report.summary(), report)
    return report


def like_example(model: nn.Module, example_input: Tensor | None) -> Tensor:
    """The example, or one of the shape the model was patched for, and of the type and on the device of its parameters."""
    if example_input is not None:
        return example_input
    shape = model._hybrid_state.input_shape if isinstance(model, HybridModel) else DEFAULT_INPUT
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device)


def random_inputs(example: Tensor) -> Iterator[Tensor]:
    """Inputs of batch sizes 1, 2 and 5, like ``example`` in all else; from a generator of their own, with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    nhwc = example.dim() == 4 and example.is_contiguous(memory_format=torch.channels_last) and not example.is_contiguous()
    for size in BATCH_SIZES:
        x = torch.randn(size, *example.shape[1:], generator=generator).to(example.device, example.dtype)
        yield x.contiguous(memory_format=torch.channels_last) if nhwc else x


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
            f"libtvc_ops, and that is not in use here: {status.cpu_reason}"
        )
    libraries = [status.library_path]
    if device.type == "cuda" and status.cuda_loaded and status.cuda_library_path is not None:
        libraries.append(status.cuda_library_path)
    return tuple(libraries)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode; every module has its own flag back afterwards, frozen norms in a training model too."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


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


def _run_fresh(
    file: Path, name: str, libraries: Sequence[Path], batches: Sequence[Tensor], folder: Path, timeout: float
) -> tuple[dict[str, Any], list[list[list[Tensor]]]]:
    """Run the file in a process of its own: what that printed, and for each batch the outputs of its first and last run."""
    sent, returned = folder / "inputs.pt", folder / "outputs.pt"
    job = {
        "file": str(file.resolve()),
        "libraries": [str(library) for library in libraries],
        "device": str(batches[0].device),
        "threads": torch.get_num_threads(),
        "runs": _RUNS,
        "inputs": str(sent),
        "outputs": str(returned),
        "torch_folder": str(Path(torch.__file__).parent.parent),
        "forbidden": _FORBIDDEN,
    }
    torch.save([x.cpu() for x in batches], sent)
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-I", "-W", "ignore::DeprecationWarning", str(Path(_fresh_process.__file__).resolve())]
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
    return found, torch.load(returned, weights_only=True)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """What a process died of: the first line of its last exception, or its exit code."""
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line and not line[0].isspace() and "Error" in line.split(":")[0]]
    if not errors:
        return f"exit code {done.returncode}; {lines[-1] if lines else 'it printed nothing'}"
    following = lines[lines.index(errors[-1]) + 1 :]
    detail = next((line.strip() for line in following if line.strip()), "")
    return f"{errors[-1].strip()} {detail}".strip()
