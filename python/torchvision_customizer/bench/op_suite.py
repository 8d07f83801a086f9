"""Runs the op suite: each case is checked against float64 first, and timed then."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch._functorch.config as functorch_config
from torch import Tensor, nn

from .. import ops
from ..deploy import TOLERANCES
from . import limit, timm_modules
from .machine import last_level_cache
from .memory import Memory, memory_of
from .results import OpResult
from .suite import (
    COMPILED,
    DTYPES,
    EAGER,
    FLOOR,
    FUSED,
    LIMIT,
    ONE_THREAD,
    SCALING_BYTES,
    SCRIPTED,
    SUITE,
    TIMM,
    TOKENS,
    VARIANTS,
    Case,
    Entry,
)
from .timing import USUAL, Settings, measure

Forward = Callable[[Tensor, Tensor | None], Tensor]
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
#: How much further from float64 a baseline may be than the op: it rounds to the type after each of its many passes.
ROUNDED_BETWEEN = 4
#: Variants that run nothing of the op, and so have no numbers to compare.
_MOVERS = (FLOOR, LIMIT)


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
class Contender:
    """One variant's way to compute the op.

    Attributes:
        forward: of x and residual.
        parameters: what gets a gradient besides.
        compared: those of ``parameters`` that the op has too, by the names they have there.
        seed: set before its numbers are compared.
    """

    forward: Forward
    parameters: list[Tensor]
    compared: Mapping[str, Tensor]
    seed: int = 0


@dataclass(frozen=True)
class Prepared:
    """A case that was checked and can be timed; call its ``calls`` within :func:`conditions` of the case.

    Attributes:
        calls: for each variant one call of it.
        errors: for each variant its largest difference from float64, as a share of the largest value.
        absent: why variants that were asked for are not there.
        bytes: the least that a call must move.
        sets: how many sets of activations calls rotate among.
        memory: for each variant what a training step holds; measured only where that is the direction.
    """

    calls: dict[str, Callable[[], object]]
    errors: dict[str, float]
    absent: dict[str, str]
    bytes: int
    sets: int
    memory: dict[str, Memory] = field(default_factory=dict)


@contextlib.contextmanager
def conditions(case: Case) -> Iterator[None]:
    """What holds while a case is prepared and timed: no autograd for a forward, and a compiled graph that can run twice."""
    gradients = case.direction != "forward"
    with torch.set_grad_enabled(gradients), functorch_config.patch(donated_buffer=False), warnings.catch_warnings():
        # TorchScript is on its way out of torch, and measured here as long as it is there.
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        yield


def prepare(case: Case, variants: Iterable[str] = VARIANTS, device: str = "cpu") -> Prepared:
    """Check a case against float64, and make what is to be timed.

    Forward is timed without autograd. Backward is ``torch.autograd.grad`` of a forward that ran before and whose graph is
    kept, for a dense random gradient in the layout of ``x``: all inputs and weights get a gradient, freshly allocated. Training
    is both as one call. TorchScript is timed forward only, since a frozen module has no weights to give gradients to.

    With a cold cache, calls rotate among sets of activations that together are twice as large as the last-level cache;
    weights, which every call reads, and the allocator's memory for the output stay warm.

    Args:
        case: what to measure.
        variants: which to measure, of ``suite.VARIANTS``. Some are not there for some cases: see ``Prepared.absent``.
        device: ``cpu`` or ``cuda``.

    Raises:
        WrongNumbersError: a variant is further from the oracle than its type allows.
    """
    entry = SUITE[case.entry]
    generator = torch.Generator().manual_seed(0)
    first = _inputs(case, entry, generator, device)
    plain = _plain(case, entry, generator, device)
    reasons = {name: _absence(name, case, entry, first, device) for name in VARIANTS if name in variants}
    absent = {name: reason for name, reason in reasons.items() if reason}
    wanted = [name for name, reason in reasons.items() if not reason]
    contenders = {name: _contender(name, entry, plain, first.x) for name in wanted if name not in _MOVERS}
    errors = _errors(case, entry, plain, contenders, first)
    sets = [first, *(_inputs(case, entry, generator, device) for _ in range(_sets(case, first) - 1))]
    turn = itertools.cycle(range(len(sets)))  # one for all variants: none finds what the one before it left in the cache
    calls: dict[str, Callable[[], object]] = {}
    for name in wanted:
        if name == FLOOR:
            calls[name] = _floor_call(case, entry, sets, turn)
        elif name == LIMIT:
            calls[name] = _limit_call(entry, plain, sets, turn)
        else:
            calls[name] = _call(case, contenders[name], sets, turn)
        if name == ONE_THREAD:
            calls[name] = _on_one_thread(calls[name])
    prepared = Prepared(calls, errors, absent, _bytes_moved(case, entry, plain, first), len(sets))
    if case.direction != "training":
        return prepared
    return replace(prepared, memory={n: _memory(c, first) for n, c in contenders.items() if n in (EAGER, TIMM, FUSED)})


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
        absent=prepared.absent,
        memory=prepared.memory,
        seconds=found.seconds,
        other_load=found.other_load,
    )


def _absence(name: str, case: Case, entry: Entry, first: Inputs, device: str) -> str | None:
    """Why there is no such variant of a case, or None where there is one."""
    if name == LIMIT:
        return limit.reason_without(device) if case.direction == "forward" else "it is measured of the forward only"
    if name == TIMM:
        return timm_modules.reason_without(case, entry)
    if name == SCRIPTED and case.direction != "forward":
        return "a frozen module has no weights to give gradients to"
    if name == FLOOR and case.direction == "training":
        return "it is measured of the forward and of the backward"
    if name == ONE_THREAD:
        if device != "cpu" or torch.get_num_threads() != 2:
            return "it is measured on the CPU, against two threads"
        if first.x.numel() * first.x.element_size() <= SCALING_BYTES:
            return f"it is measured of activations above {SCALING_BYTES >> 20} MiB"
    return None


def _inputs(case: Case, entry: Entry, generator: torch.Generator, device: str) -> Inputs:
    shape = (case.batch, *case.shape)

    def arranged(values: Tensor) -> Tensor:
        values = values.to(device, DTYPES[case.dtype])
        if case.layout == TOKENS:
            return values.transpose(1, 2).contiguous().transpose(1, 2)
        return values.contiguous(memory_format=FORMATS[case.layout])

    def draw() -> Tensor:
        return torch.randn(shape, generator=generator)

    x, residual = arranged(draw()), None
    if entry.residual:
        # Further from zero than the gated x can be, so that rounding flips no sign before a ReLU.
        residual = arranged(draw().sign() * (1.1 * x.float().cpu().abs() + 0.25))
    if case.direction == "forward":
        return Inputs(x, residual, x)
    # That of a pool is of one sign: the gradient of its exponent is a sum over all of it, and must not cancel.
    grad = arranged(draw()) if entry.writes else torch.rand(shape[:2], generator=generator).to(x) + 0.5
    inputs = Inputs(x, residual, grad)
    for leaf in inputs.leaves():
        leaf.requires_grad_()
    return inputs


def _plain(case: Case, entry: Entry, generator: torch.Generator, device: str) -> nn.Module:
    weights = entry.weights((case.batch, *case.shape), generator)
    return entry.plain(**weights, **entry.options).to(device, DTYPES[case.dtype]).eval()


def _weights(plain: nn.Module) -> dict[str, Tensor]:
    """The tensor arguments of the op; a plain module keeps them as parameters of the same names."""
    return dict(plain.named_parameters())


def _learnable(plain: nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in _weights(plain).items() if weight.requires_grad}


def _contender(name: str, entry: Entry, plain: nn.Module, x: Tensor) -> Contender:
    if name == TIMM:
        block = timm_modules.timm_block(entry, _weights(plain)).to(x)
        parameters = dict(block.module.named_parameters())
        compared = {argument: parameters[path] for argument, path in block.op_arguments.items()}
        seed = timm_modules.seed_that_keeps_all(block, x) if entry.op == "drop_path" else 0
        return Contender(block, list(parameters.values()), compared, seed)
    learnable = _learnable(plain)
    return Contender(_forward(name, entry, plain), list(learnable.values()), learnable)


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
    op, weights = getattr(ops, entry.op), _weights(plain)
    if entry.residual:
        return lambda x, residual: op(x, **weights, **entry.options, residual=residual)
    return lambda x, residual: op(x, **weights, **entry.options)


def _call(case: Case, contender: Contender, sets: list[Inputs], turn: Iterator[int]) -> Callable[[], object]:
    forward, parameters = contender.forward, contender.parameters

    def forward_call() -> object:
        inputs = sets[next(turn)]
        return forward(inputs.x, inputs.residual)

    def training_call() -> object:
        inputs = sets[next(turn)]
        return torch.autograd.grad(forward(inputs.x, inputs.residual), [*inputs.leaves(), *parameters], inputs.grad)

    if case.direction == "forward":
        return forward_call
    if case.direction == "training":
        return training_call
    graphs = [(forward(inputs.x, inputs.residual), [*inputs.leaves(), *parameters], inputs.grad) for inputs in sets]

    def backward_call() -> object:
        out, leaves, grad = graphs[next(turn)]
        return torch.autograd.grad(out, leaves, grad, retain_graph=True)

    return backward_call


def _on_one_thread(call: Callable[[], object]) -> Callable[[], object]:
    threads = torch.get_num_threads()

    def alone() -> object:
        torch.set_num_threads(1)
        try:
            return call()
        finally:
            torch.set_num_threads(threads)

    return alone


def _floor_call(case: Case, entry: Entry, sets: list[Inputs], turn: Iterator[int]) -> Callable[[], object]:
    """The activations moved once, by torch itself, with the reads and writes the op cannot do without.

    Forward reads x (and the residual) and writes the output; a pool, which writes nothing of that size, is measured by the same
    copy. Backward reads the gradient, and x where it is needed, and writes the gradient of x; with a ReLU it reads the output
    too, and writes the gradient of the residual.
    """
    moved = [tuple(None if t is None else t.detach() for t in (i.x, i.residual, i.grad)) for i in sets]
    passes = entry.passes(case.direction)

    def call() -> object:
        x, residual, grad = moved[next(turn)]
        assert x is not None and grad is not None
        if case.direction == "forward":
            return x.clone() if residual is None else x + residual
        if passes == (1, 1):
            return x.clone()
        if passes == (2, 1):
            return grad + x
        assert residual is not None
        return grad.clone(), x + residual

    return call


def _limit_call(entry: Entry, plain: nn.Module, sets: list[Inputs], turn: Iterator[int]) -> Callable[[], object]:
    weights = [w.detach() for w in _weights(plain).values()]
    calls = [limit.traffic(i.x, i.residual, entry.reads, entry.writes, weights) for i in sets]
    return lambda: calls[next(turn)]()


def _sets(case: Case, first: Inputs) -> int:
    """How many sets of activations calls rotate among: one, or with a cold cache what fills twice the last-level cache."""
    if case.cache == "warm":
        return 1
    size = sum(t.numel() * t.element_size() for t in first.leaves())
    return 1 + math.ceil(2 * last_level_cache(first.x.device) / size)


def _bytes_moved(case: Case, entry: Entry, plain: nn.Module, inputs: Inputs) -> int:
    """The least that must be moved: every input read once, every output written once, and for training both directions."""
    weights = sum(w.numel() * w.element_size() for w in _weights(plain).values())
    activation = inputs.x.numel() * inputs.x.element_size()
    return (
        activation * sum(entry.passes(case.direction)) + weights * {"forward": 1, "backward": 2, "training": 3}[case.direction]
    )


def _memory(contender: Contender, inputs: Inputs) -> Memory:
    return memory_of(
        lambda: contender.forward(inputs.x, inputs.residual),
        lambda out: torch.autograd.grad(out, [*inputs.leaves(), *contender.parameters], inputs.grad),
        contender.parameters,
        inputs.x.device,
    )


def _errors(case: Case, entry: Entry, plain: nn.Module, contenders: dict[str, Contender], inputs: Inputs) -> dict[str, float]:
    """For each variant its largest difference from the oracle, as a share of the oracle's largest absolute value."""
    reference = ops.OPS[entry.op].reference
    assert reference is not None
    exact = {name: weight.detach().double() for name, weight in _weights(plain).items()}
    parameters = {name: exact[name].requires_grad_() for name in _learnable(plain)}
    oracle_inputs = Inputs(
        inputs.x.detach().double().requires_grad_(),
        None if inputs.residual is None else inputs.residual.detach().double().requires_grad_(),
        inputs.grad.detach().double(),
    )

    def oracle(x: Tensor, residual: Tensor | None) -> Tensor:
        extra = {} if residual is None else {"residual": residual}
        out: Tensor = reference(x, **exact, **entry.options, **extra)
        return out

    wanted = _outputs(case, Contender(oracle, list(parameters.values()), parameters), oracle_inputs)
    tolerance = TOLERANCES[DTYPES[case.dtype]]
    errors = {}
    for name, contender in contenders.items():
        got = _outputs(case, contender, inputs)
        errors[name] = max(_distance(got[part], wanted[part]) for part in wanted)
        allowed = tolerance if name in (FUSED, ONE_THREAD) else ROUNDED_BETWEEN * tolerance
        if not errors[name] <= allowed:  # NaN is no smaller than anything
            raise WrongNumbersError(
                f"{case}: {name} is {errors[name]:.2e} of the largest value away from float64, allowed are {allowed:.0e}"
            )
    return errors


def _outputs(case: Case, contender: Contender, inputs: Inputs) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[inputs.x.device] if inputs.x.is_cuda else []):
        torch.manual_seed(contender.seed)
        out = contender.forward(inputs.x, inputs.residual)
    if case.direction == "forward":
        return {"out": out}
    leaves = dict(zip(("x", "residual"), inputs.leaves(), strict=False))
    asked = {**leaves, **contender.compared}
    return dict(zip(asked, torch.autograd.grad(out, list(asked.values()), inputs.grad), strict=True))


def _distance(got: Tensor, wanted: Tensor) -> float:
    if got.numel() != wanted.numel():
        return float("nan")
    return float((got.double().view(wanted.shape) - wanted).abs().max() / wanted.abs().max())
