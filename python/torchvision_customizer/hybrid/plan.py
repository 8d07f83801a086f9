"""Plan, then apply: what a patch changes is found out and checked first, as a value; then all of it is done, or nothing."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from .. import registry
from ..errors import PatchError
from .model import HybridModel, become_hybrid, note
from .opened import Followed, OpenedBlock, extend, original_class, restore_class
from .places import Edge, NoPlace, find_edge, graph_of, insert
from .probe import fake_tensors, hooks_set_aside, input_shape_of, run_fake
from .report import Edit
from .spec import Inject, Operation, parse_patches
from .target import resolve

# The names under which blocks ask for the number of channels.
_CHANNEL_PARAMETERS = ("channels", "in_channels", "out_channels", "dim", "num_features", "num_channels")


@dataclass(frozen=True)
class Plan:
    """What a patch would change; ``str(plan)`` shows it, and ``apply(plan)`` does it.

    Attributes:
        model: the model, untouched.
        edits: the new modules, in order.
        input_shape: of the sample by which shapes were found out.
    """

    model: nn.Module
    edits: tuple[Edit, ...]
    input_shape: tuple[int, ...]
    # The modules that change, by path, with their code where they have been opened before, so that apply finds out whether
    # they still are what was planned for.
    _found: Mapping[str, tuple[nn.Module, str | None]] = field(repr=False)
    _graphs: Mapping[str, fx.Graph] = field(repr=False)

    def __str__(self) -> str:
        total = sum(edit.parameters for edit in self.edits)
        count = f"{len(self.edits)} new module{'' if len(self.edits) == 1 else 's'}"
        head = f"{original_class(self.model).__name__}: {count}, {total:,} parameters"
        return "\n".join([head, *(f"  {edit}" for edit in self.edits)])


def plan(model: nn.Module, patches: Mapping[str, Any], *, example_input: Tensor | tuple[int, ...] | None = None) -> Plan:
    """Find out what patches would change in a model, and check all of it. The model is not touched, and nothing is computed.

    Args:
        model: any model whose blocks ``torch.fx`` can trace, patched or not.
        patches: targets and operations, for instance ``{"layer*": {"inject": "se"}}``.
        example_input: a batch that the model takes, or its shape; by default images of 3×224×224.

    Raises:
        PatchError: a target matches nothing or offers no place, a block or an option is unknown, or a block does not fit;
            the message names the place in the patches and the nearest name.
    """
    from ..fusion.fusing import is_fused  # it imports this package

    if is_fused(model):
        raise PatchError("the model is fused, and its blocks are not what a patch expects; unfuse it first")
    planner = _Planner(model, input_shape_of(example_input))
    for place, target, operation in parse_patches(patches):
        planner.add(place, target, operation)
    return planner.finish()


@dataclass
class _Insertion:
    """A new module of which the place is known, and the shape not yet."""

    place: str  # in the patches
    operation: Operation
    path: str
    name: str
    child_path: str
    text: str
    opens: bool  # whether it goes into the graph of the block at ``path``
    seen: list[Tensor] = field(default_factory=list)  # the fake tensors that it gets, one at each call


class _Planner:
    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.model = model
        self.input_shape = input_shape
        self.insertions: list[_Insertion] = []
        self.graphs: dict[str, fx.Graph] = {}  # drafts
        self.refusals: dict[str, NoPlace] = {}
        modules = list(model.named_modules(remove_duplicate=False))
        self.taken = {path for path, _ in modules}
        self.names_of = Counter(id(module) for _, module in modules)

    def add(self, place: str, target: str, operation: Operation) -> None:
        try:
            block = registry.canonical_name(operation.type)
            registry.check_parameters(block, operation.params)
            _check_block(block, operation)
        except ValueError as error:
            raise PatchError(f"{place}: {error}") from error
        try:
            modules = resolve(self.model, target)
        except PatchError as error:
            raise PatchError(f"{place}: {error}") from None
        if isinstance(operation, Inject):
            self._inject(place, modules, operation)
        else:
            for path, module in modules.items():
                self._wrap(place, path, module, operation)

    def _inject(self, place: str, modules: Mapping[str, nn.Module], operation: Inject) -> None:
        sites: dict[str, tuple[nn.Module, Edge]] = {}
        reasons: list[str] = []
        for path, module in modules.items():
            blocks = dict(self._blocks_under(path, module, reasons)) or {path: module}
            for block_path, block in blocks.items():
                try:
                    sites.setdefault(block_path, (block, find_edge(block, self._graph(block_path, block), operation.at)))
                except NoPlace as reason:
                    reasons.append(f"{block_path} {reason}")
        if not sites:
            raise PatchError(f"{place}: no place for at: {operation.at}; {reasons[0]}")
        for index, (path, (block, edge)) in enumerate(sites.items()):
            self._insert(place, path, block, edge, operation.for_block(index, len(sites)))

    def _wrap(self, place: str, path: str, module: nn.Module, operation: Operation) -> None:
        if type(module).forward is nn.Sequential.forward:
            self._note(place, path, module, operation, path, "the end")
            return
        try:
            self._insert(place, path, module, find_edge(module, self._graph(path, module), "output"), operation)
        except NoPlace:
            if hasattr(module, "after") and not isinstance(module, Followed):
                raise PatchError(f"{place}: {path} cannot be wrapped: it has an attribute 'after' of its own") from None
            self._note(place, path, module, operation, f"{path}.after", "output")

    def _blocks_under(self, path: str, module: nn.Module, reasons: list[str]) -> Iterator[tuple[str, nn.Module]]:
        """The outermost modules from ``module`` down that add a residual branch; and why those do not that could."""
        try:
            find_edge(module, self._graph(path, module), "residual")
        except NoPlace as reason:
            if path in self.graphs:
                reasons.append(f"{path} {reason}")
            for name, child in module.named_children():
                yield from self._blocks_under(f"{path}.{name}", child, reasons)
        else:
            yield path, module

    def _graph(self, path: str, module: nn.Module) -> fx.Graph:
        """The draft of a block's graph, with what the operations before have put into it."""
        if path in self.refusals:
            raise self.refusals[path]
        if path not in self.graphs:
            try:
                self.graphs[path] = graph_of(module)
            except NoPlace as reason:
                self.refusals[path] = reason
                raise
        return self.graphs[path]

    def _insert(self, place: str, path: str, block: nn.Module, edge: Edge, operation: Operation) -> None:
        insertion = self._note(place, path, block, operation, path, edge.text, opens=True)
        insert(self.graphs[path], edge, insertion.name)

    def _note(
        self, place: str, path: str, module: nn.Module, operation: Operation, parent: str, text: str, opens: bool = False
    ) -> _Insertion:
        if self.names_of[id(module)] > 1:
            raise PatchError(f"{place}: {path} has several names in the model, and cannot be changed under one of them")
        base = re.sub(r"\W", "_", registry.canonical_name(operation.type))
        name, number = base, 0
        holder = self.model.get_submodule(parent) if parent in self.taken else nn.Sequential()
        while hasattr(holder, name) or hasattr(OpenedBlock, name) or f"{parent}.{name}" in self.taken:
            number += 1
            name = f"{base}_{number}"
        insertion = _Insertion(place, operation, path, name, f"{parent}.{name}", text, opens)
        self.taken.add(insertion.child_path)
        self.insertions.append(insertion)
        return insertion

    def finish(self) -> Plan:
        changed = list(dict.fromkeys(insertion.path for insertion in self.insertions))
        opened = {insertion.path for insertion in self.insertions if insertion.opens}
        found = {}
        for path in changed:
            module = self.model.get_submodule(path)
            found[path] = module, module.code if isinstance(module, OpenedBlock) else None
        with fake_tensors() as mode:
            if self.insertions:
                self._probe(mode, opened)
            checked: dict[str, int] = {}
            edits = tuple(self._check(insertion, checked) for insertion in self.insertions)
        return Plan(self.model, edits, self.input_shape, found, {path: self.graphs[path] for path in opened})

    def _probe(self, mode: FakeTensorMode, opened: set[str]) -> None:
        """Run the model on fake tensors, and note what each new module will be given."""
        by_path: dict[str, list[_Insertion]] = {}
        for insertion in self.insertions:
            by_path.setdefault(insertion.path, []).append(insertion)
        try:
            with hooks_set_aside(self.model):
                for path, insertions in by_path.items():
                    module = self.model.get_submodule(path)
                    if path in opened:
                        interpreter = _DraftInterpreter(module, self.graphs[path], insertions)
                        module.register_forward_pre_hook(interpreter.hook, with_kwargs=True)
                    else:
                        module.register_forward_hook(_OutputHook(insertions))
                run_fake(mode, self.model, self.input_shape)
        except (RuntimeError, TypeError, ValueError) as error:
            shape = "×".join(map(str, self.input_shape))
            message = str(error).strip().splitlines()[0]
            raise PatchError(
                f"the model does not run on a batch of {shape}, so that no shapes are known ({message}); give example_input"
            ) from error

    def _check(self, insertion: _Insertion, checked: dict[str, int]) -> Edit:
        """Make the block on fake tensors and run it, so that whatever it refuses is refused here."""
        operation = insertion.operation
        where = f"{insertion.place}: {insertion.child_path}"
        if not insertion.seen:
            raise PatchError(f"{where}: no tensor passes there; {insertion.path} is not run by the model, or returns none")
        seen = insertion.seen[0]
        if len({tensor.shape[1:2] for tensor in insertion.seen}) > 1:
            widths = ", ".join(str(tensor.size(1)) for tensor in insertion.seen)
            raise PatchError(f"{where}: {insertion.path} is called with different numbers of channels ({widths}); use 'inject'")
        if seen.dim() < 2:
            raise PatchError(f"{where}: the tensor there has no channels, its shape is {list(seen.shape)}")
        name = registry.canonical_name(operation.type)
        params = _complete(name, operation, seen.size(1))
        key = f"{name} {params} {seen.shape} {seen.dtype} {seen.device}"
        if key not in checked:
            try:
                block = _make(name, params, seen.device, seen.dtype)
                like = next(block.parameters(), seen)
                out = block(torch.empty_like(seen, dtype=like.dtype))
            except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
                raise PatchError(f"{where}: {str(error).strip().splitlines()[0]}") from error
            if not isinstance(out, Tensor) or out.shape != seen.shape:
                found = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise PatchError(f"{where}: block '{name}' must keep the shape {list(seen.shape)}, but gives {found}")
            checked[key] = sum(parameter.numel() for parameter in block.parameters())
        return Edit(insertion.path, insertion.child_path, insertion.text, name, params, checked[key], seen.device, seen.dtype)


