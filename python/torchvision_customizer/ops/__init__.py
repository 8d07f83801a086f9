"""The fused ops. ``torch.ops.tvc.*`` is the contract; the functions here take the same arguments."""

from ._library import OPS, NativeStatus, Op, OpAnswer, native_status, reference, who_answers
from .cbam import cbam
from .drop_path import drop_path
from .eca import eca
from .gem_pool import gem_pool
from .squeeze_excite import squeeze_excite

__all__ = [
    "OPS",
    "NativeStatus",
    "Op",
    "OpAnswer",
    "cbam",
    "drop_path",
    "eca",
    "gem_pool",
    "native_status",
    "reference",
    "squeeze_excite",
    "who_answers",
]
