"""Binned activity with a history: what the classical decoders see of a recording."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from possm.data.recording import Intervals, Recording
from possm.errors import RecordingError

SLACK = 1e-6  # of a bin: a sample stamped at the edge of a bin may miss it by a rounding error


@dataclass(frozen=True, eq=False)
class Bins:
    """Counts on one regular grid over a whole recording."""

    values: np.ndarray
    """(bins, units) float64."""
    edges_s: np.ndarray
    """(bins + 1,) float64: bin i covers ``[edges_s[i], edges_s[i + 1])``."""
    domain: Intervals
    """No history reaches across the start of one of these, not even where two of them touch."""
    exact: bool
    """True if the bins were made from spike times: then not even a rounding error of future is allowed."""

    @property
    def bin_s(self) -> float:
        """Length of a bin."""
        return float((self.edges_s[-1] - self.edges_s[0]) / len(self.values))

    def inside(self, intervals: Intervals) -> np.ndarray:
        """(bins,) which bins have their centre in the intervals."""
        return intervals.contains((self.edges_s[:-1] + self.edges_s[1:]) / 2)

    def capped(self, ceiling: np.ndarray) -> Bins:
        """The same bins, no value above the (units,) ceiling."""
        return Bins(np.minimum(self.values, ceiling), self.edges_s, self.domain, self.exact)

    def lagged(self, times_s: np.ndarray, *, lags: int, width: int = 1, strict: bool = True) -> np.ndarray:
        """The `lags` newest spans of `width` bins that each time may see, newest first.

        Args:
            times_s: (n,) times inside the domain.
            lags: Number of spans; they lie end to end.
            width: Bins summed in each span.
            strict: The newest bin ends at or before the time. Otherwise it is the bin that holds the time
                (the convention of the paper), which looks ahead by up to a bin.

        Returns:
            (n, lags * units) float64, lag by lag; NaN where a span would begin before the stretch of
            domain that holds the time.
        """
        newest, oldest = self._reach(times_s, strict)
        total = self._total
        out = np.full((len(times_s), lags, self.values.shape[1]), np.nan)
        for lag in range(lags):
            end = newest + 1 - lag * width
            here = np.flatnonzero(end - width >= oldest)
            out[here, lag] = total[end[here]] - total[end[here] - width]
        return out.reshape(len(times_s), -1)

    @cached_property
    def _total(self) -> np.ndarray:
        """(bins + 1, units) sum of all bins before each edge: a span of bins is then one difference."""
        return np.concatenate([np.zeros((1, self.values.shape[1])), np.cumsum(self.values, axis=0)])

    def _reach(self, times_s: np.ndarray, strict: bool) -> tuple[np.ndarray, np.ndarray]:
        """Newest and oldest bin that each time may see; newest < oldest if there is none."""
        slack_s = SLACK * self.bin_s
        stretch = np.searchsorted(self.domain.start_s, times_s, side="right") - 1
        oldest = np.searchsorted(self.edges_s, self.domain.start_s - slack_s, side="left")[stretch]
        last = np.searchsorted(self.edges_s, self.domain.end_s + slack_s, side="right")[stretch] - 2
        ended = times_s if self.exact else times_s + slack_s
        newest = np.searchsorted(self.edges_s, ended, side="right") - (2 if strict else 1)
        return np.minimum(newest, last), oldest


def bin_recording(recording: Recording, bin_ms: float) -> Bins:
    """The recording's own bins if it has some; else its spikes counted in bins of `bin_ms`.

    Raises:
        RecordingError: There is no domain, or a binned value is NaN or infinite.
    """
    if not len(recording.domain):
        raise RecordingError("the domain is empty", about=recording.name, fix="prepare the recording again")
    if recording.binned is not None:
        return _own_bins(recording)
    assert recording.spikes is not None
    start_s, end_s = float(recording.domain.start_s[0]), float(recording.domain.end_s.max())
    bin_s = bin_ms / 1e3
    num_bins = max(1, int(np.floor((end_s - start_s) / bin_s + SLACK)))
    edges_s = start_s + np.arange(num_bins + 1) * bin_s
    spikes = recording.spikes.slice(start_s, float(edges_s[-1]))
    row = np.searchsorted(edges_s, spikes.times_s, side="right") - 1
    flat = np.bincount(row * recording.num_units + spikes.unit, minlength=num_bins * recording.num_units)
    values = flat.reshape(num_bins, recording.num_units).astype(np.float64)
    return Bins(values, edges_s, recording.domain, exact=True)


def _own_bins(recording: Recording) -> Bins:
    binned = recording.binned
    assert binned is not None
    values = np.asarray(binned.values[:], np.float64)
    bad = int((~np.isfinite(values)).sum())
    if bad or not len(values):
        raise RecordingError(
            "binned values cannot be used by a linear decoder",
            about=recording.name,
            got=f"{bad} of {values.size} values NaN or infinite",
            wanted="finite values",
        )
    edges_s = binned.start_s + (binned.first + np.arange(len(values) + 1)) / binned.rate_hz
    return Bins(values, edges_s, recording.domain, exact=False)
