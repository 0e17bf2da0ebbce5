"""A rig on which everything goes wrong, from a seed; and the score of what a stream should then have counted.

Time is cut into packets of one chunk. A block of 60 packets has room for one fault of the rig (its clock
jumps, it dies, a packet is overtaken, it falls silent, the sink is slow), and later on for faults of single
spikes, so that what one fault does to the counters does not depend on another.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from possm.streaming.links.base import Message

BLOCK = 60
"""Packets of a block."""
RIG = ("empty", "jump", "death", "overtaken", "slow_sink")
SPIKE = ("burst_x10", "burst_x100", "unknown", "nan", "duplicate", "late", "delayed")
WAIT_CHUNKS, CAP = 2, 8
"""Chunks the stream waits for late spikes, and most spikes a unit may have in one chunk."""
JUMP_S = 200_000.0
SPACING_S = 1.9e-6
"""Spikes that are not duplicates are so far apart: more than the tick by which a stream tells those."""
TICK_S = 0.05
"""How often a dead rig is heard to be silent."""


class Clock:
    """The clock on the wall of a simulation."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """The time now, s."""
        return self.now_s


@dataclass(frozen=True, kw_only=True)
class Rig:
    """What is simulated."""

    packets: int
    """Of one chunk each."""
    chunk_ms: int
    num_units: int
    rate_hz: float
    """Of each unit."""
    queue: int
    """Predictions that wait for a slow sink at most."""
    seed: int


class ChaosSource:
    """Plays packets, most of them with a fault now and then, and keeps the score.

    Args:
        rig: What is simulated.
        clock: Goes on as packets are played.
        open_sink: Set while the sink may write; cleared while it is slow.
    """

    unit_ids: tuple[str, ...] | None = None
    session_id: str | None = None

    def __init__(self, rig: Rig, clock: Clock, open_sink: threading.Event) -> None:
        self.rig, self.clock, self.open_sink = rig, clock, open_sink
        self.injected: Counter[str] = Counter({kind: 0 for kind in (*RIG, *SPIKE)})
        """Faults by kind: chunks that are empty or burst, jumps, deaths, and else spikes."""
        self.sent = self.usable = self.excess = 0
        """Spikes delivered; those that a stream should use; those over the cap."""
        self._rng = np.random.default_rng(rig.seed)
        self._chunk_s = rig.chunk_ms / 1000
        self._base_s, self._number = 0.0, 0
        self._plan = plan(rig.packets, self._rng)
        self._delayed: list[np.ndarray] = []
        self._last = np.zeros((2, 0))

    def __iter__(self) -> Iterator[Message]:
        packet, first = 0, True
        while packet < self.rig.packets:
            faults = self._plan.get(packet, frozenset())
            if "death" in faults:
                yield from self._die()
            if "jump" in faults:
                self._base_s += JUMP_S * float(self._rng.choice([-1, 1]))
                self.injected["jump"] += 1
            self._gate(faults)
            pair = [self._message(faults, start=first)]
            if "overtaken" in faults:
                pair.insert(0, self._message(frozenset()))
                self.injected["overtaken"] += 1
            for message in pair:
                self.clock.now_s += self._chunk_s
                yield message
            packet, first = packet + len(pair), False
        self.open_sink.set()

    def close(self) -> None:
        """Let the sink write what is left."""
        self.open_sink.set()

    def _edge_s(self, number: int) -> float:
        return self._base_s + number * self._chunk_s

    def _message(self, faults: frozenset[str], *, start: bool = False) -> Message:
        """The next packet, and the score of its chunk."""
        begin_s, rng, silent = self._edge_s(self._number), self._rng, "empty" in faults
        factor = 100 if "burst_x100" in faults else 10 if "burst_x10" in faults else 1
        mean = 0 if silent else factor * self.rig.num_units * self.rig.rate_hz * self._chunk_s
        good = np.stack(self._draw(rng.poisson(mean), begin_s))
        self._score(good[1], faults)
        parts, self._delayed = [*self._delayed, *self._bad(faults, begin_s)], []
        if "delayed" in faults:
            held: np.ndarray = rng.random((good.shape[1],)) < 0.5
            self._delayed = [good[:, held]]
            self.injected["delayed"] += int(held.sum())
            good = good[:, ~held]
        times_s, units = np.concatenate([good, *parts], axis=1)
        self._last, self._number = good, self._number + 1
        self.sent += len(times_s)
        order = rng.permutation(len(times_s))
        spikes = times_s[order], units[order].astype(np.int64)
        return Message(*spikes, self._edge_s(self._number), None, begin_s if start else None)

    def _draw(self, number: int, begin_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Spikes well inside a chunk, as which chunk one on an edge is in depends on rounding; and no two at
        the same time, which would be duplicates."""
        ticks = int(self._chunk_s / SPACING_S) - 2
        within_s = SPACING_S * (1 + self._rng.choice(ticks, min(number, ticks), replace=False))
        return begin_s + within_s, self._rng.integers(0, self.rig.num_units, len(within_s))

    def _score(self, units: np.ndarray, faults: frozenset[str]) -> None:
        of_unit = np.bincount(units.astype(np.int64), minlength=self.rig.num_units)
        excess = int(np.maximum(of_unit - CAP, 0).sum())
        self.usable, self.excess = self.usable + len(units) - excess, self.excess + excess
        self.injected["empty"] += not len(units)
        burst = [kind for kind in ("burst_x100", "burst_x10") if kind in faults]
        if burst:  # both at once are one
            self.injected[burst[0]] += 1

    def _bad(self, faults: frozenset[str], begin_s: float) -> Iterator[np.ndarray]:
        """(2, n) times and units that can come to nothing, for each fault of single spikes."""
        rng, number = self._rng, int(self._rng.integers(1, 20))
        times_s, units = self._draw(number, begin_s)
        made: dict[str, Callable[[], Any]] = {
            "unknown": lambda: (times_s, rng.choice([-1, self.rig.num_units, 10**6], number)),
            "nan": lambda: (rng.choice([np.nan, np.inf, -np.inf, begin_s + JUMP_S], number), units),
            "late": lambda: (times_s - (WAIT_CHUNKS + 1 + rng.integers(0, 3, number)) * self._chunk_s, units),
            "duplicate": lambda: self._last[:, :number],
        }
        for kind in faults & made.keys():
            part = np.stack(made[kind]())
            self.injected[kind] += part.shape[1]
            yield part

    def _die(self) -> Iterator[Message]:
        """Nothing but empty messages for a while; half of the time, what happened meanwhile is lost."""
        self.injected["death"] += 1
        silent_s = float(self._rng.uniform(0.4, 2.0))
        until_s = self._edge_s(self._number)
        for _ in range(round(silent_s / TICK_S)):
            self.clock.now_s += TICK_S
            yield Message(np.zeros(0), np.zeros(0, np.int64), until_s)
        if self._rng.random() < 0.5:
            lost = round(silent_s / self._chunk_s)
            self._number += lost
            self.injected["empty"] += lost

    def _gate(self, faults: frozenset[str]) -> None:
        if "slow_sink" in faults:
            self.open_sink.clear()
        if "sink_recovers" in faults:
            self.open_sink.set()


