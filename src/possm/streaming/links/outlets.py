"""What goes out over the Lab Streaming Layer: streams of predictions, and spikes as a rig sends them.

The sink makes a stream of its name (``name.behavior`` if there are several behaviors): double64, irregular,
one sample an answer with the time it is about as its timestamp; channels are the values, then FACTS, the
status and the first digits of the decoder's hash as numbers (leave those out with ``facts=no``). The
description names the channels and the behavior.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from possm.batch import Prediction
from possm.streaming.links.base import Message, options
from possm.streaming.links.patience import need

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
MARK = -1
BUFFER = 1000
"""What LSL may hold for a listener that is slow: seconds of a regular stream, hundreds of samples of
another."""


@dataclass(frozen=True, kw_only=True)
class LslSendConfig:
    """How a sink sends."""

    facts: bool = True
    """Channels for FACTS after the values."""


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