class _DraftInterpreter(fx.Interpreter):
    """Runs the draft of a block's graph, in which the new modules do not exist yet: they hand on what they are given."""

    def __init__(self, block: nn.Module, graph: fx.Graph, insertions: list[_Insertion]) -> None:
        super().__init__(block, graph=graph)
        self.new = {insertion.name: insertion for insertion in insertions}

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = [str(node.target) for node in self.graph.nodes if node.op == "placeholder"]
        self.run(*args, *(kwargs[name] for name in names[len(args) :] if name in kwargs))

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target not in self.new:
            return super().call_module(target, args, kwargs)
        if isinstance(args[0], Tensor):
            self.new[target].seen.append(args[0])
        return args[0]


class _OutputHook:
    def __init__(self, insertions: list[_Insertion]) -> None:
        self.insertions = insertions

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            for insertion in self.insertions:
                insertion.seen.append(output)


def _check_block(block: str, operation: Operation) -> None:
    accepted = registry.parameters_of(registry.get(block))
    identity = accepted is None or "init" in accepted or getattr(registry.get(block), "starts_as_identity", False)
    if not identity and operation.init == "identity":
        raise ValueError(f"block '{block}' has no start as the identity; write init: paper to take it as it is")
    if isinstance(operation, Inject) and operation.schedule and accepted is not None and "drop_prob" not in accepted:
        raise ValueError(f"block '{block}' has no 'drop_prob', which 'schedule' is for")
    if "init" in operation.params:
        raise ValueError("'init' is an option beside 'params', not one of them")
    for reserved in ("device", "dtype"):
        if reserved in operation.params:
            raise ValueError(f"'{reserved}' is that of the place, and cannot be given")


