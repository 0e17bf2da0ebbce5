"""Stretches of time: the domain of a recording, its trials, its splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from possm.errors import RecordingError


@dataclass(frozen=True, eq=False)
class Intervals:
    """Half-open stretches ``[start, end)`` in seconds, sorted by start.

    Intervals may touch, and may overlap (trials). No operation joins two intervals that only touch:
    where reaches were cut out of a longer recording and laid end to end, the touching point is a cut,
    and a window of data must not run across it.
    """

    start_s: np.ndarray
    """(n,) float64, ascending."""
    end_s: np.ndarray
    """(n,) float64, each above its start."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further facts about each interval, every array (n, ...)."""

    def __post_init__(self) -> None:
        start = np.atleast_1d(np.asarray(self.start_s, np.float64))
        end = np.atleast_1d(np.asarray(self.end_s, np.float64))
        columns = {name: np.asarray(column) for name, column in self.columns.items()}
        object.__setattr__(self, "start_s", start)
        object.__setattr__(self, "end_s", end)
        object.__setattr__(self, "columns", columns)
        if start.ndim != 1 or start.shape != end.shape:
            raise RecordingError("intervals need as many starts as ends", got=(start.shape, end.shape))
        if not (np.isfinite(start).all() and np.isfinite(end).all()):
            raise RecordingError("an interval starts or ends at NaN or infinity", wanted="finite seconds")
        if (start >= end).any():
            row = int(np.argmax(start >= end))
            raise RecordingError(
                "an interval ends before it starts", got=f"[{start[row]}, {end[row]}) s, row {row}"
            )
        if (start[1:] < start[:-1]).any():
            raise RecordingError("intervals are out of order", wanted="ascending starts")
        for name, column in columns.items():
            if len(column) != len(start):
                raise RecordingError(
                    "a column does not fit the intervals", about=name, got=len(column), wanted=len(start)
                )

    @classmethod
    def of(cls, pairs: Iterable[tuple[float, float]]) -> Intervals:
        """Intervals from (start, end) pairs in any order."""
        table = np.array(sorted(pairs), np.float64).reshape(-1, 2)
        return cls(table[:, 0], table[:, 1])

    def __len__(self) -> int:
        return len(self.start_s)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return zip(self.start_s.tolist(), self.end_s.tolist(), strict=True)

    def __repr__(self) -> str:
        if not len(self):
            return "Intervals(none)"
        reach = f"{self.start_s[0]:.3f} to {self.end_s.max():.3f} s"
        return f"Intervals({len(self)}, {reach}, total {self.total_s:.3f} s, columns {list(self.columns)})"

    @property
    def total_s(self) -> float:
        """Length of the union, so that overlaps count once."""
        start, end = _merge(self.start_s, self.end_s)
        return float((end - start).sum())

    def contains(self, times_s: np.ndarray) -> np.ndarray:
        """Which of the times lie in at least one interval; a boolean for each."""
        opened = np.searchsorted(self.start_s, times_s, side="right")
        closed = np.searchsorted(np.sort(self.end_s), times_s, side="right")
        return np.asarray(opened > closed)

    def where(self, mask: np.ndarray) -> Intervals:
        """The intervals (and their columns) that a boolean or integer index picks."""
        columns = {name: column[mask] for name, column in self.columns.items()}
        return Intervals(self.start_s[mask], self.end_s[mask], columns)

    def slice(self, start_s: float, end_s: float) -> Intervals:
        """What lies in ``[start_s, end_s)``, cut off at its edges, columns kept."""
        start, end = np.maximum(self.start_s, start_s), np.minimum(self.end_s, end_s)
        keep = start < end
        columns = {name: column[keep] for name, column in self.columns.items()}
        return Intervals(start[keep], end[keep], columns)

    def thin(self, seconds: float) -> Intervals:
        """Intervals spread over all of these that have about so many seconds, and no more; columns kept.

        As many are taken, evenly in their order, as have the right length in all; the last one may be cut.
        """
        total_s = float((self.end_s - self.start_s).sum())
        if total_s <= seconds or not len(self):
            return self
        number = max(1, int(np.ceil(len(self) * seconds / total_s)))
        taken = self.where(np.unique(np.linspace(0, len(self) - 1, number).round().astype(int)))
        upto = np.cumsum(taken.end_s - taken.start_s)
        before = upto - (taken.end_s - taken.start_s)
        end = taken.end_s - np.maximum(upto - seconds, 0)
        kept = taken.where(before < seconds)
        return Intervals(kept.start_s, end[before < seconds], kept.columns)

    def dilate(self, by_s: float) -> Intervals:
        """Every interval longer by `by_s` at both ends; a negative value shortens, and drops the vanished."""
        start, end = self.start_s - by_s, self.end_s + by_s
        keep = start < end
        columns = {name: column[keep] for name, column in self.columns.items()}
        return Intervals(start[keep], end[keep], columns)

    def __and__(self, other: Intervals) -> Intervals:
        """Where both hold, one interval for each overlapping pair; keeps the columns of the left side."""
        return self._cut(other.start_s, other.end_s)

    def __or__(self, other: Intervals) -> Intervals:
        """Where either holds; overlapping intervals are merged, touching ones stay apart, columns go."""
        start = np.concatenate([self.start_s, other.start_s])
        end = np.concatenate([self.end_s, other.end_s])
        return Intervals(*_merge(start, end))

    def __sub__(self, other: Intervals) -> Intervals:
        """Where only the left side holds; keeps its columns."""
        start, end = _merge(other.start_s, other.end_s)
        gap_start, gap_end = np.append(-np.inf, end), np.append(start, np.inf)
        real = gap_start < gap_end
        return self._cut(gap_start[real], gap_end[real])

    def _cut(self, start: np.ndarray, end: np.ndarray) -> Intervals:
        """Intersection with stretches sorted by start, which may overlap and be infinite."""
        first = np.searchsorted(np.maximum.accumulate(end), self.start_s, side="right")
        last = np.searchsorted(start, self.end_s, side="left")
        number = np.maximum(last - first, 0)
        mine = np.repeat(np.arange(len(self)), number)
        theirs = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number) + first[mine]
        lower = np.maximum(self.start_s[mine], start[theirs])
        upper = np.minimum(self.end_s[mine], end[theirs])
        keep = np.flatnonzero(lower < upper)
        keep = keep[np.lexsort((upper[keep], lower[keep]))]
        columns = {name: column[mine[keep]] for name, column in self.columns.items()}
        return Intervals(lower[keep], upper[keep], columns)


def _merge(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted, overlaps merged, touching ones kept apart."""
    order = np.lexsort((end, start))
    start, end = start[order], np.maximum.accumulate(end[order])
    first = np.flatnonzero(np.append(True, start[1:] >= end[:-1])[: len(start)])
    last = np.append(first[1:], len(start)) - 1 if len(start) else first
    return start[first], end[last]
