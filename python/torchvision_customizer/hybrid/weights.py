"""Where weights come from, and whether they fit: torchvision's by name, or a file."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .._torchvision import models
from ..errors import WeightsError, nearest
from .report import WeightsMatch

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# Where training programs keep the state dict in a checkpoint: averages only where there is nothing else.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "ema")
# What wrappers put before each name, and what torch's AveragedModel puts beside them.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_COUNTER_OF_AVERAGES = "n_averaged"

Weights = str | os.PathLike[str] | Enum | None


# The unpickler runs a file's bytes as a program: bytes that are none stop it in any of these ways.
_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    pickle.UnpicklingError,
    SafetensorError,
)


def resolve_weights(backbone: str, weights: Weights) -> Enum | Path | None:
    """What ``weights`` names: a member of torchvision's enum for this backbone, an existing file, or nothing.

    Raises:
        WeightsError: neither; the message has the nearest name.
    """
    if weights is None:
        return None
    enum: type[Enum] = models.get_model_weights(backbone)
    if isinstance(weights, Enum):
        if not isinstance(weights, enum):
            raise WeightsError(f"{weights!r} are not weights of {backbone}; those are {', '.join(_names(enum))}")
        return weights
    if not isinstance(weights, str | os.PathLike):
        raise WeightsError(f"weights must be a name, a member of {enum.__name__}, a path or None, got {weights!r}")
    if isinstance(weights, os.PathLike) or weights.endswith(SUFFIXES) or os.sep in weights:
        return resolve_file(weights)
    enum_name, _, member = weights.rpartition(".")
    if enum_name not in ("", enum.__name__) or member not in enum.__members__:
        known = ["DEFAULT", *_names(enum)]
        hint = nearest(member, known)
        raise WeightsError(f"{backbone} has no weights '{weights}'{hint} (it has {', '.join(known)}; or give a path)")
    return enum[member]


def _names(enum: type[Enum]) -> list[str]:
    return [member.name for member in enum]


def resolve_file(weights: str | os.PathLike[str]) -> Path:
    """The file at a path.

    Raises:
        WeightsError: there is none; the message has the nearest name in its folder.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, not a file of weights")
    if not path.parent.is_dir():
        raise WeightsError(f"there is no file {path}, and no folder {path.parent}")
    candidates = sorted(entry.name for entry in path.parent.iterdir() if entry.name.endswith(SUFFIXES))
    raise WeightsError(f"there is no file {path}{nearest(path.name, candidates)}")


def cached_file(weights: Enum) -> Path:
    """Where torchvision keeps, or will keep, the file of one of its weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / str(weights.value.url).rpartition("/")[2]


def load_torchvision(backbone: str, weights: Enum, progress: bool, arguments: Mapping[str, Any]) -> nn.Module:
    """The model with torchvision's weights, made and loaded by torchvision.

    Raises:
        WeightsError: they cannot be downloaded or read, or do not fit.
    """
    try:
        model: nn.Module = models.get_model(backbone, weights=weights, progress=progress, **arguments)
        return model
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        file = cached_file(weights)
        if file.is_file():
            # What torchvision found wrong takes pages, or names no file; our own reading says it in a sentence.
            load(models.get_model(backbone, **arguments), read_state_dict(file), source=str(file), model_name=backbone)
        raise WeightsError(
            f"the weights {weights.name} of {backbone} cannot be had from {weights.value.url} ({_first_line(error)}); "
            f"put the file at {file}, or build with weights=None"
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name; nothing but tensors and plain containers is unpickled.

    Training checkpoints are looked into for their state dict, and prefixes that wrappers put before every name are taken off.

    Raises:
        WeightsError: the file is damaged, or is no state dict.
    """
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        if isinstance(error, pickle.UnpicklingError):
            reason = "it is damaged, or holds pickled objects, which are not loaded; save a state dict"
        else:
            reason = f"it is damaged or of another kind ({_first_line(error)})"
        raise WeightsError(f"{path} cannot be read as weights: {reason}") from error
    tensors = state_dict_in(content, str(path))
    return {bare: tensors[name] for name, bare in bare_names(tensors).items()}


def state_dict_in(content: Any, source: str) -> dict[str, Tensor]:
    """The state dict that an object is, or that is in it where it is a training checkpoint.

    Raises:
        WeightsError: there is none; the message begins with ``source``.
    """
    tensors = _find_state_dict(content)
    if tensors is None:
        found = f"the keys {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(f"{source} holds no state dict, but {found}")
    return tensors


def _find_state_dict(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping):
        return None
    # Containers first: a checkpoint may have a tensor beside its state dict, the number of its steps for instance.
    inner = next((found for key in _CONTAINERS if (found := _find_state_dict(content.get(key))) is not None), None)
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return inner or tensors or None


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """By each name, what is left of it without what wrappers put before every one of them, however deep they are nested."""
    names = list(names)
    bare = {name: name for name in names if name != _COUNTER_OF_AVERAGES}
    if not _common_prefix(bare.values()):
        return {name: name for name in names}
    while prefix := _common_prefix(bare.values()):
        bare = {name: rest.removeprefix(prefix) for name, rest in bare.items()}
    return bare


