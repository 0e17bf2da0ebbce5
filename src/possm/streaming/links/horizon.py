"""What comes from a rig: packets become messages, in order, and everything that goes wrong is counted.

A packet says which part of time it delivers, ``[start_s, until_s)``. `until_s` is the sender's mark:
everything before it has now been delivered. Input time decides, never the time of arrival, so a sender that
has nothing to deliver still sends empty packets (a heartbeat) for the stream to go on. A packet without a
mark delivers everything up to `lag_ms` before its newest spike: the wait for late ones is bounded, on the
clock of the input.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from possm.config import require
from possm.errors import StreamError
from possm.streaming.links.base import Message

CLOCKS: dict[str, Callable[[], float]] = {
    "unknown": lambda: math.nan,
    "unix": time.time,
    "monotonic": time.monotonic,
}
"""What `RigConfig.clock` may say -> the time now."""
REMEMBERED = 1024
"""Packets of which the numbers are kept, to know a duplicate from one that was overtaken."""
OVERTAKEN_S = 1.0
"""A mark this much before the newest one was overtaken on its way; one before that is a clock that went
back."""


@dataclass(frozen=True, kw_only=True)
class RigConfig:
    """What every link to a rig may be told."""

    lag_ms: float = 20.0
    """For senders that do not mark what they have delivered: how long, on the clock of the input, to wait for
    late spikes."""
    tick_ms: float = 5.0
    """While nothing comes, an empty message is given this often, so that a watchdog can act and the step be
    kept warm."""
    timeout_s: float = math.inf
    """Give up when nothing has come for so long; infinity waits until Ctrl-C, and says so now and then."""
    clock: str = "unknown"
    """What the sender's times are: ``unix`` (seconds since 1970, on clocks that agree), ``monotonic`` (of
    this machine) or ``unknown``. Unless it is unknown, predictions say how late their input came."""
    units: str | None = None
    """Names of the units that numbers mean: comma-separated, or ``@file`` with one a line. Without it,
    numbers are the decoder's own rows, unless the sender names its units."""
    session: str | None = None
    """The session."""

    def __post_init__(self) -> None:
        require(0 <= self.lag_ms < math.inf, "lag_ms", self.lag_ms, "0 or more")
        require(0 < self.tick_ms < math.inf, "tick_ms", self.tick_ms, "above 0")
        require(self.timeout_s > 0, "timeout_s", self.timeout_s, "above 0")
        require(self.clock in CLOCKS, "clock", self.clock, f"one of {', '.join(CLOCKS)}")

    def unit_ids(self) -> tuple[str, ...] | None:
        """The names that `units` stands for.

        Raises:
            StreamError: The file cannot be read.
        """
        if self.units is None or not self.units.startswith("@"):
            return None if self.units is None else tuple(self.units.split(","))
        try:
            return tuple(Path(self.units[1:]).read_text(encoding="utf-8").split())
        except (OSError, ValueError) as error:
            raise StreamError("cannot read names of units", about=self.units[1:], got=error) from error


@dataclass
class LinkCounts:
    """What a link has seen; all of it but the first two is trouble."""

    messages: int = 0
    """Packets taken."""
    spikes: int = 0
    """Spikes (or bins that are not empty) in them."""
    malformed: int = 0
    """Packets that could not be read; skipped."""
    lost: int = 0
    """Packets that never came, by their numbers."""
    duplicate: int = 0
    """Packets that came twice; skipped."""
    overtaken: int = 0
    """Packets whose mark was before one already heard; taken, and the mark ignored."""
    reconnects: int = 0
    """How often the peer went away and came back."""
    clock_jumps: int = 0
    """Clock offsets that jumped; not believed unless they stayed."""

    def text(self) -> str:
        """Everything that is not 0."""
        return ", ".join(f"{value} {name}" for name, value in asdict(self).items() if value) or "nothing"

    __str__ = text


@dataclass(frozen=True, eq=False, kw_only=True)
class Packet:
    """What arrived at once."""

    times_s: np.ndarray
    """(n,) float64."""
    units: np.ndarray
    """(n,) numbers or names."""
    counts: np.ndarray | None = None
    """(n,) float32; None is 1 each."""
    start_s: float = math.nan
    """Start of the time this delivers, if stated."""
    until_s: float = math.nan
    """Its end: the sender's mark, if stated."""
    sender: int = 0
    """Another number is another sender, or the same one started anew: the stream begins anew."""
    number: int | None = None
    """Packets of a sender count up by 1; None is not numbered."""
    begins: bool = False
    """The stream begins anew at `start_s`."""
    ends: bool = False
    """Nothing comes after this."""
    received_s: float = math.nan
    """When it arrived, on the clock of the times."""


@dataclass
class Horizon:
    """Packets -> messages whose `until_s` does not go back but when a clock does."""

    config: RigConfig
    counts: LinkCounts
    until_s: float | None = None
    """The newest mark."""
    _sender: int | None = None
    _next: int = 0
    _numbers: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def take(self, packet: Packet) -> Message | None:
        """The message of one packet; None when it came before, or has no time at all."""
        new = packet.begins or (self._sender is not None and packet.sender != self._sender)
        if not self._expected(packet, anew=packet.sender != self._sender):
            return None
        self.counts.messages += 1
        self.counts.spikes += len(packet.times_s)
        until_s = self._mark(packet)
        if until_s is None:
            return None
        start_s = None
        if new or self.until_s is None:
            start_s = _start(packet, until_s)
            until_s = max(until_s, start_s)
        elif until_s < self.until_s and until_s > self.until_s - OVERTAKEN_S:
            self.counts.overtaken += math.isfinite(packet.until_s)
            until_s = self.until_s
        self.until_s = until_s
        return Message(packet.times_s, packet.units, until_s, packet.counts, start_s, packet.received_s)

    def tick(self) -> Message | None:
        """Nothing has come: an empty message, once the stream has begun."""
        if self.until_s is None:
            return None
        return Message(np.zeros(0), np.zeros(0, np.int64), self.until_s)

    def _mark(self, packet: Packet) -> float | None:
        if math.isfinite(packet.until_s):
            return packet.until_s
        times_s = packet.times_s[np.isfinite(packet.times_s)]
        if not len(times_s):
            return self.until_s
        return float(times_s.max()) - self.config.lag_ms / 1000

    def _expected(self, packet: Packet, *, anew: bool) -> bool:
        """Follow the numbers; False for one that was here before."""
        number = packet.number
        if anew:
            self._sender = packet.sender
            self._numbers.clear()
            self._next = 0 if number is None else number
        if number is None:
            return True
        if number in self._numbers:
            self.counts.duplicate += 1
            return False
        if number >= self._next:
            self.counts.lost += number - self._next
            self._next = number + 1
        else:
            self.counts.lost = max(0, self.counts.lost - 1)  # it was only overtaken
        self._numbers.append(number)
        return True


def _start(packet: Packet, until_s: float) -> float:
    if math.isfinite(packet.start_s):
        return packet.start_s
    times_s = packet.times_s[np.isfinite(packet.times_s)]
    return min(until_s, float(times_s.min())) if len(times_s) else until_s
