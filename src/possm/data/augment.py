"""Changes to the input that a good decoder should not mind, drawn anew for every window."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from possm.batch import Values
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
    value_noise: float = 0.0
    """Values: standard deviation of Gaussian noise, new in every bin (Willett et al. 2023: 0.8)."""
    value_offset: float = 0.0
    """Values: standard deviation of what is added to a channel for the whole window (Willett et al.: 0.2)."""
    time_masks: int = 0
    """Values: how many stretches of a window are set to 0, the mean."""
    time_mask_s: float = 0.2
    """Longest such stretch; each has a random length up to this."""

    def __post_init__(self) -> None:
        require(0 < self.min_units_kept <= 1, "min_units_kept", self.min_units_kept, "above 0, at most 1")
        if self.unit_dropout is not None:
            fewest, mode, most = self.unit_dropout
            ordered = 1 <= fewest <= mode <= most and fewest < most
            require(ordered, "unit_dropout", self.unit_dropout, "the fewest, likeliest and most units")
        require(0 <= self.token_dropout < 1, "token_dropout", self.token_dropout, "0 or more, below 1")
        for name in ("value_noise", "value_offset", "time_masks", "time_mask_s"):
            value = getattr(self, name)
            require(0 <= value < np.inf, name, value, "finite, 0 or more")


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


def augment_values(
    values: Values, *, kinds: int, chunk_s: float, config: AugmentConfig, rng: np.random.Generator
) -> Values:
    """The values of one window, changed.

    Args:
        values: Of one sequence.
        kinds: How many kinds of value a unit has.
        chunk_s: Length of a chunk.
        config: What to do.
        rng: Source of randomness.
    """
    value, unit = values.value, values.unit
    if config.value_offset > 0:
        different = np.unique(unit).size * kinds
        offset = rng.standard_normal(different, dtype=np.float32) * config.value_offset
        value = value + np.tile(offset, value.shape[2] // different)
    if config.value_noise > 0:
        value = value + rng.standard_normal(value.shape, dtype=np.float32) * config.value_noise
    if config.time_masks:
        value = np.where(_masked(value.shape[1], chunk_s, config, rng)[None, :, None], np.float32(0), value)
    if config.min_units_kept < 1 or config.unit_dropout is not None:
        rows = np.unique(unit)
        one = np.ones(len(rows), np.float32)
        kept, _ = augment_tokens(
            np.arange(len(rows)),
            one,
            num_units=len(rows),
            config=replace(config, token_dropout=0.0),
            rng=rng,
        )
        unit = np.where(kept[np.searchsorted(rows, unit)], unit, 0)
    return replace(values, value=value, unit=unit)


def _masked(num_chunks: int, chunk_s: float, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """(C,) bool: the chunks of a window that are set to the mean."""
    masked = np.zeros(num_chunks, bool)
    for _ in range(config.time_masks):
        length = round(rng.uniform(0, config.time_mask_s) / chunk_s)
        first = int(rng.integers(0, max(1, num_chunks - length + 1)))
        masked[first : first + length] = True
    return masked


def _thinned(count: np.ndarray, kept: float, rng: np.random.Generator) -> np.ndarray:
    """Every spike stays with probability `kept`, and so does what a feature has beyond a whole number."""
    whole = np.floor(count)
    rest = count - whole
    stays = rng.binomial(whole.astype(np.int64), kept)
    if rest.any():
        return (stays + rest * (rng.random(len(rest)) < kept)).astype(np.float32)
    return stays.astype(np.float32)
