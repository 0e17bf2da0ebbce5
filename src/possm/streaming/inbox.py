"""Spikes on their way into a live decoder: looked up, checked, counted, and held until their chunk is due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from possm.errors import StreamError


@dataclass
class StreamCounts:
    """What became of everything pushed since the stream began. A bin of several spikes counts once, a bin of
    none not at all.

    ``received = used + waiting + dropped``, and ``dropped`` is the sum of all that is called dropped here.
    """

    received: int = 0
    used: int = 0
    """Decoded."""
    late: int = 0
    """Dropped: their chunk had already been decoded, or they are older than the stream."""
    unknown: int = 0
    """Dropped: the decoder does not know their unit."""
    invalid: int = 0
    """Dropped: time not finite or far in the future, or a count that is negative or not finite."""
    discarded: int = 0
    """Dropped: still waiting for their chunk when the stream was started anew."""
    duplicate: int = 0
    """Dropped: a spike of the same unit at the same time was already waiting, from an earlier push."""
    capped: int = 0
    """Dropped: their unit had reached the cap of the chunk (`LiveConfig.max_count`)."""
    held: int = 0
    """Dropped: they came while the source's clock was away (`LiveConfig.on_jump`)."""
    waiting: int = 0
    """Held: their chunk has not ended yet."""
    chunks: int = 0
    """Chunks decoded."""
    empty: int = 0
    """Of these, chunks without a spike."""
    bursts: int = 0
    """Of these, chunks with far more spikes than usual (five times and ten more)."""
    usual: float = 0.0
    """Spikes of a usual chunk: the mean over the last 200 or so that had any."""
    cut: int = 0
    """Bins whose count was cut down to what the cap of their chunk left; they are used."""
    jumps: int = 0
    """How often the source's clock jumped."""
    behind: int = 0
    """Pushes that ended before an earlier one did, and were taken as if they had ended with it."""
    missing_bins: int = 0
    """Bins of a feature that never came, or held nothing (where the decoder reads features)."""

    @property
    def dropped(self) -> int:
        """Everything received that was not used and will not be."""
        lost = self.late + self.unknown + self.invalid + self.discarded
        return lost + self.duplicate + self.capped + self.held


@dataclass(frozen=True, eq=False)
class Arrivals:
    """Spikes, or bins with counts, as a source delivered them: in no particular order."""

    times_s: np.ndarray
    """(n,) float64."""
    unit: np.ndarray
    """(n,) int64 rows of the stream's units; -1 for a unit that is not among them."""
    count: np.ndarray
    """(n,) float32."""

    def pick(self, rows: Any) -> Arrivals:
        """Those at a mask, an index or a slice."""
        return Arrivals(self.times_s[rows], self.unit[rows], self.count[rows])


class UnitLookup:
    """Names of a stream's units -> their rows, for many spikes at once.

    Raises:
        StreamError: A name is there twice.
    """

    def __init__(self, unit_ids: Sequence[str]) -> None:
        self.unit_ids = tuple(unit_ids)
        names = np.array(self.unit_ids, np.str_)
        self._order = np.argsort(names, kind="stable")
        self._sorted = names[self._order]
        if (self._sorted[1:] == self._sorted[:-1]).any():
            twice = self._sorted[:-1][self._sorted[1:] == self._sorted[:-1]]
            raise StreamError("two units of the stream have the same name", got=", ".join(twice[:5]))

    def rows(self, units: Any) -> np.ndarray:
        """(n,) int64 rows of names (or of rows, which are checked), -1 where there is no such unit.

        Raises:
            StreamError: Neither names nor whole numbers.
        """
        units = np.asarray(units)
        if not units.size:
            return np.zeros(units.shape, np.int64)
        if units.dtype.kind in "iu":
            rows = np.where((units >= 0) & (units < len(self.unit_ids)), units, -1)
            return rows.astype(np.int64, copy=False)
        if units.dtype.kind not in "USOT":
            raise StreamError(
                "units are neither names nor rows",
                got=f"an array of {units.dtype}",
                wanted="unit ids (strings), or whole numbers that count the stream's units from 0",
            )
        names = units.astype(np.str_)
        if not len(self.unit_ids):
            return np.full(names.shape, -1)
        place = np.searchsorted(self._sorted, names).clip(max=len(self._sorted) - 1)
        return np.where(self._sorted[place] == names, self._order[place], -1)


