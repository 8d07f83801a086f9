"""Apply a plan, and take back what plans have changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import PatchError
from .model import HybridModel, become_hybrid, note
from .opened import Followed, OpenedBlock, close_root, extend, open_root, restore_class
from .plan import Plan, make_block
from .probe import hooks_set_aside


def apply(plan: Plan) -> HybridModel:
    """Carry out a plan, in place. What can fail is done before the model is touched.

    Returns:
        ``plan.model``, which is a ``HybridModel`` now, and of its class still.

    Raises:
        PatchError: the model has changed since it was planned for; it is untouched.
    """
    model = plan.model
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, (module, code) in plan.found.items():
        if modules.get(path) is not module or (isinstance(module, OpenedBlock) and module.code != code):
            raise PatchError(f"{path} has changed since the plan was made, or the plan has been applied; plan again")
    insertions = [edit for edit in plan.edits if edit.replaced is None]
    for edit in insertions:
        if edit.child_path in modules:
            raise PatchError(f"{edit.child_path} exists by now: the model has changed since the plan was made; plan again")
    blocks: dict[str, dict[str, nn.Module]] = {}
    for edit in insertions:
        block = make_block(edit.block, edit.params, edit.device, edit.dtype, edit.channel_dim).to(edit.dtype)
        block.train(plan.found[edit.path][0].training)
        blocks.setdefault(edit.path, {})[edit.child_path.rpartition(".")[2]] = block
    opened = {
        path: OpenedBlock.open(plan.found[path][0], copy.deepcopy(graph), blocks[path])
        for path, graph in plan.graphs.items()
        if path
    }
    drift = None if all(edit.exact for edit in plan.edits) else _Drift(model, plan)
    # From here on nothing fails. Outer blocks first: an inner one is then put into the opened outer one.
    hybrid = become_hybrid(model)
    for path in sorted(opened, key=lambda path: path.count(".")):
        _replace(model, path, opened[path])
    for path, replacement in plan.replacements.items():
        _replace(model, path, replacement.module)
    for path in blocks:
        if not path:
            open_root(model, copy.deepcopy(plan.graphs[""]), blocks[""])
        elif path not in opened:
            _append(model, path, blocks[path])
    state = hybrid._hybrid_state
    patches = (*state.patches, plan.patches) if plan.patches else state.patches
    unreached = (*state.unreached, *plan.unreached)
    note(hybrid, edits=(*state.edits, *plan.edits), patches=patches, unreached=unreached, input_shape=plan.input_shape)
    if drift is not None:
        note(hybrid, drift=drift.measured())
    return hybrid


class _Drift:
    """How far the logits of a model move while it is changed: by two random images, in evaluation mode."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.model = model
        like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.empty(0))
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(2, *plan.input_shape, generator=generator).to(like)
        self.before = self._logits()

    def _logits(self) -> Tensor | None:
        if self.x.is_meta:
            return None
        modes = {module: module.training for module in self.model.modules()}
        try:
            with torch.no_grad(), hooks_set_aside(self.model):  # nobody asked for a forward
                out = self.model.eval()(self.x)
            return out.double() if isinstance(out, Tensor) else None
        finally:
            for module, mode in modes.items():
                module.training = mode

    def measured(self) -> float | None:
        after = self._logits()
        if self.before is None or after is None:
            return None
        return float((after - self.before).abs().max() / self.before.abs().max().clamp(min=1e-30))


def _append(model: nn.Module, path: str, blocks: Mapping[str, nn.Module]) -> None:
    module = model.get_submodule(path)
    if type(module).forward is not nn.Sequential.forward:
        if not isinstance(module, Followed):
            module.add_module("after", nn.Sequential().train(module.training))
            extend(module, Followed)
        module = cast(Followed, module).after
    for name, block in blocks.items():
        module.add_module(name, block)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module


def unpatch(model: nn.Module) -> nn.Module:
    """Take out every module that patches have put in, in place; parameters of the original keep their present values.

    A head that was changed stays as it is. A fused model is unfused first.

    Returns:
        The same object, of its original class, with its original blocks and names.

    Raises:
        PatchError: the model is not a ``HybridModel``.

    Examples:
        >>> import torchvision_customizer as tvc
        >>> model = tvc.Template.resnet(layers=18).build(num_classes=2)
        >>> before = list(model.state_dict())
        >>> patched = tvc.apply(tvc.plan(model, {"layer4": {"inject": "eca"}}))
        >>> len(patched.state_dict()) - len(before)
        2
        >>> list(tvc.unpatch(patched).state_dict()) == before
        True
    """
    if not isinstance(model, HybridModel):
        raise PatchError(f"{type(model).__name__} has not been patched")
    from ..fusion.fusing import unfuse

    unfuse(model)
    for edit in reversed(model._hybrid_state.edits):
        module = model.get_submodule(edit.path)
        if edit.replaced is not None:
            _replace(model, edit.path, edit.replaced.put_back(module))
        elif module is model:
            close_root(model)
        elif isinstance(module, OpenedBlock):
            _replace(model, edit.path, module.close())
        elif isinstance(module, Followed):
            del module.after
            restore_class(module)
        elif isinstance(module, nn.Sequential):
            module._modules.pop(edit.child_path.rpartition(".")[2])
    del model._hybrid_state
    model.__dict__.pop("_known_anatomy", None)
    restore_class(model)
    return model
