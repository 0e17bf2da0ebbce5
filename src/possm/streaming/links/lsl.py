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

The sink makes a stream of its name (``name.behavior`` if there are several behaviors): double64, irregular,
one sample an answer with the time it is about as its timestamp; channels are the values, then FACTS, the
status and the first digits of the decoder's hash as numbers (leave those out with ``facts=no``). The
description names the channels and the behavior.

Timestamps are moved to this machine's LSL clock by the smoothed clock offset (`Correction`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from possm.batch import Prediction
from possm.config import require
from possm.errors import StreamError
from possm.streaming.links.base import Message, options
from possm.streaming.links.patience import need, retry
from possm.streaming.links.rig import LinkCounts, Packet, RigConfig, RigSource

log = logging.getLogger(__name__)
FACTS = (
    "start_s",
    "end_s",
    "chunk",
    "spikes",
    "late",
    "unknown",
    "compute_s",
    "input_delay_s",
    "dropped",
    "jumps",
)
"""Channels of the sink after the values, then ``status`` and ``decoder``; see `possm.batch.Prediction`."""
STATUS = ("ok", "held", "decayed", "zeroed")
"""What the channel ``status`` numbers."""
HASH_DIGITS = 12
"""Of the decoder's hash, in hexadecimal, that a float64 holds exactly: the channel ``decoder``."""
CORRECT_EVERY_S = 1.0
JUMP_S = 1.0
"""A clock offset that moves by more than this has jumped; steps of 200,000 s have been seen."""
BELIEVED = 5
"""A jump that stays for so many readings is followed, with a warning."""
MARK = -1
BUFFER = 1000
"""What LSL may hold for a listener that is slow: seconds of a regular stream, hundreds of samples of
another."""
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


@dataclass(frozen=True, kw_only=True)
class LslSendConfig:
    """How a sink sends."""

    facts: bool = True
    """Channels for FACTS after the values."""


class Correction:
    """The offset of a sender's clock, smoothed: the median of the latest readings. A jump is counted and not
    believed, until it has stayed for BELIEVED readings.

    Args:
        counts: Where to count jumps.
    """

    def __init__(self, counts: LinkCounts) -> None:
        self._counts = counts
        self._readings: deque[float] = deque(maxlen=BELIEVED)
        self._doubted: list[float] = []
        self.offset_s = 0.0
        """To be added to timestamps."""

    def read(self, offset_s: float) -> None:
        """A new reading; one that is no number says nothing."""
        if not math.isfinite(offset_s):
            return
        if self._readings and abs(offset_s - self.offset_s) > JUMP_S:
            self._doubt(offset_s)
            return
        self._doubted.clear()
        self._readings.append(offset_s)
        self.offset_s = statistics.median(self._readings)

    def _doubt(self, offset_s: float) -> None:
        if self._doubted and abs(offset_s - self._doubted[-1]) > JUMP_S:
            self._doubted.clear()
        if not self._doubted:
            self._counts.clock_jumps += 1
            log.warning("the clock offset jumped by %+.3f s; not believed yet", offset_s - self.offset_s)
        self._doubted.append(offset_s)
        if len(self._doubted) >= BELIEVED:
            log.warning("the clock offset stays at %+.3f s; followed", offset_s)
            self._readings = deque(self._doubted, maxlen=BELIEVED)
            self._doubted.clear()
            self.offset_s = statistics.median(self._readings)


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
                wait_s = min(wait_s, max(self.rig.lag_ms / 1000, 0.005))
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


