"""The op suite as data: which ops, at which shapes, and what ops are held to. A new op is one :class:`Entry`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .plain import PlainSqueezeExcite

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
DIRECTIONS = ("forward", "backward")
CACHES = ("warm", "cold")
BATCHES = (1, 8, 32)

FLOOR, UNPATCHED, EAGER, COMPILED, SCRIPTED, FUSED = "floor", "unpatched", "eager", "compile", "torchscript", "fused"
#: What is compared of an op, and of a model.
VARIANTS = (FLOOR, EAGER, COMPILED, SCRIPTED, FUSED)
MODEL_VARIANTS = (UNPATCHED, EAGER, COMPILED, FUSED, SCRIPTED)

#: Channels × height × width of the activations that end ResNet-50's four stages.
RESNET50 = ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))


@dataclass(frozen=True)
class Bounds:
    """What the fused op must reach, as medians over the shapes.

    Attributes:
        floor: at most this many times the time of moving the bytes once; None where that is not asked.
        eager: at least this many times as fast as plain PyTorch, by type.
        compiled: at least this many times as fast as ``torch.compile``.
    """

    floor: float | None
    eager: Mapping[str, float]
    compiled: float


#: Of every single shape: none slower than eager, none more than 5 % slower than torch.compile.
EACH_SHAPE = {EAGER: 1.0, COMPILED: 0.95}
BACKWARD = Bounds(floor=None, eager={"fp32": 1.5, "bf16": 3.0}, compiled=1.2)


@dataclass(frozen=True)
class Entry:
    """One op of the suite.

    Attributes:
        name: how results call it.
        op: the function in ``torchvision_customizer.ops``.
        weights: makes the tensor arguments besides ``x`` and ``residual``, in the order of the op, from the shape of ``x``.
        plain: makes the module in plain PyTorch from the weights and the options.
        options: the string arguments.
        residual: whether the op adds one.
        bounds: of the forward.
        backward_bounds: of the backward.
        shapes: C×H×W.
        batches: batch sizes.
    """

    name: str
    op: str
    weights: Callable[[tuple[int, ...], torch.Generator], dict[str, Tensor]]
    plain: Callable[..., nn.Module]
    bounds: Bounds
    options: Mapping[str, str] = field(default_factory=dict)
    residual: bool = False
    backward_bounds: Bounds = BACKWARD
    shapes: tuple[tuple[int, int, int], ...] = RESNET50
    batches: tuple[int, ...] = BATCHES


@dataclass(frozen=True)
class Case:
    """One measurement of the suite: an entry at one shape, type, layout, direction and state of the caches."""

    entry: str
    direction: str
    shape: tuple[int, int, int]
    batch: int
    dtype: str
    layout: str
    cache: str = "warm"

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"{self.entry} {self.direction} {self.batch}x{size} {self.dtype} {self.layout} {self.cache}"


def _mlp(shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of a reduction by 16, of a size that keeps gates apart."""
    channels = shape[1]
    reduced = max(1, channels // 16)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    # The mean of many values is small, so w1 is scaled for gates that differ. Its products are about 0.25 and b1 is 2 or -2:
    # rounding cannot flip a hidden ReLU, which would change gradients by more than rounding does.
    return {
        "w1": normal(reduced, channels) * 0.25 * (shape[2] * shape[3] / channels) ** 0.5,
        "b1": normal(reduced).sign() * 2,
        "w2": normal(channels, reduced) / reduced**0.5,
        "b2": normal(channels) * 0.1,
    }


SUITE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="squeeze_excite",
            op="squeeze_excite",
            weights=_mlp,
            plain=PlainSqueezeExcite,
            bounds=Bounds(floor=1.25, eager={"fp32": 1.8, "bf16": 6.0}, compiled=2.0),
        ),
        Entry(
            name="squeeze_excite+residual+relu",
            op="squeeze_excite",
            weights=_mlp,
            plain=PlainSqueezeExcite,
            options={"post": "relu"},
            residual=True,
            bounds=Bounds(floor=1.2, eager={"fp32": 3.2, "bf16": 5.0}, compiled=2.0),
        ),
    )
}


@dataclass(frozen=True)
class Selection:
    """Which cases of the suite to run; an empty field stands for all that there are."""

    entries: tuple[str, ...] = ()
    directions: tuple[str, ...] = DIRECTIONS
    shapes: tuple[tuple[int, int, int], ...] = ()
    batches: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ("fp32", "bf16")
    layouts: tuple[str, ...] = tuple(LAYOUTS)
    caches: tuple[str, ...] = ("warm",)

    def cases(self) -> Iterator[Case]:
        """The cases, an entry and a direction after the other."""
        for name in self.entries or SUITE:
            entry = SUITE[name]
            shapes, batches = self.shapes or entry.shapes, self.batches or entry.batches
            for direction, cache, dtype, layout, shape, batch in itertools.product(
                self.directions, self.caches, self.dtypes, self.layouts, shapes, batches
            ):
                yield Case(name, direction, shape, batch, dtype, layout, cache)


#: What ``--quick`` measures: one large and one small activation.
QUICK_SELECTION = Selection(shapes=(RESNET50[1], RESNET50[3]), batches=(8,), layouts=("channels_last",))


@dataclass(frozen=True)
class ModelBounds:
    """What a fused model must reach against the unpatched one: "SE for free".

    Attributes:
        backbone: the model.
        patches: what is patched.
        layout: of model and input.
        batches: batch sizes.
        dtypes: types.
        inference: at most this many times the time of the unpatched model.
        training: the same for a training step.
    """

    backbone: str = "resnet50"
    patches: tuple[str, ...] = ("layer*=inject:se",)
    layout: str = "channels_last"
    batches: tuple[int, ...] = (1, 8)
    dtypes: tuple[str, ...] = ("fp32", "bf16")
    inference: float = 1.0
    training: float = 1.05


HEADLINE = ModelBounds()
