"""The offset of a sender's clock, smoothed, and jumps of it counted and not believed at once."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque

from possm.streaming.links.horizon import LinkCounts

log = logging.getLogger(__name__)

JUMP_S = 1.0
"""A clock offset that moves by more than this has jumped; steps of 200,000 s have been seen."""
BELIEVED = 5
"""A jump that stays for so many readings is followed, with a warning."""


class Correction:
    """The offset of a sender's clock, smoothed: the median of the latest readings. A jump is counted and not
    believed, until it has stayed for BELIEVED readings.

    Args:
        counts: Where to count jumps.
    """

    def __init__(self, counts: LinkCounts) -> None:
        self._counts = counts
        self._readings: deque[float] = deque(maxlen=BELIEVED)
        self._doubted: list[float] = []
        self.offset_s = 0.0
        """To be added to timestamps."""

    def read(self, offset_s: float) -> None:
        """A new reading; one that is no number says nothing."""
        if not math.isfinite(offset_s):
            return
        if self._readings and abs(offset_s - self.offset_s) > JUMP_S:
            self._doubt(offset_s)
            return
        self._doubted.clear()
        self._readings.append(offset_s)
        self.offset_s = statistics.median(self._readings)

    def _doubt(self, offset_s: float) -> None:
        if self._doubted and abs(offset_s - self._doubted[-1]) > JUMP_S:
            self._doubted.clear()
        if not self._doubted:
            self._counts.clock_jumps += 1
            log.warning("the clock offset jumped by %+.3f s; not believed yet", offset_s - self.offset_s)
        self._doubted.append(offset_s)
        if len(self._doubted) >= BELIEVED:
            log.warning("the clock offset stays at %+.3f s; followed", offset_s)
            self._readings = deque(self._doubted, maxlen=BELIEVED)
            self._doubted.clear()
            self.offset_s = statistics.median(self._readings)