class LslSink:
    """Makes a stream of every behavior; LSL itself drops the oldest for a listener that is slow.

    Args:
        place: The name of the stream.
        config: How to send.

    Raises:
        StreamError: pylsl is not here, or cannot load liblsl.
    """

    def __init__(self, place: str, config: LslSendConfig | None = None) -> None:
        self._name, self.config = place, config or LslSendConfig()
        self._lsl = need("pylsl", "lsl")
        self._outlets: dict[str, Any] = {}

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> LslSink:
        """A stream, with the option ``facts``."""
        return cls(address, options(LslSendConfig, texts))

    def start(self, behaviors: Mapping[str, int]) -> None:
        """The streams appear."""
        for name, width in behaviors.items():
            stream = self._name if len(behaviors) == 1 else f"{self._name}.{name}"
            self._outlets[name] = self._outlet(stream, name, width)

    def write(self, prediction: Prediction) -> None:
        """Send one sample for each of its times."""
        outlet, facts = self._outlets[prediction.behavior], []
        if self.config.facts:
            facts = [float(getattr(prediction, name)) for name in FACTS]
            facts.append(float(STATUS.index(prediction.status)))
            facts.append(float(int(prediction.decoder_hash[:HASH_DIGITS] or "0", 16)))
        for time_s, values in zip(prediction.times_s.tolist(), prediction.values.tolist(), strict=True):
            outlet.push_sample(values + facts, time_s)

    def close(self) -> None:
        """The streams disappear."""
        self._outlets.clear()

    def _outlet(self, stream: str, behavior: str, width: int) -> Any:
        facts = (*FACTS, "status", "decoder") if self.config.facts else ()
        channels = [*(f"{behavior}.{i}" for i in range(width)), *facts]
        info = stream_info(stream, "Behavior", labels={"channels": channels}, num_channels=len(channels))
        more = info.desc().append_child("possm")
        more.append_child_value("behavior", behavior)
        more.append_child_value(
            "decoder", f"the first {HASH_DIGITS} hexadecimal digits of its hash, as a number"
        )
        return self._lsl.StreamOutlet(info, max_buffered=BUFFER)


class LslSender:
    """Sends spikes as events with marks, as a rig does.

    Args:
        name: Of the stream.
        unit_ids: Names of the units, for its description.
        with_counts: A second channel for counts.

    Raises:
        StreamError: pylsl is not here, or cannot load liblsl.
    """

    def __init__(self, name: str, *, unit_ids: tuple[str, ...] = (), with_counts: bool = False) -> None:
        lsl = need("pylsl", "lsl")
        info = stream_info(name, "Spikes", labels={"units": list(unit_ids)}, num_channels=1 + with_counts)
        self._outlet, self._columns = lsl.StreamOutlet(info, max_buffered=BUFFER), 1 + with_counts

    def send_spikes(self, message: Message) -> None:
        """Send the spikes of one message, and its mark."""
        order = np.argsort(message.spike_times_s, kind="stable")
        counts = np.ones(len(order)) if message.counts is None else message.counts
        table = np.column_stack([message.units, counts])[order, : self._columns]
        rows = [*table.tolist(), [float(MARK), 0.0][: self._columns]]
        self._outlet.push_chunk(rows, [*np.asarray(message.spike_times_s)[order].tolist(), message.until_s])

    def wait(self, timeout_s: float) -> bool:
        """Wait until somebody listens; False if nobody does in time."""
        ends = time.monotonic() + timeout_s
        while not self._outlet.have_consumers():
            if time.monotonic() > ends:
                return False
            time.sleep(0.01)
        return True

    def close(self) -> None:
        """The stream disappears."""
        self._outlet = None


def stream_info(
    name: str, kind: str, *, labels: Mapping[str, list[str]], num_channels: int, rate_hz: float = 0.0
) -> Any:
    """The description of a stream of double64.

    Args:
        name: Of the stream.
        kind: Its LSL type.
        labels: ``channels`` or ``units`` -> their names.
        num_channels: Values a sample.
        rate_hz: Samples a second; 0 is irregular.
    """
    lsl = need("pylsl", "lsl")
    info = lsl.StreamInfo(
        name, kind, num_channels, rate_hz, lsl.cf_double64, f"possm-{uuid.uuid4().hex[:12]}"
    )
    for group, names in labels.items():
        parent = info.desc().append_child(group)
        for label in names:
            parent.append_child(group.removesuffix("s")).append_child_value("label", label)
    return info


def labels(info: Any, group: str, item: str) -> tuple[str, ...] | None:
    """Names in a stream's description; None when there are none."""
    names, child = [], info.desc().child(group).child(item)
    while not child.empty():
        names.append(child.child_value("label"))
        child = child.next_sibling(item)
    return tuple(names) if names and all(names) else None
