"""Which parts of a model are trained, and how fast: groups for an optimizer, freezing, and unfreezing level by level.

A *level* is a block of the model, in the order in which it runs; see ``levels.find_levels``. New modules, which patches have
put in, are in none of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ..errors import PatchError
from .levels import Level, find_levels
from .model import HybridModel
from .opened import original_class
from .probe import input_shape_of
from .target import resolve

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    layer_decay: float = 1.0,
    new_lr: float | None = None,
    min_scale: float = 0.0,
    *,
    example_input: Tensor | tuple[int, ...] | None = None,
) -> list[dict[str, Any]]:
    """Groups for an optimizer of torch: smaller rates nearer to the input, and no decay where it does harm.

    The last level, which is the head, has the rate ``lr``, and every other ``layer_decay`` times that of the next. New modules
    of patches, and a head that was made anew, have groups of their own. Norms, biases and all other vectors (a gamma, a class
    token) are not decayed. Every trainable parameter is in one group, once; frozen ones are in none.

    Args:
        model: it is not touched.
        lr: rate of the last level.
        weight_decay: of the weights.
        layer_decay: above 0 and up to 1; with 1 there are no levels, and the model is not run.
        new_lr: rate of new modules and of a new head; ``lr`` by default.
        min_scale: no level has a rate below ``min_scale * lr``.
        example_input: a batch that the model takes, or its shape, by which the order of its blocks is found out; by default
            what it was patched with, or images of 3×224×224.

    Returns:
        Dictionaries with ``params``, ``lr``, ``weight_decay``, ``name`` (path of the module that opens the level, ``model``,
        ``new modules`` or ``new head``) and ``lr_scale`` (the group's rate as a share of ``lr``), from the input to the output.

    Raises:
        ValueError: a number out of its range, no trainable parameter, or a model that does not run on such a batch.
    """
    new_lr = lr if new_lr is None else new_lr
    for option, value, wanted, fits in (
        ("lr", lr, "above 0", lambda x: 0 < x < math.inf),
        ("weight_decay", weight_decay, "of at least 0", lambda x: 0 <= x < math.inf),
        ("layer_decay", layer_decay, "above 0 and up to 1", lambda x: 0 < x <= 1),
        ("new_lr", new_lr, "above 0", lambda x: 0 < x < math.inf),
        ("min_scale", min_scale, "from 0 to 1", lambda x: 0 <= x <= 1),
    ):
        if not isinstance(value, int | float) or not fits(value):
            raise ValueError(f"{option} must be a number {wanted}, got {value!r}")
    new_modules, new_head = _new_parameters(model)
    if layer_decay == 1:
        levels = [Level("model", dict(model.named_parameters()))]
    else:
        levels = find_levels(model, _input_shape(model, example_input), _new_modules(model))
    new = new_modules | new_head
    parts: list[tuple[str, float, float, Iterable[nn.Parameter]]] = []
    for distance, level in zip(reversed(range(len(levels))), levels, strict=True):
        scale = max(layer_decay**distance, min_scale)
        parts.append((level.name, lr * scale, scale, [p for p in level.parameters.values() if p not in new]))
    parts += [("new modules", new_lr, new_lr / lr, new_modules), ("new head", new_lr, new_lr / lr, new_head)]
    not_decayed = _vectors_and_norms(model)
    groups: list[dict[str, Any]] = []
    for name, rate, scale, parameters in parts:
        for decay, suffix in ((weight_decay, ""), (0.0, " (no decay)")):
            params = [p for p in parameters if p.requires_grad and (p in not_decayed) == bool(suffix)]
            if params:
                groups.append({"params": params, "lr": rate, "weight_decay": decay, "name": name + suffix, "lr_scale": scale})
    if not groups:
        raise ValueError(f"this {original_class(model).__name__} has no trainable parameters")
    return groups


def freeze(model: nn.Module, patterns: str | Iterable[str]) -> None:
    """Freeze modules, with all that is in them. Others stay as they are.

    Batch norms that are frozen use their running statistics and do not move them, also after ``model.train()``.

    Args:
        model: changed in place.
        patterns: paths (``layer1``), globs by path segments (``layer[12].*``, ``**``) or types (``type:BatchNorm2d``).

    Raises:
        ValueError: a pattern matches no module that has parameters, or a batch norm would go on moving its statistics, because
            the model is no ``HybridModel``; nothing is frozen then.
    """
    modules = _find(model, patterns)
    _check_norms(model, modules)
    _set_trainable(model, (p for module in modules.values() for p in module.parameters()), False)


def unfreeze(model: nn.Module, patterns: str | Iterable[str]) -> None:
    """Let modules be trained again, with all that is in them. Others stay as they are.

    Args:
        model: changed in place.
        patterns: as for ``freeze``.

    Raises:
        ValueError: a pattern matches no module that has parameters; nothing is unfrozen then.
    """
    modules = _find(model, patterns)
    _set_trainable(model, (p for module in modules.values() for p in module.parameters()), True)


class GradualUnfreezing:
    """Unfreezes a model level by level, from the output to the input.

    It begins with the last level, which is the head, and new modules; all else is frozen, and what was frozen before counts
    for nothing. Make the optimizer's groups first: frozen parameters have no gradient, and the optimizer passes over them
    until they do.

        groups = parameter_groups(model, lr=1e-3, layer_decay=0.7)
        optimizer = torch.optim.AdamW(groups)
        unfreezing = GradualUnfreezing(model)
        for epoch in range(epochs):
            ...  # train
            unfreezing.step()

    Args:
        model: changed in place.
        every: epochs from one unfreezing to the next.
        levels: how many levels are unfrozen each time.
        example_input: as for ``parameter_groups``.

    Raises:
        ValueError: ``every`` or ``levels`` is no integer of at least 1, the model does not run on such a batch, or it has batch
            norms and is no ``HybridModel``.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 1,
        levels: int = 1,
        *,
        example_input: Tensor | tuple[int, ...] | None = None,
    ) -> None:
        for option, value in (("every", every), ("levels", levels)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{option} must be an integer of at least 1, got {value!r}")
        _check_norms(model, {"": model})
        self.model = model
        self.every = every
        self.levels = levels
        self._levels = find_levels(model, _input_shape(model, example_input), _new_modules(model))
        self._epochs = 0
        self._update()

    def step(self) -> list[str]:
        """Count an epoch, and unfreeze what is due.

        Returns:
            Names of the levels that are trained from now on, and were not before.
        """
        frozen = self._frozen()
        self._epochs += 1
        self._update()
        return [level.name for level in self._levels[self._frozen() : frozen]]

    def state_dict(self) -> dict[str, Any]:
        """How far it has come, and of which levels."""
        return {"epochs": self._epochs, "levels": [level.name for level in self._levels]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another has come to.

        Raises:
            ValueError: the state is that of a model with other levels.
        """
        if state["levels"] != self.state_dict()["levels"]:
            raise ValueError(
                f"the state is that of a model with {len(state['levels'])} levels, which are others than this one's"
            )
        self._epochs = state["epochs"]
        self._update()

    def _frozen(self) -> int:
        """How many levels are frozen, from the input on."""
        return max(0, len(self._levels) - 1 - self._epochs // self.every * self.levels)

    def _update(self) -> None:
        frozen = self._frozen()
        _set_trainable(self.model, self.model.parameters(), True)
        _, new_head = _new_parameters(self.model)
        parameters = (p for level in self._levels[:frozen] for p in level.parameters.values())
        _set_trainable(self.model, (p for p in parameters if p not in new_head), False)


def _find(model: nn.Module, patterns: str | Iterable[str]) -> dict[str, nn.Module]:
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise ValueError("no module is named; give paths or globs, '**' for all")
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        try:
            modules = resolve(model, pattern)
        except PatchError as error:
            raise ValueError(str(error)) from None
        if not any(True for module in modules.values() for _ in module.parameters()):
            raise ValueError(f"'{pattern}' matches {', '.join(list(modules)[:3])}, and nothing there has parameters")
        found |= modules
    return found


def _check_norms(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """A batch norm moves its statistics whenever it is in training mode, which only ``HybridModel.train`` keeps it out of."""
    held = {part for hybrid in _hybrids(model).values() for part in hybrid.modules()}
    for path, module in modules.items():
        for name, norm in module.named_modules():
            if isinstance(norm, _NormBase) and norm.running_mean is not None and norm not in held:
                raise ValueError(
                    f"{_join(path, name)}, a batch norm, would go on moving its statistics after "
                    f"model.train(), as this {original_class(model).__name__} is no HybridModel; "
                    "apply(plan(model, {})) makes it one"
                )


def _set_trainable(model: nn.Module, parameters: Iterable[nn.Parameter], trainable: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(trainable)
        if not trainable:
            parameter.grad = None  # an optimizer would go by it once more
    for hybrid in _hybrids(model).values():
        hybrid.train(hybrid.training)


def _hybrids(model: nn.Module) -> dict[str, HybridModel]:
    """The model itself, where it is one, and those in it, by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, HybridModel)}


