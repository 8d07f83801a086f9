"""Models of torchvision and timm as they are, against the same after ``fuse``, and against the same without their attention."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from ..fusion import fuse
from .models import compare, images, prepared
from .results import ModelCase, ModelResult
from .suite import EAGER, FUSED, IDENTITY, INFERENCE, LIBRARY_MODELS, LIBRARY_VARIANTS
from .timing import Settings, steady


def library_model(name: str) -> nn.Module:
    """One of ``suite.LIBRARY_MODELS`` with random weights, as of a trained model in what matters to a comparison of logits.

    Norms get scales that differ, timm's zero ones too, without which a block's branch would not be seen in the logits, and
    statistics of a batch, so that activations stay in range.
    """
    spec = LIBRARY_MODELS[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        if spec.library == "timm":
            from .timm_modules import timm

            model: nn.Module = timm().create_model(spec.model, **spec.arguments)
        else:
            from .._torchvision import models

            model = models.get_model(spec.model, **spec.arguments)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.weight.uniform_(0.5, 1.0)
            norm.momentum = None  # the mean over batches, of which there is one
        model.train()(torch.randn(8, 3, 64, 64))
        for norm in norms:
            norm.momentum = 0.1
    return model.eval()


def without_attention(model: nn.Module) -> nn.Module:
    """A copy with nothing in place of the attention blocks: what is left of its time is not attention's.

    Raises:
        ValueError: the model has none.
    """
    from torchvision.ops import SqueezeExcitation

    kinds: tuple[type[nn.Module], ...] = (SqueezeExcitation,)
    if type(model).__module__.startswith("timm."):
        from timm.layers.cbam import CbamModule
        from timm.layers.eca import EcaModule
        from timm.layers.squeeze_excite import EffectiveSEModule, SEModule

        kinds = (SEModule, EffectiveSEModule, EcaModule, CbamModule)
    model = copy.deepcopy(model)
    blocks = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no attention block that is known here")
    for name in blocks:
        model.set_submodule(name, nn.Identity())
    return model


def run_library_model(
    case: ModelCase, settings: Settings, variants: Collection[str] = LIBRARY_VARIANTS, device: str = "cpu"
) -> ModelResult:
    """Check and time one model in all its variants, alternating; see ``models.run_model`` for what is run.

    Args:
        case: ``backbone`` is a name in ``suite.LIBRARY_MODELS``.
        settings: how long to measure.
        variants: which to measure, of ``suite.LIBRARY_VARIANTS``; ``INFERENCE`` is for inference only.
        device: ``cpu`` or ``cuda``.

    Raises:
        DifferentOutputError: the logits of a fused model are further from the library's than the type allows.
    """
    model = prepared(library_model(case.backbone), case, device)
    x = images(case, device)
    models: dict[str, Callable[[Tensor], Tensor]] = {EAGER: model, IDENTITY: without_attention(model)}
    fused = copy.deepcopy(model)
    places = fuse(fused, example_input=x).fused
    models[FUSED] = fused
    if INFERENCE in variants and not case.training:
        folded = copy.deepcopy(model)
        fuse(folded, inference=True, example_input=x)
        models[INFERENCE] = folded
    wanted = [name for name in LIBRARY_VARIANTS if name in variants]
    return compare(case, models, x, len(places), settings, wanted, uncompared=(IDENTITY,))


def run_in_own_process(
    cases: Sequence[ModelCase], settings: Settings, variants: Collection[str], device: str, threads: int | None
) -> list[ModelResult]:
    """Run the cases of one model in a process of their own, so that no model finds what another has left of its memory."""
    arguments: Any = (list(cases), settings, tuple(variants), device, threads)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_run_cases, *arguments).result()


def _run_cases(
    cases: Sequence[ModelCase], settings: Settings, variants: Collection[str], device: str, threads: int | None
) -> list[ModelResult]:
    with steady(threads):
        return [run_library_model(case, settings, variants, device) for case in cases]
