"""Messages in msgpack, as they go over ZeroMQ.

A message is one frame (or the last of several, after a topic): a map in msgpack. Arrays are binary
(little-endian) or plain lists, as the sender likes::

    {"kind": "spikes", "times_s": f64[n], "units": i32[n] or list of names, "counts": f32[n] or absent,
     "start_s": 1.25, "until_s": 1.30,       # optional: the time this delivers; until_s is the mark
     "sender": 7, "number": 0,               # optional: to count what was lost
     "unit_ids": ["a", "b"],                 # optional: names that the numbers in `units` mean
     "begins": false, "ends": false}         # optional: the stream begins anew / ends here

    {"kind": "prediction", "behavior": "cursor.pos", "times_s": f64[Q], "values": f32[Q * D], "shape": [Q, D],
     "chunk": 26, "start_s": 1.25, "end_s": 1.30, "spikes": 101, "late": 0, "unknown": 0, "compute_s": 1e-4,
     "input_delay_s": 0.002, "decoder_hash": "...", "sender": 9, "number": 26}
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from possm.batch import Prediction
from possm.streaming.links.base import Message
from possm.streaming.links.horizon import Packet
from possm.streaming.links.patience import need


def pack_spikes(message: Message, *, ends: bool = False, **facts: Any) -> bytes:
    """A message as msgpack; `facts` are further fields, such as sender and number."""
    units = np.asarray(message.units)
    numbers = units.dtype.kind in "iu"
    fields = {
        "kind": "spikes",
        "times_s": np.asarray(message.spike_times_s, "<f8").tobytes(),
        "units": units.astype("<i4").tobytes() if numbers else [str(unit) for unit in units],
        "until_s": float(message.until_s),
        "begins": message.start_s is not None,
        "ends": ends,
    }
    if message.start_s is not None:
        fields["start_s"] = float(message.start_s)
    if message.counts is not None:
        fields["counts"] = np.asarray(message.counts, "<f4").tobytes()
    return bytes(need("msgpack", "zmq").packb({**fields, **facts}))


def unpack_spikes(data: bytes, *, received_s: float = math.nan) -> Packet:
    """The packet in a message.

    Raises:
        ValueError: It is no such message.
    """
    fields = _map(data, "spikes")
    times_s = _array(fields.get("times_s", b""), "<f8")
    units = fields.get("units", b"")
    units = np.asarray(units, np.str_) if _names(units) else _array(units, "<i4")
    if (names := fields.get("unit_ids")) and units.dtype.kind == "i" and len(units):
        units = np.append(np.asarray(names, np.str_), "")[np.where(units < 0, -1, units).clip(max=len(names))]
    counts = fields.get("counts")
    counts = None if counts is None else _array(counts, "<f4")
    if len(units) != len(times_s) or (counts is not None and len(counts) != len(times_s)):
        raise ValueError(f"{len(times_s)} times and {len(units)} units")
    return Packet(
        times_s=times_s,
        units=units,
        counts=counts,
        start_s=_seconds(fields.get("start_s")),
        until_s=_seconds(fields.get("until_s")),
        sender=int(fields.get("sender") or 0),
        number=None if fields.get("number") is None else int(fields["number"]),
        begins=bool(fields.get("begins")),
        ends=bool(fields.get("ends")),
        received_s=received_s,
    )


def pack_prediction(prediction: Prediction, **facts: Any) -> bytes:
    """A prediction as msgpack."""
    fields = {field.name: getattr(prediction, field.name) for field in dataclasses.fields(prediction)}
    fields["times_s"] = np.asarray(prediction.times_s, "<f8").tobytes()
    fields["values"] = np.asarray(prediction.values, "<f4").tobytes()
    shape = list(np.shape(prediction.values))
    return bytes(need("msgpack", "zmq").packb({"kind": "prediction", **fields, "shape": shape, **facts}))


def unpack_prediction(data: bytes) -> Prediction:
    """The prediction in a message.

    Raises:
        ValueError: It is no such message.
    """
    fields = _map(data, "prediction")
    fields["times_s"] = _array(fields["times_s"], "<f8")
    fields["values"] = _array(fields["values"], "<f4").reshape(fields["shape"])
    fields["classes"] = tuple(fields.get("classes", ()))
    return Prediction(**{f.name: fields[f.name] for f in dataclasses.fields(Prediction)})


def _map(data: bytes, kind: str) -> dict[str, Any]:
    msgpack = need("msgpack", "zmq")
    try:
        fields = msgpack.unpackb(data)
    except Exception as error:  # msgpack has a dozen of its own
        raise ValueError(f"no msgpack: {type(error).__name__} {error}") from error
    if not isinstance(fields, dict) or fields.get("kind") != kind:
        raise ValueError(f"no map with kind '{kind}'")
    return fields


def _array(value: Any, dtype: str) -> np.ndarray:
    array = np.frombuffer(value, dtype) if isinstance(value, bytes) else np.asarray(value, dtype)
    if array.ndim != 1:
        raise ValueError(f"an array of shape {array.shape}, not of one axis")
    return array


def _names(units: Any) -> bool:
    return isinstance(units, list) and bool(units) and isinstance(units[0], str)


def _seconds(value: Any) -> float:
    return math.nan if value is None else float(value)
