"""What runs in the fresh process of :mod:`.verification`: it imports torch and nothing else of ours.

Run by path, as ``python -I _fresh_process.py JOB.json``. The job names the file and its format, the native libraries, the
inputs, and where the outputs go. A failure to load or to run is reported by the process's own traceback and exit code.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def tensors(output: Any) -> list[Tensor]:
    """The tensors of a model's output, which is one, or a nest of tuples, lists and dicts; on the CPU, in order."""
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in tensors(part)]
    return [] if output is None else [output.cpu()]


def load_torchscript(file: str) -> Callable[[Tensor], Any]:
    import torch

    with warnings.catch_warnings():
        # That TorchScript is to go is not the business of who loads a file.
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        return torch.jit.load(file)


def load_pt2(file: str) -> Callable[[Tensor], Any]:
    import torch

    return torch.export.load(file).module()


def load_aoti(file: str) -> Callable[[Tensor], Any]:
    import torch

    # Without it, an input of another size, type or layout than the compiled one gives wrong numbers and no error.
    os.environ.setdefault("AOTI_RUNTIME_CHECK_INPUTS", "1")
    return torch._inductor.aoti_load_package(file)


#: For each format, what loads a file: it gives a function of one tensor.
LOADERS: dict[str, Callable[[str], Callable[[Tensor], Any]]] = {
    "torchscript": load_torchscript,
    "pt2": load_pt2,
    "aoti": load_aoti,
}


def main(job_path: str) -> None:
    with open(job_path, encoding="utf-8") as stream:
        job = json.load(stream)
    # An isolated interpreter does not see a user site or PYTHONPATH; torch may live there.
    sys.path += job["folders"]
    import torch

    for library in job["libraries"]:
        torch.ops.load_library(library)
    torch.set_num_threads(job["threads"])

    start = time.perf_counter()
    program = LOADERS[job["format"]](job["file"])
    load_seconds = time.perf_counter() - start

    device = torch.device(job["device"])
    outputs, seconds = [], []
    with torch.no_grad():
        for x in torch.load(job["inputs"], weights_only=True):
            x = x.to(device)
            # TorchScript rewrites a graph after it has watched a run or two, so both the first and a later result are compared.
            results = [program(x) for _ in range(job["runs"])]
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            results.append(program(x))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
            outputs.append([tensors(results[0]), tensors(results[-1])])

    torch.save(outputs, job["outputs"])
    foreign = sorted(name for name in sys.modules if name.split(".")[0] in job["forbidden"])
    print(json.dumps({"load_seconds": load_seconds, "seconds": seconds, "foreign": foreign}))


if __name__ == "__main__":
    main(sys.argv[1])
