"""A training step of three recipes, with the blocks in plain PyTorch and fused, in one run.

    python benchmarks/training.py [FOLDER]

It writes ``training-recipes`` beside the other results of this kind of machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torchvision_customizer.bench import machine
from torchvision_customizer.bench.results import ModelCase
from torchvision_customizer.bench.runs import Effort, merged, run_models, save
from torchvision_customizer.cli._model import as_hybrid
from torchvision_customizer.recipe import Recipe, build_recipe

#: With the batch size: a composed model of small images, and two patched ones of large images.
RECIPES = {"cifar_se_resnet20": 64, "se_resnet50": 8, "cbam_resnet50": 8}


def main(folder: Path) -> None:
    runs = []
    for name, batch in RECIPES.items():
        recipe = Recipe.from_yaml(name)
        shape = recipe.input_shape
        model = as_hybrid(build_recipe(recipe, None), shape)
        case = ModelCase(name, ("as in the recipe",), batch, "fp32", "channels_last", True, shape[-1])
        runs.append(run_models(model, [case], Effort(rounds=15, compiled=False), lambda line: print(line, flush=True)))
    title = "A training step of three recipes, in times of the same without the blocks"
    for path in save(merged(runs), folder / machine.machine_kind("cpu"), "training-recipes", title):
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "results"))
