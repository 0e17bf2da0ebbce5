"""Which window: stretches of consecutive chunks, drawn at random for training or in order for decoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from possm.config import require
from possm.data.intervals import Intervals
from possm.data.recording import Recording


@dataclass(frozen=True)
class Window:
    """Where to cut chunks out of a recording."""

    recording: int
    """Number of the recording among those of the loader."""
    start_s: float
    """Start of chunk 0."""
    limit_s: float
    """End of the interval the window lies in: no spike and no target at or after it is used, also where the
    chunks run past it."""
    first_chunk: int = 0
    """Number of the window's first chunk, counted from `start_s`."""


BALANCES = ("time", "session", "dataset")
"""Ways to share an epoch out."""


def random_windows(
    recordings: Sequence[Recording],
    split: str,
    window_s: float,
    rng: np.random.Generator,
    *,
    balance: str = "time",
) -> list[Window]:
    """One epoch, in random order: always `count_windows` of them, whatever the balance.

    An interval is tiled by windows side by side, from a random offset; one shorter than a window gives one
    window that ends with the interval. Windows of binned recordings begin on the edge of a bin, so that
    chunks hold whole bins as they do in decoding.

    Args:
        recordings: With the split.
        split: What is tiled.
        window_s: Length of a window.
        rng: Source of randomness.
        balance: "time" tiles every interval once; "session" gives every recording the same number of windows,
            "dataset" every dataset, whose recordings have theirs by time. A recording that gets more than its
            tiles is tiled again from other offsets; one that gets less is given a random part of them.
    """
    tiles = [_tile_counts(recording.split(split), window_s) for recording in recordings]
    shares = _shares(recordings, [int(counts.sum()) for counts in tiles], balance)
    windows: list[Window] = []
    for index, (recording, counts, share) in enumerate(zip(recordings, tiles, shares, strict=True)):
        drawn: list[tuple[float, float]] = []
        while len(drawn) < share:
            again = _tiling(recording.split(split), counts, window_s, rng)
            drawn += [again[i] for i in rng.permutation(len(again))[: share - len(drawn)]]
        windows += [Window(index, snap_to_bins(recording, start_s), end_s) for start_s, end_s in drawn]
    return [windows[i] for i in rng.permutation(len(windows))]


def count_windows(recordings: Sequence[Recording], split: str, window_s: float) -> int:
    """Windows in an epoch."""
    return int(sum(_tile_counts(recording.split(split), window_s).sum() for recording in recordings))


def _tile_counts(intervals: Intervals, window_s: float) -> np.ndarray:
    """How many windows tile each interval: as many as leave at least half a window to move them by."""
    lengths = (intervals.end_s - intervals.start_s) / window_s
    return np.maximum(1, np.floor(lengths - 0.5)).astype(np.int64)


def _tiling(
    intervals: Intervals, counts: np.ndarray, window_s: float, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Starts of the windows of one tiling, and the ends of their intervals."""
    spare_s = np.maximum(intervals.end_s - intervals.start_s - counts * window_s, 0)
    first_s = np.repeat(intervals.start_s + rng.uniform(0, spare_s), counts)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts_s = first_s + number * window_s
    return list(zip(starts_s.tolist(), np.repeat(intervals.end_s, counts).tolist(), strict=True))


def _shares(recordings: Sequence[Recording], tiles: Sequence[int], balance: str) -> list[int]:
    """Windows of each recording in an epoch."""
    require(balance in BALANCES, "balance", balance, f"one of {', '.join(BALANCES)}")
    if balance == "time":
        return list(tiles)
    if balance == "session":
        return _divided(sum(tiles), [float(t > 0) for t in tiles])
    in_all: Counter[str] = Counter()
    for recording, number in zip(recordings, tiles, strict=True):
        in_all[recording.dataset_id] += number
    weights = [t / max(1, in_all[r.dataset_id]) for r, t in zip(recordings, tiles, strict=True)]
    return _divided(sum(tiles), weights)


def _divided(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to weights, total in all."""
    upto = np.cumsum(weights)
    ends = np.round(total * upto / max(upto[-1], 1e-12)).astype(int)
    return [int(n) for n in np.diff(ends, prepend=0)]


def warm_start(recording: Recording, begin_s: float, warmup_s: float) -> float:
    """`warmup_s` before a time, but not before the domain interval that holds it; on the edge of a bin."""
    for start_s, end_s in recording.domain:
        if start_s <= begin_s < end_s:
            return snap_to_bins(recording, max(start_s, begin_s - warmup_s))
    return snap_to_bins(recording, begin_s)


def snap_to_bins(recording: Recording, time_s: float) -> float:
    """The first edge of a bin at or after a time; the time itself for a recording of spike times."""
    bins = recording.bins
    if bins is None:
        return time_s
    number = np.ceil((time_s - bins.start_s) * bins.rate_hz - 1e-6)
    return float(bins.start_s + number / bins.rate_hz)
