"""Binned activity with a history: what the classical decoders see of a recording."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from possm.data.chunks import EDGE_TOLERANCE_S
from possm.data.recording import Intervals, Recording
from possm.errors import RecordingError

BLOCK = 4096  # samples whose history is laid out at a time


@dataclass(frozen=True, eq=False)
class Bins:
    """Counts on one regular grid over a whole recording."""

    values: np.ndarray
    """(bins, units) float64."""
    edges_s: np.ndarray
    """(bins + 1,) float64: bin i covers ``[edges_s[i], edges_s[i + 1])``."""
    domain: Intervals
    """No history reaches across the start of one of these, not even where two of them touch."""
    from_spikes: bool
    """True if the bins were made from spike times, so that their length was free to choose."""

    @property
    def bin_s(self) -> float:
        """Length of a bin."""
        return float((self.edges_s[-1] - self.edges_s[0]) / len(self.values))

    def inside(self, intervals: Intervals) -> np.ndarray:
        """(bins,) which bins have their centre in the intervals."""
        return intervals.contains((self.edges_s[:-1] + self.edges_s[1:]) / 2)

    def capped(self, ceiling: np.ndarray) -> Bins:
        """The same bins, no value above the (units,) ceiling."""
        return Bins(np.minimum(self.values, ceiling), self.edges_s, self.domain, self.from_spikes)

    def summed(self, number: int) -> Bins:
        """Every `number` bins as one; what is left at the end is left out.

        Raises:
            RecordingError: There are fewer bins than that.
        """
        if len(self.values) < number:
            raise RecordingError("the recording is shorter than one bin", got=f"{len(self.values)} bins")
        whole = len(self.values) // number * number
        values = self.values[:whole].reshape(-1, number, self.values.shape[1]).sum(axis=1)
        return Bins(values, self.edges_s[: whole + 1 : number], self.domain, self.from_spikes)

    def lagged(self, times_s: np.ndarray, *, lags: int, width: int = 1, strict: bool = True) -> np.ndarray:
        """The `lags` newest spans of `width` bins that each time may see, newest first.

        Args:
            times_s: (n,) times; outside the domain there is no history.
            lags: Number of spans; they lie end to end.
            width: Bins summed in each span.
            strict: The newest bin ends at or before the time. Otherwise it is the bin that holds the time
                (the convention of the paper), which looks ahead by up to a bin.

        Returns:
            (n, lags * units) float64, lag by lag; NaN where a span would begin before the stretch of the
            domain that holds the time.
        """
        newest, oldest = self.reach(times_s, strict)
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

    def reach(self, times_s: np.ndarray, strict: bool) -> tuple[np.ndarray, np.ndarray]:
        """Newest and oldest bin that each time may see; newest < oldest if there is none."""
        domain, edges_s = self.domain, self.edges_s
        stretch = np.searchsorted(domain.start_s, times_s, side="right") - 1
        outside = (stretch < 0) | (times_s >= domain.end_s[stretch])
        oldest = np.searchsorted(edges_s, domain.start_s - EDGE_TOLERANCE_S, side="left")[stretch]
        last = np.searchsorted(edges_s, domain.end_s + EDGE_TOLERANCE_S, side="right")[stretch] - 2
        holding = np.searchsorted(edges_s, times_s + EDGE_TOLERANCE_S, side="right") - 1
        newest = np.minimum(holding - 1 if strict else holding, last)
        return np.where(outside, -1, newest), oldest


@dataclass(frozen=True, eq=False)
class Design:
    """The inputs of a linear decoder, a block of samples at a time, so that hours of data fit in memory."""

    bins: Bins
    lags: int
    width: int
    strict: bool
    """The last three as in `Bins.lagged`."""

    def blocks(
        self, times_s: np.ndarray, mean: np.ndarray | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """The rows and the (rows, lags * units) inputs; less `mean`, and then 0 where there is no history."""
        for begin in range(0, len(times_s), BLOCK):
            rows = slice(begin, min(begin + BLOCK, len(times_s)))
            inputs = self.bins.lagged(times_s[rows], lags=self.lags, width=self.width, strict=self.strict)
            yield rows, inputs if mean is None else np.nan_to_num(inputs - mean)

    def fold(self, times_s: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One sample for all that see the same bins: its time, their mean target, and how many they are.

        Least squares with these weights has the normal equations of all samples, at the cost of one sample
        a bin, however fast the behavior was sampled.

        Args:
            times_s: (n,) ascending.
            target: (n, d).
        """
        reach = np.stack(self.bins.reach(times_s, self.strict))
        first = np.flatnonzero(np.r_[True, (np.diff(reach) != 0).any(axis=0)])
        number = np.diff(np.r_[first, len(times_s)]).astype(np.float64)
        return times_s[first], np.add.reduceat(target, first) / number[:, None], number

    def moments(self, times_s: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of every input where there is history; a constant input gets 1.

        Each of the (n,) times counts `weight` times.
        """
        number = total = square = np.zeros(1)
        for rows, inputs in self.blocks(times_s):
            number = number + weight[rows] @ np.isfinite(inputs)
            total = total + weight[rows] @ np.nan_to_num(inputs)
        mean = total / np.maximum(number, 1)
        for rows, inputs in self.blocks(times_s, mean):
            square = square + weight[rows] @ np.square(inputs)
        deviation = np.sqrt(square / np.maximum(number, 1))
        return mean, np.where(deviation > 0, deviation, 1.0)


def bin_recording(
    recording: Recording, bin_ms: float, *, cross_gaps: bool = False, rebin: bool = False
) -> Bins:
    """The recording's own bins if it has some; else its spikes counted in bins of `bin_ms`.

    Args:
        recording: Its bins or spikes are read as a whole.
        bin_ms: See above.
        rebin: Whether its own bins are summed to bins of `bin_ms`, which must be a whole number of them.
        cross_gaps: Whether history may reach across a gap of the domain, into bins that were recorded but
            do not count. Never across the point where two stretches touch, for there time itself is cut.

    Raises:
        RecordingError: There is no domain, or a binned value is NaN or infinite.
    """
    if not len(recording.domain):
        raise RecordingError("the domain is empty", about=recording.name, fix="prepare the recording again")
    domain = _bridged(recording.domain) if cross_gaps else recording.domain
    if recording.binned is not None:
        own = _own_bins(recording, domain)
        return own.summed(max(1, round(bin_ms / 1e3 / own.bin_s))) if rebin else own
    assert recording.spikes is not None
    start_s, end_s = float(recording.domain.start_s[0]), float(recording.domain.end_s.max())
    bin_s = bin_ms / 1e3
    num_bins = max(1, int(np.floor((end_s - start_s + EDGE_TOLERANCE_S) / bin_s)))
    edges_s = start_s + np.arange(num_bins + 1) * bin_s
    spikes = recording.spikes.slice(start_s, float(edges_s[-1]))
    row = np.searchsorted(edges_s, spikes.times_s, side="right") - 1
    flat = np.bincount(row * recording.num_units + spikes.unit, minlength=num_bins * recording.num_units)
    values = flat.reshape(num_bins, recording.num_units).astype(np.float64)
    return Bins(values, edges_s, domain, from_spikes=True)


def _own_bins(recording: Recording, domain: Intervals) -> Bins:
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
    return Bins(values, edges_s, domain, from_spikes=False)


def _bridged(domain: Intervals) -> Intervals:
    """The domain with its gaps filled, and still apart where it touches."""
    cut = domain.start_s[1:] <= domain.end_s[:-1] + EDGE_TOLERANCE_S
    return Intervals(domain.start_s[np.append(True, cut)], domain.end_s[np.append(cut, True)])
