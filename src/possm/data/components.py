"""Which units go together: principal components of their counts, without any label.

What units share is low-dimensional: a cortex that moves a hand has a handful of things to tell, and units
that load alike on the components of their counts say alike things. A minute of a session shows that much
without a single label, and rows of units can begin by it.
"""

from __future__ import annotations

import numpy as np

from possm.config import require
from possm.data.caps import synchronous_chunks
from possm.data.recording import Recording
from possm.data.tuning import CAP_PERCENTILE, MIN_CHUNKS, counts_in, pieces
from possm.errors import RecordingError

SMOOTH_S = 0.05
"""Deviation of the Gaussian that counts are smoothed with: what units share is slower than their noise."""
PIECE_S, MOST_PIECES = 60.0, 20
"""Twenty minutes of a longer split are looked at."""


def component_loadings(
    recording: Recording, *, number: int, chunk_ms: int, split: str = "train"
) -> np.ndarray:
    """How every unit loads on the first principal components of all units' smoothed counts.

    Of the counts, capped as in `possm.data.caps`, the square root is taken, after which noise is about the
    same for fast and slow units; chunks in which all fire at once are left out.

    Args:
        recording: With spikes or counts.
        number: Of components; a recording of fewer units has as many as these.
        chunk_ms: Length of a count.
        split: Where to look.

    Returns:
        (units, number) float64, the largest component first; every column has mean square 1, so that a unit
        that loads as much as most is at -1 or 1. Its sign is arbitrary.

    Raises:
        RecordingError: The split is too short.
    """
    require(number >= 1, "number", number, "1 or more")
    chunk_s = chunk_ms / 1000
    stretches = pieces(recording, split, PIECE_S, MOST_PIECES)
    parts = [counts_in(recording, stretch, chunk_s)[0] for stretch in stretches]
    counts = np.concatenate([np.zeros((0, recording.num_units)), *parts])
    if len(counts) < MIN_CHUNKS:
        raise RecordingError(
            "too little data to see which units go together",
            about=recording.name,
            got=f"{len(counts)} chunks",
            wanted=f"{MIN_CHUNKS} or more",
            fix="calibrate for longer, or let rows start in another way",
        )
    good = ~synchronous_chunks(counts)
    most = np.maximum(np.percentile(counts[good], CAP_PERCENTILE, axis=0), 1)
    smooth = np.concatenate([_smoothed(np.sqrt(np.minimum(part, most)), chunk_s) for part in parts])[good]
    smooth -= smooth.mean(axis=0)
    values, vectors = np.linalg.eigh(smooth.T @ smooth)
    loadings = vectors[:, ::-1][:, :number]
    silent = values[::-1][:number] <= 1e-9 * max(float(values[-1]), 1e-12)  # as many as data have dimensions
    return np.where(silent, 0.0, loadings * np.sqrt(len(loadings)))


def _smoothed(counts: np.ndarray, chunk_s: float) -> np.ndarray:
    """(chunks, units) counts under a Gaussian; the first and last ones are held beyond the ends."""
    reach = round(3 * SMOOTH_S / chunk_s)
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) * chunk_s / SMOOTH_S))
    padded = np.pad(counts, ((reach, reach), (0, 0)), mode="edge") if len(counts) else counts
    return sum(w * padded[i : i + len(counts)] for i, w in enumerate(weights / weights.sum()))
