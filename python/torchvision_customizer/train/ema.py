"""A moving average of a model's weights, which often does better than the weights themselves.

Polyak, Juditsky: Acceleration of Stochastic Approximation by Averaging, https://doi.org/10.1137/0330046
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """A copy of a model whose parameters and buffers follow the model's at each ``update_parameters(model)``.

    The decay rises with the number of updates, (1 + n) / (10 + n), up to ``decay``: the first weights count for nothing soon,
    however short the training is.

    Args:
        model: it is copied.
        decay: from 0 up to, and not including, 1; 0.999 averages over about the last thousand updates.

    Attributes:
        updates: how many there were.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=self._average, use_buffers=True)
        self.decay = decay
        self.updates = 0

    def update_parameters(self, model: nn.Module) -> None:
        super().update_parameters(model)
        self.updates += 1

    def resume(self, updates: int) -> None:
        """Go on after so many updates, with the weights of ``module`` as they are."""
        self.updates = updates
        self.n_averaged.fill_(updates)

    @torch.no_grad()
    def _average(self, averages: Any, values: Any, count: Tensor | int) -> None:
        # Not by `count`, which is on the device of the weights: to read it would be to wait for them.
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, weight)
        else:
            torch._foreach_copy_(averages, values)  # counts are counts
