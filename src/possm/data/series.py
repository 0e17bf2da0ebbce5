"""What was measured over time: spikes, binned values, and behavioral signals.

Arrays are numpy, or h5py datasets that are read a slice at a time. Times are absolute seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from possm.errors import RecordingError

Array = Any
"""A numpy array, or a dataset of an open file that slices like one."""

BLOCK = 4096  # rows below which reading a block beats bisecting further


@dataclass(frozen=True, eq=False)
class Spikes:
    """Spike times and the unit each spike is from."""

    times_s: Array
    """(n,) float64, ascending."""
    unit: Array
    """(n,) int64, row of the unit table."""
    index_1s: np.ndarray | None = None
    """First row at or after each whole second since `index_start_s`; makes slicing a file fast."""
    index_start_s: float = 0.0

    def __post_init__(self) -> None:
        if len(self.times_s.shape) != 1 or self.times_s.shape != self.unit.shape:
            raise RecordingError(
                "spikes need one time and one unit each", got=(self.times_s.shape, self.unit.shape)
            )

    def __len__(self) -> int:
        return int(self.times_s.shape[0])

    def slice(self, start_s: float, end_s: float) -> Spikes:
        """The spikes with ``start_s <= time < end_s``, in memory; of a file, only that part is read."""
        first, times = cut_out(self.times_s, start_s, end_s, *self._bracket(start_s, end_s))
        return Spikes(times, np.asarray(self.unit[first : first + len(times)], np.int64))

    def load(self) -> Spikes:
        """The same spikes in memory."""
        return Spikes(np.asarray(self.times_s[:], np.float64), np.asarray(self.unit[:], np.int64))

    def _bracket(self, start_s: float, end_s: float) -> tuple[int, int]:
        """Rows ``[low, high)`` that hold the slice, and a second more at either end at most."""
        if self.index_1s is None or not len(self.index_1s):
            return 0, len(self)
        before = min(math.floor(start_s - self.index_start_s), len(self.index_1s) - 1)
        before -= self.index_start_s + before > start_s  # the difference above may have rounded up
        after = math.ceil(end_s - self.index_start_s)
        after += self.index_start_s + after < end_s
        low = int(self.index_1s[before]) if before >= 0 else 0
        high = int(self.index_1s[max(after, 0)]) if after < len(self.index_1s) else len(self)
        return low, max(low, high)


def cut_out(times_s: Array, start_s: float, end_s: float, low: int, high: int) -> tuple[int, np.ndarray]:
    """First row and times of ``[start_s, end_s)``, inside the rows ``[low, high)``; reads little more."""
    if isinstance(times_s, np.ndarray):
        first, last = np.searchsorted(times_s, (start_s, end_s))
        return int(first), np.asarray(times_s[first : max(first, last)], np.float64)
    low, high = bisect_rows(times_s, start_s, low, high)[0], bisect_rows(times_s, end_s, low, high)[1]
    times = np.asarray(times_s[low : max(low, high)], np.float64)
    first, last = np.searchsorted(times, (start_s, end_s))
    return low + int(first), times[first : max(first, last)]


def bisect_rows(times_s: Array, time_s: float, low: int, high: int) -> tuple[int, int]:
    """Narrow the rows ``[low, high]`` between which `time_s` belongs to `BLOCK` rows at most."""
    while high - low > BLOCK:
        middle = (low + high) // 2
        if times_s[middle] < time_s:
            low = middle
        else:
            high = middle
    return low, high


@dataclass(frozen=True, eq=False)
class Binned:
    """Counts or features, one row a bin: bin i covers ``start_s + [i, i + 1) / rate_hz``."""

    values: Array
    """(bins, units)."""
    start_s: float
    """Start of bin 0 of the recording."""
    rate_hz: float
    first: int = 0
    """Number of the bin in row 0: a slice keeps the clock of its recording, so times stay the same bits."""

    def __post_init__(self) -> None:
        if len(self.values.shape) != 2:
            raise RecordingError("binned values need two axes", got=self.values.shape, wanted="(bins, units)")
        check_clock(self.start_s, self.rate_hz)

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def centres_s(self) -> np.ndarray:
        """(bins,) float64."""
        return np.asarray(self.start_s + (self.first + np.arange(len(self)) + 0.5) / self.rate_hz)

    @property
    def span_s(self) -> tuple[float, float]:
        """Start of the first bin and end of the last."""
        last = self.first + len(self)
        return self.start_s + self.first / self.rate_hz, self.start_s + last / self.rate_hz

    @property
    def clock(self) -> tuple[float, float, int, int]:
        """What two tables have in common whose rows are the same bins."""
        return self.start_s, self.rate_hz, self.first, len(self)

    def clock_text(self) -> str:
        """The clock in words."""
        return f"{len(self)} bins of {1000 / self.rate_hz:g} ms from {self.span_s[0]:g} s"

    def slice(self, start_s: float, end_s: float) -> Binned:
        """The bins whose centre lies in ``[start_s, end_s)``, in memory."""
        begin, end = _rows(start_s, end_s, self.first + 0.5, len(self), self.start_s, self.rate_hz)
        return replace(self, values=np.asarray(self.values[begin:end]), first=self.first + begin)

    def load(self) -> Binned:
        """The same bins in memory."""
        return replace(self, values=np.asarray(self.values[:]))


@dataclass(frozen=True, eq=False)
class Signal:
    """A behavior: regular (`start_s`, `rate_hz`) or with a time for every sample (`timestamps_s`)."""

    values: Array
    """(n, d) float; rows may be NaN where nothing was measured."""
    timestamps_s: Array | None = None
    """(n,) float64, ascending; None for a regular signal."""
    start_s: float = 0.0
    rate_hz: float | None = None
    unit: str = ""
    """Physical unit; "" when the file does not say."""
    first: int = 0
    """Number of the sample in row 0, for a slice of a regular signal (see `Binned.first`)."""

    def __post_init__(self) -> None:
        if len(self.values.shape) != 2:
            raise RecordingError(
                "a signal needs two axes", got=self.values.shape, wanted="(samples, dimensions)"
            )
        if (self.timestamps_s is None) == (self.rate_hz is None):
            raise RecordingError("a signal needs either timestamps or a rate")
        if self.rate_hz is not None:
            check_clock(self.start_s, self.rate_hz)
        elif self.timestamps_s is not None and self.timestamps_s.shape != self.values.shape[:1]:
            raise RecordingError(
                "a signal needs a time for every sample",
                got=self.timestamps_s.shape,
                wanted=self.values.shape[:1],
            )

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def num_dimensions(self) -> int:
        """Columns of `values`."""
        return int(self.values.shape[1])

    @property
    def times_s(self) -> np.ndarray:
        """(n,) float64, the time of every sample."""
        if self.timestamps_s is not None:
            return np.asarray(self.timestamps_s[:], np.float64)
        assert self.rate_hz is not None
        return np.asarray(self.start_s + (self.first + np.arange(len(self))) / self.rate_hz)

    def slice(self, start_s: float, end_s: float) -> Signal:
        """The samples with ``start_s <= time < end_s``, NaN rows included, in memory."""
        if self.timestamps_s is None:
            assert self.rate_hz is not None
            begin, end = _rows(start_s, end_s, self.first, len(self), self.start_s, self.rate_hz)
            return replace(self, values=np.asarray(self.values[begin:end]), first=self.first + begin)
        begin, times = cut_out(self.timestamps_s, start_s, end_s, 0, len(self))
        return replace(self, values=np.asarray(self.values[begin : begin + len(times)]), timestamps_s=times)

    def load(self) -> Signal:
        """The same signal in memory."""
        times = None if self.timestamps_s is None else self.times_s
        return replace(self, values=np.asarray(self.values[:]), timestamps_s=times)


def check_clock(start_s: float, rate_hz: float) -> None:
    """Raise unless a regular clock can run: finite start, rate above 0."""
    if not (math.isfinite(start_s) and math.isfinite(rate_hz) and rate_hz > 0):
        raise RecordingError(
            "a regular series needs a start and a rate", got=f"start {start_s} s, rate {rate_hz} Hz"
        )


def _rows(
    start_s: float, end_s: float, first: float, num_rows: int, clock_s: float, rate_hz: float
) -> tuple[int, int]:
    """Rows of ``[start_s, end_s)`` when row i is at ``clock_s + (first + i) / rate_hz``; exact to the bit."""

    def row(time_s: float) -> int:
        guess = math.ceil(min(max((time_s - clock_s) * rate_hz - first, 0.0), float(num_rows)))
        while guess > 0 and clock_s + (first + guess - 1) / rate_hz >= time_s:
            guess -= 1
        while guess < num_rows and clock_s + (first + guess) / rate_hz < time_s:
            guess += 1
        return guess

    begin = row(start_s)
    return begin, max(begin, row(end_s))
