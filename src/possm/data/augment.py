"""Changes to the input that a good decoder should not mind, drawn anew for every window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from possm.config import require

PEAK = 4.0
"""How much likelier the mode of `unit_dropout` is than either end (paper: 4)."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training windows; validation and streams see none."""

    min_units_kept: float = 1.0
    """Unit dropout: every window keeps a share of its units drawn uniformly from [this, 1]; 1 keeps all."""
    unit_dropout: tuple[int, int, int] | None = None
    """Unit dropout as in the paper (60, 300, 1000): every window keeps a number of units, the fewest,
    likeliest and most, drawn by `draw_kept_units`. None does none."""
    token_dropout: float = 0.0
    """Every spike is dropped with this probability (a bin of k spikes keeps a binomial number)."""

    def __post_init__(self) -> None:
        require(0 < self.min_units_kept <= 1, "min_units_kept", self.min_units_kept, "above 0, at most 1")
        if self.unit_dropout is not None:
            fewest, mode, most = self.unit_dropout
            ordered = 1 <= fewest <= mode <= most and fewest < most
            require(ordered, "unit_dropout", self.unit_dropout, "the fewest, likeliest and most units")
        require(0 <= self.token_dropout < 1, "token_dropout", self.token_dropout, "0 or more, below 1")


def augment_tokens(
    unit: np.ndarray, count: np.ndarray, *, num_units: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens stay, and their new counts.

    Args:
        unit: (N,) rows 0..num_units-1 of the recording's unit table.
        count: (N,) float32 multiplicities.
        num_units: Units of the recording.
        config: What to do.
        rng: Source of randomness.

    Returns:
        (N,) bool mask of kept tokens, and (N,) float32 counts.
    """
    keep = np.ones(len(unit), bool)
    if config.min_units_kept < 1:
        share = rng.uniform(config.min_units_kept, 1)
        kept_units = rng.random(num_units) < share
        keep &= kept_units[unit]
    if config.unit_dropout is not None:
        kept_units = np.zeros(num_units, bool)
        number = draw_kept_units(num_units, config.unit_dropout, rng)
        kept_units[rng.permutation(num_units)[:number]] = True
        keep &= kept_units[unit]
    if config.token_dropout > 0:
        count = _thinned(count, 1 - config.token_dropout, rng)
        keep &= count > 0
    return keep, count


def draw_kept_units(num_units: int, spread: tuple[int, int, int], rng: np.random.Generator) -> int:
    """How many units of a recording stay.

    A number is drawn whose density rises from 1 at the fewest to `PEAK` at the likeliest, and falls to 1
    again at the most; a recording with fewer units than that, or than the fewest, keeps all (torch_brain,
    `TriangleDistribution`).
    """
    fewest, mode, most = spread
    if num_units < fewest:
        return num_units
    # a box of height 1, and a triangle of height PEAK - 1 on top of it
    box = rng.random() < 2 / (PEAK + 1)
    number = rng.uniform(fewest, most) if box else rng.triangular(fewest, mode, most)
    return min(num_units, int(number))


def _thinned(count: np.ndarray, kept: float, rng: np.random.Generator) -> np.ndarray:
    """Every spike stays with probability `kept`, and so does what a feature has beyond a whole number."""
    whole = np.floor(count)
    rest = count - whole
    stays = rng.binomial(whole.astype(np.int64), kept)
    if rest.any():
        return (stays + rest * (rng.random(len(rest)) < kept)).astype(np.float32)
    return stays.astype(np.float32)
