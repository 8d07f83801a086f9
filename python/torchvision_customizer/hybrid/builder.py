"""``HybridBuilder``: a torchvision model with weights, patches and a head, in one call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from .._torchvision import models
from .backbones import Family, check_backbone, family_of, list_backbones
from .heads import change_head, check_head
from .model import HybridModel, note
from .plan import apply, plan
from .report import WeightsMatch
from .weights import Weights, cached_file, load, load_torchvision, match, read_state_dict, resolve_weights


class HybridBuilder:
    """Builds torchvision classifiers, patched.

    The model is made by torchvision, keeps its class and every name in its state dict, and starts as the same function.
    """

    @staticmethod
    def list_backbones() -> list[str]:
        """The names that ``from_torchvision`` takes."""
        return list_backbones()

    def from_torchvision(
        self,
        backbone_name: str,
        weights: Weights = "DEFAULT",
        patches: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        dropout: float | None = None,
        freeze_backbone: bool = False,
        unfreeze_stages: Iterable[int] | None = None,
        verbose: bool = False,
    ) -> HybridModel:
        """Build a model.

        Args:
            backbone_name: one of ``list_backbones()``.
            weights: torchvision's, as a member of its enum, as ``"IMAGENET1K_V2"``, ``"ResNet50_Weights.IMAGENET1K_V2"`` or
                ``"DEFAULT"``; a ``.pt``, ``.pth`` or ``.safetensors`` file; or None for random ones. A file may be that of
                the model with or without the patches.
            patches: targets and operations, see ``plan``.
            num_classes: a new last layer for so many classes, unless it has that many; 0 gives features; None keeps it.
            dropout: probability of a dropout before the last layer, whose names stay as they are.
            freeze_backbone: freeze all but the head and the new modules, see ``HybridModel.freeze_backbone``.
            unfreeze_stages: indices of stages that stay trainable then.
            verbose: print the report, and the progress of downloads.

        Returns:
            The torchvision model, which is a ``HybridModel`` too; ``model.report`` says what was made.

        Raises:
            ValueError: an unknown backbone, or an option out of range.
            PatchError: a patch that cannot be carried out.
            WeightsError: weights that cannot be found or read, or do not fit.
        """
        return self._build(
            backbone_name, weights, patches, num_classes, dropout, freeze_backbone, unfreeze_stages, verbose, strict=False
        )

    def from_checkpoint(
        self,
        checkpoint_path: str | os.PathLike[str],
        backbone_name: str,
        patches: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        dropout: float | None = None,
        strict: bool = False,
    ) -> HybridModel:
        """Build a model and load a file into it: ``from_torchvision`` with a path as its weights.

        Args:
            checkpoint_path: a ``.pt``, ``.pth`` or ``.safetensors`` file.
            backbone_name: one of ``list_backbones()``.
            patches: as the file was trained with, or new ones.
            num_classes: classes of the last layer; None for as many as torchvision's model has.
            dropout: probability of a dropout before the last layer.
            strict: the file must have the new modules and the head as well.

        Raises:
            ValueError, PatchError, WeightsError: as ``from_torchvision``.
        """
        return self._build(backbone_name, Path(checkpoint_path), patches, num_classes, dropout, False, None, False, strict)

    def _build(
        self,
        backbone_name: str,
        weights: Weights,
        patches: Mapping[str, Any] | None,
        num_classes: int | None,
        dropout: float | None,
        freeze_backbone: bool,
        unfreeze_stages: Iterable[int] | None,
        verbose: bool,
        strict: bool,
    ) -> HybridModel:
        name = check_backbone(backbone_name)
        dropout = check_head(num_classes, dropout)
        if unfreeze_stages is not None and not freeze_backbone:
            raise ValueError("unfreeze_stages says what stays trainable in a frozen backbone; it needs freeze_backbone=True")
        source = resolve_weights(name, weights)
        patches = patches or {}
        if isinstance(source, Enum) and patches and not cached_file(source).exists():
            # A wrong patch should not have to wait for a download.
            with torch.device("meta"):
                draft = models.get_model(name)
            plan(draft, patches)
        model = load_torchvision(name, source, verbose) if isinstance(source, Enum) else models.get_model(name)
        family = family_of(model)
        head = change_head(model, family.last_layer, num_classes, dropout)
        hybrid = apply(plan(model, patches))
        note(hybrid, backbone_name=name, head=head)
        note(hybrid, weights=_match(hybrid, name, family, source, num_classes, strict))
        if freeze_backbone:
            hybrid.freeze_backbone(unfreeze_stages)
        if verbose:
            print(hybrid.report)
        return hybrid


def _match(
    model: HybridModel, name: str, family: Family, source: Enum | Path | None, num_classes: int | None, strict: bool
) -> WeightsMatch | None:
    """Load a file; of torchvision's weights, which are loaded, say what has been replaced since."""
    new_modules = [edit.child_path for edit in model._hybrid_state.edits]
    if source is None:
        return None
    if isinstance(source, Path):
        return load(
            model,
            read_state_dict(source),
            source=str(source),
            model_name=name,
            head=family.last_layer,
            new_head=num_classes is not None and not strict,
            new_modules=() if strict else new_modules,
        )
    own = list(model.state_dict())
    lacking = [tensor for tensor in own if tensor.startswith(tuple(f"{path}." for path in new_modules))]
    head = model._hybrid_state.head
    new_head = head is not None and head.classes != head.classes_before
    new = [tensor for tensor in own if new_head and tensor.startswith(f"{family.last_layer}.") and tensor not in lacking]
    return match(model, source.name, set(own) - {*lacking, *new}, lacking, new)


def create_hybrid(
    backbone: str,
    num_classes: int | None = None,
    weights: Weights = "DEFAULT",
    patches: Mapping[str, Any] | None = None,
    dropout: float | None = None,
    freeze_backbone: bool = False,
    unfreeze_stages: Iterable[int] | None = None,
    verbose: bool = False,
) -> HybridModel:
    """``HybridBuilder().from_torchvision`` as a function."""
    return HybridBuilder().from_torchvision(
        backbone, weights, patches, num_classes, dropout, freeze_backbone, unfreeze_stages, verbose
    )
