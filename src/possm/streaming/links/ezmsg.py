"""A live decoder as a unit of ezmsg: spikes in, predictions out.

Nothing else imports this module, for its classes are ezmsg's. What comes in may be

- an `AxisArray` of counts, with dimensions ``time`` and ``ch`` (a bin at ``time`` i covers
  ``[offset + i * gain, offset + (i + 1) * gain)``); labels of the axis ``ch``, if it has some, name the
  units;
- an event of ezmsg-event (`EventMessage`: `offset` is the time, `ch_idx` the unit, `value` the count; sorted
  units by `DecodeSettings.sub_units`), or a list of them;
- a `Message` of this package.

A prediction goes out as an `AxisArray` with the dimensions ``time`` and ``ch``, key the behavior, and all
else that it says in `attrs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import numpy as np

from possm.batch import Prediction
from possm.errors import StreamError
from possm.streaming.links.base import Message
from possm.streaming.links.horizon import CLOCKS, Horizon, LinkCounts, Packet, RigConfig
from possm.streaming.live import LiveDecoder

try:
    import ezmsg.core as ez
    from ezmsg.util.messages.axisarray import AxisArray
except ImportError as error:
    raise StreamError("this unit needs ezmsg", got=error, fix="pip install 'possm[ezmsg]'") from error


class DecodeSettings(ez.Settings):
    """Which decoder, and how it listens."""

    decoder: str
    """Path of the decoder."""
    session: str | None = None
    """Its session; None is its only one."""
    behaviors: tuple[str, ...] = ()
    """What to decode; none is all."""
    unit_ids: tuple[str, ...] | None = None
    """Names of the channels; None takes those in the messages, or else the decoder's own rows."""
    sub_units: int = 1
    """Events: unit = ch_idx * sub_units + sub_idx."""
    lag_ms: float = 20.0
    """Events: how long, on their own clock, to wait for late ones."""
    clock: str = "unknown"
    """What the times are, for the delay of the input; see `RigConfig.clock`."""


class DecodeState(ez.State):
    """What the unit remembers."""

    live: LiveDecoder
    horizon: Horizon


class Decode(ez.Unit):
    """Decodes what comes in."""

    SETTINGS = DecodeSettings
    STATE = DecodeState

    INPUT_SPIKES = ez.InputStream(Any)
    OUTPUT_PREDICTION = ez.OutputStream(AxisArray)

    async def initialize(self) -> None:
        """Load the decoder."""
        settings = self.SETTINGS
        self.STATE.live = LiveDecoder(
            settings.decoder,
            session=settings.session,
            behaviors=settings.behaviors,
            unit_ids=settings.unit_ids,
        )
        self.STATE.horizon = Horizon(RigConfig(lag_ms=settings.lag_ms), LinkCounts())

    @ez.subscriber(INPUT_SPIKES)
    @ez.publisher(OUTPUT_PREDICTION)
    async def decode(self, message: Any) -> AsyncGenerator[Any, None]:
        """Take what came, and say what follows."""
        for prediction in self._push(message):
            yield self.OUTPUT_PREDICTION, to_axis_array(prediction)

    def _push(self, message: Any) -> list[Prediction]:
        live, settings = self.STATE.live, self.SETTINGS
        names = channel_names(message)
        if names is not None and settings.unit_ids is None:
            live.use_units(names)
        packet = to_packet(message, sub_units=settings.sub_units)
        packet = dataclasses.replace(packet, received_s=CLOCKS[settings.clock]())
        ready = self.STATE.horizon.take(packet)
        if ready is None:
            return []
        if ready.start_s is not None:
            live.restart(ready.start_s)
        return live.push(
            ready.spike_times_s, ready.units, ready.until_s, ready.counts, received_s=ready.received_s
        )


def to_packet(message: Any, *, sub_units: int = 1) -> Packet:
    """What a message says, whichever of the kinds above it is.

    Raises:
        StreamError: It is none of them.
    """
    if isinstance(message, AxisArray):
        return _bins(message)
    if isinstance(message, Message):
        return Packet(
            times_s=np.asarray(message.spike_times_s),
            units=np.asarray(message.units),
            counts=message.counts,
            until_s=message.until_s,
            start_s=np.nan if message.start_s is None else message.start_s,
            begins=message.start_s is not None,
        )
    events = list(message) if isinstance(message, Iterable) else [message]
    if not all(hasattr(event, "offset") and hasattr(event, "ch_idx") for event in events):
        raise StreamError(
            "this is no message of spikes",
            got=type(message).__name__,
            wanted="an AxisArray of counts, events with offset and ch_idx, or a Message",
        )
    return Packet(
        times_s=np.array([event.offset for event in events], np.float64),
        units=np.array([event.ch_idx * sub_units + _sub(event, sub_units) for event in events], np.int64),
        counts=np.array([getattr(event, "value", 1) for event in events], np.float32),
    )


def channel_names(message: Any) -> tuple[str, ...] | None:
    """The labels of the axis ``ch``, if it has some."""
    labels = getattr(message.axes.get("ch"), "data", None) if isinstance(message, AxisArray) else None
    if labels is None or np.asarray(labels).dtype.kind not in "UO":
        return None
    return tuple(str(label) for label in labels)


def to_axis_array(prediction: Prediction) -> AxisArray:
    """A prediction as ezmsg speaks of it."""
    facts = {field.name: getattr(prediction, field.name) for field in dataclasses.fields(prediction)}
    times_s, values = facts.pop("times_s"), facts.pop("values")
    channels = np.array([f"{prediction.behavior}.{i}" for i in range(values.shape[1])])
    return AxisArray(
        data=values,
        dims=["time", "ch"],
        axes={
            "time": AxisArray.CoordinateAxis(data=times_s, dims=["time"], unit="s"),
            "ch": AxisArray.CoordinateAxis(data=channels, dims=["ch"]),
        },
        attrs=facts,
        key=prediction.behavior,
    )


def _bins(message: AxisArray) -> Packet:
    if set(message.dims) != {"time", "ch"} or not hasattr(message.axes.get("time"), "gain"):
        raise StreamError(
            "this is no message of spikes",
            got=f"dimensions {message.dims}",
            wanted="counts with the dimensions time (regular) and ch",
        )
    table = np.asarray(message.data)
    table = table if list(message.dims) == ["time", "ch"] else table.T
    axis: Any = message.axes["time"]
    rows, units = np.nonzero(table)
    return Packet(
        times_s=axis.offset + (rows + 0.5) * axis.gain,
        units=units,
        counts=table[rows, units].astype(np.float32),
        start_s=axis.offset,
        until_s=axis.offset + len(table) * axis.gain,
    )


def _sub(event: Any, sub_units: int) -> int:
    return int(getattr(event, "sub_idx", 0)) if sub_units > 1 else 0
