"""Which units go together: principal components of their counts, without any label.

What units share is low-dimensional: a cortex that moves a hand has a handful of things to tell, and units
that load alike on the components of their counts say alike things. A minute of a session shows that much
without a single label, and rows of units can begin by it.
"""

from __future__ import annotations

import numpy as np

from possm.config import require
from possm.data.caps import interval_counts, synchronous_chunks, usual_most
from possm.data.recording import Recording
from possm.errors import RecordingError

NUM_COMPONENTS = 8
"""As many as a movement's velocity, speed and position, its plan and what units share besides."""
SMOOTH_S = 0.05
"""Deviation of the Gaussian that counts are smoothed with: what units share is slower than their noise."""
MIN_S = 10.0
"""Less shows nothing worth the name."""


def component_loadings(
    recording: Recording, *, chunk_ms: int, number: int = NUM_COMPONENTS, split: str = "train"
) -> np.ndarray:
    """How every unit loads on the first principal components of all units' smoothed counts.

    Of the counts, none above the 99.5th percentile of its unit, the square root is taken, after which noise
    is about the same for fast and slow units; chunks in which all fire at once (`possm.data.caps`) are left
    out. Smoothing does not cross the edges of the split's intervals.

    Args:
        recording: With spikes or counts.
        chunk_ms: Length of a count.
        number: Of components; a recording of fewer units has as many as these.
        split: Where to look, and nowhere else.

    Returns:
        (units, number) float64, the largest component first; every column has mean 0 and mean square 1 over
        units, so that it says what sets them apart, and a positive third moment, for the sign of a component
        is arbitrary. A component beyond those that the data have is 0.

    Raises:
        RecordingError: The split is too short.
    """
    require(number >= 1, "number", number, "1 or more")
    parts = interval_counts(recording, chunk_ms=chunk_ms, split=split)
    seconds = sum(map(len, parts)) * chunk_ms / 1000
    if seconds < MIN_S:
        raise RecordingError(
            "too little data to see which units go together",
            about=recording.name,
            got=f"{seconds:.3g} s in whole chunks of the {split} split",
            wanted=f"{MIN_S:g} s or more",
            fix="calibrate for longer, or let rows of units begin at random (--start, --unit-start)",
        )
    counts = np.concatenate(parts)
    used = ~synchronous_chunks(counts)
    most = usual_most(counts[used])
    edges = np.cumsum([len(part) for part in parts])[:-1]
    smooth = [
        _smoothed(np.sqrt(np.minimum(part, most)), good, chunk_ms / 1000)
        for part, good in zip(parts, np.split(used, edges), strict=True)
    ]
    shared = np.concatenate(smooth)
    shared -= shared.mean(axis=0)
    values, vectors = np.linalg.eigh(shared.T @ shared)
    loadings = vectors[:, ::-1][:, :number]
    loadings = loadings - loadings.mean(axis=0)
    size = np.sqrt(np.square(loadings).mean(axis=0))
    there = (values[::-1][:number] > 1e-9 * max(float(values[-1]), 1e-12)) & (size > 1e-9)
    sign = np.where((loadings**3).sum(axis=0) < 0, -1.0, 1.0)
    return np.where(there, loadings * sign / np.where(there, size, 1.0), 0.0)


def _smoothed(counts: np.ndarray, good: np.ndarray, chunk_s: float) -> np.ndarray:
    """The good ones of (chunks, units) counts, each the mean of the good ones around it under a Gaussian."""
    reach = round(3 * SMOOTH_S / chunk_s)
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) * chunk_s / SMOOTH_S))
    number = len(counts)
    there = np.pad(good.astype(np.float64), reach)
    padded = np.pad(np.where(good[:, None], counts, 0.0), ((reach, reach), (0, 0)))
    total = sum(w * padded[i : i + number] for i, w in enumerate(weights))
    weight = sum(w * there[i : i + number] for i, w in enumerate(weights))
    smooth: np.ndarray = total[good] / weight[good, None]
    return smooth
