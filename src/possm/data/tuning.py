"""How each unit is tuned to behavior, in numbers that a minute of calibration data gives.

A unit's row in a pretrained decoder says what its spikes mean. Units that move alike with behavior have
like rows, so a linear map from tuning to rows, fitted over the units of pretraining (`UnitMap`), says where
the row of a new unit may begin: much nearer to its place than a random row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from possm.data.caps import counts_from, usual_most
from possm.data.recording import Recording
from possm.data.scaling import Scaling
from possm.errors import RecordingError

LAGS_S = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
"""How much later than the spikes behavior is looked at: motor cortex leads movement by about 0.1 s."""
MOST_ACTIVE = 0.7
"""Chunks in which more than this share of the units speaks are left out: bursts on all channels at once."""
MIN_CHUNKS = 200
"""Fewer give no tuning worth the name."""


@dataclass(frozen=True)
class UnitMap:
    """A linear map from the tuning of a unit to its row in a decoder's tables."""

    behaviors: tuple[str, ...]
    """What tuning is to, in this order."""
    chunk_ms: int
    mean: tuple[float, ...]
    """(F,) of the features over the units of pretraining."""
    std: tuple[float, ...]
    """(F,)"""
    weights: dict[str, tuple[tuple[float, ...], ...]]
    """Table -> (F + 1, width): the last row is the offset."""
    fit: float
    """Share of the variance of rows that the map explains in sessions it was not fitted on, 1 at most."""

    def rows(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Table -> (units, width) float32, for features (units, F)."""
        scaled = (features - np.asarray(self.mean)) / np.asarray(self.std)
        inputs = np.concatenate([scaled, np.ones((len(scaled), 1))], axis=1)
        return {name: (inputs @ np.asarray(table)).astype(np.float32) for name, table in self.weights.items()}


def tuning_features(
    recording: Recording,
    stretch: tuple[float, float],
    *,
    behaviors: Sequence[str],
    chunk_ms: int,
) -> np.ndarray:
    """The tuning of every unit in a stretch of a recording.

    Covariance of a unit's count with each dimension of behavior (scaled as in the recording's train split)
    at each lag, and with its size, once over the deviation and once over the root of the mean of the count;
    and the log of that mean, and deviation over root.

    Args:
        recording: With the behaviors.
        stretch: Start and end, in seconds.
        behaviors: Which.
        chunk_ms: Length of a count.

    Returns:
        (units, F) float64.

    Raises:
        RecordingError: A behavior is missing, or too little is left of the stretch.
    """
    counts, times_s = _counts(recording, stretch, chunk_ms)
    parts, good = [], (counts > 0).mean(axis=1) <= MOST_ACTIVE
    for name in behaviors:
        scaling = Scaling.fit([recording], name)
        for lag_s in LAGS_S:
            values, known = _at(recording, name, times_s + lag_s, scaling)
            parts.append(values)
            good &= known
            if lag_s == LAGS_S[1]:
                parts.append(np.linalg.norm(values, axis=1, keepdims=True))
    if good.sum() < MIN_CHUNKS:
        raise RecordingError(
            "too little data to see how its units are tuned",
            about=recording.name,
            got=f"{int(good.sum())} usable chunks",
            wanted=f"{MIN_CHUNKS} or more",
            fix="calibrate for longer, or --start electrode or random",
        )
    counts, behavior = counts[good], np.concatenate(parts, axis=1)[good]
    counts = np.minimum(counts, usual_most(counts))
    covariance = (counts - counts.mean(axis=0)).T @ (behavior - behavior.mean(axis=0)) / len(counts)
    rate, deviation = (
        counts.mean(axis=0) + 0.02,
        counts.std(axis=0) + 1e-3,
    )  # a silent unit divides by nothing
    features = [covariance / deviation[:, None], covariance / np.sqrt(rate)[:, None]]
    return np.concatenate([*features, np.log(rate)[:, None], (deviation / np.sqrt(rate))[:, None]], axis=1)


def pieces(recording: Recording, split: str, piece_s: float, most: int) -> list[tuple[float, float]]:
    """Stretches of a split of about the same length, at most so many, evenly spread."""
    found = []
    for start_s, end_s in recording.split(split):
        number = max(1, int((end_s - start_s) // piece_s))
        edges = np.linspace(start_s, end_s, number + 1)
        found += list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    if len(found) <= most:
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, most).round().astype(int)]


def _counts(
    recording: Recording, stretch: tuple[float, float], chunk_ms: int
) -> tuple[np.ndarray, np.ndarray]:
    """(chunks, units) float64 counts, and (chunks,) the middle of each chunk."""
    start_s, end_s = stretch
    number = max(1, int((end_s - start_s) * 1000 / chunk_ms + 1e-6))
    counts = counts_from(recording, start_s, number, chunk_ms=chunk_ms).astype(np.float64)
    return counts, start_s + (np.arange(number) + 0.5) * chunk_ms / 1000


def _at(
    recording: Recording, behavior: str, times_s: np.ndarray, scaling: Scaling
) -> tuple[np.ndarray, np.ndarray]:
    """(n, D) scaled behavior between its samples, and (n,) where there are samples near enough to know."""
    signal = recording.behavior(behavior).slice(float(times_s[0]) - 1, float(times_s[-1]) + 1)
    values, at_s = np.asarray(signal.values, np.float64), signal.times_s
    there = np.isfinite(values).all(axis=1)
    values, at_s = values[there], at_s[there]
    if len(at_s) < 2:
        return np.zeros((len(times_s), len(scaling.mean))), np.zeros(len(times_s), bool)
    scaled = scaling.apply(values)
    between = np.stack([np.interp(times_s, at_s, column) for column in scaled.T], axis=1)
    right = np.clip(np.searchsorted(at_s, times_s), 1, len(at_s) - 1)
    usual_s = float(np.median(np.diff(at_s)))
    known = (at_s[right] - at_s[right - 1] <= 4 * usual_s) & (times_s >= at_s[0]) & (times_s <= at_s[-1])
    return between, known
