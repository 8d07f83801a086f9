"""What a recipe means: the names in it are those of something, and its values agree with each other. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import PatchError, nearest
from ..patches import Inject, Misread, WithBlock, matching, read_patches
from . import catalogue
from .nodes import Findings, Mark, Node, Path, shown, spelled
from .parts import did_you_mean
from .schema import BackboneRecipe, Common, ComposedRecipe, Stage, Transition

_WEIGHT_FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# Fields of a stage that every pattern takes.
_OF_ALL = ("pattern", "channels", "blocks", "name", "in_channels", "downsample", "stride")


class Meaning:
    """What pydantic cannot look at. A value that has been found to be wrong by itself is passed over."""

    def __init__(self, root: Node, kind: type[Common], findings: Findings) -> None:
        self.root = root
        self.kind = kind
        self.findings = findings

    def check(self) -> None:
        if self.kind is BackboneRecipe:
            self._backbone()
        elif self.kind is ComposedRecipe:
            self._composed()
        self._training()
        self._export()

    def _get(self, *path: str | int) -> Node | None:
        """The node at a path, or None where there is none, or none that is fit to be looked at."""
        node = self.root
        for part in path:
            if isinstance(node.value, dict) and part in node.value:
                node = node.value[str(part)]
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
            else:
                return None
        return None if node.broken or node.value is None else node

    def _value(self, kind: type, *path: str | int) -> Any:
        """The value at a path where it is of a type, else None."""
        node = self._get(*path)
        if node is None or not isinstance(node.value, kind) or (kind is int and isinstance(node.value, bool)):
            return None
        return node.value

    def _items(self, *path: str | int) -> list[Node]:
        found: list[Node] | None = self._value(list, *path)
        return found or []

    def _add(self, path: Path, message: str, mark: Mark | None = None, at_key: bool = False) -> None:
        """Add a problem at a path, or at the last part of it that is there."""
        node, below = None, path
        while node is None and below:
            node, below = self._get(*below), below[:-1]
        node = node or self.root
        place = mark or ((node.key_mark or node.mark) if at_key else (node.mark or node.key_mark))
        self.findings.add(place, spelled(self.root, path), message)

    def _known(self, path: Path, what: str, names: Iterable[str]) -> str | None:
        """The text at a path, in lower case, where it is one of some names; else that is a problem. Case does not count."""
        found = self._value(str, *path)
        if found is None:
            return None
        names = list(names)
        if found.lower().strip() in {name.lower() for name in names}:
            return str(found).lower().strip()
        known = "" if len(names) > 12 else f" (known: {', '.join(names)})"
        self._add(path, f"unknown {what} {shown(found)}{nearest(found, names) or known}")
        return None

    # ---- backbones ----

    def _backbone(self) -> None:
        explicit = self.root.value["backbone"]
        library = explicit.value.get("library") if isinstance(explicit.value, dict) else None
        name = None
        if library is None or library.value == "torchvision":
            name = self._known(("backbone", "name"), "backbone", catalogue.backbones())
            channels = self._value(int, "input_shape", 0)
            if channels not in (None, 3):
                self._add(("input_shape", 0), f"torchvision's models take images of 3 channels, got {channels}")
        if name is not None:
            self._weights(name)
        self._patches(name)
        if self._get("training", "unfreeze_stages") is not None and not self._value(bool, "training", "freeze_backbone"):
            message = "says what stays trainable in a frozen backbone, and needs freeze_backbone: true"
            self._add(("training", "unfreeze_stages"), message)

    def _weights(self, backbone: str) -> None:
        weights = self._value(str, "backbone", "weights")
        if weights is None or weights.endswith(_WEIGHT_FILES) or os.sep in weights:
            return  # a file may come later
        enum, members = catalogue.weights_of(backbone)
        holder, _, member = weights.rpartition(".")
        known = ["DEFAULT", *members]
        if holder not in ("", enum) or member not in known:
            hint = nearest(member, known)
            self._add(
                ("backbone", "weights"),
                f"{backbone} has no weights {shown(weights)}{hint} (it has {', '.join(known)}; or a file)",
            )

    def _patches(self, backbone: str | None) -> None:
        node = self._get("backbone", "patches")
        modules = catalogue.modules_of(backbone) if backbone else None
        if node is not None and isinstance(node.value, dict):
            self._patch(("backbone", "patches"), node, modules)
        elif node is not None and isinstance(node.value, list):
            for index, part in enumerate(node.value):
                if isinstance(part.value, dict):
                    # The second and those after it may name what those before have put there.
                    self._patch(("backbone", "patches", index), part, None if index else modules)

    def _patch(self, start: Path, patches: Node, modules: Mapping[str, Any] | None) -> None:
        for target in patches.value if modules is not None else ():
            try:
                matching(target, modules or {})
            except PatchError as error:
                self._add((*start, target), str(error), at_key=True)
        for path, _, operation in read_patches(patches.plain()):
            if isinstance(operation, Misread):
                self._add((*start, *operation.path), operation.message)
            elif isinstance(operation, WithBlock):
                self._block((*start, *path), operation)

    def _block(self, path: Path, operation: WithBlock) -> None:
        """The block of an operation, and its parameters."""
        known = catalogue.block_names()
        if operation.type not in known:
            key = next((key for key in ("type", "block") if self._get(*path, key) is not None), None)
            hint = nearest(operation.type, known) or " (see `tvc list-blocks`)"
            self._add(path if key is None else (*path, key), f"unknown block {shown(operation.type)}{hint}")
            return
        block = catalogue.find_block(operation.type)
        if block.parameters is None:
            return
        for parameter in operation.params:
            if parameter not in block.parameters:
                hint = nearest(parameter, block.parameters)
                takes = ", ".join(block.parameters) or "none"
                message = f"block '{block.name}' has no such parameter{hint} (it takes {takes})"
                self._add((*path, "params", parameter), message, at_key=True)
        if isinstance(operation, Inject) and operation.schedule is not None and "drop_prob" not in block.parameters:
            self._add((*path, "schedule"), f"is of a block with a drop_prob, and '{block.name}' has none")

    # ---- composed models ----

    def _composed(self) -> None:
        for part in ("stem", "head"):
            self._names((part,), activation="activation", norm="norm", pool="pooling")
        images, wanted = self._value(int, "input_shape", 0), self._value(int, "stem", "in_channels")
        if None not in (images, wanted) and images != wanted:
            self._add(("stem", "in_channels"), f"is {wanted}, and input_shape has {images} channels")
        names: dict[str, int] = {}
        for index, stage in enumerate(self._items("stages")):
            path = ("stages", index)
            if isinstance(stage.value, dict) and not stage.broken:
                self._stage(path, stage)
            name = self._value(str, *path, "name")
            if name in names:
                self._add((*path, "name"), f"stage {names[name]} has the name {shown(name)}, too")
            elif name is not None:
                names[name] = index
        for key in ("freeze_backbone", "unfreeze_stages", "gradual_unfreezing"):
            if self._get("training", key) is not None and self._value(bool, "training", key) is not False:
                self._add(("training", key), "is for a recipe with a backbone", at_key=True)

    def _names(self, path: Path, **categories: str) -> None:
        for key, category in categories.items():
            self._known((*path, key), "pool" if category == "pooling" else category, catalogue.names_of(category))

    def _stage(self, path: Path, stage: Node) -> None:
        self._names(path, activation="activation", norm="norm", pooling_type="pooling", attention="attention")
        text = self._value(str, *path, "pattern") if "pattern" in stage.value else "residual"
        patterns = catalogue.patterns()
        if text is None:
            return
        name, *suffixes = (part.strip().lower() for part in text.split("+"))
        if name == "transition":
            self._options(path, stage, name, tuple(Transition.model_fields))
        elif name not in patterns:
            known = ", ".join([*patterns, "transition"])
            self._add(
                (*path, "pattern"), f"unknown block {shown(name)}{nearest(name, [*patterns, 'transition'])} (known: {known})"
            )
        else:
            options = catalogue.options_of(name)
            self._suffixes((*path, "pattern"), text, name, suffixes, options)
            self._options(path, stage, name, None if options is None else tuple(dict.fromkeys((*_OF_ALL, *options))))

    def _suffixes(self, path: Path, text: str, name: str, suffixes: list[str], options: tuple[str, ...] | None) -> None:
        attentions = catalogue.names_of("attention")
        node = self._get(*path)
        for suffix in suffixes:
            mark = node.at(max(text.lower().find(f"+{suffix}"), 0) + 1) if node is not None else None
            option = "drop_path" if suffix == "drop_path" else "attention"
            if option == "attention" and suffix not in attentions:
                hint = nearest(suffix, [*attentions, "drop_path"])
                self._add(path, f"unknown suffix '+{suffix}'{hint} (for instance +se, +eca, +cbam, +drop_path)", mark)
            elif options is not None and option not in options:
                self._add(path, f"{name} takes no '+{suffix}' (its options: {', '.join(options)})", mark)

    def _options(self, path: Path, stage: Node, name: str, known: tuple[str, ...] | None) -> None:
        """The keys of a stage are those that its pattern takes, or any where that is not known."""
        for key in stage.value if known is not None else ():
            if key not in (known or ()):
                what = f"is no option of {name}" if key in Stage.model_fields else f"unknown key '{key}'"
                hint = did_you_mean(key, "stages", known or ())
                self._add((*path, key), f"{what}{hint} (a stage of {name} takes {', '.join(known or ())})", at_key=True)

    # ---- training and export ----

    def _training(self) -> None:
        self._known(("training", "optimizer"), "optimizer", catalogue.optimizers())
        for key in ("step_size", "gamma"):
            if self._get("training", key) is not None and self._value(str, "training", "scheduler") != "step":
                self._add(("training", key), "is of the scheduler step", at_key=True)

    def _export(self) -> None:
        if self._get("export", "opset") is not None and self._value(str, "export", "format") != "onnx":
            self._add(("export", "opset"), "is of the format onnx", at_key=True)
        names, classes = self._items("export", "classes"), self._value(int, "head", "num_classes")
        if names and classes is not None and len(names) != classes:
            self._add(("export", "classes"), f"must have a name for each of {classes} classes, got {len(names)}")
        channels = self._value(int, "input_shape", 0) or 3
        for key in ("mean", "std"):
            values = self._items("export", key)
            if values and len(values) not in (1, channels):
                self._add(("export", key), f"must have one number, or one for each of {channels} channels, got {len(values)}")
