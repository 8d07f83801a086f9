"""The patterns of stages: names of blocks that a stage repeats, and the options that each takes."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from .. import registry
from ..blocks import (
    ConvBlock,
    DenseConnectionBlock,
    DepthwiseBlock,
    FusedMBConv,
    GroupedBottleneck,
    MBConv,
    ResidualBlock,
    StandardBottleneck,
    WideBottleneck,
)
from ..errors import nearest
from ..layers import get_activation, get_normalization

Maker = Callable[..., nn.Module]
M = TypeVar("M", bound=Maker)

#: What a stage calls some options, and what blocks call them.
_BLOCK_NAMES = {"norm": "norm_type", "groups": "num_groups"}
#: What is no option: the stage gives it by itself.
_OWN = ("in_channels", "out_channels", "stride", "blocks", "device", "dtype", "use_batchnorm")
DROP_PATH = 0.1  # of the suffix, where no rate is given


@dataclass(frozen=True)
class Pattern:
    """What makes the blocks of a stage."""

    name: str
    make: Maker

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.make).parameters)

    @property
    def takes_all(self) -> bool:
        return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in self.parameters.values())

    @property
    def makes_stage(self) -> bool:
        return "blocks" in self.parameters

    def options(self) -> list[str]:
        """The options that it takes, as a stage calls them."""
        names = {block: name for name, block in _BLOCK_NAMES.items()}
        kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        known = [key for key, parameter in self.parameters.items() if parameter.kind not in kinds]
        return [names.get(key, key) for key in known if key not in _OWN]

    def check(self, stage: str, options: Mapping[str, Any]) -> None:
        """Check that each option is taken, and that one for squeeze-and-excitation has some."""
        known = self.options()
        for option in options:
            if option not in known and not self.takes_all:
                hint = nearest(option, known)
                raise ValueError(f"{stage}: pattern '{self.name}' has no option '{option}'{hint} (it takes {', '.join(known)})")
        if "se_reduction" in options and not self._has_se(options):
            raise ValueError(f"{stage}: se_reduction is for squeeze-and-excitation, and there is none; write '{self.name}+se'")

    def _has_se(self, options: Mapping[str, Any]) -> bool:
        switch = self.parameters.get("use_se")
        attention = options.get("attention")
        if attention is not None:
            return registry.canonical_name(attention) == "se"
        return self.takes_all or bool(options.get("use_se", switch is not None and switch.default is True))

    def arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options as the blocks call them."""
        return {
            _BLOCK_NAMES[key] if key in _BLOCK_NAMES and key not in self.parameters else key: value
            for key, value in options.items()
        }


_patterns: dict[str, Pattern] = {}


def register_pattern(name: str) -> Callable[[M], M]:
    """Decorator that makes a pattern of stages known.

    Args:
        name: what ``Stage(pattern=…)`` calls it; lower case, without ``+``.

    What is decorated is a function or class that makes one block from ``in_channels``, ``out_channels``, ``stride`` and
    options, all by keyword but the first two. Its options become those of the stage; ``norm`` (or ``norm_type``),
    ``activation``, ``attention`` (for the suffixes ``+se``, ``+eca``, ``+cbam``) and ``drop_path`` are the usual names. One
    that takes ``blocks`` makes a whole stage of so many.

    Raises:
        ValueError: the name is taken, or differs from one that is only by case and separators; or what is decorated takes no
            ``stride``.
    """
    if not isinstance(name, str) or not name or name != name.lower() or "+" in name or name != name.strip():
        raise ValueError(f"a pattern's name is lower case, without '+' and without spaces around it, got {name!r}")

    def decorate(make: M) -> M:
        for known in _patterns.values():
            is_redefined = (known.make.__module__, known.make.__qualname__) == (make.__module__, make.__qualname__)
            if _plain(known.name) == _plain(name) and not (known.name == name and is_redefined):
                holder = f"{known.make.__module__}.{known.make.__qualname__}"
                raise ValueError(f"cannot register the pattern '{name}': {holder} is the pattern '{known.name}'")
        pattern = Pattern(name, make)
        if "stride" not in pattern.parameters and not pattern.takes_all:
            raise ValueError(f"cannot register the pattern '{name}': {make.__qualname__} takes no stride")
        _patterns[name] = pattern
        return make

    return decorate


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def list_patterns() -> list[str]:
    """Names of the patterns, sorted."""
    return sorted(_patterns)


