"""Recipes with a mistake each: what is said has the place, and where a name is near, that name."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from torchvision_customizer.recipe import Recipe, RecipeError

NET = "stem: conv(64)\nstages: [residual(64)]\nhead: linear(10)\n"
HYBRID = "backbone: resnet18(weights=none)\n"

# Each: what it is about, the recipe, and what each line of the error begins with, after the name of the file.
BROKEN: list[tuple[str, str, list[str]]] = [
    # keys
    ("key", NET + "trainng: {}", ["4:1: trainng: unknown key 'trainng', did you mean 'training'?"]),
    ("key-of-hybrid", HYBRID + "hed: {}", ["2:1: hed: unknown key 'hed', did you mean 'head'?"]),
    ("key-alone", "bakbone: resnet18", ["1:1: there is no model", "1:1: bakbone: unknown key 'bakbone', did you mean 'backbone'?"]),
    ("key-of-stem", "stem: {chanels: 64, channels: 64}\nstages: [residual(64)]\nhead: linear(1)", ["1:8: stem.chanels: unknown key 'chanels', did you mean 'channels'?"]),
    ("key-of-backbone", "backbone:\n  name: resnet18\n  weight: none", ["3:3: backbone.weight: unknown key 'weight', did you mean 'weights'?"]),
    ("key-of-head", HYBRID + "head: {num_clases: 3}", ["2:8: head.num_clases: unknown key 'num_clases', did you mean 'num_classes'?"]),
    ("key-of-training", HYBRID + "training:\n  epoch: 3", ["3:3: training.epoch: unknown key 'epoch', did you mean 'epochs'?"]),
    ("key-of-export", HYBRID + "export: {fromat: onnx}", ["2:10: export.fromat: unknown key 'fromat', did you mean 'format'?"]),
    ("key-twice", NET + "head: linear(5)", ["4:1: the key 'head' is there twice, first in line 3"]),
    ("key-missing", "stem: {stride: 2}\nstages: [residual(64)]\nhead: linear(1)", ["1:1: stem.channels: is missing"]),
    ("key-missing-in-stage", "stem: conv(4)\nstages:\n  - {blocks: 2}\nhead: linear(1)", ["3:5: stages[0].channels: is missing"]),
    # parts
    ("no-model", "name: x", ["1:1: there is no model: a recipe has a backbone, or a stem, stages and a head"]),
    ("two-models", HYBRID + NET, ["2:1: stem: a recipe has a backbone", "3:1: stages: a recipe has a backbone"]),
    ("no-head", "stem: conv(4)\nstages: [residual(4)]", ["1:1: there is no head"]),
    ("no-stages", "stem: conv(4)\nstages: []\nhead: linear(1)", ["2:9: stages: must have at least 1 item"]),
    ("stages-as-mapping", "stem: conv(4)\nstages: {0: residual(4)}\nhead: linear(1)", ["2:9: stages: must be a list"]),
    ("stages-as-text", "stem: conv(4)\nstages: residual(4)\nhead: linear(1)", ["2:9: stages: must be a list, got 'residual(4)'"]),
    ("part-as-number", "stem: 64\nstages: [residual(4)]\nhead: linear(1)", ["1:7: stem: must be a mapping"]),
    ("training-as-list", HYBRID + "training: [1]", ["2:11: training: must be a mapping, got a list"]),
    # types of values
    ("text-for-integer", HYBRID + "training: {epochs: many}", ["2:20: training.epochs: must be an integer, got 'many'"]),
    ("float-for-integer", "stem: conv(6.4)\nstages: [residual(4)]\nhead: linear(1)", ["1:12: stem.channels: must be an integer, got 6.4"]),
    ("boolean-for-integer", HYBRID + "head: {num_classes: yes}", ["2:21: head.num_classes: must be an integer, got true"]),
    ("text-for-boolean", HYBRID + "training: {compile: maybe}", ["2:21: training.compile: must be a boolean, got 'maybe'"]),
    ("negative", "stem: conv(-64)\nstages: [residual(4)]\nhead: linear(1)", ["1:12: stem.channels: must be greater than or equal to 1, got -64"]),
    ("enormous", "stem: conv(64000000)\nstages: [residual(4)]\nhead: linear(1)", ["1:12: stem.channels: must be less than or equal to 65536, got 64000000"]),
    ("probability", HYBRID + "head: {dropout: 1.5}", ["2:17: head.dropout: must be less than 1, got 1.5"]),
    ("infinite", HYBRID + "training: {lr: .inf}", ["2:16: training.lr: must be a finite number, got inf"]),
    ("shape", NET + "input_shape: [3, 224]", ["4:14: input_shape: must have at least 3 items"]),
    ("side", NET + "input_shape: [3, 224, big]", ["4:23: input_shape[2]: must be an integer, got 'big'"]),
    ("choice", HYBRID + "training: {scheduler: cosin}", ["2:23: training.scheduler: must be 'cosine'", "did you mean 'cosine'?"]),
    ("choice-of-format", HYBRID + "export: {format: onx}", ["2:18: export.format: must be 'torchscript'", "did you mean 'onnx'?"]),
    ("name-as-list", HYBRID + "name: [a]", ["2:7: name: must be a text, got a list"]),
    # names
    ("backbone", "backbone: resnet5", ["1:11: backbone.name: unknown backbone 'resnet5', did you mean 'resnet50'?"]),
    ("weights", "backbone: resnet50(weights=IMAGENET1K_V3)", ["1:20: backbone.weights: resnet50 has no weights 'IMAGENET1K_V3', did you mean 'IMAGENET1K_V2'?"]),
    ("weights-of-another", "backbone: {name: resnet50, weights: VGG16_Weights.DEFAULT}", ["1:37: backbone.weights: resnet50 has no weights 'VGG16_Weights.DEFAULT'"]),
    ("library", "backbone: {name: resnet18, library: torchvison}", ["1:37: backbone.library: must be 'torchvision'", "did you mean 'torchvision'?"]),
    ("stem-type", "stem: convv(64)\nstages: [residual(4)]\nhead: linear(1)", ["1:7: stem: unknown type 'convv', did you mean 'conv'?"]),
    ("head-type", NET.replace("linear", "liner"), ["3:7: head: unknown type 'liner', did you mean 'linear'?"]),
    ("pattern", NET.replace("residual", "residul"), ["2:10: stages[0].block: unknown block 'residul', did you mean 'residual'?"]),
    ("block", "stem: conv(4)\nstages:\n  - residual(4)\n  - block: residul\n    channels: 8\nhead: linear(1)", ["4:12: stages[1].block: unknown block 'residul', did you mean 'residual'?"]),
    ("suffix", NET.replace("residual", "residual+ecca"), ["2:19: stages[0].block: unknown suffix '+ecca', did you mean 'eca'?"]),
    ("suffix-not-taken", NET.replace("residual", "conv+drop_path"), ["2:15: stages[0].block: conv takes no '+drop_path'"]),
    ("attention", "stem: conv(4)\nstages: [{channels: 4, attention: cbamm}]\nhead: linear(1)", ["2:35: stages[0].attention: unknown attention 'cbamm', did you mean 'cbam'?"]),
    ("activation", "stem: conv(4, activation=relo)\nstages: [residual(4)]\nhead: linear(1)", ["1:15: stem.activation: unknown activation 'relo', did you mean 'relu'?"]),
    ("norm", "stem: {channels: 4, norm: bacth}\nstages: [residual(4)]\nhead: linear(1)", ["1:27: stem.norm: unknown norm 'bacth', did you mean 'batch'?"]),
    ("pool", NET.replace("linear(10)", "linear(10, pool=gemm)"), ["3:18: head.pool: unknown pool 'gemm', did you mean 'gem'?"]),
    ("optimizer", HYBRID + "training: {optimizer: adamm}", ["2:23: training.optimizer: unknown optimizer 'adamm', did you mean 'Adam'?"]),
    ("option", NET.replace("residual(64)", "'residual(64, bloks=2)'"), ["2:24: stages[0].bloks: unknown key 'bloks', did you mean 'blocks'?"]),
    ("option-of-another", NET.replace("residual(64)", "'residual(64, growth_rate=8)'"), ["2:24: stages[0].growth_rate: is no option of residual"]),
    # patches
    ("target", "backbone:\n  name: resnet18\n  patches:\n    layer5: {inject: se}", ["4:5: backbone.patches.layer5: no module of this ResNet matches 'layer5', did you mean 'layer"]),
    ("target-type", "backbone:\n  name: resnet18\n  patches: {'type:BatchNorm': {replace: group_norm}}", ["3:13: backbone.patches['type:BatchNorm']: no module of this ResNet matches 'type:BatchNorm', did you mean 'BatchNorm2d'?"]),
    ("operation", "backbone:\n  name: resnet18\n  patches:\n    layer4: {injekt: se}", ["4:13: backbone.patches.layer4: unknown operation 'injekt', did you mean 'inject'?"]),
    ("patch-block", "backbone:\n  name: resnet18\n  patches:\n    layer4: {inject: see}", ["4:22: backbone.patches.layer4.inject: unknown block 'see', did you mean 'se'?"]),
    ("patch-option", "backbone:\n  name: resnet18\n  patches:\n    layer4: {inject: {typ: se}}", ["4:22: backbone.patches.layer4.inject: 'type', the name of the block, is missing", "4:22: backbone.patches.layer4.inject: unknown option 'typ', did you mean 'type'?"]),
    ("patch-parameter", "backbone:\n  name: resnet18\n  patches:\n    layer4:\n      inject:\n        type: se\n        params: {reducton: 4}", ["7:18: backbone.patches.layer4.inject.params.reducton: block 'se' has no such parameter, did you mean 'reduction'?"]),
    ("patch-place", "backbone:\n  name: resnet18\n  patches:\n    layer4: {inject: {type: se, at: resdual}}", ["4:37: backbone.patches.layer4.inject.at: unknown place 'resdual', did you mean 'residual'?"]),
    ("patch-in-a-list", "backbone:\n  name: resnet18\n  patches:\n    layer4:\n      - {inject: se}\n      - {wrap: cbm}", ["6:16: backbone.patches.layer4[1].wrap: unknown block 'cbm', did you mean 'cbam'?"]),
    ("patch-schedule", "backbone:\n  name: resnet18\n  patches:\n    layer4: {inject: {type: se, schedule: linear}}", ["4:43: backbone.patches.layer4.inject.schedule: is of a block with a drop_prob, and 'se' has none"]),
    # values that depend on each other
    ("classes-twice", NET + "num_classes: 5", ["4:14: num_classes: is 5 here and 10 in the head"]),
    ("channels-of-images", "input_shape: [1, 28, 28]\nstem: conv(4, in_channels=3)\nstages: [residual(4)]\nhead: linear(1)", ["2:15: stem.in_channels: is 3, and input_shape has 1 channels"]),
    ("images-of-a-backbone", HYBRID + "input_shape: [1, 224, 224]", ["2:15: input_shape[0]: torchvision's models take images of 3 channels, got 1"]),
    ("unfreeze", HYBRID + "training: {unfreeze_stages: [3]}", ["2:29: training.unfreeze_stages: says what stays trainable in a frozen backbone, and needs freeze_backbone: true"]),
    ("freeze-nothing", NET + "training: {freeze_backbone: true}", ["4:12: training.freeze_backbone: is for a recipe with a backbone"]),
    ("step", HYBRID + "training: {scheduler: cosine, step_size: 3}", ["2:31: training.step_size: is of the scheduler step"]),
    ("opset", HYBRID + "export: {opset: 20}", ["2:10: export.opset: is of the format onnx"]),
    ("class-names", HYBRID + "head: linear(3)\nexport: {classes: [cat, dog]}", ["3:19: export.classes: must have a name for each of 3 classes, got 2"]),
    ("stage-names", "stem: conv(4)\nstages:\n  - {channels: 4, name: a}\n  - {channels: 4, name: a}\nhead: linear(1)", ["4:25: stages[1].name: stage 0 has the name 'a', too"]),
    ("two-names", "stem: {channels: 4, kernel: 3, kernel_size: 5}\nstages: [residual(4)]\nhead: linear(1)", ["1:32: stem.kernel_size: 'kernel_size' and 'kernel' are the same, and say different things"]),
    # short forms
    ("bracket", NET.replace("conv(64)", "conv(64"), ["1:14: stem: expected ',' or ')', found the end"]),
    ("comma", NET.replace("residual(64)", "residual(64 k=3)").replace("[", "['").replace("]", "']"), ["2:23: stages[0]: expected ',' or ')', found 'k'"]),
    ("modifier", NET.replace("[residual(64)]", "\n  - residual(64) | downsampel"), ["3:20: stages[0]: unknown modifier 'downsampel', did you mean 'downsample'?"]),
    ("attention-as-modifier", NET.replace("[residual(64)]", "\n  - residual(64) | se"), ["3:20: stages[0]: unknown modifier 'se' (modifiers: downsample)"]),
    ("repeat", NET.replace("residual(64)", "residual(64) x two"), ["2:25: stages[0]: expected a whole number after 'x', found 'two'"]),
    ("repeated-stem", NET.replace("conv(64)", "conv(64) x 2"), ["1:18: stem: a stem is not repeated"]),
    ("computed", NET.replace("conv(64)", "conv(2*32)"), ["1:13: stem: unexpected '*'; values are written out, not computed"]),
    ("too-many", NET.replace("linear(10)", "linear(10, 20)"), ["3:18: head: a value too many; linear takes num_classes without a name"]),
    ("given-twice", NET.replace("conv(64)", "conv(64, channels=32)"), ["1:16: stem: 'channels' is given twice"]),
    ("blocks-twice", NET.replace("residual(64)", "'residual(64, blocks=3) x 2'"), ["2:36: stages[0]: 'blocks' is given twice"]),
    # macros
    ("comma-in-a-list", NET.replace("64)]", "64, k=3)]"), ["2:21: stages[0]: expected ',' or ')', found the end", "2:24: stages[1]: expected '('", "within [ ] of YAML, a text with a comma stands in quotes"]),
    ("macro", NET.replace("conv(64)", "conv(${widht})").replace("[residual(64)]", "['residual(${widht})']") + "macros: {width: 64}", ["1:12: stem.channels: unknown macro 'widht', did you mean 'width'?", "2:20: stages[0].channels: unknown macro 'widht'"]),
    ("macro-of-old", NET + "name: '@titel'\nmacros: {title: x}", ["4:8: name: unknown macro 'titel', did you mean 'title'?"]),
    ("macro-circle", NET + "name: ${a}\nmacros: {a: '${b}', b: '${a}'}", ["5:25: macros.b: the macro 'a' uses itself: a -> b -> a"]),
    ("macro-type", NET.replace("conv(64)", "conv(${width})") + "macros: {width: wide}", ["4:17: stem.channels: must be an integer, got 'wide'"]),
    ("macro-in-text", NET + "name: net ${parts}\nmacros: {parts: {a: 1}}", ["4:11: name: the macro 'parts' is a mapping, which is no part of a text"]),
    ("macro-open", NET + "name: net ${a", ["4:11: name: the '}' of a macro is missing"]),
    ("macro-in-a-key", HYBRID + "training: {'${a}': 1}\nmacros: {a: lr}", ["2:12: training['${a}']: macros stand in values, not in keys", "2:12: training['${a}']: unknown key"]),
    # inheritance
    ("extends", "extends: cifar_resnet2", ["1:10: extends: there is no shipped recipe and no file 'cifar_resnet2', did you mean 'cifar_resnet20'?"]),
    ("extends-a-list", "extends: [a, b]", ["1:10: extends: must be the name of a recipe, or a file, got a list"]),
    ("stage-index", "extends: cifar_resnet20\nstages: {5: {blocks: 2}}", ["2:10: stages: there is no stage '5' (there are 0 to 2, by name fine, middle, coarse; 3 adds one)"]),
    ("stage-name", "extends: cifar_resnet20\nstages: {corse: {blocks: 2}}", ["2:10: stages: there is no stage 'corse', did you mean 'coarse'?"]),
    ("stage-of-a-backbone", "extends: se_resnet50\nstages: {0: {blocks: 2}}", ["2:1: stages: a recipe has a backbone, or a stem, stages and a head; this has both 'backbone' and 'stages'"]),
    ("stage-option", "extends: cifar_resnet20\nstages:\n  coarse:\n    bloks: 2", ["4:5: stages[2].bloks: unknown key 'bloks', did you mean 'blocks'?"]),
    # YAML
    ("yaml", "backbone: {name: resnet18", ["2:1: this is not YAML", "1:11"][:1]),
    ("yaml-colon", "backbone: a: b", ["1:12: this is not YAML"]),
    ("yaml-tab", "backbone:\n\tname: resnet18", ["2:1: this is not YAML"]),
    ("yaml-list", "- resnet18", ["1:1: a recipe is a mapping"]),
    ("yaml-empty", "# nothing", [" is empty"]),
    ("yaml-documents", HYBRID + "---\nname: x", ["2:1: a second document begins here"]),
    ("yaml-alias", "backbone: *b", ["1:11: there is no anchor '&b'"]),
    ("yaml-tag", "backbone: !!str resnet18", ["1:11: tags are not read"]),
    ("yaml-key", "? [a]\n: b", ["1:3: a key must be a plain text"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "lines"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_broken(tmp_path: Path, text: str, lines: list[str]) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(file)
    said = str(caught.value)
    starts = [line for line in lines if line[:1].isdigit()]
    for line in lines:
        assert (f"{file}:{line}" if line in starts else line) in said, said
    assert len(caught.value.problems) == max(len(starts), 1), said
    assert "Traceback" not in said


def test_there_are_sixty_and_no_two_alike() -> None:
    assert len(BROKEN) >= 60
    assert len({name for name, _, _ in BROKEN}) == len(BROKEN) == len({text for _, text, _ in BROKEN})


def test_all_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        dedent("""\
        name: everything
        stem: conv(64, kernl=3)
        stages:
          - residul(64) x 2
          - {channels: "wide"}
          - conv(64
        head: {type: linear, num_clases: 10}
        training: {epochs: 0, optimizer: adamm}
        """)
    )
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(file)
    places = [problem.place.removeprefix(f"{file}:") for problem in caught.value.problems if problem.place]
    assert places == ["2:16", "4:5", "5:17", "6:12", "7:1", "7:22", "8:20", "8:34"]
    assert caught.value.problems[3].message.splitlines()[1:3] == ["    conv(64", "           ^"]