def _common_prefix(names: Collection[str]) -> str:
    return next((prefix for prefix in _PREFIXES if names and all(name.startswith(prefix) for name in names)), "")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].partition(". ")[0].rstrip(".:") if text else type(error).__name__


def load(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    model_name: str,
    heads: Iterable[str] = (),
    new_head: bool = False,
    new_modules: Iterable[str] = (),
) -> WeightsMatch:
    """Load tensors into a model: all that it needs, or nothing.

    Args:
        heads: paths of the last layers.
        new_head: the file may lack them, have some for another number of classes, or have some where the model has none.
        new_modules: paths of modules that the file may lack, each as a whole.

    Raises:
        WeightsError: tensors are missing, unknown, or of another shape; the model is untouched.
    """
    own = model.state_dict()
    lacking = _lacking(own, tensors, new_modules)
    misfits = {name: tensors[name].shape for name in own if name in tensors and tensors[name].shape != own[name].shape}
    missing = [name for name in own if name not in (*tensors, *lacking) and not is_counter_of_old(name, tensors)]
    unknown = [name for name in tensors if name not in own]
    prefixes = tuple(f"{head}." for head in heads)
    in_head = {name for name in (*misfits, *missing, *unknown) if prefixes and name.startswith(prefixes)}
    if new_head and in_head:
        in_head = {name for name in (*own, *tensors) if name.startswith(prefixes)}
        misfits = {name: shape for name, shape in misfits.items() if name not in in_head}
        missing, unknown = ([name for name in names if name not in in_head] for names in (missing, unknown))
    if misfits or missing or unknown:
        problem = misfit(own, tensors, misfits, missing, unknown)
        if in_head and set((*misfits, *missing, *unknown)) == in_head:
            problem += "; give num_classes, the file's number to load its head or any other for a new one"
        raise WeightsError(f"{source} does not fit {model_name}: {problem}")
    new = [name for name in own if name in in_head]
    loaded = {name: tensor for name, tensor in tensors.items() if name not in in_head}
    model.load_state_dict(versioned(loaded, model), strict=False)
    return match(model, source, loaded, lacking, new)


def versioned(tensors: Mapping[str, Tensor], model: nn.Module) -> OrderedDict[str, Tensor]:
    """A state dict that says of each module the version that the model has: MNASNet does not load one that says nothing."""
    found = OrderedDict(tensors)
    found._metadata = getattr(model.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
    return found


def covers(tensors: Mapping[str, Tensor], model: nn.Module, heads: Iterable[str], new_modules: Iterable[str]) -> bool:
    """Whether a file is one of the original: it has all that the model has but for its heads, and nothing of new modules."""
    prefixes = tuple(f"{head}." for head in heads)
    own = {name for name in model.state_dict() if not (prefixes and name.startswith(prefixes))}
    new = tuple(f"{path}." for path in new_modules if not any(name.startswith(f"{path}.") for name in own))
    whole = all(name in tensors or is_counter_of_old(name, tensors) for name in own)
    return whole and not (new and any(name.startswith(new) for name in tensors))


def match(model: nn.Module, source: str, loaded: Iterable[str], lacking: Iterable[str], new: Iterable[str]) -> WeightsMatch:
    """How much of a model was loaded: of all its tensors but those of new modules that no file had (``lacking``)."""
    own = {name: tensor.numel() for name, tensor in model.state_dict().items() if name not in set(lacking)}
    parameters = {name for name, _ in model.named_parameters() if name in own}
    loaded = set(loaded)
    return WeightsMatch(
        source=source,
        tensors_loaded=len(loaded),
        tensors_total=len(own),
        parameters_loaded=sum(own[name] for name in loaded & parameters),
        parameters_total=sum(own[name] for name in parameters),
        new=tuple(new),
    )


def is_counter_of_old(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Norms of files from before torch 0.4.1 have statistics, but do not count their batches."""
    norm, _, tensor = name.rpartition(".")
    return tensor == "num_batches_tracked" and f"{norm}.running_var" in tensors


def _lacking(own: Iterable[str], tensors: Mapping[str, Tensor], new_modules: Iterable[str]) -> list[str]:
    """The tensors of those new modules of which the file has nothing at all."""
    lacking = []
    for path in new_modules:
        names = [name for name in own if name.startswith(f"{path}.")]
        if not any(name in tensors for name in names):
            lacking += names
    return lacking


def misfit(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    misfits: Mapping[str, Sequence[int]],
    missing: list[str],
    unknown: list[str],
) -> str:
    """What does not fit, in one sentence: counts, and the first of each kind."""
    fitting = sum(name in tensors and name not in misfits for name in own)
    if not fitting:
        first, ours = next(iter(tensors)), next(iter(own))
        return f"none of its {len(tensors)} tensors fits (its first is '{first}', the model's '{ours}')"
    found = [f"{fitting} of {len(own)} tensors fit"]
    if misfits:
        name, shape = next(iter(misfits.items()))
        shapes = f"{list(shape)} in the file and {list(own[name].shape)} in the model"
        found.append(f"{len(misfits)} of another shape, first '{name}', {shapes}")
    if missing:
        found.append(f"{len(missing)} missing, first '{missing[0]}'")
    if unknown:
        found.append(f"{len(unknown)} unknown, first '{unknown[0]}'")
    return "; ".join(found)
