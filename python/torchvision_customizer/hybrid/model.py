"""``HybridModel``: what a patched model can do besides being the model that it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from torch import Tensor, nn

from .backbones import find_family
from .opened import Extension, extend
from .probe import DEFAULT_INPUT, input_shape_of
from .report import BuildReport, Edit, HeadChange, WeightsMatch, build_report
from .views import Anatomy, Stage, anatomy_of, stage_outputs, view

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _NormBase


@dataclass(frozen=True)
class HybridState:
    """What a hybrid model knows of its making.

    ``library`` and ``arguments`` say how the original is made anew: by ``torchvision``, ``timm`` or a ``template``;
    ``library`` is None where the model came from elsewhere. ``about`` is what its recipe says besides.
    """

    backbone_name: str | None = None
    library: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    head: HeadChange | None = None
    weights: WeightsMatch | None = None
    input_shape: tuple[int, ...] = DEFAULT_INPUT
    patches: tuple[Mapping[str, Any], ...] = ()
    unreached: tuple[str, ...] = ()
    drift: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


class HybridModel(Extension):
    """Mix-in of models that were built or patched by this package.

    The model stays of its class: ``isinstance(model, torchvision.models.ResNet)`` holds. ``apply`` and ``HybridBuilder`` extend
    a model by this class, and ``unpatch`` takes it away.
    """

    class_prefix = "Hybrid"
    __jit_unused_properties__: ClassVar[list[str]] = ["backbone_name", "modifications", "report", "recipe", "stage_info"]
    __jit_ignored_attributes__: ClassVar[list[str]] = ["_hybrid_state", "_known_anatomy"]

    _hybrid_state: HybridState

    if TYPE_CHECKING:
        # Only where the original has nothing of that name: RegNet has a stem and Swin a head, and their forward uses it.
        stem: nn.Module  # what comes before the stages
        stages: nn.Module  # one child for each stage
        head: nn.Module  # what comes after them

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in _VIEWS and "_hybrid_state" in self.__dict__:
                return _VIEWS[name](self)
            raise

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
        return build_report(
            self,
            state.backbone_name,
            state.edits,
            state.head,
            state.weights,
            state.input_shape,
            state.unreached,
            state.drift,
        )

    @property
    def recipe(self) -> dict[str, Any]:
        """What the model is made of, as plain values; ``load`` makes it anew from them and its weights."""
        from .saving import recipe_of  # it imports the builder, which imports this

        return recipe_of(self)

    @property
    def stage_info(self) -> tuple[Stage, ...]:
        """The stages with their modules, channels and strides, as a run on fake tensors finds them."""
        return _anatomy(self).stages

    def get_stage_outputs(self, x: Tensor) -> list[Tensor]:
        """The feature pyramid: what each stage gives for a batch of images, finest first.

        Shape:
            x (N, 3, H, W); outputs (N, C, H', W') each, channels second also for models that have them last; (N, C, L) of
            tokens.
        """
        return stage_outputs(self, self.stage_info, x)

    def explain(self) -> str:
        """The model stage by stage, and what was changed in each."""
        state, anatomy = self._hybrid_state, _anatomy(self)
        lines = [f"{state.backbone_name or type(self).__name__}: {self.count_parameters():,} parameters"]
        for name, paths, stage in anatomy.parts:
            parameters = {p: p.numel() for path in paths for p in self.get_submodule(path).parameters()}
            lines.append(f"  {name:<8} {sum(parameters.values()):>12,}  {stage or ', '.join(paths)}")
            lines += [f"    + {edit}" for edit in state.edits if any(f"{edit.path}.".startswith(f"{path}.") for path in paths)]
        if state.head is not None:
            lines.append(f"    + {state.head}")
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
        anatomy, family = _anatomy(self), find_family(self)
        stages = [path for index in unfreeze_stages or () for path in stage_at(anatomy.stages, index).paths]
        trainable = [*(family.head if family else anatomy.head), *stages]
        trainable += [edit.child_path for edit in self._hybrid_state.edits]
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(name.startswith(f"{path}.") for path in trainable))
        self.train(self.training)

    def freeze(self, *targets: str) -> None:
        """Freeze modules by path, glob or type; see ``finetuning.freeze``."""
        from .finetuning import freeze  # it imports this module

        freeze(self, targets)

    def unfreeze(self, *targets: str) -> None:
        """Let modules be trained again, by path, glob or type; see ``finetuning.unfreeze``."""
        from .finetuning import unfreeze

        unfreeze(self, targets)

    def parameter_groups(
        self,
        lr: float,
        weight_decay: float = 0.0,
        layer_decay: float = 1.0,
        new_lr: float | None = None,
        min_scale: float = 0.0,
        *,
        example_input: Tensor | tuple[int, ...] | None = None,
    ) -> list[dict[str, Any]]:
        """Groups for an optimizer of torch, with rates by depth; see ``finetuning.parameter_groups``."""
        from .finetuning import parameter_groups

        return parameter_groups(self, lr, weight_decay, layer_decay, new_lr, min_scale, example_input=example_input)

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


def _anatomy(model: HybridModel) -> Anatomy:
    state, known = model._hybrid_state, model.__dict__.get("_known_anatomy")
    if known is None or known[0] is not state:  # every change makes a new state
        known = model.__dict__["_known_anatomy"] = state, anatomy_of(model, state.input_shape)
    anatomy: Anatomy = known[1]
    return anatomy


def _forward_features(model: HybridModel) -> Callable[[Tensor], Tensor]:
    return lambda x: model.get_stage_outputs(x)[-1]


#: What a model has by these names where it has nothing of its own.
_VIEWS: dict[str, Callable[[HybridModel], Any]] = {
    "stem": lambda model: view(model, _anatomy(model).stem),
    "stages": lambda model: nn.ModuleList(view(model, stage.paths) for stage in _anatomy(model).stages),
    "head": lambda model: view(model, _anatomy(model).head),
    "forward_features": _forward_features,
}


def stage_at(stages: tuple[Stage, ...], index: int, option: str = "unfreeze_stages") -> Stage:
    """The stage of an index, which may count from the end.

    Raises:
        ValueError: there is none.
    """
    if not -len(stages) <= index < len(stages):
        known = ", ".join(f"{number}: {stage.paths[0]}" for number, stage in enumerate(stages))
        raise ValueError(f"{option}: there is no stage {index} (stages: {known})")
    return stages[index]


def is_frozen(norm: _NormBase) -> bool:
    """Whether a norm has parameters, and none of them is trained."""
    parameters = list(norm.parameters(recurse=False))
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def become_hybrid(model: nn.Module) -> HybridModel:
    """Extend a model by ``HybridModel``, in place; nothing happens to one that is."""
    if not isinstance(model, HybridModel):
        extend(model, HybridModel)
        cast(HybridModel, model)._hybrid_state = HybridState(input_shape=input_shape_of(None, model))
    return cast(HybridModel, model)


def note(model: HybridModel, **changes: object) -> None:
    """Change fields of what a model knows of its making."""
    model._hybrid_state = replace(model._hybrid_state, **changes)  # type: ignore[arg-type]
