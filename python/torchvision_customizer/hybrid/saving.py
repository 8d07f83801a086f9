"""A model as a folder: a recipe that makes it anew, its weights, and what they were made with. Nothing is pickled."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import RecipeError, WeightsError
from .backbones import find_family
from .opened import original_class
from .probe import DEFAULT_INPUT, input_shape_of

if TYPE_CHECKING:
    from ..compose import VisionModel
    from ..recipe.schema import AnyRecipe
    from .model import HybridModel

RECIPE, WEIGHTS, VERSIONS = "recipe.yaml", "model.safetensors", "versions.json"
BEST = "best"  # in the folder that Trainer.fit writes, the checkpoint of the best epoch
_OWN_NAME = "torchvision-customizer"


def recipe_of(model: HybridModel) -> dict[str, Any]:
    """What a hybrid model is made of, as plain values: its backbone, its patches in order, and its head."""
    state = model._hybrid_state
    backbone: dict[str, Any] = {
        "name": state.backbone_name or original_class(model).__name__,
        "library": state.library,
        "weights": None,
    }
    if state.arguments:
        backbone["arguments"] = dict(state.arguments)
    if state.patches:
        # Several, where a model was patched more than once.
        backbone["patches"] = _plain(state.patches[0] if len(state.patches) == 1 else list(state.patches))
    recipe: dict[str, Any] = {**state.about, "backbone": backbone}
    head = state.head
    if head is not None:
        recipe["head"] = {"num_classes": head.classes}
        recipe["head"] |= {"dropout": head.dropout} if head.dropout else {}
        recipe["head"] |= {"hidden": list(head.hidden)} if head.hidden else {}
        if state.library is None and find_family(model) is None:
            recipe["head"]["last_layer"] = head.layers[0].path
    if state.library is None:
        recipe["input_shape"] = list(state.input_shape)
    return recipe


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def composed_recipe(model: VisionModel) -> dict[str, Any]:
    """What a composed model is made of, as plain values."""
    from ..recipe.builder import ABOUT

    parts = model.get_config()
    stages = [{key: value for key, value in stage.items() if key != "type"} for stage in parts["stages"]]
    for stage, written in zip(stages, parts["stages"], strict=True):
        if written["type"] == "transition":
            stage["pattern"] = "transition"
    about = dict(model.__dict__.get(ABOUT, {}))
    names = about.pop("stages", {})
    stages = [{"name": names[number], **stage} if number in names else stage for number, stage in enumerate(stages)]
    shape = about.pop("input_shape", [model.in_channels or 3, *DEFAULT_INPUT[1:]])
    return {**about, "input_shape": shape, "stem": parts["stem"], "stages": stages, "head": parts["head"]}


def _read_recipe(file: Path) -> AnyRecipe:
    from ..recipe import Recipe
    from ..recipe.schema import BackboneRecipe

    try:
        config = Recipe.from_yaml(file).config
    except RecipeError as error:
        raise WeightsError(str(error)) from None
    if isinstance(config, BackboneRecipe) and config.backbone.weights is not None:
        weights = config.backbone.weights
        raise WeightsError(f"{file}: backbone.weights must be null, got {weights!r}; the weights are in {WEIGHTS}")
    return config


def _read_digest(file: Path) -> str:
    """The SHA-256 that the weights must have, of a folder that this version can read."""
    try:
        versions = json.loads(file.read_text(encoding="utf-8"))
        digest, saved_by = versions["sha256"], versions[_OWN_NAME]
        major = int(saved_by.partition(".")[0])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{file} cannot be read ({type(error).__name__}: {error})") from error
    own = _versions()[_OWN_NAME]
    if major > int(own.partition(".")[0]):
        raise WeightsError(f"{file.parent} was saved by {_OWN_NAME} {saved_by}, and this is {own}; install that version")
    return str(digest)


def save(model: nn.Module, directory: str | os.PathLike[str]) -> Path:
    """Write a hybrid or composed model as a folder that ``load`` makes it from anew.

    The folder has the recipe (``recipe.yaml``), the weights (``model.safetensors``), and the versions of what wrote them with
    the weights' SHA-256 (``versions.json``). It appears as a whole or not at all. What a
    fused model was before is saved.

    Args:
        model: made or patched by this package, fused or not; it is not changed.
        directory: where; a folder that ``save`` has written before, and that has nothing else, is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: the model is neither a ``HybridModel`` nor a ``VisionModel`` of stems, stages and heads.
        FileExistsError: there is something else at ``directory``.
    """
    from ..compose import VisionModel
    from ..fusion.fusing import is_fused, unfuse
    from .model import HybridModel

    if not isinstance(model, HybridModel | VisionModel):
        raise ValueError(f"save is for models made or patched by this package; this {type(model).__name__} is neither")
    target = Path(directory).expanduser()
    if target.exists() and not _is_replaceable(target):
        raise FileExistsError(f"{target} exists and is no saved model, or has other files, too; name another folder")
    if is_fused(model):
        model = cast("HybridModel | VisionModel", unfuse(copy.deepcopy(model)))
    recipe = any_recipe_of(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    draft, former = scratch / "new", scratch / "former"
    try:
        draft.mkdir()
        write_files(draft, recipe, own_tensors(model))
        if target.exists():
            target.rename(former)
        try:
            draft.rename(target)
        except OSError:
            if former.exists():
                former.rename(target)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def any_recipe_of(model: nn.Module) -> dict[str, Any] | None:
    """What a hybrid or composed model is made of, as plain values; None for any other model."""
    from ..compose import VisionModel
    from .model import HybridModel

    if isinstance(model, HybridModel):
        return recipe_of(model)
    return composed_recipe(model) if isinstance(model, VisionModel) else None


def write_files(folder: Path, recipe: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> None:
    """Write what a saved model is into a folder that is there; without a recipe, weights and versions alone."""
    if recipe is not None:
        (folder / RECIPE).write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    save_file(_storable(tensors), folder / WEIGHTS)
    versions = {**_versions(), "sha256": _sha256(folder / WEIGHTS)}
    (folder / VERSIONS).write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")


def _is_replaceable(target: Path) -> bool:
    """Whether a folder is empty, or has what ``save`` writes and nothing else."""
    if not target.is_dir():
        return False
    names = {entry.name for entry in target.iterdir()}
    return not names or (RECIPE in names and names <= {RECIPE, WEIGHTS, VERSIONS})


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU and contiguous, each in memory of its own: safetensors stores nothing else."""
    found: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        stored = tensor.detach().cpu().contiguous()
        if stored.untyped_storage().data_ptr() in storages:
            stored = stored.clone()
        storages.add(stored.untyped_storage().data_ptr())
        found[name] = stored
    return found


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without second names of the same tensor, which safetensors does not store."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def load(directory: str | os.PathLike[str], model: nn.Module | None = None) -> HybridModel | VisionModel:
    """Make a model anew from a folder that ``save`` has written.

    Args:
        directory: the folder.
        model: the unpatched original, where it is of neither torchvision, timm nor a template; a copy of it is patched.

    Returns:
        The model in evaluation mode, with the weights of the folder; of a folder that ``Trainer.fit`` has written, the best.

    Raises:
        WeightsError: the folder is none, a file of it is missing or damaged, or its weights do not fit its recipe.
        PatchError, ValueError: the recipe's patches or head do not fit the backbone.
    """
    folder = model_folder(directory)
    for name in (RECIPE, WEIGHTS, VERSIONS):
        if not (folder / name).is_file():
            raise WeightsError(f"{folder} is not a saved model: it has no {name}")
    digest, recipe = _read_digest(folder / VERSIONS), _read_recipe(folder / RECIPE)
    if _sha256(folder / WEIGHTS) != digest:
        raise WeightsError(f"{folder / WEIGHTS} is not the file that was saved: its SHA-256 is not that of {VERSIONS}")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    made = _make(folder, recipe, model)
    own = own_tensors(made)
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    misfits = [key for key in own if key in tensors and own[key].shape != tensors[key].shape]
    for what, names in (("lacks", missing), ("also has", unknown), ("has another shape of", misfits)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(f"{folder}: {WEIGHTS} {what} '{names[0]}'{more}, so it does not fit {RECIPE}")
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.data = tensor.data.to(tensors[key].dtype)
            tensor.copy_(tensors[key])
    return made.eval()


def model_folder(directory: str | os.PathLike[str]) -> Path:
    """The folder of a saved model: the one that is named, or the best in one that ``Trainer.fit`` has written."""
    folder = Path(directory).expanduser()
    return folder / BEST if not (folder / RECIPE).exists() and (folder / BEST / RECIPE).is_file() else folder


def _make(folder: Path, recipe: AnyRecipe, model: nn.Module | None) -> HybridModel | VisionModel:
    from ..recipe.builder import build_config
    from ..recipe.schema import BackboneRecipe
    from .applying import apply
    from .builder import HybridBuilder
    from .plan import plan

    if model is not None and isinstance(recipe, BackboneRecipe):
        patches = recipe.backbone.patches if isinstance(recipe.backbone.patches, list) else [recipe.backbone.patches]
        options = {} if recipe.head is None else {key: value for key, value in recipe.head.given().items() if key != "type"}
        shape = recipe.input_shape if "input_shape" in recipe.model_fields_set else input_shape_of(None, model)
        first = patches[0] if patches else {}
        made = HybridBuilder().from_module(copy.deepcopy(model), (1, *shape), first, **options)
        for patch in patches[1:]:
            made = apply(plan(made, patch))
        return made
    if isinstance(recipe, BackboneRecipe) and recipe.backbone.library is None:
        name = recipe.backbone.name
        raise WeightsError(f"{folder}: a {name} is made by neither torchvision nor timm; give it as model=")
    return build_config(recipe, weights=None, frozen=False)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in (_OWN_NAME, "torch", "torchvision", "safetensors")}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
