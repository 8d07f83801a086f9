"""The state of a training as a folder, which appears as a whole or not at all, and is what ``load`` makes a model from.

A checkpoint ``OUTPUT/checkpoints/step-00000120`` has the files of a saved model (``recipe.yaml`` where the model has a recipe,
``model.safetensors``: the weights that were evaluated, ``versions.json``) and besides them

    state.pt               what else is needed to go on; plain values and tensors, read with ``weights_only``
    training.safetensors   the weights that are trained, where those of the model are their moving average

``OUTPUT/last`` and ``OUTPUT/best`` are links to two of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import WeightsError
from ..hybrid.saving import BEST, VERSIONS, WEIGHTS, own_tensors, write_files

STATE, TRAINED, LAST = "state.pt", "training.safetensors", "last"
_FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{8,})")
# Of state.pt. A file of another version is not read.
_FILE_VERSION = 1


def random_state() -> dict[str, Any]:
    """The random generators of python, numpy, torch and CUDA, as plain values and tensors."""
    version, key, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(version), [int(word) for word in key], int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set the random generators to what :func:`random_state` gave."""
    random.setstate(state["python"])
    version, key, *rest = state["numpy"]
    np.random.set_state((version, np.array(key, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def write_checkpoint(
    output: Path,
    step: int,
    state: Mapping[str, Any],
    model: nn.Module,
    trained: nn.Module | None,
    recipe: Mapping[str, Any] | None,
    best: bool,
    keep: int,
) -> Path:
    """Write a checkpoint, let ``last`` (and ``best``) name it, and delete all but the best and the last ``keep``.

    Args:
        output: the folder of the training.
        step: updates of the weights until now.
        state: plain values and tensors.
        model: the weights that were evaluated.
        trained: the weights that are trained, where they are others.
        recipe: of the model, where it has one.
        best: whether it is the best until now.
        keep: how many of the last are kept, at least 1.

    Returns:
        Its folder.
    """
    folder = output / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    target, draft = folder / f"step-{step:08d}", folder / f".draft-{step:08d}"
    for leftover in folder.glob(".*-*"):  # of a process that was killed
        shutil.rmtree(leftover)
    draft.mkdir()
    write_files(draft, recipe, own_tensors(model))
    if trained is not None:
        write_safetensors(draft / TRAINED, trained)
    torch.save({"file_version": _FILE_VERSION, **state}, draft / STATE)
    versions = json.loads((draft / VERSIONS).read_text(encoding="utf-8"))
    versions |= {f"sha256 of {name}": _sha256(draft / name) for name in (STATE, TRAINED) if (draft / name).exists()}
    (draft / VERSIONS).write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
    for file in (*draft.iterdir(), draft):
        _sync(file)
    if target.exists():  # the same step, from where an interrupted training went on
        _remove(target)
    draft.rename(target)
    _sync(folder)
    best = best or not (output / BEST).exists()  # the first one, until there is an epoch to compare
    for link in (LAST, BEST) if best else (LAST,):
        _link(output / link, target)
    kept = {*sorted(_checkpoints(output))[-keep:], *(_linked(output, link) for link in (LAST, BEST))}
    for old in _checkpoints(output):
        if old not in kept:
            _remove(old)
    return target


def write_safetensors(file: Path, model: nn.Module) -> None:
    """The weights of a model, without second names of the same tensor."""
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in own_tensors(model).items()}, file)


def find_checkpoint(place: str | os.PathLike[str]) -> Path | None:
    """The checkpoint to go on from: the folder itself, or the last one of a training's folder; None where there is none."""
    folder = Path(place).expanduser()
    if (folder / STATE).is_file():
        return folder.resolve()
    # Not by the link: a process may have been killed after the checkpoint and before the link.
    return max(_checkpoints(folder), default=None)


def go_on_from(output: Path, folder: Path, best_step: int) -> None:
    """Make a checkpoint the last one of a training: later ones are deleted, and the links point to it and to the best."""
    if folder.parent != (output / _FOLDER).resolve():
        return
    for later in _checkpoints(output):
        if later.name > folder.name:
            _remove(later)
    _link(output / LAST, folder)
    if (best := folder.with_name(f"step-{best_step:08d}")).exists():
        _link(output / BEST, best)


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor] | None]:
    """The state of a checkpoint, the weights that were evaluated, and those that are trained where they are others.

    Raises:
        WeightsError: a file is missing or damaged, or of a later version.
    """
    try:
        versions = json.loads((folder / VERSIONS).read_text(encoding="utf-8"))
        digests = {WEIGHTS: versions["sha256"], STATE: versions[f"sha256 of {STATE}"]}
        if f"sha256 of {TRAINED}" in versions:
            digests[TRAINED] = versions[f"sha256 of {TRAINED}"]
        for name, digest in digests.items():
            if _sha256(folder / name) != digest:
                raise WeightsError(f"{folder / name} is not the file that was saved: its SHA-256 is not that of {VERSIONS}")
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        weights = load_file(folder / WEIGHTS)
        trained = load_file(folder / TRAINED) if TRAINED in digests else None
    except (OSError, ValueError, TypeError, KeyError, SafetensorError, pickle.UnpicklingError, RuntimeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{folder} is no checkpoint that can be read ({type(error).__name__}: {error})") from error
    if state["file_version"] != _FILE_VERSION:
        raise WeightsError(
            f"{folder} was written by a later torchvision-customizer; update it (file version {state['file_version']})"
        )
    return state, weights, trained


@torch.no_grad()
def set_weights(model: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Give a model the weights of a checkpoint, in place.

    Raises:
        WeightsError: they are of another model.
    """
    own = own_tensors(model)
    strange = sorted(own.keys() ^ tensors.keys())
    strange += [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if strange:
        raise WeightsError(f"{where} is of another model: it differs in '{strange[0]}'")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _checkpoints(output: Path) -> list[Path]:
    return [entry for entry in (output / _FOLDER).glob("step-*") if _NAME.fullmatch(entry.name)]


def _linked(output: Path, link: str) -> Path:
    return output / _FOLDER / os.path.basename(os.readlink(output / link)) if (output / link).is_symlink() else output


def _link(link: Path, target: Path) -> None:
    """Point a link to a checkpoint, in one step."""
    draft = link.with_name(f".{link.name}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(Path(_FOLDER) / target.name, target_is_directory=True)
    draft.replace(link)


def _remove(folder: Path) -> None:
    """Delete a checkpoint. What is left of it where the process is killed has another name."""
    shutil.rmtree(folder.rename(folder.with_name(f".removed-{folder.name}")))


def _sync(path: Path) -> None:
    """Have the disk keep what was written, also when the machine stops."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
