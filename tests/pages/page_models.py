"""The models that pages are tried on, and what a page says of one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

import torchvision_customizer as tvc


def small() -> nn.Module:
    patches = {"layer[34]": {"inject": "se"}}
    return tvc.HybridBuilder().from_torchvision("resnet18", weights=None, patches=patches, num_classes=10)


def resnet50() -> nn.Module:
    patches = {"layer*": {"inject": "se"}, "conv1": {"wrap": "eca"}, "avgpool": {"replace": "gem"}}
    return tvc.HybridBuilder().from_torchvision("resnet50", weights=None, patches=patches)


def swin_t() -> nn.Module:
    return tvc.HybridBuilder().from_torchvision("swin_t", weights=None)


def composed() -> nn.Module:
    stages = tvc.Stage(32, pattern="residual+se") >> tvc.Stage(64, pattern="mbconv", downsample=True)
    return tvc.Stem(16) >> stages >> tvc.Head(10)


NAMED: dict[str, Callable[[], nn.Module]] = {"resnet50": resnet50, "swin_t": swin_t, "composed": composed}


def values_of(file: Path) -> dict[str, Any]:
    """The JSON of a page."""
    page = file.read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)
