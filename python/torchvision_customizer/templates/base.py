"""``Template``: a family of torchvision as a value that is changed step by step, and then built."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from .. import registry
from ..blocks._by_name import block_name
from ..errors import WeightsError, nearest
from ..hybrid import HybridBuilder, HybridModel, apply, plan
from ..hybrid.heads import HeadSpec
from ..hybrid.model import note
from ..hybrid.weights import SUFFIXES, Weights
from .parts import Attention, Changes, Head, Network, check
from .patching import patches_of

T = TypeVar("T", bound="Callable[..., Template]")

_registered: dict[str, Callable[..., Template]] = {}
_families: dict[str, type[Template]] = {}


class Template:
    """A network of torchvision, changed before it is built.

        model = Template.resnet(50).add_attention("se").replace_activation("gelu").build(num_classes=10)

    Each method that changes a template changes this one and returns it, so that calls can be chained or written one below the
    other; one that refuses leaves it as it was. ``copy.deepcopy`` keeps a state. Stages are counted from 0.

    As long as the sizes are torchvision's, so are class, names and start of what is built, and its weights load; the rest is
    done by patches, which are in ``model.report`` and can be taken out with ``unpatch``.
    """

    network_type: ClassVar[type[Network]]
    #: The names by which torchvision knows networks of the family, and what makes a template of each.
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    name: str
    network: Network
    changes: Changes
    stage_changes: tuple[Changes, ...]
    head: Head

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "network_type" in vars(cls):
            _families[cls.network_type.family] = cls

    def __init__(self) -> None:
        raise TypeError("a template is made by Template.resnet, .vgg, .mobilenet, .densenet, .efficientnet or .from_name")

    def _start(self, name: str, network: Network) -> None:
        self.name, self.network = name, network
        self.changes, self.head = Changes(), Head()
        self.stage_changes = (Changes(),) * len(network.stages)

    # Making one

    @staticmethod
    def resnet(layers: int = 50, **options: Any) -> Template:
        """A ResNet; ``options`` are those of the function ``resnet`` but for ``num_classes`` and ``weights``."""
        return Template.from_name("resnet", layers=layers, **options)

    @staticmethod
    def vgg(layers: int = 16, **options: Any) -> Template:
        """A VGG; ``options`` are those of the function ``vgg`` but for ``num_classes`` and ``weights``."""
        return Template.from_name("vgg", layers=layers, **options)

    @staticmethod
    def mobilenet(version: int = 2, **options: Any) -> Template:
        """A MobileNet; ``options`` are those of the function ``mobilenet`` but for ``num_classes`` and ``weights``."""
        return Template.from_name("mobilenet", version=version, **options)

    @staticmethod
    def densenet(layers: int = 121, **options: Any) -> Template:
        """A DenseNet; ``options`` are those of the function ``densenet`` but for ``num_classes`` and ``weights``."""
        return Template.from_name("densenet", layers=layers, **options)

    @staticmethod
    def efficientnet(variant: str = "b0", **options: Any) -> Template:
        """An EfficientNet; ``options`` are those of the function ``efficientnet`` but for ``num_classes`` and ``weights``."""
        return Template.from_name("efficientnet", variant=variant, **options)

    @staticmethod
    def from_name(name: str, **options: Any) -> Template:
        """A template by name.

        Args:
            name: one of ``list_templates()``, or a torchvision model of one of the families (``resnext50_32x4d``).
            options: of the family's function, but for ``num_classes`` and ``weights``.

        Raises:
            ValueError: unknown name, with the nearest one; or an option that is refused.
            TypeError: an option that there is not.
        """
        if name in _registered:
            return _registered[name](**options)
        for template in _families.values():
            if name in template.variants:
                return template(**{**template.variants[name], **options})
        known = [*_registered, *(variant for template in _families.values() for variant in template.variants)]
        raise ValueError(f"unknown template '{name}'{nearest(name, known)} (templates: {', '.join(Template.list_templates())})")

    @staticmethod
    def list_templates() -> list[str]:
        """Names of the templates, sorted."""
        return sorted(_registered)

    @staticmethod
    def register(name: str) -> Callable[[T], T]:
        """Decorator that makes a class of templates, or a function that gives one, known under a name.

        Raises:
            ValueError: the name is taken by another.
        """

        def decorate(template: T) -> T:
            holder = _registered.get(name)
            if holder is not None and (holder.__module__, holder.__qualname__) != (template.__module__, template.__qualname__):
                raise ValueError(
                    f"cannot register {template.__module__}.{template.__qualname__} as template '{name}': "
                    f"{holder.__module__}.{holder.__qualname__} holds that name"
                )
            _registered[name] = template
            return template

        return decorate

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Template:
        """The template of which ``get_config`` gave this.

        Raises:
            ValueError: a key or a value that cannot be; the message has the place.
        """
        expected = ("family", "name", "network", "changes", "stages", "head")
        unknown = next((key for key in config if key not in expected), None)
        if unknown is not None:
            raise ValueError(f"config has no key '{unknown}'{nearest(str(unknown), expected)} (keys: {', '.join(expected)})")
        missing = next((key for key in expected[:3] if key not in config), None)
        if missing is not None:
            raise ValueError(f"config: '{missing}' is missing")
        family = config["family"]
        if family not in _families:
            raise ValueError(f"config.family: unknown family '{family}'{nearest(str(family), _families)}")
        kind = _families[family]
        template = kind.__new__(kind)
        template._start(str(config["name"]), check("config.network", kind.network_type, config["network"]))
        template.changes = check("config.changes", Changes, config.get("changes", {}))
        count = len(template.network.stages)
        stages = config.get("stages", [{}] * count)
        if len(stages) != count:
            raise ValueError(f"config.stages: there are {count} stages in config.network, got {len(stages)}")
        template.stage_changes = tuple(check(f"config.stages[{n}]", Changes, stage) for n, stage in enumerate(stages))
        template.head = check("config.head", Head, config.get("head", {}))
        return template

    # Changing it

    def replace_activation(self, activation: str) -> Self:
        """Let all activations be another one, but for gates (a sigmoid in a squeeze-and-excitation).

        Args:
            activation: a name that ``layers.get_activation`` takes.

        Raises:
            ValueError: unknown name, with the nearest one.
        """
        return self._set(changes=self.changes.changed(self._family, {"activation": block_name("activation", activation)}))

    def replace_norm(self, norm_type: str) -> Self:
        """Let all norms be another one.

        Args:
            norm_type: a name that ``layers.get_normalization`` takes; ``none`` leaves them out.

        Raises:
            ValueError: unknown name, with the nearest one, or a VGG without norms.
        """
        name = block_name("norm", norm_type)
        self._check_norms()
        return self._set(changes=self.changes.changed(self._family, {"norm": name}))

    def add_attention(
        self,
        type: str = "se",
        after: str = "block",
        params: Mapping[str, Any] | None = None,
        init: str = "identity",
    ) -> Self:
        """Put an attention block into all stages, besides what is there.

        Args:
            type: of ``registry.list("attention")``, or an alias.
            after: ``block``: into every block, at the end of its residual branch, or, where it adds nothing, at its own end
                (in a VGG, whose stages are its blocks, before each pool); ``conv``: behind every convolution of space, which
                those of 1×1 are not; ``stage``: once behind each stage.
            params: arguments of the block; channels are found out.
            init: ``identity`` starts as the same function, ``paper`` as published.

        Raises:
            ValueError: a name, place or argument that there is not, with the nearest one.
        """
        attention = self._attention({"type": type, "after": after, "params": dict(params or {}), "init": init}, self._family)
        changes = (stage.model_copy(update={"attention": (*stage.attention, attention)}) for stage in self.stage_changes)
        return self._set(stage_changes=tuple(changes))

    def modify_stage(self, index: int, **options: Any) -> Self:
        """Change one stage.

        Args:
            index: of the stage, from 0; negative ones count from the end.
            options: sizes that the family's stages have (``describe()`` shows them: ``blocks``, ``channels``, ``stride`` …);
                ``activation`` and ``norm``, which go before those of the whole network; ``attention``, in place of what the
                stage has: a name, arguments of ``add_attention`` as a dictionary with ``type`` for the name, a list of such,
                or None.

        Raises:
            ValueError: no such stage or option, with what there is; or a value that is refused.
        """
        count = len(self.network.stages)
        if isinstance(index, bool) or not isinstance(index, int) or not -count <= index < count:
            raise ValueError(f"{self._family} has the stages 0 to {count - 1}, got {index!r}")
        index %= count
        place = f"{self._family}: stage {index}"
        stage, change = self.network.stages[index], self.stage_changes[index]
        sizes = {*type(stage).model_fields} | ({"blocks"} if hasattr(stage, "with_blocks") else set())
        known = [*sorted(sizes), *Changes.model_fields]
        for option in options:
            if option not in known:
                raise ValueError(f"{place} has no option '{option}'{nearest(option, known)} (options: {', '.join(known)})")
        new_sizes = {key: value for key, value in options.items() if key in sizes}
        new: dict[str, Any] = {key: value for key, value in options.items() if key not in sizes}
        if new.get("activation") is not None:
            new["activation"] = block_name("activation", new["activation"])
        if new.get("norm") is not None:
            self._check_norms()
            new["norm"] = block_name("norm", new["norm"])
        if "attention" in new:
            given = new["attention"]
            found = given if isinstance(given, list | tuple) else [] if given in (None, "none") else [given]
            new["attention"] = tuple(
                self._attention(item if isinstance(item, Mapping) else {"type": item}, place) for item in found
            )
        stages = list(self.network.stages)
        if hasattr(stage, "with_blocks") and "blocks" in new_sizes:
            stage = stage.with_blocks(place, new_sizes.pop("blocks"))
        stages[index] = stage.changed(place, new_sizes)
        changes = list(self.stage_changes)
        changes[index] = change.model_copy(update=new)
        return self._set(network=self._resized({"stages": tuple(stages)}), stage_changes=tuple(changes))

    def set_stem(self, **options: Any) -> Self:
        """Change sizes of the stem: what ``describe()`` shows of it (``channels``, ``in_channels``, ``kernel``, ``pool`` …).

        Raises:
            ValueError: an option that the family's stem has not, with those that it has; or a value that is refused.
        """
        stem = self.network.stem.changed(f"{self._family}: the stem", options)
        return self._set(network=self._resized({"stem": stem}))

    def set_head(self, *, hidden: int | Sequence[int] | None = None, dropout: float | None = None) -> Self:
        """Change what comes before the last layer.

        Args:
            hidden: widths of hidden layers that are put before it, each with a ReLU; what the family has there stays.
            dropout: probability of the dropout before it.

        Raises:
            ValueError: a value out of range.
        """
        place = f"{self._family}: the head"
        head, network = self.head, self.network
        if hidden is not None:
            head = head.changed(place, {"hidden": (hidden,) if isinstance(hidden, int) else hidden})
        if dropout is not None:
            probability = Head().changed(place, {"dropout": dropout}).dropout
            if "dropout" in type(network).model_fields:
                network = self._resized({"dropout": probability})
            else:
                head = head.changed(place, {"dropout": probability})
        return self._set(head=head, network=network)

    def use_dropout(self, rate: float) -> Self:
        """Set the dropout that the family's function calls so: before the last layer, and in a DenseNet in each dense layer.

        Raises:
            ValueError: it is no probability below 1.
        """
        field = self.network.dropout_field
        if field in (None, "dropout"):
            return self.set_head(dropout=rate)
        return self._set(network=self._resized({str(field): rate}))

    def scale_channels(self, factor: float) -> Self:
        """Multiply the widths that the network has by now.

        MobileNets and EfficientNets round them to multiples of 8, as torchvision does; the 1280 of a MobileNetV2 and the hidden
        layers of a VGG's classifier stay. Of a DenseNet, stem and growth rate are multiplied.

        Raises:
            ValueError: it is no number above 0, or leaves no channels.
        """
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise ValueError(f"{self._family}: the factor must be a number above 0, got {factor!r}")
        return self._set(network=self.network.scaled(factor))

    # What it is, and what comes of it

    def get_config(self) -> dict[str, Any]:
        """All of it as plain data, from which ``from_config`` makes it anew."""
        return {
            "family": self._family,
            "name": self.name,
            "network": self.network.model_dump(mode="json"),
            "changes": self.changes.model_dump(mode="json", exclude={"attention"}),
            "stages": [stage.model_dump(mode="json") for stage in self.stage_changes],
            "head": self.head.model_dump(mode="json"),
        }

    @property
    def torchvision_name(self) -> str | None:
        """The name of the torchvision model that has the same tensors, or None."""
        for name in self.variants:
            if self.network.difference(_published(self._family, name)) is None:
                return name
        return None

    def describe(self) -> str:
        """The template in words: sizes of the stem and of each stage, and what is changed."""
        same = self.torchvision_name
        fields = self.network.model_dump(exclude={"stem", "stages"})
        lines = [f"{self.name}: {f'the tensors of torchvision, {same}' if same else 'sizes of its own'}"]
        lines += [f"  {'sizes':<8} {_in_words(fields)}"] if fields else []
        lines += [f"  {'stem':<8} {_in_words(self.network.stem.model_dump())}"]
        for index, (stage, change) in enumerate(zip(self.network.stages, self.stage_changes, strict=True)):
            lines.append(f"  {f'stage {index}':<8} {_in_words(stage.model_dump())}{_changes_in_words(change)}")
        lines.append(f"  {'head':<8} {_in_words(self.head.model_dump())}")
        everywhere = _changes_in_words(self.changes).removeprefix("; ")
        return "\n".join([*lines, f"  {'all':<8} {everywhere}"] if everywhere else lines)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{'' if self.torchvision_name else ', changed'}>"

    def build(self, num_classes: int = 1000, weights: Weights = None) -> HybridModel:
        """Build the model.

        Args:
            num_classes: classes of the last layer; 0 gives features.
            weights: torchvision's, where the sizes are torchvision's (see ``HybridBuilder.from_torchvision``); a file; or None
                for random ones.

        Returns:
            A model of torchvision's class, which is a ``HybridModel`` too.

        Raises:
            ValueError: ``num_classes`` is out of range.
            PatchError: a change that cannot be made in this network.
            WeightsError: weights that cannot be found or read, or do not fit.
        """
        head = HeadSpec.checked(num_classes, self.head.dropout, self.head.hidden)
        patches = patches_of(self.network, self.changes, self.stage_changes)
        first = patches[0] if patches else {}
        name = self.torchvision_name
        if name is not None:
            arguments = self._arguments(name)
            model = HybridBuilder()._torchvision(name, weights, first, head, False, None, False, False, arguments)
        else:
            model = self.make(first, head, self._file(weights))
        for more in patches[1:]:
            model = apply(plan(model, more))
        if weights is None:
            note(model, drift=None)  # random logits have nothing to lose
        return model

    def make(self, patches: Mapping[str, Any], head: HeadSpec, file: Path | None = None) -> HybridModel:
        """The network with these patches and head in place of the template's own, as a recipe has them."""
        model = HybridBuilder().from_module(
            self.network.make(),
            (1, self.network.model_dump()["stem"]["in_channels"], 224, 224),
            patches,
            file,
            head.num_classes,
            head.dropout,
            hidden=head.hidden,
            last_layer=self.network.last_layer,
        )
        config = self.get_config()
        # Patches and the head have places of their own in the recipe.
        arguments = {key: config[key] for key in ("family", "network")}
        note(model, backbone_name=self.name, library="template", arguments=arguments)
        return model

    def _arguments(self, name: str) -> dict[str, Any]:
        """What torchvision's function is told besides: what does not show in the tensors."""
        usual = _published(self._family, name)
        fields = self.network.without_shape
        return {key: getattr(self.network, key) for key in fields if getattr(self.network, key) != getattr(usual, key)}

    def _file(self, weights: Weights) -> Path | None:
        if weights is None or isinstance(weights, os.PathLike) or (isinstance(weights, str) and weights.endswith(SUFFIXES)):
            return None if weights is None else Path(weights)
        place = self.network.difference(_published(self._family, self.name)) if self.name in self.variants else None
        differs = f"this {self.name} differs from torchvision's in {place}" if place else f"torchvision has no {self.name}"
        raise WeightsError(f"{differs}, so that its weights do not fit; give a file, or weights=None")

    # Small steps

    @property
    def _family(self) -> str:
        return self.network.family

    def _set(self, **values: Any) -> Self:
        vars(self).update(values)
        return self

    def _resized(self, values: Mapping[str, Any]) -> Network:
        # Of the values that are no parts, a dump; parts are checked already, and stay.
        own = {key: getattr(self.network, key) for key in type(self.network).model_fields}
        return check(self._family, type(self.network), own | dict(values))

    def _check_norms(self) -> None:
        if not self.network.has_norms:
            raise ValueError(f"{self._family}: this {self.name} has no norms; use_batchnorm(True) puts some in")

    def _attention(self, values: Mapping[str, Any], place: str) -> Attention:
        attention = check(f"{place}: attention", Attention, values)
        name = registry.canonical_name(attention.type)
        category = registry.info(name)["category"]
        if category != "attention":
            known = ", ".join(registry.list("attention"))
            raise ValueError(f"{place}: '{name}' is no attention, but of the category {category} (attention: {known})")
        registry.check_parameters(name, attention.params)
        given = {*registry.CHANNEL_PARAMETERS, *attention.params}
        accepted = registry.parameters_of(registry.get(name)) or {}
        missing = [key for key, parameter in accepted.items() if parameter.default is parameter.empty and key not in given]
        if missing:
            raise ValueError(f"{place}: '{name}' needs {', '.join(missing)}, which its place does not say; give it in params")
        return attention.model_copy(update={"type": name})


@cache
def _published(family: str, name: str) -> Network:
    """The network of a torchvision model."""
    return _families[family](**_families[family].variants[name]).network


def _in_words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_plain(value)}" for key, value in values.items())


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _changes_in_words(changes: Changes) -> str:
    found = [f"{attention.type} after each {attention.after}" for attention in changes.attention]
    found += [f"activation {changes.activation}"] if changes.activation else []
    found += [f"norm {changes.norm}"] if changes.norm else []
    return "".join(f"; {text}" for text in found)
