"""A session on the grid of chunks: what a Kalman filter is fitted on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from possm.baselines.counts import scaled_counts
from possm.baselines.fitted import FitInputs
from possm.baselines.kalman import Series
from possm.data.chunks import EDGE_TOLERANCE_S
from possm.data.recording import Recording
from possm.data.scaling import Scaling
from possm.errors import RecordingError
from possm.model.contract import DecoderConfig


class Gridded(NamedTuple):
    """A session on the grid of chunks, and how its behaviors were brought there."""

    series: Series
    mean: np.ndarray
    """(D,) of the scaled behaviors over the training chunks; the series is less this."""
    phase: np.ndarray
    """(D,) where in the stretch that a chunk answers for its samples lie on average: -0.5 is its start, 0.5
    its end. One sample a chunk may lie anywhere."""


def chunk_series(recording: Recording, config: DecoderConfig, inputs: FitInputs) -> Gridded:
    """Counts and behaviors of every chunk.

    Raises:
        RecordingError: A split is missing, or no chunk of the train or valid split has all behaviors.
    """
    bins, counts = scaled_counts(recording, config.chunk_ms)
    scaling, lead_s = inputs.scaling_of(recording.session_id), config.effective_lead_ms / 1000
    asked_s = bins.edges_s + lead_s  # the times that chunks answer for begin and end here
    stretch = _stretches(recording, (bins.edges_s[:-1] + bins.edges_s[1:]) / 2)
    each = [_per_chunk(recording, name, scaling[name], asked_s, stretch) for name in config.behaviors]
    behavior = np.concatenate([values for values, _ in each], axis=1)
    known, begins_s = np.isfinite(behavior).all(axis=1), asked_s[:-1] - 2 * EDGE_TOLERANCE_S
    parts = {}
    for split in ("train", "valid"):
        within = inputs.selection(recording) if split == "valid" else None
        inside = bins.inside(recording.split(split)) & recording.split(split).contains(begins_s)
        parts[split] = inside if within is None else inside & within.contains(begins_s)
        if not (parts[split] & known).any():
            names = ", ".join(config.behaviors)
            raise RecordingError(
                f"no chunk of the {split} split has a value of {names}", about=recording.name, got="0 chunks"
            )
    mean = behavior[parts["train"] & known].mean(axis=0)
    series = Series(counts, behavior - mean, stretch, parts["train"], parts["valid"])
    return Gridded(series, mean, np.concatenate([np.full(v.shape[1], phase) for v, phase in each]))


def _per_chunk(
    recording: Recording, behavior: str, scaling: Scaling, asked_s: np.ndarray, stretch: np.ndarray
) -> tuple[np.ndarray, float]:
    """(T, D) mean of the samples that each chunk answers for, and their phase (see `Gridded`).

    A chunk answers for no sample beyond a cut. Where a slow behavior has none, it is interpolated.
    """
    signal = recording.behavior(behavior)
    raw = np.asarray(signal.values[:], np.float64)
    good = np.isfinite(raw).all(axis=1)
    times_s, values = signal.times_s[good], scaling.apply(raw[good]).astype(np.float64)
    row = np.searchsorted(asked_s, times_s + EDGE_TOLERANCE_S, side="right") - 1
    inside = (row >= 0) & (row < len(stretch))
    inside[inside] = _stretches(recording, times_s[inside]) == stretch[row[inside]]
    row, values, times_s = row[inside], values[inside], times_s[inside]
    number = np.bincount(row, minlength=len(stretch))[:, None]
    total = [np.bincount(row, column, minlength=len(stretch)) for column in values.T]
    out = np.where(number > 0, np.stack(total, axis=1) / np.maximum(number, 1), np.nan)
    width_s = float(asked_s[1] - asked_s[0])
    if len(times_s) < 2:
        return out, 0.0
    _bridge(out, stretch, math.ceil(float(np.median(np.diff(times_s))) / width_s))
    return out, float(np.mean((times_s - asked_s[row]) / width_s)) - 0.5


def _bridge(values: np.ndarray, stretch: np.ndarray, longest: int) -> None:
    """Fill runs of up to `longest` unknown rows within a stretch by interpolation, in place."""
    known = np.flatnonzero(np.isfinite(values[:, 0]))
    before, after = known[:-1], known[1:]
    short = (after - before > 1) & (after - before <= longest + 1) & (stretch[before] == stretch[after])
    for first, last in zip(before[short], after[short], strict=True):
        share = (np.arange(first + 1, last) - first)[:, None] / (last - first)
        values[first + 1 : last] = (1 - share) * values[first] + share * values[last]


def _stretches(recording: Recording, times_s: np.ndarray) -> np.ndarray:
    """(T,) which interval of the domain holds each time; -1 is none."""
    stretch = np.searchsorted(recording.domain.start_s, times_s, side="right") - 1
    return np.where(recording.domain.contains(times_s), stretch, -1)
