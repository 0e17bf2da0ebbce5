"""Stretches of a recording that were not recorded properly, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from possm.data.intervals import Intervals
from possm.data.series import Binned, Signal

SYNCHRONOUS = 0.8  # of the channels, active in one bin: an artefact on all of them


@dataclass(frozen=True)
class Dropped:
    """Something a preparation left out."""

    what: str
    count: int
    """How many samples, bins, trials, ..."""
    seconds: float = 0.0
    """Time taken out of the domain."""

    def __str__(self) -> str:
        return f"{self.what}: {self.count}" + (f" ({self.seconds:.1f} s)" if self.seconds else "")


@dataclass
class Findings:
    """What a reader noticed; the parts of a preparation add to it."""

    dropped: list[Dropped] = field(default_factory=list)
    noticed: list[str] = field(default_factory=list)

    def drop(self, what: str, count: int, seconds: float = 0.0) -> None:
        """Record that something was left out; a count of 0 is not worth a line."""
        if count:
            self.dropped.append(Dropped(what, int(count), float(seconds)))


def frozen(signal: Signal, *, within: float, seconds: float) -> np.ndarray:
    """Samples of a regular signal in a window of `seconds` in which no dimension moves more than `within`."""
    width = _odd(seconds, signal)
    values = np.asarray(signal.values[:], np.float64)
    spread = _running(np.maximum, values, width) - _running(np.minimum, values, width)
    return _spread(spread.max(axis=1) <= within, width)


def off_scale(signal: Signal, *, limit: float, margin_s: float) -> np.ndarray:
    """Samples of a regular signal over `limit` away from its median, and those in `margin_s` around them."""
    values = np.asarray(signal.values[:], np.float64)
    far = np.asarray((np.abs(values - np.nanmedian(values, axis=0)) > limit).any(axis=1))
    return _spread(far, _odd(margin_s, signal))


def silent(counts: Binned, *, seconds: float) -> np.ndarray:
    """Bins inside a window of `seconds` without a count in any unit."""
    width = _odd(seconds, counts)
    active = np.asarray((np.asarray(counts.values[:]) > 0).any(axis=1))
    return _spread(~_running(np.maximum, active, width), width)


def synchronous(counts: Binned) -> int:
    """Bins in which more than `SYNCHRONOUS` of the units are active at once (of at least 10 units)."""
    values = np.asarray(counts.values[:])
    return 0 if values.shape[1] < 10 else int(((values > 0).mean(axis=1) > SYNCHRONOUS).sum())


def rows_to_intervals(bad: np.ndarray, series: Binned | Signal) -> Intervals:
    """The time of marked rows of a regular series: row i lasts until row i + 1."""
    assert series.rate_hz is not None
    edge = np.flatnonzero(np.diff(np.concatenate([[False], bad, [False]]).astype(np.int8)))
    times = series.start_s + (series.first + edge) / series.rate_hz
    return Intervals(times[0::2], times[1::2])


def _odd(seconds: float, series: Binned | Signal) -> int:
    """Rows in a window of `seconds`, centred on one of them."""
    assert series.rate_hz is not None
    return 2 * round(seconds * series.rate_hz / 2) + 1


def _spread(marked: np.ndarray, width: int) -> np.ndarray:
    """Mark the whole centred window of every marked row."""
    return _running(np.maximum, marked, width, mode="constant")


def _running(
    extreme: Callable[[np.ndarray, np.ndarray], np.ndarray],
    values: np.ndarray,
    width: int,
    mode: str = "symmetric",
) -> np.ndarray:
    """Running maximum or minimum over centred windows of an odd number of rows, by doubling their width."""
    half = width // 2
    if mode == "symmetric" and half > len(values):
        return np.broadcast_to(extreme.reduce(values, axis=0), values.shape)  # type: ignore[attr-defined]
    padding = [(half, half)] + [(0, 0)] * (values.ndim - 1)
    out = np.pad(values, padding, mode=mode)  # type: ignore[call-overload]
    span = 1
    while 2 * span <= width:
        out = extreme(out[:-span], out[span:])
        span *= 2
    rest = width - span
    return extreme(out[:-rest], out[rest:]) if rest else out