def plan(packets: int, rng: np.random.Generator) -> dict[int, frozenset[str]]:
    """Packet -> its faults: every kind at least once, if there are blocks enough."""
    blocks = max(1, packets // BLOCK)
    faults: dict[int, set[str]] = {}

    def add(packet: int, kind: str) -> None:
        faults.setdefault(packet, set()).add(kind)

    each = max(1, blocks // (len(RIG) + 1))
    for block, kind in zip(rng.permutation(blocks)[: each * len(RIG)], _repeat(RIG, each), strict=False):
        start = int(block) * BLOCK + int(rng.integers(5, 10))
        length = int(rng.integers(3, 15)) if kind == "empty" else 1
        for packet in range(start, start + length):
            add(packet, kind)
        if kind == "slow_sink":
            add(int(block) * BLOCK + BLOCK - 2, "sink_recovers")
    for kind in SPIKE:
        most = blocks // (20 if kind == "burst_x100" else 4)
        for block in rng.permutation(blocks)[: max(1, most)]:
            add(int(block) * BLOCK + int(rng.integers(25, BLOCK - 4)), kind)
    return {packet: frozenset(kinds) for packet, kinds in faults.items()}


def _repeat(kinds: tuple[str, ...], times: int) -> list[str]:
    return [kind for _ in range(times) for kind in kinds]
