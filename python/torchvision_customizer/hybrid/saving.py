"""A hybrid model as a folder: a recipe that makes it anew, its weights, and what they were made with. Nothing is pickled."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import WeightsError, nearest
from .backbones import find_family
from .heads import HeadSpec
from .opened import original_class
from .probe import input_shape_of

if TYPE_CHECKING:
    from .model import HybridModel

RECIPE, WEIGHTS, VERSIONS = "recipe.yaml", "model.safetensors", "versions.json"
_OWN_NAME = "torchvision-customizer"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Backbone(_Part):
    name: str
    library: Literal["torchvision", "timm", "template"] | None
    weights: None = None
    arguments: dict[str, Any] = {}
    patches: dict[str, Any] | list[dict[str, Any]] = {}


class _Head(_Part):
    num_classes: int | None = None
    dropout: float | None = None
    hidden: list[int] = []
    last_layer: str | None = None


class _Recipe(_Part):
    backbone: _Backbone
    head: _Head = Field(default_factory=_Head)
    input_shape: list[int] | None = None


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
    recipe: dict[str, Any] = {"backbone": backbone}
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


def _read_recipe(file: Path) -> _Recipe:
    try:
        return _Recipe.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise WeightsError(f"{file}: {_first_problem(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"{file} cannot be read as YAML of plain values: {reason}") from error


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    *outer, key = [str(part) for part in problem["loc"]] or [""]
    parts: dict[str, type[_Part]] = {"": _Recipe, "backbone": _Backbone, "head": _Head}
    place = ".".join([*outer, key]) or "the recipe"
    match problem["type"]:
        case "extra_forbidden":
            known = parts[".".join(outer)].model_fields
            return f"unknown key '{place}'{nearest(key, known)} (keys: {', '.join(known)})"
        case "missing":
            return f"'{place}' is missing"
        case _:
            return f"{place}: {problem['msg']}, got {problem['input']!r}"


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
    """Write a hybrid model as a folder that ``load`` makes it from anew.

    The folder has the recipe (``recipe.yaml``), the weights (``model.safetensors``), and the versions of what wrote them with
    the weights' SHA-256 (``versions.json``). It appears as a whole or not at all. What a
    fused model was before is saved.

    Args:
        model: made or patched by this package, fused or not; it is not changed.
        directory: where; a folder that ``save`` has written before, and that has nothing else, is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: the model is no ``HybridModel``.
        FileExistsError: there is something else at ``directory``.
    """
    from ..fusion.fusing import is_fused, unfuse
    from .model import HybridModel

    if not isinstance(model, HybridModel):
        raise ValueError(f"save is for models made or patched by this package; this {type(model).__name__} is neither")
    target = Path(directory).expanduser()
    if target.exists() and not _is_replaceable(target):
        raise FileExistsError(f"{target} exists and is no saved model, or has other files, too; name another folder")
    if is_fused(model):
        model = cast("HybridModel", unfuse(copy.deepcopy(model)))
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    draft, former = scratch / "new", scratch / "former"
    try:
        draft.mkdir()
        (draft / RECIPE).write_text(yaml.safe_dump(model.recipe, sort_keys=False), encoding="utf-8")
        save_file(_storable(_own(model)), draft / WEIGHTS)
        versions = {**_versions(), "sha256": _sha256(draft / WEIGHTS)}
        (draft / VERSIONS).write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
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


def _own(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without second names of the same tensor, which safetensors does not store."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def load(directory: str | os.PathLike[str], model: nn.Module | None = None) -> HybridModel:
    """Make a model anew from a folder that ``save`` has written.

    Args:
        directory: the folder.
        model: the unpatched original, where it is of neither torchvision, timm nor a template; a copy of it is patched.

    Returns:
        The model in evaluation mode, with the weights of the folder.

    Raises:
        WeightsError: the folder is none, a file of it is missing or damaged, or its weights do not fit its recipe.
        PatchError, ValueError: the recipe's patches or head do not fit the backbone.
    """
    folder = Path(directory).expanduser()
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
    own = _own(made)
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


def _make(folder: Path, recipe: _Recipe, model: nn.Module | None) -> HybridModel:
    from .applying import apply
    from .builder import HybridBuilder
    from .plan import plan

    backbone, head = recipe.backbone, recipe.head
    patches = backbone.patches if isinstance(backbone.patches, list) else [backbone.patches]
    first, more = (patches[0], patches[1:]) if patches else ({}, [])
    options: dict[str, Any] = {"num_classes": head.num_classes, "dropout": head.dropout, "hidden": head.hidden}
    builder = HybridBuilder()
    if model is not None:
        options["last_layer"] = head.last_layer
        batch = (1, *(recipe.input_shape or input_shape_of(None, model)))
        made = builder.from_module(copy.deepcopy(model), batch, first, **options)
    elif backbone.library == "timm":
        made = builder.from_timm(backbone.name, None, first, **options, **backbone.arguments)
    elif backbone.library == "torchvision":
        spec = HeadSpec.checked(**options)
        made = builder._torchvision(
            backbone.name, None, first, spec, False, None, False, strict=False, arguments=backbone.arguments
        )
    elif backbone.library == "template":
        from ..templates import Template  # it imports this package

        try:
            template = Template.from_config({"name": backbone.name, **backbone.arguments})
        except ValueError as error:
            raise WeightsError(f"{folder / RECIPE}: backbone.arguments: {error}") from error
        made = template.make(first, HeadSpec.checked(**options))
    else:
        raise WeightsError(f"{folder}: a {backbone.name} is made by neither torchvision nor timm; give it as model=")
    for patch in more:
        made = apply(plan(made, patch))
    return made


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in (_OWN_NAME, "torch", "torchvision", "safetensors")}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
