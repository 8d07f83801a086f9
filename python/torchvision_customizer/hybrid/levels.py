"""How deep in a model each parameter is: its levels, in the order in which the model runs them. Nothing is read off names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from .opened import Followed, original_class
from .probe import fake_tensors, hooks_set_aside, run_fake


@dataclass
class Level:
    """A step of a model's depth.

    Attributes:
        name: path of the module that opens the level.
        parameters: those of the level, by name; of one that has several names, the first.
    """

    name: str
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)


def find_levels(model: nn.Module, input_shape: tuple[int, ...], new_modules: Iterable[str] = ()) -> list[Level]:
    """The levels of a model, from the input to the output. Every parameter is in one of them, but for those of new modules.

    A level is a block: a residual block, an inception module, or, where there are no blocks, a single layer. Blocks are what
    the model runs, and what containers run that it runs. Containers are ``Sequential`` and ``ModuleDict``, and modules around
    a container or a ``ModuleList`` which run their children one after the other, with nothing that passes one by, as all of
    their class do.

    - A module that has vectors only, a norm for instance, belongs to the level before it.
    - So do the parameters that a container has itself, a position embedding for instance.
    - What the model does not run in its present mode, an auxiliary head for instance, belongs to the last level.

    Args:
        model: it is run on fake tensors, and not touched.
        input_shape: of one sample.
        new_modules: paths of modules that are passed over.

    Raises:
        ValueError: the model does not run on a batch of that shape.
    """
    root = _run(model, input_shape)
    walk = _Walk(model, new_modules, _classes_that_branch(root))
    walk.run(root)
    walk.put(model.parameters())
    return walk.levels


@dataclass
class _Call:
    """One call of a module: what it called itself, and whether it used a value that is older than the last of these."""

    path: str
    module: nn.Module
    inner: list[_Call] = field(default_factory=list)
    branches: bool = False
    ages: dict[int, int] = field(default_factory=dict)  # by id of a tensor, how many calls there were when it was made

    def uses(self, tensors: Iterable[Tensor]) -> None:
        self.branches |= any(self.ages.get(id(tensor), len(self.inner)) < len(self.inner) for tensor in tensors)

    def gets(self, tensors: Iterable[Tensor]) -> None:
        self.ages |= {id(tensor): len(self.inner) for tensor in tensors}


class _Recorder(TorchFunctionMode):
    """Notes who calls whom, and which tensors they use, while a model runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = [_Call("", nn.Module())]  # who calls the model
        self.alive: list[Tensor] = []  # tensors are told apart by their ids

    def enter(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = self._tensors((args, kwargs))
        call = _Call(path, module)
        call.gets(tensors)
        self.stack[-1].uses(tensors)
        self.stack.append(call)

    def leave(self, output: Any) -> None:
        call = self.stack.pop()
        self.stack[-1].inner.append(call)
        self.stack[-1].gets(self._tensors(output))

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        made = self._tensors(output)
        if made:  # what makes no tensor, as reading a shape, uses none
            self.stack[-1].uses(self._tensors((args, kwargs)))
            self.stack[-1].gets(made)
        return output

    def _tensors(self, values: Any) -> list[Tensor]:
        tensors = [value for value in _pytree.tree_leaves(values) if isinstance(value, Tensor)]
        self.alive += tensors
        return tensors


def _run(model: nn.Module, input_shape: tuple[int, ...]) -> _Call:
    recorder = _Recorder()
    handles = []
    with fake_tensors() as mode, hooks_set_aside(model):
        for path, module in model.named_modules():

            def enter(module: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
                recorder.enter(path, module, args, kwargs)

            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(lambda module, args, output: recorder.leave(output)))
        try:
            with recorder:
                run_fake(mode, model, input_shape)
        except (RuntimeError, TypeError, ValueError) as error:
            shape = "×".join(map(str, input_shape))
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"the model does not run on a batch of {shape}, so that the order of its blocks is not known ({reason}); "
                "give example_input"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
    return recorder.stack[0].inner[0]


def _classes_that_branch(call: _Call) -> set[type[nn.Module]]:
    # Of the class, not of the module: a residual block whose stride leaves it without a shortcut is a block like the others.
    own = {original_class(call.module)} if call.branches else set()
    return own.union(*map(_classes_that_branch, call.inner))


class _Walk:
    """Goes through the calls in their order, and puts each parameter into a level, once."""

    def __init__(self, model: nn.Module, new_modules: Iterable[str], branching: set[type[nn.Module]]) -> None:
        self.branching = branching
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.new_modules = [model.get_submodule(path) for path in new_modules]
        self.placed = {id(parameter) for module in self.new_modules for parameter in module.parameters()}
        self.levels: list[Level] = []

    def run(self, container: _Call) -> None:
        own = list(container.module.parameters(recurse=False))
        if self.levels:
            self.put(own)
        for call in container.inner:
            if any(call.module is module for module in self.new_modules):
                continue
            if self._is_container(call):
                self.run(call)
            else:
                parameters = list(call.module.parameters())
                if any(parameter.dim() > 1 and id(parameter) not in self.placed for parameter in parameters):
                    self.levels.append(Level(call.path))
                self.put(parameters)
            if self.levels:
                self.put(own)  # of a container that opens the first level: a class token

    def put(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            if id(parameter) not in self.placed:
                name = self.names[id(parameter)]
                if not self.levels:
                    self.levels.append(Level(name.rpartition(".")[0]))
                self.levels[-1].parameters[name] = parameter
                self.placed.add(id(parameter))

    def _is_container(self, call: _Call) -> bool:
        module = call.module
        if isinstance(module, nn.ModuleDict) or type(module).forward is nn.Sequential.forward:
            return True
        if isinstance(module, Followed) or original_class(module) in self.branching:
            return False
        lists = (isinstance(child, nn.ModuleList | nn.ModuleDict) for child in module.children())  # those are not called
        return any(lists) or any(map(self._is_container, call.inner))