def _new_modules(model: nn.Module) -> list[str]:
    return [_join(path, edit.child_path) for path, hybrid in _hybrids(model).items() for edit in hybrid._hybrid_state.edits]


def _new_heads(model: nn.Module) -> Iterator[str]:
    """Paths of last layers that neither torchvision's weights nor a file had."""
    for path, hybrid in _hybrids(model).items():
        head, weights = hybrid._hybrid_state.head, hybrid._hybrid_state.weights
        if head is not None and head.is_new and (weights is None or weights.new):
            yield from (_join(path, layer.path) for layer in head.layers)


def _new_parameters(model: nn.Module) -> tuple[dict[nn.Parameter, None], dict[nn.Parameter, None]]:
    """The parameters of new modules, and those of new heads; in order."""
    modules, heads = (
        dict.fromkeys(parameter for path in paths for parameter in model.get_submodule(path).parameters())
        for paths in (_new_modules(model), _new_heads(model))
    )
    return modules, {parameter: None for parameter in heads if parameter not in modules}


def _vectors_and_norms(model: nn.Module) -> set[nn.Parameter]:
    found = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            # A gamma may have the shape (C, 1, 1); the weight of a layer with one output is a weight.
            is_weight = isinstance(module, nn.Linear | _ConvNd) and parameter is module.weight
            if isinstance(module, _NORMS) or (not is_weight and parameter.numel() == max(parameter.shape, default=1)):
                found.add(parameter)
    return found


def _input_shape(model: nn.Module, example_input: Tensor | tuple[int, ...] | None) -> tuple[int, ...]:
    if example_input is None and isinstance(model, HybridModel):
        return model._hybrid_state.input_shape
    return input_shape_of(example_input)


def _join(*path: str) -> str:
    return ".".join(filter(None, path))
