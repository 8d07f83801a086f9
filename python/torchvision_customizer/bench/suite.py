"""The op suite as data: which ops, at which shapes, and what ops are held to. A new op is one :class:`Entry`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .networks import NETWORKS, Shape
from .plain import PlainCBAM, PlainDropPath, PlainECA, PlainGeM, PlainSqueezeExcite

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: How activations lie in memory: maps (N, C, H, W) in one of the first two, tokens (N, C, L) as permuted views of (N, L, C).
LAYOUTS = ("nchw", "channels_last")
TOKENS = "tokens"
#: ``training`` is forward and backward as one call, with its memory.
DIRECTIONS = ("forward", "backward", "training")
CACHES = ("warm", "cold")
BATCHES = (1, 8, 32)

FLOOR, LIMIT, EAGER, TIMM, COMPILED, SCRIPTED, FUSED = "floor", "limit", "eager", "timm", "compile", "torchscript", "fused"
#: The fused op on one thread: what a second one brings is asked of large activations.
ONE_THREAD = "fused, 1 thread"
UNPATCHED, INFERENCE, IDENTITY = "unpatched", "inference", "identity"
#: What is compared of an op, of a patched model, and of a library's model.
VARIANTS = (FLOOR, LIMIT, EAGER, TIMM, COMPILED, SCRIPTED, FUSED, ONE_THREAD)
MODEL_VARIANTS = (UNPATCHED, EAGER, COMPILED, FUSED, INFERENCE, SCRIPTED)
LIBRARY_VARIANTS = (EAGER, FUSED, INFERENCE, IDENTITY)


@dataclass(frozen=True)
class Bounds:
    """What the fused op must reach, as medians over the shapes. None, and a type that is not named, is not asked.

    Attributes:
        floor: at most this many times the time of moving the bytes once.
        eager: at least this many times as fast as plain PyTorch, by type.
        compiled: at least this many times as fast as ``torch.compile``.
        saved: training keeps at most this many times the bytes that plain PyTorch keeps, at every shape.
    """

    floor: float | None = None
    eager: Mapping[str, float] = field(default_factory=dict)
    compiled: float | None = None
    saved: float | None = None


#: Of every single shape: none slower than eager, none more than 5 % slower than torch.compile.
EACH_SHAPE = {EAGER: 1.0, COMPILED: 0.95}
BACKWARD = Bounds(eager={"fp32": 1.5, "bf16": 3.0}, compiled=1.2)
#: Of activations that are larger, two threads are so many times as fast as one.
SCALING, SCALING_BYTES = 1.7, 4 << 20


@dataclass(frozen=True)
class Entry:
    """One op of the suite.

    Attributes:
        name: how results call it.
        op: the function in ``torchvision_customizer.ops``.
        weights: makes the tensor arguments besides ``x`` and ``residual``, in the order of the op, from the shape of ``x``.
        plain: makes the module in plain PyTorch from the weights and the options.
        reads: how often a forward must read x, which it reads from a cache but for the first time.
        bounds: of the forward.
        options: the string arguments.
        residual: whether the op adds one.
        place: where it sits in a network: ``gate``, ``tail`` or ``pool``, which gives (N, C).
        maps_only: it takes (N, C, H, W) and no tokens.
        backward_bounds: of the backward.
        training_bounds: of forward and backward.
        batches: batch sizes.
    """

    name: str
    op: str
    weights: Callable[[tuple[int, ...], torch.Generator], dict[str, Tensor]]
    plain: Callable[..., nn.Module]
    reads: int
    bounds: Bounds
    options: Mapping[str, str] = field(default_factory=dict)
    residual: bool = False
    place: str = "gate"
    maps_only: bool = False
    backward_bounds: Bounds = BACKWARD
    training_bounds: Bounds = Bounds()
    batches: tuple[int, ...] = BATCHES

    @property
    def writes(self) -> bool:
        """Whether the output is as large as x."""
        return self.place != "pool"

    def shapes(self, network: str) -> tuple[Shape, ...]:
        """Where the op sits in a network, or would."""
        shapes: tuple[Shape, ...] = getattr(NETWORKS[network], f"{self.place}s")
        # Tokens L are maps of H×W positions, read in the layout of tokens: that is channels_last.
        return tuple((c, *_square(*rest)) if self.maps_only else (c, *rest) for c, *rest in shapes)

    def passes(self, direction: str) -> tuple[int, int]:
        """How many activations must be read and written at the least, each counted once."""
        if direction == "forward":
            return 1 + self.residual, int(self.writes)
        post = self.options.get("post", "none") != "none"
        # Backward reads grad where it is as large as x, x where the gradient needs it, and the output where an activation
        # does; it writes the gradient of x, and that of the residual unless it is grad itself.
        reads, writes = self.writes + (self.place != "tail") + post, 1 + (post and self.residual)
        if direction == "backward":
            return reads, writes
        forward = self.passes("forward")
        return reads + forward[0], writes + forward[1]


def _square(*sizes: int) -> tuple[int, ...]:
    side = round(sizes[0] ** 0.5)
    return (side, side) if len(sizes) == 1 and side * side == sizes[0] else sizes


@dataclass(frozen=True)
class Case:
    """One measurement of the suite: an entry at one shape, type, layout, direction and state of the caches."""

    entry: str
    direction: str
    shape: Shape
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
    positions = math.prod(shape[2:])
    return {
        "w1": normal(reduced, channels) * 0.25 * (positions / channels) ** 0.5,
        "b1": normal(reduced).sign() * 2,
        "w2": normal(channels, reduced) / reduced**0.5,
        "b2": normal(channels) * 0.1,
    }


def _eca(shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    """The kernel of the paper's size for so many channels, and values for gates that differ."""
    half = int(abs(math.log2(shape[1]) + 1) / 2)
    kernel = max(half if half % 2 else half + 1, 3)
    return {"weight": torch.randn(kernel, generator=generator) * math.prod(shape[2:]) ** 0.5}


