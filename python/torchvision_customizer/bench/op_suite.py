"""Runs the op suite: each case is checked against float64 first, and timed then."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch._functorch.config as functorch_config
from torch import Tensor, nn

from .. import ops
from ..deploy import TOLERANCES
from .machine import last_level_cache
from .results import OpResult
from .suite import COMPILED, DTYPES, EAGER, FLOOR, LAYOUTS, SCRIPTED, SUITE, VARIANTS, Case, Entry
from .timing import USUAL, Settings, measure

Forward = Callable[[Tensor, Tensor | None], Tensor]


class WrongNumbersError(RuntimeError):
    """A variant's output or gradient is further from the float64 oracle than its type allows."""


@dataclass(frozen=True)
class Inputs:
    """One set of what changes from call to call; ``grad`` is that of the output."""

    x: Tensor
    residual: Tensor | None
    grad: Tensor

    def leaves(self) -> list[Tensor]:
        return [self.x] if self.residual is None else [self.x, self.residual]


@dataclass(frozen=True)
class Prepared:
    """A case that was checked and can be timed; call its ``calls`` within :func:`conditions` of the case.

    Attributes:
        calls: for each variant one call of it.
        errors: for each variant its largest difference from float64, as a share of the largest value.
        bytes: the least that a call must move.
        sets: how many sets of activations calls rotate among.
    """

    calls: dict[str, Callable[[], object]]
    errors: dict[str, float]
    bytes: int
    sets: int


@contextlib.contextmanager
def conditions(case: Case) -> Iterator[None]:
    """What holds while a case is prepared and timed: no autograd for a forward, and a compiled graph that can run twice."""
    backward = case.direction == "backward"
    with torch.set_grad_enabled(backward), functorch_config.patch(donated_buffer=False), warnings.catch_warnings():
        # TorchScript is on its way out of torch, and measured here as long as it is there.
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        yield


def prepare(case: Case, variants: Iterable[str] = VARIANTS, device: str = "cpu") -> Prepared:
    """Check a case against float64, and make what is to be timed.

    Forward is timed without autograd. Backward is ``torch.autograd.grad`` of a forward that ran before and whose graph is
    kept, for a dense random gradient in the layout of ``x``: all inputs and weights get a gradient, freshly allocated.
    TorchScript is timed forward only, since a frozen module has no weights to give gradients to.

    With a cold cache, calls rotate among sets of activations that together are twice as large as the last-level cache;
    weights, which every call reads, and the allocator's memory for the output stay warm.

    Args:
        case: what to measure.
        variants: which to measure, of ``suite.VARIANTS``.
        device: ``cpu`` or ``cuda``.

    Raises:
        WrongNumbersError: a variant is further from the oracle than its type allows.
    """
    entry = SUITE[case.entry]
    backward = case.direction == "backward"
    generator = torch.Generator().manual_seed(0)
    first = _inputs(case, entry, generator, device, backward)
    plain = _plain(case, entry, generator, device)
    wanted = [name for name in VARIANTS if name in variants and not (backward and name == SCRIPTED)]
    forwards = {name: _forward(name, entry, plain) for name in wanted if name != FLOOR}
    errors = _errors(case, entry, plain, forwards, first)
    sets = [first, *(_inputs(case, entry, generator, device, backward) for _ in range(_sets(case, first) - 1))]
    turn = itertools.cycle(range(len(sets)))  # one for all variants: none finds what the one before it left in the cache
    calls: dict[str, Callable[[], object]] = {}
    for name in wanted:
        if name == FLOOR:
            calls[name] = _floor_call(case, entry, sets, turn)
        elif backward:
            calls[name] = _backward_call(forwards[name], list(plain.parameters()), sets, turn)
        else:
            calls[name] = _forward_call(forwards[name], sets, turn)
    return Prepared(calls, errors, _bytes_moved(case, entry, plain, first), len(sets))


def run_case(case: Case, settings: Settings = USUAL, variants: Iterable[str] = VARIANTS, device: str = "cpu") -> OpResult:
    """Check and time one case, its variants alternating; arguments and errors as for :func:`prepare`."""
    with conditions(case):
        prepared = prepare(case, variants, device)
        found = measure(prepared.calls, settings)
    return OpResult(
        case=case,
        bytes=prepared.bytes,
        sets=prepared.sets,
        errors=prepared.errors,
        seconds=found.seconds,
        other_load=found.other_load,
    )


def _inputs(case: Case, entry: Entry, generator: torch.Generator, device: str, backward: bool) -> Inputs:
    shape = (case.batch, *case.shape)

    def draw() -> Tensor:
        values = torch.randn(shape, generator=generator)
        return values.to(device, DTYPES[case.dtype]).contiguous(memory_format=LAYOUTS[case.layout])

    x, residual = draw(), None
    if entry.residual:
        # Further from zero than the gated x can be, so that rounding flips no sign before a ReLU.
        residual = torch.randn(shape, generator=generator).sign().to(x) * (x.abs() + 0.25)
        residual = residual.contiguous(memory_format=LAYOUTS[case.layout])
    inputs = Inputs(x, residual, draw() if backward else x)
    if backward:
        for leaf in inputs.leaves():
            leaf.requires_grad_()
    return inputs


def _plain(case: Case, entry: Entry, generator: torch.Generator, device: str) -> nn.Module:
    weights = entry.weights((case.batch, *case.shape), generator)
    return entry.plain(**weights, **entry.options).to(device, DTYPES[case.dtype]).eval()


