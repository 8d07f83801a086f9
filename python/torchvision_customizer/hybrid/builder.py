"""``HybridBuilder``: a model of torchvision, of timm or of your own, with weights, patches and a head, in one call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._torchvision import models
from ..errors import nearest
from .applying import apply
from .backbones import check_backbone, find_family, list_backbones
from .heads import HeadSpec, change_head
from .model import HybridModel, note, stage_at
from .opened import put_back_on_error
from .plan import plan
from .probe import input_shape_of
from .report import WeightsMatch
from .views import anatomy_of
from .weights import Weights, cached_file, covers, load, load_torchvision, match, read_state_dict, resolve_file, resolve_weights

# Arguments of torchvision's constructors that its weights set, and that make other modules or another forward.
_ARGUMENTS = ("aux_logits", "transform_input", "image_size")


class HybridBuilder:
    """Builds classifiers, patched.

    The model is made by its library, keeps its class and every name in its state dict, and starts as the same function.
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
        hidden: Sequence[int] = (),
        keep_classes: Sequence[int] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> HybridModel:
        """Build a model.

        Args:
            backbone_name: one of ``list_backbones()``.
            weights: torchvision's, as a member of its enum, as ``"IMAGENET1K_V2"``, ``"ResNet50_Weights.IMAGENET1K_V2"`` or
                ``"DEFAULT"``; a ``.pt``, ``.pth`` or ``.safetensors`` file; or None for random ones. A file may be that of
                the model with or without the patches.
            patches: targets and operations, see ``plan``.
            num_classes: a new last layer for so many classes, unless it has that many; 0 gives features; None keeps it.
                Auxiliary heads follow.
            dropout: probability of a dropout before the last layer, whose names stay as they are.
            freeze_backbone: freeze all but the head and the new modules, see ``HybridModel.freeze_backbone``.
            unfreeze_stages: indices of stages that stay trainable then.
            verbose: print the report, and the progress of downloads.
            hidden: widths of hidden layers before the last one.
            keep_classes: indices of classes that go on with their weights, as the first of the new ones.
            arguments: further ones of torchvision's constructor, such as ``aux_logits`` or ``image_size``.

        Returns:
            The torchvision model, which is a ``HybridModel`` too; ``model.report`` says what was made.

        Raises:
            ValueError: an unknown backbone, or an option out of range.
            PatchError: a patch that cannot be carried out.
            WeightsError: weights that cannot be found or read, or do not fit.
        """
        head = HeadSpec.checked(num_classes, dropout, hidden, keep_classes)
        return self._torchvision(
            backbone_name, weights, patches, head, freeze_backbone, unfreeze_stages, verbose, strict=False, arguments=arguments
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
        head = HeadSpec.checked(num_classes, dropout)
        return self._torchvision(backbone_name, Path(checkpoint_path), patches, head, False, None, False, strict)

    def from_timm(
        self,
        model_name: str,
        weights: str | os.PathLike[str] | None = "DEFAULT",
        patches: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        dropout: float | None = None,
        freeze_backbone: bool = False,
        unfreeze_stages: Iterable[int] | None = None,
        verbose: bool = False,
        hidden: Sequence[int] = (),
        keep_classes: Sequence[int] = (),
        **arguments: Any,
    ) -> HybridModel:
        """Build a model of timm (extra ``timm``).

        Args:
            model_name: a name that ``timm.create_model`` takes, with or without the tag of its weights.
            weights: ``"DEFAULT"`` for timm's own, a file, or None for random ones.
            arguments: for ``timm.create_model``.

        The other arguments, and what is raised, are as of ``from_torchvision``.

        Raises:
            ImportError: timm is not installed.
        """
        head = HeadSpec.checked(num_classes, dropout, hidden, keep_classes)
        file = None if weights in (None, "DEFAULT") else resolve_file(weights)
        model = _make_timm(model_name, weights == "DEFAULT", arguments)
        made = {"backbone_name": model_name, "library": "timm", "arguments": arguments}
        batch = _timm_batch(model, arguments)
        return _finish(
            model, file, patches, head, _timm_last_layers(model), made, freeze_backbone, unfreeze_stages, verbose, batch
        )

    def from_module(
        self,
        model: nn.Module,
        example_input: Tensor | tuple[int, ...] | None = None,
        patches: Mapping[str, Any] | None = None,
        weights: str | os.PathLike[str] | None = None,
        num_classes: int | None = None,
        dropout: float | None = None,
        freeze_backbone: bool = False,
        unfreeze_stages: Iterable[int] | None = None,
        verbose: bool = False,
        hidden: Sequence[int] = (),
        keep_classes: Sequence[int] = (),
        last_layer: str | None = None,
    ) -> HybridModel:
        """Patch a model that exists, in place.

        Args:
            model: any module; those that are opened must be such as ``torch.fx`` can trace.
            example_input: a batch that it takes, or its shape; by default images of 3×224×224.
            weights: a file to load, or None to keep those that it has.
            last_layer: path of the layer whose outputs are the classes, for a new head.

        The other arguments, and what is raised, are as of ``from_torchvision``.
        """
        head = HeadSpec.checked(num_classes, dropout, hidden, keep_classes)
        family = find_family(model)
        last_layers = (last_layer,) if last_layer else family.last_layers if family else ()
        if head != HeadSpec() and not last_layers:
            raise ValueError(f"last_layer must name the layer of this {type(model).__name__} whose outputs are the classes")
        file = None if weights is None else resolve_file(weights)
        made = {} if isinstance(model, HybridModel) else {"backbone_name": type(model).__name__}
        return _finish(model, file, patches, head, last_layers, made, freeze_backbone, unfreeze_stages, verbose, example_input)

    def _torchvision(
        self,
        backbone_name: str,
        weights: Weights,
        patches: Mapping[str, Any] | None,
        head: HeadSpec,
        freeze_backbone: bool,
        unfreeze_stages: Iterable[int] | None,
        verbose: bool,
        strict: bool,
        arguments: Mapping[str, Any] | None = None,
    ) -> HybridModel:
        name = check_backbone(backbone_name)
        source = resolve_weights(name, weights)
        if isinstance(source, Enum) and patches and not cached_file(source).exists():
            _try_patches(name, patches, arguments or {})
        if isinstance(source, Enum):
            model = load_torchvision(name, source, verbose, arguments or {})
        else:
            model = models.get_model(name, **(arguments or {}))
        found = {key: getattr(model, key) for key in _ARGUMENTS if isinstance(getattr(model, key, None), bool | int)}
        made = {"backbone_name": name, "library": "torchvision", "arguments": {**found, **(arguments or {})}}
        family = find_family(model)
        assert family is not None, f"{type(model).__name__} is not in hybrid/backbones.py"
        return _finish(
            model, source, patches, head, family.last_layers, made, freeze_backbone, unfreeze_stages, verbose, None, strict
        )


def without_memory(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A model whose parameters take no memory, where its constructor can do that."""
    try:
        with torch.device("meta"):
            model: nn.Module = models.get_model(name, **arguments)
    except NotImplementedError:  # RegNet computes its widths with tensors
        model = models.get_model(name, **arguments)
    return model


def _try_patches(name: str, patches: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """A wrong patch should not have to wait for a download."""
    plan(without_memory(name, arguments), patches)


def _make_timm(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ImportError("from_timm needs timm: pip install 'torchvision-customizer[timm]'") from error
    known = [*timm.list_models(), *timm.list_pretrained()]
    if name not in known and not name.startswith("hf"):
        raise ValueError(f"timm has no model '{name}'{nearest(name, known)}")
    model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    return model


def _timm_last_layers(model: nn.Module) -> tuple[str, ...]:
    """Paths of the layers that ``get_classifier`` gives; a distilled model has two."""
    found = model.get_classifier() if hasattr(model, "get_classifier") else ()  # type: ignore[operator]
    layers = found if isinstance(found, tuple | list) else (found,)
    return tuple(path for path, module in model.named_modules() if any(module is layer for layer in layers))


def _timm_batch(model: nn.Module, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of a batch that a model takes: its configuration is that of the weights, whatever the arguments change."""
    channels, *size = input_shape_of(None, model)
    given = arguments.get("img_size", size)
    height, width = (given, given) if isinstance(given, int) else given
    return 1, arguments.get("in_chans", channels), height, width


def _finish(
    model: nn.Module,
    source: Enum | Path | None,
    patches: Mapping[str, Any] | None,
    head: HeadSpec,
    last_layers: Sequence[str],
    made: Mapping[str, Any],
    freeze_backbone: bool,
    unfreeze_stages: Iterable[int] | None,
    verbose: bool,
    example_input: Tensor | tuple[int, ...] | None,
    strict: bool = False,
) -> HybridModel:
    """Load, patch and change the head, in the order in which nothing is lost."""
    if unfreeze_stages is not None and not freeze_backbone:
        raise ValueError("unfreeze_stages says what stays trainable in a frozen backbone; it needs freeze_backbone=True")
    if freeze_backbone:
        anatomy = anatomy_of(model, input_shape_of(example_input, model))
        unfreeze_stages = list(unfreeze_stages or ())
        for index in unfreeze_stages:
            stage_at(anatomy.stages, index)
    paths = [path for path in last_layers if _has(model, path)]
    with put_back_on_error(model):  # it may be the caller's own
        hybrid = _change(model, source, patches or {}, head, paths, made, example_input, strict)
    if freeze_backbone:
        hybrid.freeze_backbone(unfreeze_stages)
    if verbose:
        print(hybrid.report)
    return hybrid


def _change(
    model: nn.Module,
    source: Enum | Path | None,
    patches: Mapping[str, Any],
    head: HeadSpec,
    paths: Sequence[str],
    made: Mapping[str, Any],
    example_input: Tensor | tuple[int, ...] | None,
    strict: bool,
) -> HybridModel:
    former = model._hybrid_state.head if isinstance(model, HybridModel) else None
    change = None if head.keep_classes else change_head(model, paths, head)
    if former is not None and (change or head.keep_classes):
        raise ValueError(f"the head has been changed before ({former}); build the model anew with the head that it is to have")
    planned = plan(model, patches, example_input=example_input)
    new_modules = [edit.child_path for edit in planned.edits]
    loaded: WeightsMatch | None = None
    if isinstance(source, Path):
        tensors = read_state_dict(source)
        new_head = head.is_new and not strict and not head.keep_classes
        name = made.get("backbone_name") or type(model).__name__
        options: dict[str, Any] = {"model_name": str(name), "heads": paths, "new_head": new_head}
        # A file of the original goes in before the patches: a module that is replaced hands its weights on.
        of_original = not strict and covers(tensors, model, paths, new_modules)
        if of_original:
            loaded = load(model, tensors, source=str(source), **options)
            planned = plan(model, patches, example_input=example_input)
        hybrid = apply(planned)
        if not of_original:
            loaded = load(hybrid, tensors, source=str(source), new_modules=() if strict else new_modules, **options)
    else:
        hybrid = apply(planned)
    if head.keep_classes:
        change = change_head(model, paths, head)
    note(hybrid, **made, head=change or former)
    if isinstance(source, Enum):
        loaded = _match_enum(hybrid, source.name, new_modules)
    note(hybrid, weights=loaded)
    return hybrid


def _has(model: nn.Module, path: str) -> bool:
    try:
        return model.get_submodule(path) is not None
    except AttributeError:
        return False


def _match_enum(model: HybridModel, source: str, new_modules: list[str]) -> WeightsMatch:
    """Of weights that the library has loaded, say what has been replaced since."""
    state = model._hybrid_state
    own = list(model.state_dict())
    carried = {f"{edit.path}.{name}" for edit in state.edits if edit.replaced for name in edit.replaced.carried}
    lacking = [name for name in own if name not in carried and name.startswith(tuple(f"{path}." for path in new_modules))]
    paths = tuple(f"{layer.path}." for layer in state.head.layers) if state.head and state.head.is_new else ()
    new = [name for name in own if paths and name.startswith(paths) and name not in lacking]
    return match(model, source, set(own) - {*lacking, *new}, lacking, new)


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
