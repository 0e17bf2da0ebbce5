"""A session on the grid of chunks: what a Kalman filter is fitted on."""

from __future__ import annotations

import math

import numpy as np

from possm.baselines.counts import scaled_counts
from possm.baselines.fitted import FitInputs
from possm.baselines.kalman import Series
from possm.data.recording import Recording
from possm.data.series import Signal
from possm.errors import RecordingError
from possm.model.contract import DecoderConfig


def chunk_series(recording: Recording, config: DecoderConfig, inputs: FitInputs) -> tuple[Series, np.ndarray]:
    """Counts and behaviors of every chunk, and the mean of the behaviors over the training chunks.

    Raises:
        RecordingError: A split is missing, or no chunk of the train or valid split has all behaviors.
    """
    bins, counts = scaled_counts(recording, config.chunk_ms)
    scaling, lead_s = inputs.scaling_of(recording.session_id), config.effective_lead_ms / 1000
    edges_s = bins.edges_s + lead_s  # of what each chunk is asked for
    each = [_per_chunk(recording.behavior(name), edges_s, scaling[name].apply) for name in config.behaviors]
    behavior = np.concatenate(each, axis=1)
    middle_s = (edges_s[:-1] + edges_s[1:]) / 2
    stretch = _stretches(recording, (bins.edges_s[:-1] + bins.edges_s[1:]) / 2)
    behavior[_stretches(recording, middle_s) != stretch] = np.nan  # asked for beyond a cut: of no chunk
    known = np.isfinite(behavior).all(axis=1)
    parts = {}
    for split in ("train", "valid"):
        within = inputs.selection(recording) if split == "valid" else None
        inside = bins.inside(recording.split(split)) & recording.split(split).contains(middle_s)
        parts[split] = inside if within is None else inside & within.contains(middle_s)
        if not (parts[split] & known).any():
            names = ", ".join(config.behaviors)
            raise RecordingError(
                f"no chunk of the {split} split has a value of {names}", about=recording.name, got="0 chunks"
            )
    mean = behavior[parts["train"] & known].mean(axis=0)
    return Series(counts, behavior - mean, stretch, parts["train"], parts["valid"]), mean


def _per_chunk(signal: Signal, edges_s: np.ndarray, scale: object) -> np.ndarray:
    """(T, D) mean of the samples between each two edges; interpolated where a slow signal has none."""
    values = np.asarray(signal.values[:], np.float64)
    good = np.isfinite(values).all(axis=1)
    times_s, values = signal.times_s[good], np.asarray(scale(values[good]), np.float64)  # type: ignore[operator]
    row = np.searchsorted(edges_s, times_s, side="right") - 1
    inside = (row >= 0) & (row < len(edges_s) - 1)
    number = np.bincount(row[inside], minlength=len(edges_s) - 1)
    out = np.full((len(edges_s) - 1, values.shape[1]), np.nan)
    for column in range(values.shape[1]):
        total = np.bincount(row[inside], values[inside, column], minlength=len(number))
        out[number > 0, column] = total[number > 0] / number[number > 0]
    if len(times_s) > 1:
        longest = math.ceil(float(np.median(np.diff(times_s))) / float(edges_s[1] - edges_s[0]))
        _bridge(out, longest)
    return out


def _bridge(values: np.ndarray, longest: int) -> None:
    """Fill runs of up to `longest` unknown rows by interpolation, in place."""
    known = np.flatnonzero(np.isfinite(values[:, 0]))
    gap = np.diff(known) - 1
    rows = np.concatenate(
        [np.zeros(0, np.int64)]
        + [np.arange(a + 1, a + 1 + n) for a, n in zip(known[:-1], gap, strict=True) if 0 < n <= longest]
    )
    for column in range(values.shape[1]):
        values[rows, column] = np.interp(rows, known, values[known, column])


def _stretches(recording: Recording, times_s: np.ndarray) -> np.ndarray:
    """(T,) which interval of the domain holds each time; -1 is none."""
    stretch = np.searchsorted(recording.domain.start_s, times_s, side="right") - 1
    return np.where(recording.domain.contains(times_s), stretch, -1)
