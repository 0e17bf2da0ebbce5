"""The clock of a stream: which chunks have ended, and which are decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from possm.data.chunks import EDGE_TOLERANCE_S, chunk_edges_s
from possm.errors import StreamError


@dataclass
class StreamClock:
    """Chunk i of a stream covers [origin + i * chunk, origin + (i + 1) * chunk), as in a batch that begins
    at the origin.

    Raises:
        StreamError: The origin is not finite.
    """

    origin_s: float
    """Start of chunk 0."""
    chunk_ms: int
    next: int = 0
    """Number of the oldest chunk that is not decoded yet."""
    until_s: float | None = None
    """Everything before this has been delivered; None before the first push."""
    stride_s: float = 0.0
    """How far the last push went that went any way at all."""
    away: bool = False
    """The source's clock has jumped, and the stream waits for it to come back."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.origin_s):
            raise StreamError("a stream cannot begin then", got=f"{self.origin_s} s", wanted="a finite time")

    @property
    def decoded_s(self) -> float:
        """Start of the next chunk."""
        return self.edge_s(self.next)

    def edge_s(self, number: int) -> float:
        """Start of a chunk: what `chunk_edges_s` gives, to the bit."""
        return self.origin_s + number * self.chunk_ms / 1000

    def check(self, until_s: float, *, max_gap_s: float) -> None:
        """Refuse a push that ends at no time, goes back, or jumps too far ahead.

        Raises:
            StreamError: It does.
        """
        before_s = self.origin_s if self.until_s is None else self.until_s
        if not math.isfinite(until_s):
            raise StreamError("a push ends at no time", got=f"until_s = {until_s}", wanted="finite seconds")
        if self.until_s is not None and until_s < before_s - EDGE_TOLERANCE_S:
            raise StreamError(
                "time goes back",
                got=f"a push until {until_s:.6f} s after one until {before_s:.6f} s",
                fix="push in order of until_s, or restart() the stream at the new time",
            )
        if until_s - before_s > max_gap_s:
            raise StreamError(
                "time jumps ahead",
                got=f"a push until {until_s:.6f} s, {until_s - before_s:.1f} s after {before_s:.6f} s",
                wanted=f"at most {max_gap_s:g} s (max_gap_s)",
                fix="begin the stream at its first time (origin_s), or restart() it at the new time",
            )

    def advance(self, until_s: float) -> None:
        """Everything before this time has now been delivered."""
        stride_s = until_s - (self.origin_s if self.until_s is None else self.until_s)
        self.stride_s = stride_s if stride_s > 0 else self.stride_s
        self.until_s = until_s

    def due_edges_s(self, wait_s: float = 0.0) -> np.ndarray:
        """Edges of the chunks that ended at least `wait_s` ago and are not decoded; fewer than two when there
        are none."""
        if self.until_s is None:
            return np.zeros(0)
        # A source's clock may miss an edge by a rounding error; that must not cost a chunk.
        ready_s = self.until_s - wait_s + EDGE_TOLERANCE_S + math.ulp(self.until_s)
        if self.edge_s(self.next + 1) > ready_s:
            return np.zeros(0)
        most = int((ready_s - self.origin_s) * 1000 / self.chunk_ms) + 1 - self.next
        edges_s = chunk_edges_s(self.origin_s, first=self.next, count=most, chunk_ms=self.chunk_ms)
        return edges_s[: np.searchsorted(edges_s, ready_s, side="right")]