def _complete(name: str, operation: Operation, channels: int) -> dict[str, Any]:
    """The arguments of a block: those given, the channels, and the way it starts."""
    accepted = registry.parameters_of(registry.get(name)) or {}
    known: dict[str, Any] = {key: channels for key in _CHANNEL_PARAMETERS if key in accepted}
    if "init" in accepted:
        known["init"] = operation.init
    return {**known, **operation.params}


def _make(name: str, params: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The block on a device; of a type only where it takes one, because fake tensors cannot be converted in place."""
    accepted = registry.parameters_of(registry.get(name)) or {}
    options = {"device": device, "dtype": dtype}
    with device:
        block: nn.Module = registry.get(name)(**params, **{key: value for key, value in options.items() if key in accepted})
    return block


def apply(plan: Plan) -> HybridModel:
    """Carry out a plan, in place. What can fail is done before the model is touched.

    Returns:
        ``plan.model``, which is a ``HybridModel`` now, and of its class still.

    Raises:
        PatchError: the model has changed since it was planned for; it is untouched.
    """
    model = plan.model
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, (module, code) in plan._found.items():
        if modules.get(path) is not module or (isinstance(module, OpenedBlock) and module.code != code):
            raise PatchError(f"{path} has changed since the plan was made, or the plan has been applied; plan again")
    for edit in plan.edits:
        if edit.child_path in modules:
            raise PatchError(f"{edit.child_path} exists by now: the model has changed since the plan was made; plan again")
    blocks: dict[str, dict[str, nn.Module]] = {}
    for edit in plan.edits:
        block = _make(edit.block, edit.params, edit.device, edit.dtype).to(edit.dtype)
        block.train(plan._found[edit.path][0].training)
        blocks.setdefault(edit.path, {})[edit.child_path.rpartition(".")[2]] = block
    opened = {
        path: OpenedBlock.open(plan._found[path][0], copy.deepcopy(graph), blocks[path]) for path, graph in plan._graphs.items()
    }
    # From here on nothing fails. Outer blocks first: an inner one is then put into the opened outer one.
    for path in sorted(blocks, key=lambda path: path.count(".")):
        _install(model, path, opened.get(path), blocks[path])
    hybrid = become_hybrid(model)
    note(hybrid, edits=(*hybrid._hybrid_state.edits, *plan.edits), input_shape=plan.input_shape)
    return hybrid


def _install(model: nn.Module, path: str, opened: OpenedBlock | None, blocks: Mapping[str, nn.Module]) -> None:
    if opened is not None:
        _replace(model, path, opened)
        return
    module = model.get_submodule(path)
    if not isinstance(module, nn.Sequential):
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
    """
    if not isinstance(model, HybridModel):
        raise PatchError(f"{type(model).__name__} has not been patched")
    from ..fusion.fusing import unfuse

    unfuse(model)
    for edit in reversed(model._hybrid_state.edits):
        module = model.get_submodule(edit.path)
        if isinstance(module, OpenedBlock):
            _replace(model, edit.path, module.close())
        elif isinstance(module, Followed):
            del module.after
            restore_class(module)
        elif isinstance(module, nn.Sequential):
            module._modules.pop(edit.child_path.rpartition(".")[2])
    del model._hybrid_state
    restore_class(model)
    return model
