"""Parameter groups, optimizer, learning-rate schedule, weight averaging."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from possm.config import require
from possm.errors import ConfigError
from possm.training.rows import RowAdamW, tables_of


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up, a plateau if wanted, and cosine decay; and an average of the weights."""

    learning_rate: float = 2e-3
    """At its highest."""
    token_rate: float = 1.0
    """Rate of tokens and encoder, as a factor. What moves all tokens alike adds up in a latent, what tells
    them apart averages out, and `Encoder.spread` magnifies both: at the rate of the backbone wide latents of
    many channels grow fiftyfold within 8 steps (docs/training.md)."""
    unit_rate: float | None = None
    """Rate of the rows of units, as a factor; None is that of tokens."""
    centre_units: bool = False
    """Take from the gradient of rows what the units of a batch have in common. It says nothing of who is who,
    adds up over all tokens, and is why rows must be slow; without that part they may be as fast as the
    backbone. For decoders that embed units as POSSM does."""
    weight_decay: float = 0.01
    """Of the matrices of linear and recurrent layers; nothing else is decayed."""
    warmup: float = 0.05
    """Share of all steps over which the rate rises from 0."""
    hold: float = 0.0
    """Share of all steps, after the warm-up, before the rate begins to fall (paper: 0.5, and no warm-up)."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; above it the gradient is scaled down."""
    ema: float = 0.99
    """Decay of the running average of the weights, the ones validated and saved; 0 averages nothing."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(0 < self.token_rate <= 1, "token_rate", self.token_rate, "above 0, at most 1")
        unit_rate = 1.0 if self.unit_rate is None else self.unit_rate
        require(0 < unit_rate <= 1, "unit_rate", self.unit_rate, "above 0, at most 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(0 <= self.warmup < 1, "warmup", self.warmup, "0 or more, below 1")
        require(0 <= self.hold < 1 - self.warmup, "hold", self.hold, "0 or more, below 1 - warmup")
        require(self.clip_norm > 0, "clip_norm", self.clip_norm, "above 0")
        require(0 <= self.ema < 1, "ema", self.ema, "0 or more, below 1")


def make_optimizer(
    model: nn.Module,
    config: OptimConfig,
    *,
    tables: Iterable[str] = (),
    anchors: Mapping[Any, Tensor] | None = None,
    anchor_decay: float = 0.0,
) -> RowAdamW:
    """AdamW over groups: decayed or not; tables, whose rows change only where a batch has them, or all else;
    and rows of units, tokens and encoder, or all else, each at a rate of its own.

    Decayed are the matrices of linear and recurrent layers. The rest is embeddings, the latent, norms,
    biases, and what sets the time constants of a state-space backbone, which decay would pull towards
    constants nobody chose. Tables are all embeddings, and what is named.

    Args:
        model: What is trained; weights that are frozen by now are left out.
        config: Rate and decay.
        tables: Names of further parameters with a row for each unit or session.
        anchors: Where weights are pulled to, and
        anchor_decay: How much, see `RowAdamW`.

    Raises:
        ConfigError: Rows of units shall be centred, and there are none.
    """
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.RNNBase))]
    matrices = {id(p) for layer in layers for p in layer.parameters(recurse=False) if p.ndim >= 2}
    named = dict(model.named_parameters())
    if config.centre_units and not any(part_of(name) == "unit" for name in named):
        raise ConfigError(
            "the decoder has no rows of units to centre",
            got=type(model).__name__,
            wanted="a decoder that embeds units, such as POSSM",
            fix="--no-centre-units",
        )
    by_row = {id(p) for p in tables_of(model)} | {id(named[name]) for name in tables if name in named}
    part = {id(p): part_of(name) for name, p in named.items()}
    scale = {"unit": config.unit_rate or config.token_rate, "token": config.token_rate, "other": 1.0}
    trained = [p for p in model.parameters() if p.requires_grad]
    kinds = {id(p): (id(p) in by_row, part[id(p)], id(p) in matrices) for p in trained}
    groups = [
        {
            "params": [p for p in trained if kinds[id(p)] == (rows, each, decayed)],
            "weight_decay": config.weight_decay if decayed else 0.0,
            "rows": rows,
            "centred": config.centre_units and rows and each == "unit",
            "scale": scale[each],
        }
        for rows in (False, True)
        for each in scale
        for decayed in (True, False)
    ]
    return RowAdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        anchors=anchors,
        anchor_decay=anchor_decay,
    )


def part_of(name: str) -> str:
    """What a parameter belongs to, by its name: rows of units ("unit"), "token" (and encoder), or "other"."""
    if name.startswith("token.unit."):
        return "unit"
    return "token" if name.startswith(("token.", "encoder.")) else "other"


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Rate of step 0, 1, ..., total_steps - 1: linear warm-up, plateau, then half a cosine to 0."""
    warmup = max(1, round(config.warmup * total_steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    falling = warmup + round(config.hold * total_steps)
    done = max(0, step - falling) / max(1, total_steps - falling)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, config: OptimConfig) -> None:
    """Move the average towards the weights; early steps move it faster, so that the start is forgotten."""
    decay = min(config.ema, (1 + step) / (10 + step))
    pairs: zip[tuple[Tensor, Tensor]] = zip(average.parameters(), model.parameters(), strict=True)
    for mean, weight in pairs:
        mean.lerp_(weight, 1 - decay)