def _weights(entry: Entry, plain: nn.Module) -> dict[str, Tensor]:
    """The tensor arguments of the op; a plain module keeps them as parameters of the same names."""
    return dict(plain.named_parameters())


def _forward(name: str, entry: Entry, plain: nn.Module) -> Forward:
    if name == EAGER:
        return plain
    if name == COMPILED:
        torch.compiler.reset()  # every case is compiled for its own shape, and none counts as a recompilation
        compiled: Forward = torch.compile(plain, dynamic=False)
        return compiled
    if name == SCRIPTED:
        frozen: Forward = torch.jit.freeze(torch.jit.script(plain))
        return frozen
    op, weights = getattr(ops, entry.op), _weights(entry, plain)
    if entry.residual:
        return lambda x, residual: op(x, **weights, **entry.options, residual=residual)
    return lambda x, residual: op(x, **weights, **entry.options)


def _forward_call(forward: Forward, sets: list[Inputs], turn: Iterator[int]) -> Callable[[], object]:
    def call() -> object:
        inputs = sets[next(turn)]
        return forward(inputs.x, inputs.residual)

    return call


def _backward_call(
    forward: Forward, parameters: list[nn.Parameter], sets: list[Inputs], turn: Iterator[int]
) -> Callable[[], object]:
    graphs = [(forward(inputs.x, inputs.residual), [*inputs.leaves(), *parameters], inputs.grad) for inputs in sets]

    def call() -> object:
        out, leaves, grad = graphs[next(turn)]
        return torch.autograd.grad(out, leaves, grad, retain_graph=True)

    return call


def _floor_call(case: Case, entry: Entry, sets: list[Inputs], turn: Iterator[int]) -> Callable[[], object]:
    """The activations moved once, by torch itself, with the reads and writes the op cannot do without.

    Forward reads x (and the residual) and writes the output. Backward reads the gradient and x and writes the gradient of x;
    with a ReLU it reads the output too, and writes the gradient of the residual.
    """
    moved = [tuple(None if t is None else t.detach() for t in (i.x, i.residual, i.grad)) for i in sets]

    def call() -> object:
        x, residual, grad = moved[next(turn)]
        assert x is not None and grad is not None
        if case.direction == "forward":
            return x.clone() if residual is None else x + residual
        if residual is None or entry.options.get("post", "none") == "none":
            return grad + x
        return grad.clone(), x + residual

    return call


def _sets(case: Case, first: Inputs) -> int:
    """How many sets of activations calls rotate among: one, or with a cold cache what fills twice the last-level cache."""
    if case.cache == "warm":
        return 1
    size = sum(t.numel() * t.element_size() for t in first.leaves())
    return 1 + math.ceil(2 * last_level_cache(first.x.device) / size)


def _bytes_moved(case: Case, entry: Entry, plain: nn.Module, inputs: Inputs) -> int:
    """The least that must be moved: every input read once, every output written once."""
    weights = sum(w.numel() * w.element_size() for w in plain.parameters())
    activation = inputs.x.numel() * inputs.x.element_size()
    if case.direction == "forward":
        return activation * (3 if entry.residual else 2) + weights
    post = entry.options.get("post", "none") != "none"
    # grad, x, and the gradient of x; the output, which an activation needs; the residual's gradient, unless it is grad itself.
    return activation * (3 + post + (post and entry.residual)) + 2 * weights


def _errors(case: Case, entry: Entry, plain: nn.Module, forwards: dict[str, Forward], inputs: Inputs) -> dict[str, float]:
    """For each variant its largest difference from the oracle, as a share of the oracle's largest absolute value."""
    reference = ops.OPS[entry.op].reference
    assert reference is not None
    exact = {name: weight.detach().double().requires_grad_() for name, weight in _weights(entry, plain).items()}
    oracle_inputs = Inputs(
        inputs.x.detach().double().requires_grad_(),
        None if inputs.residual is None else inputs.residual.detach().double().requires_grad_(),
        inputs.grad.detach().double(),
    )

    def oracle(x: Tensor, residual: Tensor | None) -> Tensor:
        extra = {} if residual is None else {"residual": residual}
        out: Tensor = reference(x, **exact, **entry.options, **extra)
        return out

    wanted = _outputs(case, oracle, oracle_inputs, list(exact.values()))
    limit = TOLERANCES[DTYPES[case.dtype]]
    errors = {}
    for name, forward in forwards.items():
        got = _outputs(case, forward, inputs, list(plain.parameters()))
        errors[name] = max(_distance(a, b) for a, b in zip(got, wanted, strict=True))
        if not errors[name] <= limit:  # NaN is no smaller than anything
            raise WrongNumbersError(
                f"{case}: {name} is {errors[name]:.2e} of the largest value away from float64, allowed are {limit:.0e}"
            )
    return errors


def _outputs(case: Case, forward: Forward, inputs: Inputs, parameters: list[Tensor]) -> list[Tensor]:
    out = forward(inputs.x, inputs.residual)
    if case.direction == "forward":
        return [out]
    return list(torch.autograd.grad(out, [*inputs.leaves(), *parameters], inputs.grad))


def _distance(got: Tensor, wanted: Tensor) -> float:
    if got.shape != wanted.shape:
        return float("nan")
    return float((got.double() - wanted).abs().max() / wanted.abs().max())
