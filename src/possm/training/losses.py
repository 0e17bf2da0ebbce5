"""One loss per readout kind, each the weighted mean of an error per query."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from possm.batch import Batch, Targets


def squared_error(answer: Tensor, targets: Targets) -> Tensor:
    """sum_q w_q mean_d (answer - target)^2 / sum_q w_q (released code, weighted MSE): a scalar.

    Nothing to learn from (no query, or all weights 0) gives 0.
    """
    error = (answer - targets.values).square().mean(dim=1)
    total = targets.weights.sum()
    return (error * targets.weights).sum() / total.clamp(min=torch.finfo(error.dtype).tiny)


LOSSES: dict[str, Callable[[Tensor, Targets], Tensor]] = {"continuous": squared_error}
"""By readout kind, the names of READOUTS."""


def total_loss(
    answers: Mapping[str, Tensor],
    batch: Batch,
    *,
    kinds: Mapping[str, str],
    behavior_weights: Mapping[str, float],
) -> Tensor:
    """The sum over behaviors of their loss times their weight (1 unless given): a scalar."""
    parts = [
        behavior_weights.get(name, 1.0) * LOSSES[kinds[name]](answer, batch.targets[name])
        for name, answer in answers.items()
    ]
    return torch.stack(parts).sum()
