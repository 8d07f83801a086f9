"""What runs in the fresh process of :mod:`.verification` for an ONNX file: it imports onnxruntime and numpy, and no torch.

Run by path, as ``python -I _fresh_onnx.py JOB.json``, with the job of ``_fresh_process.py``; arrays come and go as ``.npz``.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main(job_path: str) -> None:
    with open(job_path, encoding="utf-8") as stream:
        job = json.load(stream)
    # An isolated interpreter does not see a user site or PYTHONPATH; onnxruntime may live there.
    sys.path += job["folders"]
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.log_severity_level = 3  # errors; what it thinks of a graph is nobody's business here
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(job["file"], options, providers=["CPUExecutionProvider"])
    load_seconds = time.perf_counter() - start
    (name,) = (value.name for value in session.get_inputs())

    outputs: dict[str, Any] = {}
    seconds = []
    with numpy.load(job["inputs"]) as inputs:
        for index in range(len(inputs.files)):
            x = inputs[str(index)]
            results = [session.run(None, {name: x}) for _ in range(job["runs"])]
            start = time.perf_counter()
            results.append(session.run(None, {name: x}))
            seconds.append(time.perf_counter() - start)
            for run, result in enumerate((results[0], results[-1])):
                outputs |= {f"{index} {run} {place}": array for place, array in enumerate(result)}

    numpy.savez(job["outputs"], **outputs)
    foreign = sorted(module for module in sys.modules if module.split(".")[0] in job["forbidden"])
    print(json.dumps({"load_seconds": load_seconds, "seconds": seconds, "foreign": foreign}))


if __name__ == "__main__":
    main(sys.argv[1])
