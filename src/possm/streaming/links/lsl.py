"""``lsl:name?...``: streams of the Lab Streaming Layer, by the name of the stream.

Spikes come in one of two forms, told apart by the rate that the stream states:

- events (irregular rate): a sample is a spike. Channel 0 is the number of the unit, channel 1, if there is
  one, a count; the timestamp is the time of the spike. A sample of unit -1 is a mark: everything before its
  timestamp has been delivered. While there are no spikes, send marks; without any, time follows the clock of
  the stream, `lag_ms` behind.
- bins (regular rate): a channel is a unit, a sample the counts of one bin of 1 / rate; the timestamp is the
  END of the bin (option ``stamp=start`` if it is its start). A sample is its own mark.

Names of units are the labels in the stream's description: ``desc/channels/channel/label`` for bins,
``desc/units/unit/label`` for events.

Timestamps are moved to this machine's LSL clock by the smoothed clock offset (`Correction`). The sink is in
`outlets`.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from possm.config import require
from possm.errors import StreamError
from possm.streaming.links.base import options
from possm.streaming.links.correction import Correction
from possm.streaming.links.horizon import Packet, RigConfig
from possm.streaming.links.outlets import BUFFER, MARK, labels
from possm.streaming.links.patience import need, retry
from possm.streaming.links.rig import RigSource

log = logging.getLogger(__name__)
CORRECT_EVERY_S = 1.0
FOREIGN_S = 10.0
"""Timestamps further from now are not of LSL's clock; time then follows the spikes alone."""


