"""A hybrid model as a folder: a recipe that makes it anew, its weights, and what they were made with. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import WeightsError
from .heads import HeadSpec

if TYPE_CHECKING:
    from .model import HybridModel

RECIPE, WEIGHTS, VERSIONS = "recipe.yaml", "model.safetensors", "versions.json"


def recipe_of(model: HybridModel) -> dict[str, Any]:
    """What a hybrid model is made of, as plain values: its backbone, its patches in order, and its head."""
    state = model._hybrid_state
    backbone: dict[str, Any] = {"name": state.backbone_name, "library": state.library, "weights": None}
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
    return recipe


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def save(model: nn.Module, directory: str | os.PathLike[str]) -> Path:
    """Write a hybrid model as a folder that ``load`` makes it from anew.

    The folder has the recipe (``recipe.yaml``), the weights (``model.safetensors``), and the versions of what wrote them with
    the weights' SHA-256 (``versions.json``). It appears as a whole or not at all.

    Args:
        model: made or patched by this package, fused or not; it is not changed.
        directory: where; a folder that ``save`` has written before is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: the model is no ``HybridModel``.
        FileExistsError: there is something else at ``directory``.
    """
    from .model import HybridModel

    if not isinstance(model, HybridModel):
        raise ValueError(f"save is for models made or patched by this package; this {type(model).__name__} is neither")
    target = Path(directory).expanduser()
    if target.exists() and not (target / RECIPE).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is no saved model; name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        (draft / RECIPE).write_text(yaml.safe_dump(model.recipe, sort_keys=False), encoding="utf-8")
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in _own(model).items()}
        save_file(tensors, draft / WEIGHTS)
        versions = {**_versions(), "sha256": _sha256(draft / WEIGHTS)}
        (draft / VERSIONS).write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


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
        model: the unpatched original, where it is neither torchvision's nor timm's; it is patched in place.

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
    try:
        recipe = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
        versions = json.loads((folder / VERSIONS).read_text(encoding="utf-8"))
        backbone, head = recipe["backbone"], recipe.get("head", {})
        library, name, patches = backbone["library"], backbone["name"], backbone.get("patches", {})
        digest = versions["sha256"]
    except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{folder}: {RECIPE} or {VERSIONS} cannot be read ({type(error).__name__}: {error})") from error
    if _sha256(folder / WEIGHTS) != digest:
        raise WeightsError(f"{folder / WEIGHTS} is not the file that was saved: its SHA-256 is not that of {VERSIONS}")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    made = _make(folder, library, name, backbone.get("arguments", {}), HeadSpec.checked(**head), patches, model)
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


def _make(
    folder: Path,
    library: str | None,
    name: str,
    arguments: Mapping[str, Any],
    head: HeadSpec,
    patches: Any,
    model: nn.Module | None,
) -> HybridModel:
    from .applying import apply
    from .builder import HybridBuilder
    from .plan import plan

    first, *more = patches if isinstance(patches, list) else [patches]
    options = {"num_classes": head.num_classes, "dropout": head.dropout, "hidden": head.hidden}
    builder = HybridBuilder()
    if model is not None:
        made = builder.from_module(model, patches=first, **options)  # type: ignore[arg-type]
    elif library == "timm":
        made = builder.from_timm(name, None, first, **options, **arguments)  # type: ignore[arg-type]
    elif library == "torchvision":
        made = builder._torchvision(name, None, first, head, False, None, False, strict=False, arguments=arguments)
    else:
        raise WeightsError(f"{folder}: a {name} that was patched in place is made by neither torchvision nor timm; give model=")
    for patch in more:
        made = apply(plan(made, patch))
    return made


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torchvision-customizer", "torch", "torchvision", "safetensors")}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