def _cbam(shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of a reduction by 16 and a 7×7 kernel over positions."""
    weights = _mlp(shape, generator)
    # The largest of many values is about 4: with these products it flips no hidden ReLU either.
    weights["w1"] = torch.randn(weights["w1"].shape, generator=generator) * 0.06 / shape[1] ** 0.5
    # Which of two channels is the largest hangs on rounding; the gradient through it is kept below what rounding may do.
    spatial = torch.randn(1, 2, 7, 7, generator=generator) * torch.tensor([0.3, 1e-3]).view(1, 2, 1, 1)
    return {**weights, "spatial_weight": spatial, "spatial_bias": torch.tensor([0.5])}


def _p_is(p: float) -> Callable[[tuple[int, ...], torch.Generator], dict[str, Tensor]]:
    return lambda shape, generator: {"p": torch.tensor([p])}


#: In the suite's masks nothing is dropped, which is the dearest case: a dropped sample's branch is not even read.
DROP_PROB = 1 / 64


def _mask(shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    return {"mask": torch.full(shape[:1], 1 / (1 - DROP_PROB))}


SUITE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="squeeze_excite",
            op="squeeze_excite",
            weights=_mlp,
            plain=PlainSqueezeExcite,
            reads=2,
            bounds=Bounds(floor=1.25, eager={"fp32": 1.8, "bf16": 6.0}, compiled=2.0),
            training_bounds=Bounds(saved=1.0),
        ),
        Entry(
            name="squeeze_excite+residual+relu",
            op="squeeze_excite",
            weights=_mlp,
            plain=PlainSqueezeExcite,
            reads=2,
            options={"post": "relu"},
            residual=True,
            bounds=Bounds(floor=1.2, eager={"fp32": 3.2, "bf16": 5.0}, compiled=2.0),
            training_bounds=Bounds(saved=1.0),
        ),
        Entry(
            name="eca",
            op="eca",
            weights=_eca,
            plain=PlainECA,
            reads=2,
            bounds=Bounds(floor=1.25, eager={"fp32": 1.7, "bf16": 5.5}, compiled=2.0),
            training_bounds=Bounds(saved=1.0),
        ),
        Entry(  # asked is what is asked of squeeze-and-excitation, which makes the same passes
            name="eca+residual+relu",
            op="eca",
            weights=_eca,
            plain=PlainECA,
            reads=2,
            options={"post": "relu"},
            residual=True,
            bounds=Bounds(floor=1.2, eager={"fp32": 3.2, "bf16": 5.0}, compiled=2.0),
            training_bounds=Bounds(saved=1.0),
        ),
        Entry(
            name="cbam",
            op="cbam",
            weights=_cbam,
            plain=PlainCBAM,
            reads=3,
            maps_only=True,
            bounds=Bounds(floor=1.8, eager={"fp32": 4.0, "bf16": 14.0}, compiled=3.3),
            training_bounds=Bounds(saved=0.5),
        ),
        Entry(
            name="cbam+residual+relu",
            op="cbam",
            weights=_cbam,
            plain=PlainCBAM,
            reads=3,
            maps_only=True,
            options={"post": "relu"},
            residual=True,
            bounds=Bounds(),
        ),
        Entry(
            name="gem_pool",
            op="gem_pool",
            weights=_p_is(3.0),
            plain=PlainGeM,
            reads=1,
            place="pool",
            bounds=Bounds(floor=0.5, eager={"fp32": 16.0, "bf16": 40.0}, compiled=14.0),
            training_bounds=Bounds(saved=0.4),
        ),
        Entry(
            name="gem_pool p=2.5",
            op="gem_pool",
            weights=_p_is(2.5),
            plain=PlainGeM,
            reads=1,
            place="pool",
            bounds=Bounds(eager={"fp32": 4.0, "bf16": 10.0}, compiled=4.0),
            training_bounds=Bounds(saved=0.4),
        ),
        Entry(
            name="drop_path+residual",
            op="drop_path",
            weights=_mask,
            plain=PlainDropPath,
            reads=1,
            residual=True,
            place="tail",
            bounds=Bounds(floor=1.05, eager={"fp32": 1.65, "bf16": 1.8}, compiled=1.15),
            training_bounds=Bounds(saved=1.0),
        ),
    )
}


@dataclass(frozen=True)
class Selection:
    """Which cases of the suite to run; an empty field stands for all that there are.

    Attributes:
        entries: names in ``SUITE``.
        directions: of ``DIRECTIONS``.
        networks: of ``NETWORKS``, whose shapes are taken where ``shapes`` names none.
        shapes: C×H×W of maps, or C×L of tokens.
        batches: batch sizes.
        dtypes: of ``DTYPES``.
        layouts: of ``LAYOUTS``, for maps.
        caches: of ``CACHES``.
    """

    entries: tuple[str, ...] = ()
    directions: tuple[str, ...] = ("forward", "backward")
    networks: tuple[str, ...] = ("resnet50",)
    shapes: tuple[Shape, ...] = ()
    batches: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ("fp32", "bf16")
    layouts: tuple[str, ...] = LAYOUTS
    caches: tuple[str, ...] = ("warm",)

    def cases(self) -> Iterator[Case]:
        """The cases, an entry and a direction after the other."""
        for name in self.entries or SUITE:
            entry = SUITE[name]
            of_networks = (shape for network in self.networks or NETWORKS for shape in entry.shapes(network))
            shapes = self.shapes or tuple(dict.fromkeys(of_networks))
            placed = [
                (layout, shape)
                for layout in (*self.layouts, TOKENS)
                for shape in shapes
                if (layout == TOKENS) == (len(shape) == 2) and not (entry.maps_only and layout == TOKENS)
            ]
            for direction, cache, dtype, (layout, shape), batch in itertools.product(
                self.directions, self.caches, self.dtypes, placed, self.batches or entry.batches
            ):
                yield Case(name, direction, shape, batch, dtype, layout, cache)


#: What ``--quick`` measures: one large and one small activation.
QUICK_SELECTION = Selection(shapes=((512, 28, 28), (2048, 7, 7)), batches=(8,), layouts=("channels_last",))
#: What ``tvc benchmark --ops`` measures by itself.
USUAL_SELECTION = Selection(batches=(8,))


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


@dataclass(frozen=True)
class Shipped:
    """A form in which a patched model ships.

    Attributes:
        format: a name of ``deploy.FORMATS``.
        fused: of the fused model; else of the one in plain PyTorch.
        ops: whether the ops stay whole; else their references are in their place.
    """

    format: str
    fused: bool = True
    ops: bool = True


#: What ``tvc benchmark --exported`` makes of a model, besides ``EAGER`` and ``FUSED``.
PLAIN_SCRIPTED, PLAIN_AOTI, AOTI = "torchscript, plain", "aoti, references", "aoti"
SHIPPED = {
    PLAIN_SCRIPTED: Shipped("torchscript", fused=False),
    SCRIPTED: Shipped("torchscript"),
    "pt2": Shipped("pt2"),
    PLAIN_AOTI: Shipped("aoti", ops=False),
    AOTI: Shipped("aoti"),
    "onnx": Shipped("onnx", ops=False),
    "onnx, translated": Shipped("onnx"),
}
#: What is asked of them: the time of the first is at least so many times that of the second, for these patches of the headline.
SHIPPED_BOUNDS = ((FUSED, SCRIPTED, 1.0), (PLAIN_SCRIPTED, SCRIPTED, 1.2), (PLAIN_AOTI, AOTI, 1.0))
SHIPPED_PATCHES = (("layer*=inject:se",), ("layer*=inject:cbam",))


@dataclass(frozen=True)
class LibraryModel:
    """A library's model with attention in it, and what ``fuse`` must reach on it, at batch 8, against the model as it is.

    Attributes:
        library: ``torchvision`` or ``timm``.
        model: its name there.
        arguments: of the function that makes it.
        fused: at least so many times as fast after ``fuse``, by type.
        inference: the same after ``fuse`` with ``inference=True``.
        left: at most this share is left of what attention costs, which is the time with its blocks less that without them.
        batch: what this is asked at.
    """

    library: str
    model: str
    fused: Mapping[str, float]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inference: Mapping[str, float] = field(default_factory=lambda: {"fp32": 1.12, "bf16": 1.25})
    left: float = 0.25
    batch: int = 8


LIBRARY_MODELS: dict[str, LibraryModel] = {
    "efficientnet_b0": LibraryModel("torchvision", "efficientnet_b0", {"bf16": 1.13}),
    "mobilenet_v3_large": LibraryModel("torchvision", "mobilenet_v3_large", {"bf16": 1.12}),
    "regnet_y_800mf": LibraryModel("torchvision", "regnet_y_800mf", {"bf16": 1.18}),
    "seresnet50": LibraryModel("timm", "seresnet50", {"bf16": 1.22}),
    "ecaresnet50d": LibraryModel("timm", "ecaresnet50d", {"bf16": 1.25}),
    "cbamresnet50": LibraryModel("timm", "resnet50", {"bf16": 1.5}, {"block_args": {"attn_layer": "cbam"}}),
}
