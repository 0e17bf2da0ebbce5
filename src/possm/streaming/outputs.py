"""When a live decoder answers: at every chunk, on a regular clock, or at given times.

Whatever the clock, every time is answered once, by the chunk that `possm.data.chunks.query_chunks` names,
so a stream and a batch that are asked for the same times use the same chunks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from possm.batch import Queries
from possm.config import require
from possm.data.chunks import query_chunks
from possm.errors import StreamError

MARGIN_S = 1e-3
"""How far beyond the edges a clock looks for times; `query_chunks` then decides which are inside."""


@dataclass(frozen=True)
class Stretch:
    """Consecutive chunks about to be decoded."""

    origin_s: float
    """Start of chunk 0 of the stream."""
    first: int
    """Number of the first of these chunks."""
    edges_s: np.ndarray
    """(C + 1,) float64."""
    chunk_ms: int
    lead_ms: int

    @property
    def span_s(self) -> tuple[float, float]:
        """The times these chunks answer for, ``[begin, end)``, up to rounding."""
        lead_s = self.lead_ms / 1000
        return float(self.edges_s[0]) + lead_s, float(self.edges_s[-1]) + lead_s


Asked = tuple[np.ndarray, Queries]
"""(Q,) float64 output times on the stream's clock, ascending, and the same as queries of the stretch."""


class OutputClock(Protocol):
    """Says which times a stretch of chunks is asked for."""

    @property
    def settings(self) -> tuple[float | None, dict[str, np.ndarray] | None]:
        """What `output_clock` makes it from."""

    def ask(self, behavior: str, stretch: Stretch) -> Asked:
        """The output times of one behavior that these chunks answer for."""


class EveryChunk:
    """One answer a chunk: the first time it answers for, which is its end when lead and chunk are equal."""

    settings = (None, None)

    def ask(self, behavior: str, stretch: Stretch) -> Asked:
        """``origin + (number * chunk + lead)`` for each chunk."""
        number = np.arange(len(stretch.edges_s) - 1)
        times_s = stretch.origin_s + ((stretch.first + number) * stretch.chunk_ms + stretch.lead_ms) / 1000
        return times_s, Queries(number, (times_s - stretch.edges_s[1:]).astype(np.float32))


@dataclass(frozen=True)
class Regular:
    """Answers at ``origin + k / rate_hz`` for whole k."""

    rate_hz: float

    def __post_init__(self) -> None:
        require(0 < self.rate_hz < math.inf, "output_rate_hz", self.rate_hz, "above 0")

    @property
    def settings(self) -> tuple[float, None]:
        """What `output_clock` makes it from."""
        return self.rate_hz, None

    def ask(self, behavior: str, stretch: Stretch) -> Asked:
        """The ticks these chunks answer for."""
        begin_s, end_s = (edge - stretch.origin_s for edge in stretch.span_s)
        first = max(0, math.floor((begin_s - MARGIN_S) * self.rate_hz))
        last = math.ceil((end_s + MARGIN_S) * self.rate_hz)
        return _answered(stretch.origin_s + np.arange(first, last + 1) / self.rate_hz, stretch)


@dataclass(frozen=True)
class Given:
    """Answers at times known beforehand, such as the samples of a recorded behavior."""

    times_s: dict[str, np.ndarray]
    """By behavior: (n,) float64, ascending; a behavior that is not there is asked nothing."""

    @property
    def settings(self) -> tuple[None, dict[str, np.ndarray]]:
        """What `output_clock` makes it from."""
        return None, self.times_s

    def ask(self, behavior: str, stretch: Stretch) -> Asked:
        """Those of the given times that these chunks answer for."""
        times_s = self.times_s.get(behavior, np.zeros(0))
        begin_s, end_s = stretch.span_s
        first, last = np.searchsorted(times_s, (begin_s - MARGIN_S, end_s + MARGIN_S))
        return _answered(times_s[first:last], stretch)


def output_clock(rate_hz: float | None, times_s: Mapping[str, np.ndarray] | None) -> OutputClock:
    """Given times if there are any, else a regular clock if there is a rate, else once a chunk.

    Raises:
        ConfigError: The rate is not above 0.
        StreamError: Given times are not finite and ascending.
    """
    if times_s is None:
        return EveryChunk() if rate_hz is None else Regular(rate_hz)
    given = {name: np.array(times, np.float64) for name, times in times_s.items()}
    for name, times in given.items():
        if times.ndim != 1 or not np.isfinite(times).all() or (np.diff(times) < 0).any():
            raise StreamError(f"output times of '{name}'", wanted="one axis of finite, ascending seconds")
    return Given(given)


def ask_frames(stretch: Stretch, chunks: int) -> Asked:
    """The answers of a sequence: one at the end of every `chunks` chunks, counted from the origin."""
    number = np.arange(len(stretch.edges_s) - 1)
    number = number[(stretch.first + number + 1) % chunks == 0]
    return stretch.edges_s[number + 1], Queries(number, np.zeros(len(number), np.float32))


def _answered(times_s: np.ndarray, stretch: Stretch) -> Asked:
    chunk, relative_s = query_chunks(times_s, stretch.edges_s, lead_s=stretch.lead_ms / 1000)
    inside = (chunk >= 0) & (chunk < len(stretch.edges_s) - 1)
    return times_s[inside], Queries(chunk[inside], relative_s[inside])
