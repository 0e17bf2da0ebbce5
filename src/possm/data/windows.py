"""Which window: stretches of consecutive chunks, drawn at random for training or in order for decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

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


def random_windows(
    recordings: Sequence[Recording], split: str, window_s: float, rng: np.random.Generator
) -> list[Window]:
    """One epoch: windows that tile every interval of the split from a random offset, in random order.

    An interval shorter than a window gives one window that ends with the interval. Windows of binned
    recordings begin on the edge of a bin, so that chunks hold whole bins as they do in decoding.
    """
    windows = [
        Window(index, start_s, end_s)
        for index, recording in enumerate(recordings)
        for begin_s, end_s in recording.split(split)
        for start_s in _tiles(recording, begin_s, end_s, window_s, rng)
    ]
    return [windows[i] for i in rng.permutation(len(windows))]


def _tiles(
    recording: Recording, begin_s: float, end_s: float, window_s: float, rng: np.random.Generator
) -> Iterator[float]:
    spare_s = end_s - begin_s - window_s
    if spare_s <= 0:
        yield snap_to_bins(recording, begin_s)
        return
    offset_s = rng.uniform(0, min(window_s, spare_s))
    for i in range(int((end_s - begin_s - offset_s) / window_s)):
        yield snap_to_bins(recording, begin_s + offset_s + i * window_s)


def snap_to_bins(recording: Recording, time_s: float) -> float:
    """The first edge of a bin at or after a time; the time itself for a recording of spike times."""
    binned = recording.binned
    if binned is None:
        return time_s
    number = np.ceil((time_s - binned.start_s) * binned.rate_hz - 1e-6)
    return float(binned.start_s + number / binned.rate_hz)
