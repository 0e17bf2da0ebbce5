"""Bursts of noise: chunks with far more spikes than usual are counted; what a unit may say can be capped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from possm.data.caps import capped
from possm.streaming.inbox import Arrivals, StreamCounts

MEMORY = 200
"""Chunks over which the usual number of spikes is remembered."""


def note_sizes(sizes: Sequence[int], counts: StreamCounts) -> None:
    """Count the empty chunks and the bursts among chunks with so many spikes."""
    for number, size in enumerate(sizes, start=counts.chunks - counts.empty):
        if size == 0:
            counts.empty += 1
            continue
        if number == 0:
            counts.usual = float(size)
        most = 5 * counts.usual + 10
        counts.bursts += size > most
        counts.usual += (min(size, most) - counts.usual) / min(number + 1, MEMORY)


def cap_bursts(
    spikes: Arrivals, edges_s: np.ndarray, most: float | np.ndarray, counts: StreamCounts
) -> Arrivals:
    """Keep the first spikes of every unit in every chunk, up to a total count of `most`.

    Args:
        spikes: Sorted by time, none after the last edge.
        edges_s: (C + 1,) edges of the chunks.
        most: What a unit may add up to in one chunk: one number, or (units,). A bin that goes beyond is cut
            down, not dropped.
        counts: Moves what is dropped from `used` to `capped`, and counts bins that are cut down.
    """
    cuts = spikes.times_s.searchsorted(edges_s)
    busiest = int((cuts[1:] - cuts[:-1]).max(initial=0))
    if busiest == 0 or busiest * float(spikes.count.max()) <= np.min(most):
        return spikes  # nothing can have reached a cap
    chunk = np.searchsorted(edges_s, spikes.times_s, side="right")
    key = chunk * (1 + int(spikes.unit.max())) + spikes.unit
    caps = np.broadcast_to(most, 1) if np.ndim(most) == 0 else np.asarray(most)[spikes.unit]
    allowed = capped(key, spikes.count, caps)
    if allowed is spikes.count:
        return spikes
    keep = allowed > 0
    dropped = int(np.count_nonzero(~keep))
    counts.used, counts.capped = counts.used - dropped, counts.capped + dropped
    counts.cut += int(np.count_nonzero(keep & (allowed < spikes.count)))
    return replace(spikes, count=allowed).pick(keep)
