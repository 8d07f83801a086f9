"""The pages that are made from the library: blocks, recipe keys, commands, the Python interface; and tables within others."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import _drawings
import click
import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import torchvision_customizer as tvc
from torchvision_customizer import registry
from torchvision_customizer.cli import main
from torchvision_customizer.hybrid.backbones import FAMILIES
from torchvision_customizer.hybrid.builder import without_memory
from torchvision_customizer.hybrid.places import NoPlace, graph_of, places_in
from torchvision_customizer.recipe.parts import OTHER_NAMES
from torchvision_customizer.recipe.schema import SECTIONS

ROOT = Path(__file__).parents[1]
# A small member of each family, to look for places in.
MEMBERS = {
    "AlexNet": "alexnet",
    "ConvNeXt": "convnext_tiny",
    "DenseNet": "densenet121",
    "EfficientNet": "efficientnet_b0",
    "GoogLeNet": "googlenet",
    "Inception3": "inception_v3",
    "MNASNet": "mnasnet0_5",
    "MaxVit": "maxvit_t",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3": "mobilenet_v3_small",
    "RegNet": "regnet_y_400mf",
    "ResNet": "resnet18",
    "ShuffleNetV2": "shufflenet_v2_x0_5",
    "SqueezeNet": "squeezenet1_1",
    "SwinTransformer": "swin_t",
    "VGG": "vgg11",
    "VisionTransformer": "vit_b_16",
}
COST_SHAPE = (1, 256, 14, 14)  # of blocks that ask for nothing but channels


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, [":--"] * len(lines[0]))
    # A bar within code is none of the table's.
    cells = [[re.sub(r"(`[^`]*`)|\|", lambda m: m[1] or "\\|", cell).replace("\n", " ") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _code(value: object) -> str:
    return f"`{value}`" if str(value) else ""


# ---- blocks ----


def blocks() -> str:
    parts = [
        "# Blocks",
        f"All {len(registry.list())} registered blocks, from `torchvision_customizer.registry`: what a patch, a recipe, a "
        "stage or `registry.get` can name. Where a block asks for nothing but channels, its cost is that of one sample of "
        f"{_size(COST_SHAPE)}; else that of its example. Parameters are counted on the block, and FLOPs by torch's own "
        "counter, which counts matrix products and convolutions (two a multiply-add).",
        "```python\nimport torch\n\nfrom torchvision_customizer import registry\n```",
    ]
    for category in registry.categories():
        names = registry.list(category)
        parts.append(f"## {category}")
        rows = []
        for name in names:
            parameters, flops, shape = cost(name)
            rows.append(
                (f"[{name}](#{name})", registry.info(name)["description"], f"{parameters:,}", f"{flops:,}", _size(shape))
            )
        parts.append(table(("block", "what it is", "parameters", "FLOPs", "for one sample of"), rows))
        parts.extend(_block(name) for name in names)
    return "\n\n".join(parts) + "\n"


def cost(name: str) -> tuple[int, int, tuple[int, ...]]:
    """Parameters, FLOPs, and the shape of the sample that they are for."""
    arguments, shape = registry.example(name)
    shape = (1, *shape[1:])
    if not registry.info(name)["example"] and len(shape) == len(COST_SHAPE):
        shape = COST_SHAPE
        arguments = {key: shape[1] if key in registry.CHANNEL_PARAMETERS else value for key, value in arguments.items()}
    block = registry.get(name)(**arguments).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        block(torch.zeros(shape))
    return sum(p.numel() for p in block.parameters()), counter.get_total_flops(), shape


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape[1:]))


def _block(name: str) -> str:
    info, kind = registry.info(name), registry.get(name)
    arguments, shape = registry.example(name)
    own = kind.__module__.startswith("torchvision_customizer")
    about, described = _documentation(kind) if own else (info["description"], {})
    torch.manual_seed(0)
    block = kind(**arguments).eval()
    out = block(torch.randn(shape))
    first = out[0] if isinstance(out, tuple) else out
    call = ", ".join([f'"{name}"', *(f"{key}={value!r}" for key, value in arguments.items())])
    call = f"registry.get({call})" + ("" if arguments else "()")
    size = ", ".join(map(str, shape))
    result = "block(x)[0]" if isinstance(out, tuple) else "block(x)"
    parts = [f"### {name}", about]
    drawing = _drawings.curve(block) if info["category"] == "activation" else _drawings.graph(block)
    if drawing:
        parts.append(drawing)
    parameters = {key: text for key, text in info["parameters"].items() if key not in ("device", "dtype")}
    if parameters:
        rows = [(_code(key), _code(text), described.get(key, ""))[: 3 if own else 2] for key, text in parameters.items()]
        parts.append(table(("argument", "type = default", "meaning")[: 3 if own else 2], rows))
    parts.append(f"```python\nblock = {call}\nx = torch.randn({size})\nprint(tuple({result}.shape))\n```")
    parts.append(f"```text\n{tuple(first.shape)}\n```")
    notes = [f"Also {', '.join(_code(alias) for alias in info['aliases'])}."]
    if info["paper"]:
        notes.append(f"Paper: <{info['paper']}>.")
    if not own:
        notes.append(f"It is `{kind.__module__.partition('.modules')[0]}.{kind.__name__}`.")
    return "\n\n".join([*parts, " ".join(notes)])


def _documentation(kind: type[nn.Module]) -> tuple[str, Mapping[str, str]]:
    """What a docstring says before its sections, as Markdown, and what of each argument."""
    text = re.sub(r":\w+:`([^`]*)`", r"`\1`", inspect.getdoc(kind) or "").replace("``", "`")
    about, _, rest = text.partition("\nArgs:\n")
    about = re.split(r"\n(?:Shape|Raises|Source|Returns|Examples?):", about)[0]
    section = re.split(r"\n(?=\S)", rest)[0]
    found = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE)
    return about.strip(), {key: re.sub(r"\s+", " ", meaning) for key, meaning in found}


# ---- recipes ----

_TITLES = {"": "Top level", "stages": "stages: one of the list"}


def recipe_keys() -> str:
    parts = [
        "# Recipe keys",
        "Every key that a recipe may have, from the typed models that read it (`recipe/schema.py`); `tvc schema` prints the "
        "same as a JSON schema for editors. A key that is not here is an error. Every one may "
        "be a macro, or `null`, which takes away what the parent says.",
    ]
    for section, models in SECTIONS.items():
        parts.append(f"## {_TITLES.get(section, section)}")
        others: dict[str, list[str]] = {}
        for other, name in OTHER_NAMES.get(section, {}).items():
            others.setdefault(name, []).append(other)
        for model in models:
            parts.append(f"### {model.__name__}\n\n{inspect.cleandoc(model.__doc__ or '')}")
            schema = model.model_json_schema()["properties"]
            rows = [
                (_names(key, others), _type(schema[key]), _default(field), field.description or "")
                for key, field in model.model_fields.items()
            ]
            parts.append(table(("key", "type", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def _names(key: str, others: Mapping[str, list[str]]) -> str:
    more = ", ".join(map(_code, others.get(key, [])))
    return _code(key) + (f", also {more}" if more else "")


def _type(schema: Mapping[str, Any]) -> str:
    """A property of a JSON schema in words."""
    if "anyOf" in schema or "oneOf" in schema:
        kinds = [_type(each) for each in schema.get("anyOf", schema.get("oneOf"))]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    if "enum" in schema or "const" in schema:
        return ", ".join(json.dumps(value).strip('"') for value in schema.get("enum", [schema.get("const")]))
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = [f"from {low}"] if low is not None else []
    bounds += [f"above {schema['exclusiveMinimum']}"] if "exclusiveMinimum" in schema else []
    bounds += [f"to {high}"] if high is not None else []
    bounds += [f"below {schema['exclusiveMaximum']}"] if "exclusiveMaximum" in schema else []
    return " ".join([{"object": "mapping"}.get(kind, kind), *bounds])


def _default(field: Any) -> str:
    return "required" if field.is_required() else _code(json.dumps(field.default, ensure_ascii=False))


def shipped_recipes(_: str) -> str:
    rows = []
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        rows.append((_code(path.stem), str(yaml.safe_load(path.read_text(encoding="utf-8"))["description"])))
    return table(("recipe", "what it is"), rows)


# ---- commands ----


def commands() -> str:
    context = click.Context(main, info_name="tvc")
    parts = [
        "# Commands",
        "What `tvc COMMAND --help` says. Exit codes: 0, 1 (it did not work), 2 (wrong usage), 130 (interrupted).",
    ]
    parts.extend(_commands(main, context, "tvc"))
    return "\n\n".join(parts) + "\n"


def _commands(group: click.Group, context: click.Context, path: str) -> Iterable[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        own = click.Context(command, info_name=name, parent=context)
        yield f"## {path} {name}"
        usage = " ".join(command.collect_usage_pieces(own))
        yield f"```console\n$ {path} {name} {usage}\n```\n\n{inspect.cleandoc(command.help or '')}"
        if isinstance(command, click.Group):
            yield from _commands(command, own, f"{path} {name}")
            continue
        records = [parameter.get_help_record(own) for parameter in command.get_params(own)]
        yield table(("option", "meaning"), [(_code(left), _escaped(right)) for left, right in filter(None, records)])


def _escaped(text: str) -> str:
    return re.sub(r"([*_<\[])", r"\\\1", text)


# ---- the Python interface ----

_GROUPS = {
    "hybrid": "Patched models",
    "fusion": "Fusing",
    "deploy": "Deployment",
    "train": "Training",
    "compose": "Composing",
    "templates": "Templates",
    "recipe": "Recipes",
    "pages": "Pages for a browser",
    "utils": "Measuring",
    "errors": "Errors",
}


def api() -> str:
    parts = [
        "# Python",
        "The names of `torchvision_customizer`, from their docstrings. Blocks have [a page of their own](blocks.md).",
    ]
    missing = {module.partition(".")[0] for module in tvc._PUBLIC.values()} - {*_GROUPS, "blocks", "registry", "ops"}
    assert not missing, f"docs/_pages.py: _GROUPS does not know {sorted(missing)}"
    groups = {key: [name for name, module in tvc._PUBLIC.items() if module.partition(".")[0] == key] for key in _GROUPS}
    for key, names in groups.items():
        if names:
            parts.append(f"## {_GROUPS[key]}")
            parts.extend(f"::: {_path(getattr(tvc, name))}" for name in names)
    parts.append("## Registry\n\n`torchvision_customizer.registry`\n\n")
    functions = ("register", "get", "list", "names", "info", "example", "categories")
    parts.extend(f"::: torchvision_customizer.registry.{name}" for name in functions)
    parts.append("## Ops\n\n`torchvision_customizer.ops`\n\n")
    parts.extend(f"::: {_path(getattr(tvc.ops, name))}" for name in tvc.ops.__all__ if callable(getattr(tvc.ops, name)))
    return "\n\n".join(parts) + "\n"


def _path(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


# ---- patching ----


def families(_: str) -> str:
    """What a patch finds in each family, looked up in a model of it."""
    rows = []
    for family in FAMILIES:
        name = MEMBERS[family.class_name]
        found = block_types(name)
        automatic = {"before the addition" if at[0].startswith("residual") else "the output" for _, at in found.values()}
        rows.append(
            (
                f"{family.class_name}, `{name}`",
                ", ".join(map(_code, family.body)),
                ", ".join(map(_code, found)) or "a plain stack",
                " or ".join(sorted(automatic)) or "the end of each stage",
            )
        )
    return table(("family, and the model looked at", "stages", "blocks", "`at: auto`"), rows)


def block_types(name: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The classes of a model's blocks, each with the path of the first one and its places."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    tried: Counter[str] = Counter()
    for path, module in without_memory(name, {}).named_modules():
        kind = type(module).__name__
        if not path or kind in found or tried[kind] == 6 or not type(module).__module__.startswith("torchvision"):
            continue
        tried[kind] += 1  # the first block of a stage often has another shape, and adds nothing
        with contextlib.suppress(NoPlace):
            if places := places_in(module, graph_of(module)):
                found[kind] = path, places
    return found


def places(name: str) -> str:
    rows = [(f"`{kind}` (`{path}`)", ", ".join(map(_code, at))) for kind, (path, at) in block_types(name).items()]
    return table(("block", "what `at` can be"), rows)


PAGES: dict[str, Callable[[], str]] = {
    "blocks.md": blocks,
    "recipe-keys.md": recipe_keys,
    "commands.md": commands,
    "api.md": api,
}
