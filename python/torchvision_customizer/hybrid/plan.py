"""Plan, then apply: what a patch changes is found out and checked first, as a value; then all of it is done, or nothing."""

from __future__ import annotations

import contextlib
import copy
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from .. import registry
from ..errors import PatchError
from ..patches import Inject, Operation, Remove, Replace, Wrap, parse_patches
from .functions import functions_of, modules_that_call
from .model import HybridModel
from .opened import (
    Extension,
    Followed,
    OnTokens,
    OpenedBlock,
    extend,
    original_class,
)
from .places import Edge, NoPlace, concatenates, find_edge, graph_of, insert, residual_edges, stage_ends
from .probe import Trail, fake_tensors, hooks_set_aside, input_shape_of, run_fake, sample_of
from .replacing import Replacement, in_place_of
from .report import Edit, Replaced
from .target import resolve


@dataclass(frozen=True)
class Plan:
    """What a patch would change; ``str(plan)`` shows it, and ``apply(plan)`` does it.

    Attributes:
        model: the model, untouched.
        patches: what it was made from.
        edits: the new modules, in order.
        unreached: where an activation that was to be replaced stays, and why.
        input_shape: of the sample by which shapes were found out.
    """

    model: nn.Module
    patches: Mapping[str, Any]
    edits: tuple[Edit, ...]
    unreached: tuple[str, ...]
    input_shape: tuple[int, ...]
    # The modules that change, by path, with their code where they have been opened before, so that apply finds out whether
    # they still are what was planned for.
    found: Mapping[str, tuple[nn.Module, str | None]] = field(repr=False)
    graphs: Mapping[str, fx.Graph] = field(repr=False)
    replacements: Mapping[str, Replacement] = field(repr=False)

    def __str__(self) -> str:
        total = sum(edit.parameters for edit in self.edits)
        count = f"{len(self.edits)} new module{'' if len(self.edits) == 1 else 's'}"
        head = f"{original_class(self.model).__name__}: {count}, {total:,} parameters"
        return "\n".join([head, *(f"  {edit}" for edit in self.edits), *(f"  not reached: {text}" for text in self.unreached)])


def plan(model: nn.Module, patches: Mapping[str, Any], *, example_input: Tensor | tuple[int, ...] | None = None) -> Plan:
    """Find out what patches would change in a model, and check all of it. The model is not touched, and nothing is computed.

    Args:
        model: any model whose blocks ``torch.fx`` can trace, patched or not.
        patches: targets and operations, for instance ``{"layer*": {"inject": "se"}}``.
        example_input: a batch that the model takes, or its shape; by default images of 3×224×224.

    Raises:
        PatchError: a target matches nothing or offers no place, a block or an option is unknown, or a block does not fit;
            the message names the place in the patches and the nearest name.

    Examples:
        >>> import torchvision_customizer as tvc
        >>> model = tvc.Template.resnet(layers=18).build(num_classes=2)
        >>> print(tvc.plan(model, {"layer4.1": {"inject": {"type": "se", "params": {"reduction": 8}}}}))
        ResNet: 1 new module, 66,112 parameters
          layer4.1.se: se(channels=512, init=identity, reduction=8) at residual, after bn2, 66,112 parameters
    """
    from ..fusion.fusing import is_fused  # it imports this package

    if is_fused(model):
        raise PatchError("the model is fused, and its blocks are not what a patch expects; unfuse it first")
    planner = _Planner(model, input_shape_of(example_input, model))
    for place, target, operation in parse_patches(patches):
        planner.add(place, target, operation)
    return planner.finish(copy.deepcopy(dict(patches)))


@dataclass
class _Insertion:
    """A new module of which the place is known, and the shape not yet."""

    place: str  # in the patches
    operation: Wrap | Replace
    path: str
    name: str
    child_path: str
    text: str
    opens: bool  # whether it goes into the graph of the block at ``path``
    seen: list[Tensor] = field(default_factory=list)  # the fake tensors that it gets, one at each call
    channel_dim: int = 1  # of these


