"""One loss per readout kind, each the weighted mean of an error per query."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from possm.batch import Batch, Targets


def squared_error(answer: Tensor, targets: Targets) -> Tensor:
    """sum_q w_q mean_d (answer - target)^2 / sum_q w_q (released code, weighted MSE): a scalar.

    Nothing to learn from (no query, or all weights 0) gives 0.
    """
    return _weighted_mean((answer - targets.values).square().mean(dim=1), targets.weights)


def cross_entropy(answer: Tensor, targets: Targets) -> Tensor:
    """sum_q w_q (-log softmax(answer)[class]) / sum_q w_q, in nats: a scalar; 0 without a query."""
    return _weighted_mean(functional.cross_entropy(answer, targets.values, reduction="none"), targets.weights)


def _weighted_mean(error: Tensor, weights: Tensor) -> Tensor:
    return (error * weights).sum() / weights.sum().clamp(min=torch.finfo(error.dtype).tiny)


LOSSES: dict[str, Callable[[Tensor, Targets], Tensor]] = {
    "continuous": squared_error,
    "category": cross_entropy,
}
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
