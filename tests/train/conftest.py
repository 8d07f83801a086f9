"""Small models for training."""

from __future__ import annotations

import pytest

from torchvision_customizer.hybrid import HybridBuilder


@pytest.fixture
def hybrid():
    """Makes a torchvision model with attention and random weights."""

    def make(name="resnet18", patches=None, num_classes=4, **options):
        patches = {"layer*": {"inject": "se"}} if patches is None else patches
        return HybridBuilder().from_torchvision(name, None, patches, num_classes=num_classes, **options)

    return make
