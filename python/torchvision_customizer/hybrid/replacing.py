from dataclasses import dataclass
from torch import nn
@dataclass(frozen=True)
class Replacement:
    module: nn.Module
    carried: tuple
    exact: bool
    note: str
def in_place_of(old, name, params):
    from .. import registry
    if name in ("gelu","GELU"): return Replacement(nn.GELU(), (), False, "")
    raise ValueError("stub")
