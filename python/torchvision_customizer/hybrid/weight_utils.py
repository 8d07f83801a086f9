"""Weights that fit in part: load what fits, take over what is asked for, match names; and say what came of it.

A *source* of weights is a model, a state dict, a training checkpoint that holds one, or a ``.pt`` or ``.safetensors`` file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import WeightsError, nearest
from .backbones import find_family
from .model import HybridModel
from .opened import original_class
from .weights import bare_names, is_counter_of_old, misfit, read_state_dict, resolve_file, state_dict_in, versioned

Source = nn.Module | Mapping[str, Any] | str | os.PathLike[str]

INITS = ("kaiming", "xavier", "zero", "keep")

# Blocks of this package start the way they were asked to, many as the identity.
_BLOCKS = f"{__name__.partition('.')[0]}.blocks."


@dataclass
class WeightLoadingReport:
    """What became of the tensors of a source and of a target.

    Every tensor of the target is in one of ``loaded``, ``skipped_shape_mismatch`` and ``skipped_missing``.

    Attributes:
        loaded: tensors of the target that were loaded.
        skipped_shape_mismatch: tensors of another shape: name, shape in the source, shape in the target.
        skipped_missing: tensors of the target for which the source, or what was asked of it, has none.
        skipped_unexpected: tensors of the source, or of what was asked of it, that the target has not.
        newly_initialized: tensors of the target that were not loaded and were drawn anew; all others kept their values.
        by_child: for each stage of the target, and each other child: elements of its parameters that were loaded, and of all.
    """

    loaded: list[str] = field(default_factory=list)
    skipped_shape_mismatch: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    skipped_missing: list[str] = field(default_factory=list)
    skipped_unexpected: list[str] = field(default_factory=list)
    newly_initialized: list[str] = field(default_factory=list)
    by_child: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def total_loaded(self) -> int:
        """How many tensors were loaded."""
        return len(self.loaded)

    @property
    def total_skipped(self) -> int:
        """How many tensors, of the source or of the target, have no counterpart of their shape."""
        return len(self.skipped_shape_mismatch) + len(self.skipped_missing) + len(self.skipped_unexpected)

    @property
    def load_ratio(self) -> float:
        """Tensors loaded, as a share of the target's; what only the source has does not count."""
        return _ratio(self.total_loaded, self._total)

    @property
    def parameter_ratio(self) -> float:
        """Elements of parameters loaded, as a share of the target's."""
        return _ratio(*(sum(column) for column in zip(*self.by_child.values(), strict=True))) if self.by_child else 0.0

    @property
    def _total(self) -> int:
        return self.total_loaded + len(self.skipped_shape_mismatch) + len(self.skipped_missing)

    def summary(self) -> str:
        """The report as text: shares, overall and of each child, and the names of what was not loaded."""
        lines = [
            f"loaded {self.total_loaded} of the target's {self._total} tensors ({self.load_ratio:.1%}), "
            f"{self.parameter_ratio:.2%} of its parameters"
        ]
        lines += [f"  {child:<12} {_ratio(*counts):>8.2%}" for child, counts in self.by_child.items()]
        misfits = [f"{name} {list(found)} -> {list(wanted)}" for name, found, wanted in self.skipped_shape_mismatch]
        for title, names in (
            ("of another shape", misfits),
            ("not in the source", self.skipped_missing),
            ("not in the target", self.skipped_unexpected),
            ("newly initialized", self.newly_initialized),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                lines.append(f"{title}: {len(names)} ({', '.join(names[:3])}{more})")
        return "\n".join(lines)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def partial_load(
    model: nn.Module,
    state_dict: Source,
    ignore_mismatch: bool = True,
    strict: bool = False,
    verbose: bool = True,
    init_new_layers: str | None = "kaiming",
) -> WeightLoadingReport:
    """Load into a model, in place, what fits by name and shape; types and devices are converted.

    Prefixes of wrappers (``module.``, ``_orig_mod.``, those of averaged models), on either side, do not count.

    Args:
        model: the target.
        state_dict: a source, see the head of this module.
        ignore_mismatch: pass over tensors of another shape.
        strict: every tensor must fit, on both sides; ``ignore_mismatch`` is of no account then.
        verbose: print the report.
        init_new_layers: how the weights of convolutions and linear layers that were not loaded are drawn: ``kaiming`` (normal,
            for a ReLU) or ``xavier`` (uniform), or set to ``zero``; their biases become 0. ``keep``, or None, leaves them as
            the target has them. Norms, new modules of patches, blocks of this package and all other parameters are always
            left as they are, so that a norm scales by 1 and what starts as the identity does so.

    Raises:
        WeightsError: nothing fits at all, or not all of what has to; or a file cannot be read. The model is untouched.
        ValueError: an unknown ``init_new_layers``.

    Examples:
        >>> from torch import nn
        >>> from torchvision_customizer import partial_load
        >>> old, new = (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, classes)) for classes in (2, 3))
        >>> report = partial_load(new, old.state_dict(), verbose=False)
        >>> report.total_loaded, report.total_skipped
        (2, 2)
    """
    how = "keep" if init_new_layers is None else init_new_layers
    if how not in INITS:
        raise ValueError(f"init_new_layers must be one of {', '.join(INITS)}, got {how!r}{nearest(str(how), INITS)}")
    own = _tensors_of(model, keep_vars=True)
    tensors = _as_named_in(own, _tensors_of(state_dict))
    report = _compare(model, own, tensors)
    misfits = {name: found for name, found, _ in report.skipped_shape_mismatch}
    missing = [name for name in report.skipped_missing if not is_counter_of_old(name, tensors)]
    if not report.loaded or (misfits and not ignore_mismatch) or (strict and (misfits or missing or report.skipped_unexpected)):
        problem = misfit(own, tensors, misfits, missing, report.skipped_unexpected)
        raise WeightsError(f"the weights do not fit this {original_class(model).__name__}: {problem}")
    _load(model, own, tensors, report)
    if how != "keep":
        report.newly_initialized = _initialize(model, own, report.loaded, how)
    if verbose:
        print(report.summary())
    return report


def transfer_weights(
    source: Source,
    target: nn.Module,
    layer_mapping: Mapping[str, str] | None = None,
    include_patterns: Iterable[str] | None = None,
    exclude_patterns: Iterable[str] | None = None,
) -> WeightLoadingReport:
    """Take over weights of one model into another, in place. What is not taken over is not touched.

    Args:
        source: see the head of this module.
        target: the model that gets them.
        layer_mapping: names in the source and what they are in the target, of tensors (``fc.weight``) or of modules
            (``layer1``, ``layer1.0``), of which the most particular counts; ``""`` is the model itself, so that
            ``{"": "encoder"}`` puts all of a backbone under ``encoder``. Names that are not mapped stay; without a mapping,
            prefixes of wrappers do not count.
        include_patterns: regular expressions (``re.search``): only tensors of the source whose name has one are taken.
        exclude_patterns: and of those, none whose name has one of these.

    Returns:
        The report; names are those of the target. Tensors that the patterns leave out are in none of its lists of the source.

    Raises:
        WeightsError: a pattern or a name of the mapping matches nothing, two tensors would go to one, or nothing fits at all.
        ValueError: a pattern is no regular expression.
    """
    own = _tensors_of(target, keep_vars=True)
    tensors = _tensors_of(source)
    if layer_mapping is None:
        tensors = _as_named_in(own, tensors)
    else:
        _check_names("layer_mapping", layer_mapping, tensors, "source")
        _check_names("layer_mapping", layer_mapping.values(), own, "target")
    included = _matching("include_patterns", include_patterns, tensors) if include_patterns is not None else set(tensors)
    excluded = _matching("exclude_patterns", exclude_patterns, tensors) if exclude_patterns is not None else set()
    origins: dict[str, str] = {}
    for name in tensors:
        if name in included - excluded:
            new_name = _renamed(name, layer_mapping or {})
            if new_name in origins:
                raise WeightsError(f"'{origins[new_name]}' and '{name}' of the source both go to '{new_name}'; exclude one")
            origins[new_name] = name
    if not origins:
        raise WeightsError("the patterns leave nothing of the source's tensors")
    chosen = {new_name: tensors[name] for new_name, name in origins.items()}
    report = _compare(target, own, chosen)
    if not report.loaded:
        problem = misfit(own, chosen, {}, [], [])
        raise WeightsError(f"nothing can be taken over into this {original_class(target).__name__}: {problem}")
    _load(target, own, chosen, report)
    return report


def match_state_dict(source: Source, target: Source, fuzzy_match: bool = False) -> dict[str, str]:
    """Which tensor of the target each tensor of the source belongs to.

    Args:
        source: see the head of this module.
        target: a source, too.
        fuzzy_match: beyond tensors of equal name and shape, match those that are left by their order: the two lists are aligned
            so that most tensors have a partner of the same shape and last name (``weight``), and, among such alignments, one of
            which the names have most in common at their ends. It takes time in the product of the lengths.

    Returns:
        Names of the source and their partners, in the order of the source; no name occurs twice.
    """
    a, b = get_layer_shapes(source), get_layer_shapes(target)
    exact = {name for name, shape in a.items() if b.get(name) == shape}
    # What is exact is so also where the alignment has to drop it, for the sake of others.
    matches = (_align(a, b, exact) if fuzzy_match else {}) | {name: name for name in exact}
    return {name: matches[name] for name in a if name in matches}


def get_layer_shapes(model: Source) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a model or another source, by name."""
    return {name: tuple(tensor.shape) for name, tensor in _tensors_of(model).items()}


def count_matching_params(source: Source, target: Source) -> tuple[int, int, float]:
    """How many tensors of the target have one of equal name and shape in the source, of how many, and as a share."""
    matching, total = len(match_state_dict(source, target)), len(get_layer_shapes(target))
    return matching, total, _ratio(matching, total)


def _tensors_of(source: Source, keep_vars: bool = False) -> dict[str, Tensor]:
    if isinstance(source, nn.Module):
        return state_dict_in(source.state_dict(keep_vars=keep_vars), f"this {original_class(source).__name__}")
    if isinstance(source, Mapping):
        return state_dict_in(source, "the mapping")
    if isinstance(source, str | os.PathLike):
        return read_state_dict(resolve_file(source))
    raise WeightsError(f"weights come from a model, a state dict or a path, got {source!r}")


def _as_named_in(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that the target has for them, where wrappers on either side are all that differs."""
    if own.keys() & tensors.keys():
        return dict(tensors)
    ours = {bare: name for name, bare in bare_names(own).items()}
    return {ours.get(bare, bare): tensors[name] for name, bare in bare_names(tensors).items()}


def _compare(model: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> WeightLoadingReport:
    report = WeightLoadingReport(skipped_unexpected=[name for name in tensors if name not in own])
    for name, tensor in own.items():
        if name not in tensors:
            report.skipped_missing.append(name)
        elif tensors[name].shape == tensor.shape:
            report.loaded.append(name)
        else:
            report.skipped_shape_mismatch.append((name, tuple(tensors[name].shape), tuple(tensor.shape)))
    loaded = {id(own[name]) for name in report.loaded}
    family = find_family(model)
    containers = {glob.rpartition(".")[0] for glob in family.body} if family else set()
    for name, parameter in model.named_parameters():
        # Where all stages are children of one module (features, encoder.layers), its children are the parts.
        container = next((path for path in containers if path and name.startswith(f"{path}.")), "")
        child = ".".join(name.split(".")[: container.count(".") + 2 if container else 1])
        part, whole = report.by_child.get(child, (0, 0))
        size = parameter.numel()
        report.by_child[child] = part + size * (id(parameter) in loaded), whole + size
    return report


def _load(model: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], report: WeightLoadingReport) -> None:
    for name in report.loaded:
        if own[name].is_meta or tensors[name].is_meta:
            side = "target" if own[name].is_meta else "source"
            raise WeightsError(f"'{name}' of the {side} is on the meta device and has no values (model.to_empty gives it some)")
    model.load_state_dict(versioned({name: tensors[name] for name in report.loaded}, model), strict=False)


def _initialize(model: nn.Module, own: Mapping[str, Tensor], loaded: Iterable[str], how: str) -> list[str]:
    """Draw anew what ``partial_load`` says, and return its names."""
    done = {id(own[name]) for name in loaded}
    names = {id(tensor): name for name, tensor in own.items()}
    drawn = []
    for module in _modules_to_initialize(model):
        for parameter in (module.weight, module.bias):
            if parameter is None or id(parameter) in done:
                continue
            if parameter is module.bias or how == "zero":
                nn.init.zeros_(parameter)
            elif how == "kaiming":
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(parameter)
            done.add(id(parameter))
            drawn.append(names[id(parameter)])
    return drawn


def _modules_to_initialize(model: nn.Module) -> Iterator[nn.Linear | _ConvNd]:
    new_modules: set[nn.Module] = set()
    kept: set[nn.Module] = set()
    for module in model.modules():  # from the outside in
        if isinstance(module, HybridModel):
            new_modules |= {module.get_submodule(edit.child_path) for edit in module._hybrid_state.edits}
        if module in new_modules or f"{type(module).__module__}.".startswith(_BLOCKS):
            kept |= set(module.modules())
        elif isinstance(module, nn.Linear | _ConvNd) and module not in kept:
            yield module


def _check_names(argument: str, names: Iterable[str], tensors: Iterable[str], side: str) -> None:
    known = {"", *tensors}
    known |= {name[: dot.start()] for name in known for dot in re.finditer(r"\.", name)}
    for name in names:
        if name not in known:
            raise WeightsError(f"{argument}: the {side} has no tensor or module '{name}'{nearest(name, sorted(known))}")


def _renamed(name: str, layer_mapping: Mapping[str, str]) -> str:
    """The name in the target. By whole segments: ``layer1`` is not the beginning of ``layer10``."""
    segments = name.split(".")
    for length in range(len(segments), -1, -1):
        key = ".".join(segments[:length])
        if key in layer_mapping:
            return ".".join(filter(None, [layer_mapping[key], *segments[length:]]))
    return name


def _matching(argument: str, patterns: Iterable[str], names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            matches = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise ValueError(f"{argument}: {pattern!r} is no regular expression ({error})") from None
        if not matches:
            raise WeightsError(f"{argument}: no tensor of the source has {pattern!r} in its name{nearest(pattern, names)}")
        found |= matches
    return found


def _align(source: Mapping[str, Sequence[int]], target: Mapping[str, Sequence[int]], exact: set[str]) -> dict[str, str]:
    """The best alignment of two lists of tensors: the longest common subsequence, with weights.

    A pair outweighs what all names have in common. Exact matches are pairs like others, so that a module that is defined at
    another place does not part all that lies between.
    """
    a, b = list(source), list(target)
    longest = 64  # segments of a name that count
    pair = longest * (len(a) + 1)

    def key(name: str, shape: Sequence[int]) -> tuple[str, Sequence[int]]:
        return (name, ()) if name in exact else (f".{name.rpartition('.')[2]}", shape)

    keys_a = [key(name, source[name]) for name in a]
    keys_b = [key(name, target[name]) for name in b]

    def score(i: int, j: int) -> int:
        return pair + min(_common_end(a[i], b[j]), longest)

    # best[i][j] is that of a[i:] and b[j:].
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            best[i][j] = max(best[i + 1][j], best[i][j + 1])
            if keys_a[i] == keys_b[j]:
                best[i][j] = max(best[i][j], best[i + 1][j + 1] + score(i, j))
    matches: dict[str, str] = {}
    i = j = 0
    while i < len(a) and j < len(b):
        if keys_a[i] == keys_b[j] and best[i][j] == best[i + 1][j + 1] + score(i, j):
            matches[a[i]] = b[j]
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return matches


def _common_end(a: str, b: str) -> int:
    """How many segments two names have in common at their ends."""
    common = 0
    for ours, theirs in zip(reversed(a.split(".")), reversed(b.split(".")), strict=False):
        if ours != theirs:
            break
        common += 1
    return common