@dataclass(frozen=True, kw_only=True)
class LslConfig(RigConfig):
    """How a source listens."""

    form: str = "auto"
    """``events``, ``bins``, or ``auto``: by the rate of the stream."""
    stamp: str = "end"
    """What the timestamp of a bin is: its ``end`` or its ``start``."""
    mark_wait_ms: float = 1000.0
    """How long to wait for the next mark of a sender that sends them, before time follows the clock."""
    kind: str | None = None
    """Only a stream of this LSL type, such as ``Spikes``."""
    connect_s: float = math.inf
    """How long to look for the stream; infinity looks until Ctrl-C, and says so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.form in ("auto", "events", "bins"), "form", self.form, "auto, events or bins")
        require(self.stamp in ("end", "start"), "stamp", self.stamp, "end or start")


class LslSource(RigSource):
    """Listens to a stream of spikes; when it goes away, looks for it again.

    Args:
        place: Its name.
        config: How to listen.

    Raises:
        StreamError: pylsl is not here, or cannot load liblsl.
    """

    def __init__(self, place: str, config: LslConfig | None = None) -> None:
        self.config = config or LslConfig()
        super().__init__(f"lsl:{place}", self.config)
        self._lsl = need("pylsl", "lsl")
        self._name, self._inlet = place, None
        self._given_units = self._unit_ids
        self._correction = Correction(self.counts)
        self._next_correction = 0.0
        self._events, self._bin_s = True, 0.0
        self._on_clock = False  # timestamps are of LSL's clock
        self._mark_s, self._mark_heard_s = math.nan, -math.inf

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> LslSource:
        """A stream, with the options of `LslConfig`."""
        return cls(address, options(LslConfig, texts))

    def connect(self) -> None:
        """Find the stream now, instead of with the first message; then `unit_ids` is known.

        Raises:
            StreamError: It is not found within `connect_s`, or is no stream of spikes.
        """
        if self._inlet is not None:
            return
        self._inlet = retry(self._attach, self.about, (TimeoutError,), timeout_s=self.config.connect_s)

    def _attach(self) -> Any:
        inlet = self._lsl.StreamInlet(self._find(), max_buflen=BUFFER, recover=False, processing_flags=0)
        try:
            inlet.open_stream(timeout=10.0)
            self._correction.read(inlet.time_correction(timeout=5.0))
            self._describe(inlet.info(timeout=5.0))
        except (self._lsl.util.LostError, self._lsl.util.TimeoutError) as error:
            inlet.close_stream()
            raise TimeoutError(f"the stream went away: {error}") from error
        return inlet

    def _find(self) -> Any:
        found = self._lsl.resolve_byprop("name", self._name, minimum=1, timeout=1.0)
        found = [info for info in found if self.config.kind in (None, info.type())]
        if not found:
            raise TimeoutError(f"no LSL stream is called '{self._name}'")
        return found[0]

    def _describe(self, info: Any) -> None:
        rate_hz, form = info.nominal_srate(), self.config.form
        self._events = form == "events" or (form == "auto" and rate_hz == 0)
        channels = info.channel_count()
        if info.channel_format() == self._lsl.cf_string or (self._events and channels > 2):
            raise StreamError(
                "this is no stream of spikes",
                about=self.about,
                got=f"{channels} channel(s) at {rate_hz:g} Hz",
                wanted="numbers; events in 1 or 2 channels at an irregular rate, or bins at a regular one",
            )
        if not self._events and rate_hz <= 0:
            raise StreamError("bins need a rate", about=self.about, got=f"{rate_hz:g} Hz")
        self._bin_s = 0.0 if self._events else 1 / rate_hz
        names = labels(info, "units", "unit") if self._events else labels(info, "channels", "channel")
        if self._given_units is None:
            self._unit_ids = names

    def _receive(self, wait_s: float) -> list[Packet]:
        try:
            self.connect()
            inlet: Any = self._inlet
            if self._events and self._on_clock and not self._marked(self._lsl.local_clock()):
                wait_s = max(self.rig.lag_ms / 1000, 0.005)
            sample, stamp = inlet.pull_sample(timeout=wait_s)
            if sample is not None:
                samples, stamps = inlet.pull_chunk(timeout=0.0, max_samples=4096)
        except self._lsl.util.LostError:
            log.warning("%s: the stream went away; looking for it", self.about)
            self._close()
            self.counts.reconnects += 1
            return []
        now_s = self._lsl.local_clock()
        self._correct(inlet, now_s)
        if sample is None:
            return self._by_clock(now_s)
        times_s = np.array([stamp, *stamps]) + self._correction.offset_s
        table = np.array([sample, *samples], np.float64)
        return [self._spikes(times_s, table, now_s)] if self._events else self._bins(times_s, table, now_s)

    def _correct(self, inlet: Any, now_s: float) -> None:
        if now_s >= self._next_correction:
            self._next_correction = now_s + CORRECT_EVERY_S
            # It is measured in the background; where that fails, the last one stays.
            with contextlib.suppress(self._lsl.util.TimeoutError, RuntimeError):
                self._correction.read(inlet.time_correction(timeout=0.0))

    def _by_clock(self, now_s: float) -> list[Packet]:
        """Nothing came: without marks, time follows the clock."""
        if not (self._events and self._on_clock) or self._marked(now_s):
            return []
        until_s = now_s - self.rig.lag_ms / 1000
        return [Packet(times_s=np.zeros(0), units=np.zeros(0, np.int64), until_s=until_s, received_s=now_s)]

    def _spikes(self, times_s: np.ndarray, table: np.ndarray, now_s: float) -> Packet:
        marks = table[:, 0] == MARK
        if marks.any():
            self._mark_s, self._mark_heard_s = float(times_s[marks].max()), now_s
        self._on_clock = abs(now_s - float(times_s[-1])) < FOREIGN_S
        if self._marked(now_s):
            until_s = self._mark_s
        else:
            newest_s = now_s if self._on_clock else float(times_s.max())
            until_s = newest_s - self.rig.lag_ms / 1000
        units = np.where(np.isfinite(table[~marks, 0]), table[~marks, 0], -2).astype(np.int64)
        counts = table[~marks, 1].astype(np.float32) if table.shape[1] > 1 else None
        return Packet(times_s=times_s[~marks], units=units, counts=counts, until_s=until_s, received_s=now_s)

    def _marked(self, now_s: float) -> bool:
        """A sender that marks what it delivers is waited for, but not forever."""
        return now_s - self._mark_heard_s < self.config.mark_wait_ms / 1000

    def _bins(self, times_s: np.ndarray, table: np.ndarray, now_s: float) -> list[Packet]:
        ends_s = times_s + self._bin_s * (self.config.stamp == "start")
        rows, units = np.nonzero(table)
        return [
            Packet(
                times_s=ends_s[rows] - self._bin_s / 2,
                units=units,
                counts=table[rows, units].astype(np.float32),
                start_s=float(ends_s.min()) - self._bin_s,
                until_s=float(ends_s.max()),
                received_s=now_s,
            )
        ]

    def _close(self) -> None:
        if self._inlet is not None:
            self._inlet.close_stream()
            self._inlet = None
