"""What a unit may say in one chunk: counts beyond a cap are noise of the recording, not of the cortex.

On implanted arrays there are moments at which nearly all channels fire together, tens of times as much as
they ever do else. Averaged over an hour they do not matter; in two minutes of calibration they do. The cap of
a unit is a high percentile of its own counts; it is stored with the decoder (`Vocabulary.caps`) and applied
in training, scoring and streaming alike.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from possm.config import require
from possm.data.chunks import chunk_edges_s
from possm.data.faults import SYNCHRONOUS
from possm.data.recording import Recording
from possm.data.vocabulary import Vocabulary
from possm.errors import RecordingError

logger = logging.getLogger(__name__)

CAP_PERCENTILE = 99.5
"""Of its counts, what a unit says at most unless told otherwise, and 1."""
MANY = 3.0
"""Chunks in which nearly all units fire, and together this many times as much as in a usual chunk (the
median), are artefacts,"""
RARE = 0.05
"""if they are fewer than this share of all,"""
FEW_UNITS = 10
"""and if there are at least so many units; fewer may well fire together."""


@dataclass(frozen=True, eq=False)
class Caps:
    """Caps of the units of one recording, and what they cut off the data they were fitted on."""

    most: np.ndarray
    """(units,) float64, 1 or more."""
    cut: float
    """Spikes beyond the caps."""
    total: float
    """All spikes there were."""
    artefacts: int
    """Chunks in which nearly all units fired, which the caps were not fitted on."""

    def __str__(self) -> str:
        share = self.cut / max(1.0, self.total)
        together = f", {self.artefacts} chunks with nearly all units at once" if self.artefacts else ""
        return f"{self.cut:.0f} of {self.total:.0f} spikes ({share:.2%}) beyond their caps{together}"


def fit_caps(
    recording: Recording, *, chunk_ms: int, percentile: float = CAP_PERCENTILE, split: str = "train"
) -> Caps:
    """The percentile of each unit's counts per chunk, rounded up, and 1 where that is 0.

    Args:
        recording: With the split.
        chunk_ms: Step of the decoder.
        percentile: Above 0, at most 100.
        split: Where to look.

    Raises:
        RecordingError: There is no such split, or not one whole chunk in it.
    """
    require(0 < percentile <= 100, "cap_percentile", percentile, "above 0, at most 100")
    counts = chunk_counts(recording, chunk_ms=chunk_ms, split=split)
    together = synchronous_chunks(counts)
    most = np.ceil(usual_most(counts[~together], percentile))
    cut = np.maximum(counts - most, 0).sum(dtype=np.float64)
    return Caps(most, float(cut), float(counts.sum(dtype=np.float64)), int(together.sum()))


def usual_most(counts: np.ndarray, percentile: float = CAP_PERCENTILE) -> np.ndarray:
    """(units,) the percentile of each unit's counts, and 1 where that is less; of (chunks, units) counts."""
    most: np.ndarray = np.maximum(np.percentile(counts, percentile, axis=0), 1.0)
    return most


def synchronous_chunks(counts: np.ndarray) -> np.ndarray:
    """(chunks,) whether nearly all units fired at once, as in artefacts; of (chunks, units) counts."""
    total = counts.sum(axis=1)
    together = ((counts > 0).mean(axis=1) > SYNCHRONOUS) & (total > MANY * np.median(total))
    if counts.shape[1] < FEW_UNITS or together.mean() > RARE:
        together[:] = False
    return together


def with_fitted_caps(
    vocabulary: Vocabulary, recordings: Iterable[Recording], *, chunk_ms: int, percentile: float | None
) -> tuple[Vocabulary, dict[str, float]]:
    """The vocabulary with caps for the units of these recordings, whose sessions it knows, and for a report
    the share of their spikes that is cut off; unchanged where the percentile is None."""
    if percentile is None:
        return vocabulary, {}
    cut = total = 0.0
    for recording in recordings:
        caps = fit_caps(recording, chunk_ms=chunk_ms, percentile=percentile)
        logger.info("%s: %s", recording.name, caps)
        vocabulary = vocabulary.with_caps(recording.session_id, recording.unit_ids, caps.most)
        cut, total = cut + caps.cut, total + caps.total
    return vocabulary, {"capped_share": cut / max(1.0, total)}


def chunk_counts(recording: Recording, *, chunk_ms: int, split: str) -> np.ndarray:
    """(chunks, units) float32: spikes per chunk over the whole chunks of a split.

    Raises:
        RecordingError: There is not one.
    """
    parts = interval_counts(recording, chunk_ms=chunk_ms, split=split)
    if not sum(map(len, parts)):
        raise RecordingError(f"the {split} split holds no whole chunk", about=recording.name)
    return np.concatenate(parts)


def interval_counts(recording: Recording, *, chunk_ms: int, split: str) -> list[np.ndarray]:
    """For each interval of a split, (chunks, units) float32: spikes per chunk over its whole chunks."""
    parts = []
    for start_s, end_s in recording.split(split):
        number = int((end_s - start_s) * 1000 / chunk_ms + 1e-6)
        parts.append(counts_from(recording, start_s, number, chunk_ms=chunk_ms))
    return parts


def counts_from(recording: Recording, start_s: float, number: int, *, chunk_ms: int) -> np.ndarray:
    """(number, units) float32: spikes per chunk of so many chunks from a time on."""
    edges_s = chunk_edges_s(start_s, first=0, count=number, chunk_ms=chunk_ms)
    times_s, unit, count = recording.tokens(start_s, float(edges_s[-1]))
    chunk = np.searchsorted(edges_s, times_s, side="right") - 1
    key, size = chunk * recording.num_units + unit, number * recording.num_units
    total = np.bincount(key[chunk < number], weights=count[chunk < number], minlength=size)
    return total.astype(np.float32).reshape(number, recording.num_units)


def capped(key: np.ndarray, count: np.ndarray, most: np.ndarray) -> np.ndarray:
    """What is left of counts when those of one key may not add up to more than its cap; the first ones stay.

    Args:
        key: (n,) int64, the same for one unit in one chunk.
        count: (n,) in time order.
        most: (n,) the cap of each key, the same wherever the key is.

    Returns:
        (n,) in the dtype of the counts, 0 to count.
    """
    if not len(key):
        return count
    key = key - key.min()
    if (np.bincount(key, weights=count)[key] <= most).all():
        return count
    room = most - _before(key, count)
    return np.minimum(count, np.maximum(room, 0)).astype(count.dtype)


def _before(key: np.ndarray, count: np.ndarray) -> np.ndarray:
    """(n,) float64: what those with the same key, further ahead in the array, add up to."""
    order = np.argsort(key, kind="stable")
    total = np.cumsum(count[order], dtype=np.float64)
    first = np.searchsorted(key[order], key[order])
    before = np.empty(len(key))
    before[order] = total - count[order] - (total[first] - count[order][first])
    return before
