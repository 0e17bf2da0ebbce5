"""One loss per readout kind, each the weighted mean of an error per query."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from possm.batch import Batch, SequenceTargets, Targets


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


def ctc(answer: Tensor, targets: SequenceTargets) -> Tensor:
    """-log probability that the answers write the transcripts, over the number of their symbols: a scalar.

    Connectionist temporal classification (Graves et al. 2006). A transcript that does not fit into its frames
    counts for nothing; the loader leaves such trials out and says so.

    Args:
        answer: (Q, symbols + 1) logits, sequence after sequence.
        targets: What they should write.
    """
    used = targets.frames > 0
    parts = [part for part in answer.split(targets.frames.tolist()) if len(part)]
    if not parts:
        return answer.sum()  # of nothing: 0
    logits = nn.utils.rnn.pad_sequence(parts)
    keep = used.repeat_interleave(targets.lengths)
    lengths = targets.lengths[used]
    loss = functional.ctc_loss(
        logits.log_softmax(-1),
        targets.symbols[keep],
        targets.frames[used],
        lengths,
        reduction="sum",
        zero_infinity=True,
    )
    return loss / lengths.sum().clamp(min=1)


LOSSES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "continuous": squared_error,
    "category": cross_entropy,
    "sequence": ctc,
}
"""By readout kind, the names of READOUTS."""


def total_loss(
    answers: Mapping[str, Tensor],
    batch: Batch,
    *,
    kinds: Mapping[str, str],
    behavior_weights: Mapping[str, float],
    shares: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The sum over behaviors of their loss times their weight (1 unless given): a scalar.

    Args:
        answers: By behavior.
        batch: With the targets.
        kinds: Of readout, by behavior.
        behavior_weights: By behavior.
        shares: What else to multiply with, where several processes make a batch (`Processes.shares`).
    """
    shares = shares or {}
    parts = [
        behavior_weights.get(name, 1.0)
        * shares.get(name, 1.0)
        * LOSSES[kinds[name]](answer, batch.targets[name])
        for name, answer in answers.items()
    ]
    return torch.stack(parts).sum()


def loss_weights(batch: Batch) -> dict[str, Tensor]:
    """By behavior, the number that its loss in this batch is a mean over: a scalar each."""
    return {
        name: (
            targets.lengths[targets.frames > 0].sum()
            if isinstance(targets, SequenceTargets)
            else targets.weights.sum()
        )
        for name, targets in batch.targets.items()
    }