class Inbox:
    """Takes what a source delivers, in any order and any packets; gives it back in time order.

    Args:
        unit_ids: The units of the stream.
        known: (units,) bool: which of them the decoder knows.
        counts: Where to count; None begins at 0.
        tick_s: Times that agree to this are the same, for finding duplicates; 0 keeps those.
    """

    def __init__(
        self,
        unit_ids: Sequence[str],
        known: np.ndarray,
        *,
        counts: StreamCounts | None = None,
        tick_s: float = 0.0,
    ) -> None:
        self.counts = counts or StreamCounts()
        self.tick_s = tick_s
        self.lookup = UnitLookup(unit_ids)
        self._waiting: list[Arrivals] = []
        self._know(known)

    def put(self, times_s: Any, units: Any, counts: Any = None, *, open_s: float, limit_s: float) -> None:
        """Take spikes; those that can come to nothing are counted and dropped.

        Args:
            times_s: (n,) seconds.
            units: (n,) unit ids, or rows of the stream's units.
            counts: (n,) multiplicities; None is 1 each.
            open_s: Start of the oldest chunk that is not decoded yet; older spikes are late.
            limit_s: Later spikes are not believed.

        Raises:
            StreamError: The arrays do not fit each other; nothing is taken.
        """
        spikes = self._read(times_s, units, counts)
        valid = (spikes.times_s <= limit_s) & (spikes.times_s > -np.inf)  # NaN is neither
        if counts is not None:
            valid &= (spikes.count > 0) & (spikes.count < np.inf)
        keep = valid & (spikes.times_s >= open_s) & self._known[spikes.unit]
        self.counts.received += len(keep)
        if not keep.all():
            late = valid & (spikes.times_s < open_s)
            self.counts.invalid += int(np.count_nonzero(~valid))
            self.counts.late += int(np.count_nonzero(late))
            self.counts.unknown += int(np.count_nonzero(valid & ~late & ~keep))
            spikes = spikes.pick(keep)
        if self._waiting and self.tick_s:
            again = repeated(spikes, self._waiting, tick_s=self.tick_s)
            if again is not None:
                self.counts.duplicate += int(np.count_nonzero(again))
                spikes = spikes.pick(~again)
        self.hold(spikes)

    def hold(self, spikes: Arrivals) -> None:
        """Keep spikes that are known to be good."""
        if len(spikes.times_s):
            self._waiting.append(spikes)
            self.counts.waiting += len(spikes.times_s)

    def take(self, until_s: float) -> Arrivals:
        """Hand out everything before a time, sorted; equal times stay in order of arrival."""
        spikes = self.waiting()
        cut = int(spikes.times_s.searchsorted(until_s))
        rest = spikes.pick(slice(cut, None))
        self._waiting = [rest] if len(rest.times_s) else []
        self.counts.waiting, self.counts.used = len(rest.times_s), self.counts.used + cut
        return spikes.pick(slice(0, cut))

    def waiting(self) -> Arrivals:
        """Everything held, sorted by time."""
        if not self._waiting:
            return Arrivals(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.float32))
        spikes = self._waiting[0]
        if len(self._waiting) > 1:
            spikes = _join(self._waiting)
        if (spikes.times_s[1:] < spikes.times_s[:-1]).any():
            spikes = spikes.pick(np.argsort(spikes.times_s, kind="stable"))
        return spikes

    def refuse(self, times_s: Any) -> None:
        """Count spikes that come while the clock is away, and drop them."""
        number = int(np.size(times_s))
        self.counts.received, self.counts.held = self.counts.received + number, self.counts.held + number

    def shift(self, by_s: float) -> None:
        """Move everything held to another time."""
        self._waiting = [replace(spikes, times_s=spikes.times_s + by_s) for spikes in self._waiting]

    def discard(self) -> None:
        """Drop everything held."""
        self.counts.discarded, self.counts.waiting = self.counts.discarded + self.counts.waiting, 0
        self._waiting = []

    def change_known(self, known: np.ndarray) -> None:
        """The decoder has changed: drop what waits for units it does not know."""
        self._know(known)
        spikes = self.waiting()
        keep = self._known[spikes.unit]
        self.counts.unknown += int(np.count_nonzero(~keep))
        self._waiting, self.counts.waiting = [], 0
        self.hold(spikes.pick(keep))

    def _know(self, known: np.ndarray) -> None:
        self._known = np.append(known, False)  # row -1, a unit that is not of the stream, finds the last

    def _read(self, times_s: Any, units: Any, counts: Any) -> Arrivals:
        times_s = np.array(times_s, np.float64)  # a copy: a driver may fill its own arrays again
        rows = self.lookup.rows(units)
        count = np.ones(rows.shape, np.float32) if counts is None else np.array(counts, np.float32)
        if not times_s.ndim == 1 or not times_s.shape == rows.shape == count.shape:
            raise StreamError(
                "a push needs one unit, and one count if any, for each spike time",
                got=f"times {times_s.shape}, units {rows.shape}, counts {count.shape}",
                wanted="one axis, all of one length",
            )
        spikes = Arrivals(times_s, rows, count)
        return spikes if counts is None or count.all() else spikes.pick(count != 0)


def repeated(spikes: Arrivals, held: Sequence[Arrivals], *, tick_s: float) -> np.ndarray | None:
    """Which spikes are held already: same unit, same time to the tick. None where a glance at the times says
    none. Several at one time within one push are not duplicates: binned or coarse times look like that."""
    if not len(spikes.times_s):
        return None
    begin_s, end_s = spikes.times_s.min() - tick_s, spikes.times_s.max() + tick_s
    near = [part for part in held if part.times_s.max() >= begin_s and part.times_s.min() <= end_s]
    if not near:
        return None
    old = _join(near)
    most = 1 + int(max(spikes.unit.max(), old.unit.max()))

    def keys(of: Arrivals) -> np.ndarray:
        return np.rint((of.times_s - begin_s) / tick_s).astype(np.int64) * most + of.unit

    return np.isin(keys(spikes), keys(old))


def _join(parts: Sequence[Arrivals]) -> Arrivals:
    return Arrivals(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Arrivals)))