def parse_pattern(text: str, stage: str, options: Mapping[str, Any]) -> tuple[Pattern, dict[str, Any]]:
    """The pattern of ``NAME+suffix+…``, and its options with what the suffixes stand for.

    Raises:
        ValueError: an unknown pattern, suffix or option, with the nearest one; or two attentions.
    """
    name, *suffixes = (part.strip().lower() for part in str(text).split("+"))
    if name not in _patterns:
        raise ValueError(f"{stage}: unknown pattern '{name}'{nearest(name, _patterns)} (known: {', '.join(list_patterns())})")
    pattern, given = _patterns[name], dict(options)
    attentions = registry.names("attention")
    for suffix in suffixes:
        if suffix == "drop_path":
            given.setdefault("drop_path", DROP_PATH)
        elif suffix not in attentions:
            hint = nearest(suffix, [*attentions, "drop_path"])
            raise ValueError(f"{stage}: unknown suffix '+{suffix}'{hint} (known: +drop_path, +{', +'.join(_usual())})")
        elif given.get("attention") not in (None, suffix):
            raise ValueError(f"{stage}: a block has one attention, and there are '{given['attention']}' and '{suffix}'")
        else:
            given["attention"] = suffix
        option = "drop_path" if suffix == "drop_path" else "attention"
        if option not in pattern.options() and not pattern.takes_all:
            raise ValueError(f"{stage}: pattern '{name}' takes no '+{suffix}' (its options: {', '.join(pattern.options())})")
    pattern.check(stage, given)
    return pattern, given


def _usual() -> list[str]:
    return [name for name in ("se", "eca", "cbam") if name in registry.list("attention")]


def _dense(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    blocks: int = 2,
    growth_rate: int = 32,
    kernel_size: int = 3,
    bottleneck_ratio: int = 4,
    dropout_rate: float = 0.0,
    activation: str = "relu",
    norm_type: str = "batch",
    attention: str | None = None,
) -> nn.Module:
    """A dense block of ``blocks`` layers, and what makes it a stage like the others.

    With a stride, an average pool comes before it. After it come a norm, an activation and, unless the block happens to give
    ``out_channels``, a 1×1 convolution.

    Source: Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, https://arxiv.org/abs/1608.06993
    """
    dense = DenseConnectionBlock(
        blocks,
        in_channels,
        growth_rate,
        kernel_size,
        bottleneck_ratio,
        activation,
        dropout_rate=dropout_rate,
        norm_type=norm_type,
        attention=attention,
    )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if stride > 1:
        layers["pool"] = nn.AvgPool2d(stride, ceil_mode=True)  # the size that a convolution with that stride gives
    layers["dense"] = dense
    layers["norm"] = get_normalization(norm_type, dense.out_channels)
    layers["activation"] = get_activation(activation)
    if dense.out_channels != out_channels:
        layers["conv"] = nn.Conv2d(dense.out_channels, out_channels, 1, bias=False)
    return nn.Sequential(layers)


register_pattern("conv")(ConvBlock)
register_pattern("residual")(ResidualBlock)
register_pattern("bottleneck")(StandardBottleneck)
register_pattern("wide_bottleneck")(WideBottleneck)
register_pattern("grouped_bottleneck")(GroupedBottleneck)
register_pattern("depthwise")(DepthwiseBlock)
register_pattern("dense")(_dense)
register_pattern("mbconv")(MBConv)
register_pattern("fused_mbconv")(FusedMBConv)