@dataclass
class _Exchange:
    """A module that makes way for another."""

    place: str
    operation: Replace | Remove
    path: str
    old: nn.Module
    seen: list[tuple[tuple[Any, ...], Any]] = field(default_factory=list)  # what it takes and gives, one at each call
    channel_dim: int = 1  # of what it takes


class _Planner:
    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.model = model
        self.input_shape = input_shape
        self.changes: list[_Insertion | _Exchange] = []
        self.graphs: dict[str, fx.Graph] = {}  # drafts
        self.refusals: dict[str, NoPlace] = {}
        self.unreached: list[str] = []
        modules = list(model.named_modules(remove_duplicate=False))
        self.taken = {path for path, _ in modules}
        self.names_of = Counter(id(module) for _, module in modules)

    @property
    def insertions(self) -> list[_Insertion]:
        return [change for change in self.changes if isinstance(change, _Insertion)]

    @property
    def exchanges(self) -> list[_Exchange]:
        return [change for change in self.changes if isinstance(change, _Exchange)]

    def add(self, place: str, target: str, operation: Operation) -> None:
        if not isinstance(operation, Remove):
            assert isinstance(operation, Wrap | Replace)
            try:
                block = registry.canonical_name(operation.type)
                registry.check_parameters(block, operation.params)
                if isinstance(operation, Wrap):
                    _check_block(block, operation)
            except ValueError as error:
                raise PatchError(f"{place}: {error}") from error
        functions = functions_of(target) if isinstance(operation, Replace) else frozenset()
        calls = self._calls_of(functions) if functions else []
        try:
            modules = resolve(self.model, target)
        except PatchError as error:
            if not calls:
                raise PatchError(f"{place}: {error}") from None
            modules = {}
        if isinstance(operation, Inject):
            self._inject(place, modules, operation)
        elif isinstance(operation, Wrap):
            for path, module in modules.items():
                self._wrap(place, path, module, operation)
        elif isinstance(operation, Replace | Remove):
            self._exchange(place, modules, operation)
            if isinstance(operation, Replace):
                self._exchange_functions(place, calls, functions, operation)

    def _inject(self, place: str, modules: Mapping[str, nn.Module], operation: Inject) -> None:
        sites: dict[str, tuple[nn.Module, Edge | None]] = {}
        reasons: list[str] = []
        for path, module in modules.items():
            blocks = dict(self._blocks_under(path, module, reasons))
            ends = stage_ends(path, module) if operation.at == "auto" and not blocks else {}
            sites.update((end_path, (end, None)) for end_path, end in ends.items())
            for block_path, block in (blocks or {path: module}).items() if not ends else ():
                try:
                    sites.setdefault(block_path, (block, find_edge(block, self._graph(block_path, block), operation.at)))
                except NoPlace as reason:
                    reasons.append(f"{block_path} {reason}")
        if not sites:
            raise PatchError(f"{place}: no place for at: {operation.at}; {reasons[0]}")
        for index, (path, (block, edge)) in enumerate(sites.items()):
            own = operation.for_block(index, len(sites))
            if edge is None:
                self._wrap(place, path, block, own)
            else:
                self._insert(place, path, block, edge, own)

    def _wrap(self, place: str, path: str, module: nn.Module, operation: Wrap) -> None:
        if type(module).forward is nn.Sequential.forward:
            self._note(place, path, module, operation, path, "the end")
            return
        try:
            self._insert(place, path, module, find_edge(module, self._graph(path, module), "output"), operation)
        except NoPlace:
            if hasattr(module, "after") and not isinstance(module, Followed):
                raise PatchError(f"{place}: {path} cannot be wrapped: it has an attribute 'after' of its own") from None
            self._note(place, path, module, operation, f"{path}.after", "output")

    def _exchange(self, place: str, modules: Mapping[str, nn.Module], operation: Replace | Remove) -> None:
        for path, module in modules.items():
            names = sum(other is module for other in modules.values())
            if names < self.names_of[id(module)]:
                raise PatchError(f"{place}: {path} has several names in the model, and cannot be changed under one of them")
            changed = any(edit.path.startswith(f"{path}.") for edit in _edits(self.model))
            if changed or isinstance(module, Extension | OpenedBlock):
                raise PatchError(f"{place}: {path} has been changed by a patch, which would be lost; unpatch the model first")
            outer = next((other for other in modules if path.startswith(f"{other}.")), None)
            if outer is not None:
                raise PatchError(f"{place}: {path} lies within {outer}, which is to make way too; name one of them")
            self.changes.append(_Exchange(place, operation, path, module))

    def _calls_of(self, functions: frozenset[Any]) -> list[str]:
        """Paths of the modules, not torch's own, that call one of the functions themselves."""
        with fake_tensors() as mode, hooks_set_aside(self.model), modules_that_call(self.model, functions) as (callers, ran):
            self._run(mode)
        own = {path: module for path, module in self.model.named_modules() if not _is_of_torch(module)}
        found = [path for path in callers if path in own]
        for path, module in own.items():
            # Auxiliary heads run in training only; of those it is read off their code.
            if path not in ran and type(module).forward not in (nn.Sequential.forward, nn.Module.forward):
                with contextlib.suppress(NoPlace):
                    if any(node.op != "call_module" and node.target in functions for node in self._graph(path, module).nodes):
                        found.append(path)
        return found

    def _exchange_functions(self, place: str, calls: list[str], functions: frozenset[Any], operation: Replace) -> None:
        for path in calls:
            block = self.model.get_submodule(path)
            where = path or f"the {original_class(block).__name__} itself"
            try:
                graph = self._graph(path, block)
            except NoPlace as reason:
                self.unreached.append(f"{where} {reason}")
                continue
            for node in [node for node in graph.nodes if node.op != "call_module" and node.target in functions]:
                insertion = self._note(place, path, block, operation, path, f"in place of {node.name}", opens=True)
                with graph.inserting_before(node):
                    node.replace_all_uses_with(graph.call_module(insertion.name, (node.args[0],)))
                graph.erase_node(node)

    def _blocks_under(self, path: str, module: nn.Module, reasons: list[str]) -> list[tuple[str, nn.Module]]:
        """The blocks from ``module`` down: the outermost that add a residual branch, or else the innermost that concatenate."""
        graph = None
        with contextlib.suppress(NoPlace):
            graph = self._graph(path, module)
        if graph is not None and residual_edges(module, graph):
            return [(path, module)]
        inner = [
            block for name, child in module.named_children() for block in self._blocks_under(f"{path}.{name}", child, reasons)
        ]
        if not inner and graph is not None:
            if concatenates(graph):
                return [(path, module)]
            reasons.append(f"{path} does not add a residual branch")
        return inner

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

    def _insert(self, place: str, path: str, block: nn.Module, edge: Edge, operation: Wrap) -> None:
        insertion = self._note(place, path, block, operation, path, edge.text, opens=True)
        insert(self.graphs[path], edge, insertion.name)

    def _note(
        self,
        place: str,
        path: str,
        module: nn.Module,
        operation: Wrap | Replace,
        parent: str,
        text: str,
        opens: bool = False,
    ) -> _Insertion:
        if self.names_of[id(module)] > 1:
            raise PatchError(f"{place}: {path} has several names in the model, and cannot be changed under one of them")
        base = re.sub(r"\W", "_", registry.canonical_name(operation.type))
        name, number = base, 0
        holder = self.model.get_submodule(parent) if parent in self.taken else nn.Sequential()
        while hasattr(holder, name) or hasattr(OpenedBlock, name) or f"{parent}.{name}".lstrip(".") in self.taken:
            number += 1
            name = f"{base}_{number}"
        insertion = _Insertion(place, operation, path, name, f"{parent}.{name}".lstrip("."), text, opens)
        self.taken.add(insertion.child_path)
        self.changes.append(insertion)
        return insertion

    def finish(self, patches: Mapping[str, Any]) -> Plan:
        self._check_order()
        opened = {insertion.path for insertion in self.insertions if insertion.opens}
        found = {}
        for path in dict.fromkeys(change.path for change in self.changes):
            module = self.model.get_submodule(path)
            found[path] = module, module.code if isinstance(module, OpenedBlock) else None
        with fake_tensors() as mode:
            if self.changes:
                self._probe(mode, opened)
        new = self._make_replacements()  # real modules, which is why the fake tensors are left for a moment
        with fake_tensors() as mode:
            checked: dict[str, int] = {}
            edits = tuple(
                self._check(change, checked)
                if isinstance(change, _Insertion)
                else self._check_exchange(mode, change, new[change.path])
                for change in self.changes
            )
        return Plan(
            model=self.model,
            patches=patches,
            edits=edits,
            unreached=tuple(dict.fromkeys(self.unreached)),
            input_shape=self.input_shape,
            found=found,
            graphs={path: self.graphs[path] for path in opened},
            replacements=new,
        )

    def _make_replacements(self) -> dict[str, Replacement]:
        made: dict[int, Replacement] = {}  # by the old module: one that has several names stays one
        for exchange in self.exchanges:
            if id(exchange.old) in made:
                continue
            if isinstance(exchange.operation, Remove):
                made[id(exchange.old)] = Replacement(nn.Identity().train(exchange.old.training), (), False, "")
                continue
            place: dict[str, Any] = {}
            args = exchange.seen[0][0] if exchange.seen else ()
            if args and isinstance(args[0], Tensor) and args[0].dim() > 1:
                x = args[0]
                place = {"channels": x.size(exchange.channel_dim), "device": x.device, "dtype": x.dtype}
            try:
                made[id(exchange.old)] = in_place_of(exchange.old, exchange.operation.type, exchange.operation.params, **place)
            except ValueError as error:
                raise PatchError(f"{exchange.place}: {exchange.path}: {error}") from error
        return {exchange.path: made[id(exchange.old)] for exchange in self.exchanges}

    def _check_order(self) -> None:
        """What is put into a module, or behind it, must not go with it: all modules make way first."""
        paths = [exchange.path for exchange in self.exchanges]
        for path, count in Counter(paths).items():
            if count > 1:
                second = [exchange for exchange in self.exchanges if exchange.path == path][1]
                raise PatchError(f"{second.place}: {path} makes way for two others; name one")
        for number, change in enumerate(self.changes):
            for other_number, exchange in enumerate(self.changes):
                if not isinstance(exchange, _Exchange) or exchange is change:
                    continue
                behind = change.path == exchange.path and isinstance(change, _Insertion)
                allowed = behind and not cast(_Insertion, change).opens and number > other_number
                if change.path.startswith(f"{exchange.path}.") or (behind and not allowed):
                    raise PatchError(
                        f"{change.place}: {change.path} is changed here, and {exchange.path} makes way by {exchange.place}; "
                        "apply one of them after the other"
                    )

    def _run(self, mode: FakeTensorMode) -> None:
        try:
            run_fake(mode, self.model, self.input_shape)
        except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
            shape = "×".join(map(str, self.input_shape))
            message = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PatchError(
                f"the model does not run on a batch of {shape}, so that no shapes are known ({message}); give example_input"
            ) from error

    def _probe(self, mode: FakeTensorMode, opened: set[str]) -> None:
        """Run the model on fake tensors, and note what each new module will be given."""
        by_path: dict[str, list[_Insertion]] = {}
        for insertion in self.insertions:
            by_path.setdefault(insertion.path, []).append(insertion)
        with hooks_set_aside(self.model):
            trail = Trail(self.model)
            for path, insertions in by_path.items():
                module = self.model.get_submodule(path)
                if path in opened:
                    interpreter = _DraftInterpreter(module, self.graphs[path], insertions, trail)
                    module.register_forward_pre_hook(interpreter.hook, with_kwargs=True)
                else:
                    module.register_forward_hook(_OutputHook(insertions, trail))
            for exchange in self.exchanges:
                exchange.old.register_forward_hook(_CallHook(exchange, trail))
            self._run(mode)

    def _check_exchange(self, mode: FakeTensorMode, exchange: _Exchange, replacement: Replacement) -> Edit:
        """Run the new module on what the old one was given: it must give the same shapes."""
        where = f"{exchange.place}: {exchange.path}"
        new, old, operation = replacement.module, exchange.old, exchange.operation
        for args, given in exchange.seen:
            tensors = {**dict(new.named_parameters()), **dict(new.named_buffers())}
            try:
                out = functional_call(new, {name: mode.from_tensor(tensor) for name, tensor in tensors.items()}, args)
            except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
                raise PatchError(f"{where}: {str(error).strip().splitlines()[0]}") from error
            if not isinstance(given, Tensor) or not isinstance(out, Tensor) or out.shape != given.shape:
                was = list(given.shape) if isinstance(given, Tensor) else f"a {type(given).__name__}"
                gives = list(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
                what = "the identity" if isinstance(operation, Remove) else f"'{operation.type}'"
                raise PatchError(f"{where}: {what} gives {gives} there, and the module that is to make way {was}")
        sizes = [sum(parameter.numel() for parameter in module.parameters()) for module in (new, old)]
        like = next(old.parameters(), next(self.model.parameters(), torch.empty(0)))
        return Edit(
            path=exchange.path,
            child_path=exchange.path,
            place=f"the place of {original_class(old).__name__}",
            block="identity" if isinstance(operation, Remove) else registry.canonical_name(operation.type),
            params={} if isinstance(operation, Remove) else operation.params,
            parameters=sizes[0] - sizes[1],
            device=like.device,
            dtype=like.dtype,
            replaced=Replaced(old, sample_of(exchange.seen), replacement.carried),
            exact=replacement.exact,
            note=replacement.note,
        )

    def _check(self, insertion: _Insertion, checked: dict[str, int]) -> Edit:
        """Make the block on fake tensors and run it, so that whatever it refuses is refused here."""
        operation = insertion.operation
        where = f"{insertion.place}: {insertion.child_path}"
        if not insertion.seen and isinstance(operation, Replace):  # a function in a part that runs in training only
            name = registry.canonical_name(operation.type)
            like = next(self.model.get_submodule(insertion.path).parameters(), torch.empty(0))
            try:
                size = sum(p.numel() for p in make_block(name, operation.params, like.device, like.dtype, 1).parameters())
            except (RuntimeError, TypeError, ValueError) as error:
                raise PatchError(f"{where}: {str(error).strip().splitlines()[0]}") from error
            return Edit(
                path=insertion.path,
                child_path=insertion.child_path,
                place=insertion.text,
                block=name,
                params=operation.params,
                parameters=size,
                device=like.device,
                dtype=like.dtype,
                exact=False,
            )
        if not insertion.seen:
            raise PatchError(f"{where}: no tensor passes there; {insertion.path} is not run by the model, or returns none")
        seen = insertion.seen[0]
        if seen.dim() < 2:
            raise PatchError(f"{where}: the tensor there has no channels, its shape is {list(seen.shape)}")
        name = registry.canonical_name(operation.type)
        reads_channels = isinstance(operation, Wrap) and not getattr(registry.get(name), "any_layout", False)
        channel_dim = insertion.channel_dim if reads_channels and seen.dim() > 2 else 1
        widths = [tensor.size(channel_dim) for tensor in insertion.seen]
        if reads_channels and len(set(widths)) > 1:
            found = ", ".join(map(str, widths))
            raise PatchError(f"{where}: {insertion.path} is called with different numbers of channels ({found}); use 'inject'")
        params = _complete(name, operation, widths[0])
        key = f"{name} {params} {seen.shape} {channel_dim} {seen.dtype} {seen.device}"
        if key not in checked:
            try:
                block = make_block(name, params, seen.device, seen.dtype, channel_dim)
                like = next(block.parameters(), seen)
                out = block(torch.empty_like(seen, dtype=like.dtype))
            except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
                raise PatchError(f"{where}: {str(error).strip().splitlines()[0]}") from error
            if not isinstance(out, Tensor) or out.shape != seen.shape:
                gives = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise PatchError(f"{where}: block '{name}' must keep the shape {list(seen.shape)}, but gives {gives}")
            checked[key] = sum(parameter.numel() for parameter in block.parameters())
        return Edit(
            path=insertion.path,
            child_path=insertion.child_path,
            place=insertion.text,
            block=name,
            params=params,
            parameters=checked[key],
            device=seen.device,
            dtype=seen.dtype,
            channel_dim=channel_dim,
            exact=isinstance(operation, Wrap),
        )


class _DraftInterpreter(fx.Interpreter):
    """Runs the draft of a block's graph, in which the new modules do not exist yet: they hand on what they are given."""

    def __init__(self, block: nn.Module, graph: fx.Graph, insertions: list[_Insertion], trail: Trail) -> None:
        super().__init__(block, graph=graph)
        self.new = {insertion.name: insertion for insertion in insertions}
        self.trail = trail

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        values = [*args, *(kwargs[str(node.target)] for node in inputs[len(args) :] if str(node.target) in kwargs)]
        for node, value in zip(inputs, values, strict=False):
            if isinstance(value, list) and all(isinstance(item, Tensor) for item in value):
                # DenseNet's layers take a tensor or a list of them; TorchScript wants to know which.
                node.type = list[Tensor]
        self.run(*values)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target not in self.new:
            return super().call_module(target, args, kwargs)
        if isinstance(args[0], Tensor):
            self.new[target].seen.append(args[0])
            self.new[target].channel_dim = self.trail.channel_dim(args[0])
        return args[0]


class _OutputHook:
    def __init__(self, insertions: list[_Insertion], trail: Trail) -> None:
        self.insertions = insertions
        self.trail = trail

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            for insertion in self.insertions:
                insertion.seen.append(output)
                insertion.channel_dim = self.trail.channel_dim(output)


class _CallHook:
    def __init__(self, exchange: _Exchange, trail: Trail) -> None:
        self.exchange = exchange
        self.trail = trail

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.exchange.seen.append((args, output))
        if args and isinstance(args[0], Tensor):
            self.exchange.channel_dim = self.trail.channel_dim(args[0])


def _is_of_torch(module: nn.Module) -> bool:
    return original_class(module).__module__.partition(".")[0] == "torch"


def _edits(model: nn.Module) -> tuple[Edit, ...]:
    return model._hybrid_state.edits if isinstance(model, HybridModel) else ()


def _check_block(block: str, operation: Wrap) -> None:
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


def _complete(name: str, operation: Wrap | Replace, channels: int) -> dict[str, Any]:
    """The arguments of a block: those given, the channels, and the way it starts."""
    accepted = registry.parameters_of(registry.get(name)) or {}
    known: dict[str, Any] = {key: channels for key in registry.CHANNEL_PARAMETERS if key in accepted}
    if "init" in accepted and isinstance(operation, Wrap):
        known["init"] = operation.init
    return {**known, **operation.params}


def make_block(name: str, params: Mapping[str, Any], device: torch.device, dtype: torch.dtype, channel_dim: int) -> nn.Module:
    """The block on a device; of a type only where it takes one, because fake tensors cannot be converted in place."""
    accepted = registry.parameters_of(registry.get(name)) or {}
    options = {"device": device, "dtype": dtype}
    with device:
        block: nn.Module = registry.get(name)(**params, **{key: value for key, value in options.items() if key in accepted})
    if channel_dim == -1:
        extend(block, OnTokens)
    return block
