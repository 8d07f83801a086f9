"""Whole models in one run: the unpatched one, the patched one in plain PyTorch, compiled, fused, and as a TorchScript file."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fusion import fuse
from ..hybrid import unpatch
from .memory import Memory, memory_of
from .op_suite import FORMATS
from .plain import PLAIN_BLOCKS, plain_model
from .results import ModelCase, ModelResult
from .suite import COMPILED, DTYPES, EAGER, FUSED, INFERENCE, MODEL_VARIANTS, SCRIPTED, UNPATCHED
from .timing import Settings, measure

#: How far logits may lie from those of plain PyTorch, as a share of the largest. Roundings of fifty layers add up: a model in
#: bfloat16 is itself a few per cent away from its float32 self. In training, norms divide by the deviations of small batches.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02}
TRAINING_TOLERANCES = {"fp32": 1e-3, "bf16": 0.3, "fp16": 0.05}

#: Runs are long: a few dozen of them must do.
SETTINGS = Settings(rounds=21, max_seconds=60.0)


class DifferentOutputError(RuntimeError):
    """A variant gives other logits than the same model in plain PyTorch."""


def run_model(
    model: nn.Module,
    case: ModelCase,
    settings: Settings = SETTINGS,
    variants: Collection[str] = MODEL_VARIANTS,
    device: str = "cpu",
) -> ModelResult:
    """Check and time one patched model in all its variants, alternating.

    Inference runs under ``torch.inference_mode``, training is a step: forward in train mode, cross entropy, backward, SGD with
    momentum. The type is that of all weights and of the input. The patched blocks get random gates, so that a comparison of
    outputs means something; the unpatched model has the weights of the patched one. TorchScript is frozen, of the fused model.
    That one, and ``fuse(inference=True)``, are timed in inference only.

    Args:
        model: patched, not fused; left as it is.
        case: batch size, type, layout, and what results are to be called by.
        settings: how long to measure.
        variants: which to measure, of ``suite.MODEL_VARIANTS``.
        device: ``cpu`` or ``cuda``.

    Raises:
        DifferentOutputError: a variant's logits are further from those in plain PyTorch than the type allows.
    """
    model = prepared(with_random_gates(copy.deepcopy(model)), case, device)
    x = images(case, device)
    eager, fused = plain_model(model), copy.deepcopy(model)
    places = fuse(fused, example_input=x).fused
    folded = copy.deepcopy(model)
    unpatched = unpatch(model)
    with warnings.catch_warnings():
        # TorchScript is on its way out of torch, and measured here as long as it is there.
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        models: dict[str, Callable[[Tensor], Tensor]] = {UNPATCHED: unpatched, EAGER: eager, FUSED: fused}
        if INFERENCE in variants and not case.training:
            fuse(folded, inference=True, example_input=x)
            models[INFERENCE] = folded
        if COMPILED in variants:
            torch.compiler.reset()
            # A copy: in training every variant has weights and running statistics of its own.
            models[COMPILED] = torch.compile(copy.deepcopy(eager), dynamic=False)
        if SCRIPTED in variants and not case.training:
            models[SCRIPTED] = torch.jit.freeze(torch.jit.script(fused))
        return compare(case, models, x, len(places), settings, [name for name in MODEL_VARIANTS if name in variants])


def prepared(model: nn.Module, case: ModelCase, device: str) -> nn.Module:
    """The same model in the mode, type and layout of a case."""
    model.to(device, DTYPES[case.dtype], memory_format=FORMATS[case.layout])  # type: ignore[call-overload]
    return model.train(case.training)


def images(case: ModelCase, device: str) -> Tensor:
    """The input of a case, the same for every variant."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.batch, 3, case.input_size, case.input_size, generator=generator)
    return x.to(device, DTYPES[case.dtype]).contiguous(memory_format=FORMATS[case.layout])


def compare(
    case: ModelCase,
    models: dict[str, Callable[[Tensor], Tensor]],
    x: Tensor,
    fused_places: int,
    settings: Settings,
    variants: Collection[str],
    uncompared: Collection[str] = (UNPATCHED,),
    base: str = EAGER,
) -> ModelResult:
    """Compare the logits of models with those of ``base``, and time those that ``variants`` names.

    Args:
        case: what is compared.
        models: by variant.
        x: images.
        fused_places: how many there are, for the result.
        settings: how long to measure.
        variants: which of ``models`` to time.
        uncompared: those that are meant to give other logits.
        base: whose logits the others must give.

    Raises:
        DifferentOutputError: logits are further apart than the type allows.
    """
    with torch.inference_mode(not case.training):
        differences = _differences(case, models, x, uncompared, base)
        wanted = {name: models[name] for name in variants if name in models}
        calls = {name: _step(m, x) if case.training else _inference(m, x) for name, m in wanted.items()}
        found = measure(calls, settings)
        memory = {n: _memory(m, x) for n, m in wanted.items() if isinstance(m, nn.Module)} if case.training else {}
    return ModelResult(
        case=case,
        fused_places=fused_places,
        differences=differences,
        seconds=found.seconds,
        other_load=found.other_load,
        memory=memory,
    )


def with_random_gates(model: nn.Module) -> nn.Module:
    """Patches start as the identity; random last layers make every gate different."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for block in model.modules():
            if type(block) in PLAIN_BLOCKS:
                for parameter in block.parameters():
                    if not parameter.any():
                        parameter.normal_(std=0.05)
    return model


def _inference(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    return lambda: model(x)


def _step(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    assert isinstance(model, nn.Module)
    # A rate so small that the model stays what it is, however often it is timed.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-8, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        _loss(model(x)).backward()
        optimizer.step()

    return step


def _loss(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device) % logits.size(1))


def _memory(model: nn.Module, x: Tensor) -> Memory:
    parameters = list(model.parameters())
    return memory_of(
        lambda: _loss(model(x)),
        lambda loss: torch.autograd.grad(loss, parameters, allow_unused=True),
        parameters,
        x.device,
    )


def _differences(
    case: ModelCase, models: dict[str, Callable[[Tensor], Tensor]], x: Tensor, uncompared: Collection[str], base: str
) -> dict[str, float]:
    """Largest difference of logits from those of ``base``, as a share of the largest.

    Random weights can make a network that carries the roundings of a half type up to the size of its logits. ``base`` is then
    far from itself in float32, and two such answers may differ by twice that.
    """
    limit = (TRAINING_TOLERANCES if case.training else TOLERANCES)[case.dtype]
    eager = models[base]
    expected = _logits(eager, x)
    if x.element_size() < 4 and isinstance(eager, nn.Module):
        exact = _logits(copy.deepcopy(eager).float(), x.float())
        limit = max(limit, 2 * _difference(exact, expected))
    differences = {}
    for name, model in models.items():
        if name == base or name in uncompared:
            continue
        differences[name] = _difference(_logits(model, x), expected)
        if not differences[name] <= limit:
            raise DifferentOutputError(
                f"{case}: the logits of {name} differ by {differences[name]:.2e} of the largest from those of {base}, "
                f"allowed are {limit:.0e}"
            )
    return differences


def _difference(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().max() / expected.abs().max())


def _logits(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(0)  # what is dropped at random is the same in every variant
        return model(x).detach().double()
