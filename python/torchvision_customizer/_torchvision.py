"""The one place that imports torchvision.

torchvision's wheel on PyPI is a CUDA build. Next to a CPU-only torch its library cannot be loaded, and the import then stops
where a Python kernel is registered for an op that the library would have defined (``operator torchvision::nms does not
exist``). Classifiers need none of these ops, so the missing schemas are defined here and the import is made again. With a
matching pair nothing is done.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from types import ModuleType

import torch

_MISSING_OP = re.compile(r"operator torchvision::(\w+) does not exist")

# The ops that torchvision registers Python kernels for, whether or not its library was loaded (_meta_registrations.py, 0.20 to
# 0.28), with the schemas of its library.
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_stand_ins: torch.library.Library | None = None


def _import_models() -> ModuleType:
    global _stand_ins
    while True:
        try:
            models = importlib.import_module("torchvision.models")
        except RuntimeError as error:
            missing = _MISSING_OP.search(str(error))
            if missing is None or missing[1] not in _SCHEMAS:
                raise
            if _stand_ins is None:
                _stand_ins = torch.library.Library("torchvision", "FRAGMENT")
            # Raises where it is defined already, so that this loop ends.
            _stand_ins.define(_SCHEMAS[missing[1]])
            # What the failed import left behind refers to itself by name; it has to be imported anew.
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
        else:
            break
    if _stand_ins is not None:
        warnings.warn(
            "torchvision's library does not fit this torch (most likely a CUDA build next to a CPU-only torch): classifiers "
            "work, but detection ops such as nms do not; install the torchvision build that matches torch to be rid of this",
            stacklevel=2,
        )
    return models


models: ModuleType = _import_models()
"""``torchvision.models``."""

datasets: ModuleType = importlib.import_module("torchvision.datasets")
"""``torchvision.datasets``."""

transforms: ModuleType = importlib.import_module("torchvision.transforms.v2")
"""``torchvision.transforms.v2``."""
