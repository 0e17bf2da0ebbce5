"""The first phase of training a decoder of values: its encoder learns to tell the values from its latents.

The paper trains its speech decoder so before the phonemes are learnt (section 4.3): units, latents and
cross-attention first see much more than a few thousand phonemes. A linear map for every channel reads the
latents, and is thrown away afterwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from possm.batch import Batch, Values
from possm.errors import ConfigError
from possm.model.decoder import Possm
from possm.training.optim import OptimConfig, learning_rate

FIRST_EPOCH = 1 << 20
"""Batches are those of epochs that no run reaches."""


class Reconstruction(nn.Module):
    """Latents of a chunk -> its values, a row of weights for every channel and bin.

    Args:
        width: Size of all latents of a chunk together.
        num_units: Rows of the unit vocabulary.
        values: A batch's, for the kinds and bins there are.
    """

    def __init__(self, width: int, *, num_units: int, values: Values) -> None:
        super().__init__()
        self.num_units = num_units
        self.slots = len(torch.unique(values.kind)) * len(torch.unique(values.time_s))
        self.weight = nn.Embedding(num_units * self.slots, width)
        self.bias = nn.Embedding(num_units * self.slots, 1)
        nn.init.normal_(self.weight.weight, std=width**-0.5)
        nn.init.zeros_(self.bias.weight)

    def forward(self, latents: Tensor, values: Values) -> Tensor:
        """(S, C, width) -> (S, C, M)."""
        times, bins = torch.unique(values.time_s, return_inverse=True)
        _, kinds = torch.unique(values.kind, return_inverse=True)
        row = (kinds * len(times) + bins) * self.num_units + values.unit
        return latents @ self.weight(row).transpose(1, 2) + self.bias(row).transpose(1, 2)


def reconstruct(
    model: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    *,
    steps: int,
    optim: OptimConfig,
) -> float:
    """Train what comes before the backbone; the rest of the model is not touched.

    Args:
        model: A `Possm` that reads values.
        batches: Epoch -> its batches, as tensors on the device of the model.
        steps: How many.
        optim: Rate and its schedule, as of the run.

    Returns:
        Share of the variance of the values that the latents of the last steps tell, 1 at best.

    Raises:
        ConfigError: The model reads no values.
    """
    if not isinstance(model, Possm) or not model.token.value_kinds:
        raise ConfigError(
            "only a POSSM decoder of counts or power reconstructs them",
            got=type(model).__name__,
            fix="leave out reconstruct_steps",
        )
    stream = (batch for epoch in itertools.count(FIRST_EPOCH) for batch in batches(epoch))
    first = next(stream)
    assert first.values is not None
    config = model.config
    width, device = config.num_latents * config.width, model.session.weight.device
    num_units = model.token.unit.num_embeddings
    head = Reconstruction(width, num_units=num_units, values=first.values).to(device)
    groups = [
        {"params": [*model.token.parameters(), *model.encoder.parameters()], "scale": optim.token_rate},
        {"params": list(head.parameters()), "scale": 1.0},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    model.train()
    told = [
        _step(model, head, batch, optimizer, learning_rate(number, steps, optim), optim.clip_norm)
        for number, batch in zip(range(steps), itertools.chain([first], stream), strict=False)
    ]
    newest = told[-max(1, steps // 10) :]
    return sum(newest) / len(newest)


def _step(
    model: Possm, head: Reconstruction, batch: Batch, optimizer: Any, rate: float, clip: float
) -> float:
    values = batch.values
    assert values is not None
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    guess = head(model.encode(batch, model.tables()), values)
    rank = torch.arange(values.unit.shape[1], device=values.unit.device)
    there = (values.unit.unsqueeze(1) > 0) & (rank < values.size.unsqueeze(2))
    loss = functional.mse_loss(guess[there], values.value[there])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()
    return 1 - float(loss.detach() / values.value[there].var().clamp(min=1e-9))
