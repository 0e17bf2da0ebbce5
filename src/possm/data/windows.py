"""Which window: stretches of consecutive chunks, drawn at random for training or in order for decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from possm.config import require
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


def epoch_windows(
    recordings: Sequence[Recording],
    window_s: float,
    rng: np.random.Generator,
    *,
    split: str = "train",
    balance: str = "time",
) -> list[Window]:
    """One epoch, in random order: always `count_windows` of them, whatever the balance.

    An interval is tiled by windows side by side, from a random offset; one shorter than a window gives one
    window that ends with the interval. Windows of binned recordings begin on the edge of a bin, so that
    chunks hold whole bins as they do in decoding.

    Args:
        recordings: With the split.
        window_s: Length of a window.
        rng: Source of randomness.
        split: What is tiled.
        balance: "time" tiles every interval once; "session" gives every recording the same number of windows,
            "dataset" every dataset, whose recordings have theirs by time. A recording that gets more than its
            tiles is tiled again from other offsets; one that gets less is given a random part of them.
    """
    shares = _shares(recordings, window_s, split, balance)
    windows = [
        w for i, share in enumerate(shares) for w in _some(recordings[i], i, share, window_s, split, rng)
    ]
    return [windows[i] for i in rng.permutation(len(windows))]


def count_windows(recordings: Sequence[Recording], window_s: float, *, split: str = "train") -> int:
    """Windows in an epoch."""
    return int(sum(_tiles_in(recording, window_s, split).sum() for recording in recordings))


def _tiles_in(recording: Recording, window_s: float, split: str) -> np.ndarray:
    """How many windows tile each interval: as many as leave at least half a window to shift them by."""
    intervals = recording.split(split)
    lengths = (intervals.end_s - intervals.start_s) / window_s
    return np.maximum(1, np.floor(lengths - 0.5 + 1e-9)).astype(np.int64)


def _shares(recordings: Sequence[Recording], window_s: float, split: str, balance: str) -> np.ndarray:
    """Windows of each recording in an epoch."""
    require(balance in BALANCES, "balance", balance, f"one of {', '.join(BALANCES)}")
    tiles = np.array([_tiles_in(recording, window_s, split).sum() for recording in recordings], np.int64)
    if balance == "time":
        return tiles
    if balance == "session":
        return _divided(int(tiles.sum()), (tiles > 0).astype(float))
    names = [recording.dataset_id for recording in recordings]
    within = {name: sum(t for t, n in zip(tiles, names, strict=True) if n == name) for name in names}
    return _divided(
        int(tiles.sum()), np.array([t / max(1, within[n]) for t, n in zip(tiles, names, strict=True)])
    )


def _divided(total: int, weights: np.ndarray) -> np.ndarray:
    """Whole numbers in proportion to weights, which sum to the total."""
    ends = np.round(total * np.cumsum(weights) / max(weights.sum(), 1e-12)).astype(np.int64)
    return np.diff(ends, prepend=0)


def _some(
    recording: Recording, index: int, share: int, window_s: float, split: str, rng: np.random.Generator
) -> list[Window]:
    """`share` windows of one recording."""
    windows: list[Window] = []
    counts = _tiles_in(recording, window_s, split)
    while len(windows) < share:
        again = [
            Window(index, snap_to_bins(recording, start_s), end_s)
            for (begin_s, end_s), count in zip(recording.split(split), counts, strict=True)
            for start_s in _tiles(begin_s, end_s, int(count), window_s, rng)
        ]
        left = share - len(windows)
        windows += again if left >= len(again) else [again[i] for i in rng.permutation(len(again))[:left]]
    return windows


def _tiles(
    begin_s: float, end_s: float, count: int, window_s: float, rng: np.random.Generator
) -> Iterator[float]:
    spare_s = end_s - begin_s - count * window_s
    offset_s = rng.uniform(0, spare_s) if spare_s > 0 else 0.0
    for i in range(count):
        yield begin_s + offset_s + i * window_s


def warm_start(recording: Recording, begin_s: float, warmup_s: float) -> float:
    """`warmup_s` before a time, but not before the domain interval that holds it; on the edge of a bin."""
    for start_s, end_s in recording.domain:
        if start_s <= begin_s < end_s:
            return snap_to_bins(recording, max(start_s, begin_s - warmup_s))
    return snap_to_bins(recording, begin_s)


def snap_to_bins(recording: Recording, time_s: float) -> float:
    """The first edge of a bin at or after a time; the time itself for a recording of spike times."""
    binned = recording.binned
    if binned is None:
        return time_s
    number = np.ceil((time_s - binned.start_s) * binned.rate_hz - 1e-6)
    return float(binned.start_s + number / binned.rate_hz)
