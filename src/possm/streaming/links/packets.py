"""Recorded activity -> the packets in which a rig would have delivered it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from possm.config import require
from possm.data.chunks import chunk_edges_s
from possm.streaming.links.base import Message, Pace

BLOCK_S = 10.0
"""Seconds read at once: reading packet by packet would cost more than decoding does."""

Tokens = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Ascending times (s), units, counts."""


@dataclass(frozen=True, kw_only=True)
class PacketConfig:
    """How recorded activity is played."""

    speed: float = math.inf
    """1 plays it as it was recorded, 2 twice as fast; infinity (``inf``) without waiting."""
    packet_ms: int = 50
    """Length of a packet; a packet arrives when it is over."""

    def __post_init__(self) -> None:
        require(self.speed > 0, "speed", self.speed, "above 0")
        require(self.packet_ms >= 1, "packet_ms", self.packet_ms, "1 or more")


def play(
    stretches: Iterable[tuple[float, float]], read: Callable[[float, float], Tokens], config: PacketConfig
) -> Iterator[Message]:
    """Play stretches of time one after another; each begins anew, without the time between them.

    Args:
        stretches: (start, end) in seconds.
        read: The tokens in ``[start, end)``.
        config: Packets and speed.
    """
    pace = Pace(config.speed)
    for start_s, end_s in stretches:
        pace.begin(start_s)
        first: float | None = start_s
        for message in _packets(start_s, end_s, read, config.packet_ms):
            pace.wait(message.until_s)
            yield Message(message.spike_times_s, message.units, message.until_s, message.counts, first)
            first = None


def _packets(
    start_s: float, end_s: float, read: Callable[[float, float], Tokens], packet_ms: int
) -> Iterator[Message]:
    """Packets that end on the edges of the grid from `start_s`, and a shorter one up to the end."""
    total = max(1, math.ceil((end_s - start_s) * 1000 / packet_ms - 1e-6))
    block = max(1, round(BLOCK_S * 1000 / packet_ms))
    for number in range(0, total, block):
        count = min(block, total - number)
        edges_s = np.minimum(chunk_edges_s(start_s, first=number, count=count, chunk_ms=packet_ms), end_s)
        times_s, units, counts = read(edges_s[0], edges_s[-1])
        cuts = np.searchsorted(times_s, edges_s)
        for first, last, until_s in zip(cuts[:-1], cuts[1:], edges_s[1:], strict=True):
            part = slice(first, last)
            yield Message(times_s[part], units[part], float(until_s), counts[part])
