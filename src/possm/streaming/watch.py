"""Keeping an eye on a stream: how long steps take, and how often that was too long.

Memory is fixed: durations go into a histogram of logarithmic buckets 1 % wide, so percentiles of any number
of steps are right to 1 %; counts, misses and the largest are exact.
"""

from __future__ import annotations

import math

import numpy as np

from possm.config import require

SHORTEST_S, LONGEST_S, GROWTH = 1e-6, 1e3, 1.01
BUCKETS = math.ceil(math.log(LONGEST_S / SHORTEST_S) / math.log(GROWTH)) + 1


class Watch:
    """Counts steps by their duration.

    Args:
        deadline_ms: A step that takes longer than this is a miss.

    Raises:
        ConfigError: The deadline is not above 0.
    """

    def __init__(self, *, deadline_ms: float = 10.0) -> None:
        require(deadline_ms > 0, "deadline_ms", deadline_ms, "above 0")
        self.deadline_ms = deadline_ms
        self.steps = 0
        """Steps seen."""
        self.missed = 0
        """Those that took longer than the deadline."""
        self.max_ms = 0.0
        """The longest."""
        self._total_s = 0.0
        self._histogram = np.zeros(BUCKETS, np.int64)

    def step(self, took_s: float) -> None:
        """Count one step; a few hundred nanoseconds."""
        bucket = math.log(max(took_s, SHORTEST_S) / SHORTEST_S) / math.log(GROWTH)
        self._histogram[min(int(bucket), BUCKETS - 1)] += 1
        self.steps += 1
        self._total_s += took_s
        took_ms = 1000 * took_s
        self.missed += took_ms > self.deadline_ms
        self.max_ms = max(self.max_ms, took_ms)

    @property
    def mean_ms(self) -> float:
        """Mean duration; NaN before the first step."""
        return 1000 * self._total_s / self.steps if self.steps else math.nan

    def percentile_ms(self, percent: float) -> float:
        """The duration that `percent` of the steps do not exceed, at most 1 % too long; NaN before the first
        step."""
        if not self.steps:
            return math.nan
        rank = max(1, math.ceil(self.steps * percent / 100 - 1e-9))
        bucket = int(np.searchsorted(np.cumsum(self._histogram), rank))
        return min(1000 * SHORTEST_S * GROWTH ** (bucket + 1), self.max_ms)

    def over(self, limit_ms: float) -> int:
        """Steps longer than some other limit, which is taken right to 1 %."""
        upper_ms = 1000 * SHORTEST_S * GROWTH ** np.arange(1, BUCKETS + 1)
        return int(self._histogram[upper_ms > limit_ms].sum())
