"""Architecture search: which nets of a space have many parameters for few FLOPs? ``python examples/search.py``

With Optuna (``pip install "torchvision-customizer[search]"``) its sampler chooses what to try; without it everything is tried.
In a search of one's own the score is the accuracy after some epochs.
"""

from __future__ import annotations

import warnings

import torch
from torch.utils.flop_counter import FlopCounterMode

import torchvision_customizer as tvc

SPACE = tvc.search_space(
    "cifar_resnet20",
    {
        "stages.fine.blocks": range(1, 5),
        "stages.middle.channels": [24, 32, 48],
        "stages.coarse.pattern": ["residual", "residual+se"],
    },
)


def score(recipe: tvc.Recipe) -> tuple[float, float]:
    """FLOPs and parameters, in millions. On the meta device a model takes no memory, and running it no time."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = tvc.build_recipe(recipe, weights=None).eval()
        model(torch.empty(1, *recipe.input_shape))
    return counter.get_total_flops() / 1e6, sum(p.numel() for p in model.parameters()) / 1e6


def search(trials: int = 20) -> list[tuple[float, float]]:
    """With Optuna: the scores that no other beats in both."""
    import optuna

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        chosen = {field: trial.suggest_categorical(field, values) for field, values in SPACE.ranges.items()}
        return score(SPACE.recipe(chosen))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=optuna.samplers.NSGAIISampler(seed=0))
    study.optimize(objective, n_trials=trials)
    return sorted({(trial.values[0], trial.values[1]) for trial in study.best_trials})


def try_all() -> list[tuple[float, float]]:
    """Without it: the same, of every recipe."""
    scores = {score(recipe) for recipe in SPACE}
    return sorted(s for s in scores if not any(other != s and other[0] <= s[0] and other[1] >= s[1] for other in scores))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="torchvision's library does not fit")
    try:
        found = search()
    except ImportError:
        print(f"Optuna is not installed; all {len(SPACE)} recipes are tried.")
        found = try_all()
    for flops, parameters in found:
        print(f"{flops:8.1f} MFLOPs  {parameters:6.3f} M parameters")
