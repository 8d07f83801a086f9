"""``HybridModel``: what a patched model can do besides being the model that it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self, cast

from torch import nn

from .backbones import Family, family_of, find_family
from .opened import Extension, extend
from .probe import DEFAULT_INPUT
from .report import BuildReport, Edit, HeadChange, WeightsMatch, build_report

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _NormBase


@dataclass(frozen=True)
class HybridState:
    """What a hybrid model knows of its making."""

    backbone_name: str | None = None
    edits: tuple[Edit, ...] = ()
    head: HeadChange | None = None
    weights: WeightsMatch | None = None
    input_shape: tuple[int, ...] = DEFAULT_INPUT


class HybridModel(Extension):
    """Mix-in of models that were built or patched by this package.

    The model stays of its class: ``isinstance(model, torchvision.models.ResNet)`` holds. ``apply`` and ``HybridBuilder`` extend
    a model by this class, and ``unpatch`` takes it away.
    """

    class_prefix = "Hybrid"
    __jit_unused_properties__: ClassVar[list[str]] = ["backbone_name", "modifications", "report"]
    __jit_ignored_attributes__: ClassVar[list[str]] = ["_hybrid_state"]

    _hybrid_state: HybridState

    @property
    def backbone_name(self) -> str | None:
        """The name that the model was built by, or None where a model was patched that came from elsewhere."""
        return self._hybrid_state.backbone_name

    @property
    def modifications(self) -> list[str]:
        """What was changed, one line each."""
        state = self._hybrid_state
        return [str(change) for change in (*state.edits, state.head) if change is not None]

    @property
    def report(self) -> BuildReport:
        """What was changed, and what it costs. Counts FLOPs anew at each call, on fake tensors."""
        state = self._hybrid_state
        return build_report(self, state.backbone_name, state.edits, state.head, state.weights, state.input_shape)

    def explain(self) -> str:
        """The model stage by stage, and what was changed in each."""
        state = self._hybrid_state
        family = find_family(self)
        roles = {**dict.fromkeys(family.stages, "stage"), **dict.fromkeys(family.head, "head")} if family else {}
        lines = [f"{state.backbone_name or type(self).__name__}: {self.count_parameters():,} parameters"]
        for name, child in self.named_children():
            parameters = sum(parameter.numel() for parameter in child.parameters())
            lines.append(f"  {name:<10} {type(child).__name__:<20} {roles.get(name, ''):<6} {parameters:>12,}")
            lines += [f"    + {edit}" for edit in state.edits if edit.child_path.startswith(f"{name}.")]
        return "\n".join(lines)

    def count_parameters(self, trainable_only: bool = False) -> int:
        """How many parameters the model has, or how many of them are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable_only)

    def freeze_backbone(self, unfreeze_stages: Iterable[int] | None = None) -> None:
        """Freeze what the original model brought along, but for its head.

        New modules and the head stay trainable. A frozen batch norm uses its running statistics and does not move them, also
        after ``model.train()``.

        Args:
            unfreeze_stages: indices of stages that stay trainable; negative ones count from the end.

        Raises:
            ValueError: there is no such stage, or the stages of this model are not known.
        """
        family = family_of(self)
        trainable = [*family.head, *(_stage(family, index) for index in unfreeze_stages or ())]
        trainable += [edit.child_path for edit in self._hybrid_state.edits]
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(name.startswith(f"{path}.") for path in trainable))
        self.train(self.training)

    def unfreeze_all(self) -> None:
        """Let everything be trained again."""
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, as ever, except that a batch norm whose parameters are all frozen stays in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and is_frozen(module):
                module.training = False
        return self


def _stage(family: Family, index: int) -> str:
    if not -len(family.stages) <= index < len(family.stages):
        stages = ", ".join(f"{number}: {path}" for number, path in enumerate(family.stages))
        raise ValueError(f"unfreeze_stages: there is no stage {index} (stages: {stages})")
    return family.stages[index]


def is_frozen(norm: _NormBase) -> bool:
    """Whether a norm has parameters, and none of them is trained."""
    parameters = list(norm.parameters(recurse=False))
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def become_hybrid(model: nn.Module) -> HybridModel:
    """Extend a model by ``HybridModel``, in place; nothing happens to one that is."""
    if not isinstance(model, HybridModel):
        extend(model, HybridModel)
        cast(HybridModel, model)._hybrid_state = HybridState()
    return cast(HybridModel, model)


def note(model: HybridModel, **changes: object) -> None:
    """Change fields of what a model knows of its making."""
    model._hybrid_state = replace(model._hybrid_state, **changes)  # type: ignore[arg-type]
