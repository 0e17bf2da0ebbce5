"""Entries of Redis streams as in BRAND: binary fields, one entry a bin or message; and where they are.

An entry of spikes is of one of two kinds, told apart by its fields (all little-endian)::

    events  times_s f64[n], units i32[n], perhaps counts f32[n]
    bins    samples, one value a unit, of the type in the option `dtype` (BRAND's is int8); the length of a
            bin is the option `bin_ms`

    both    ts      u64, nanoseconds on the sender's monotonic clock when it was written, as in BRAND
            i       u64, number of the entry
            start_s, until_s    f64 each: the time it delivers. Entries of BRAND have neither; a bin then
                    ends at `ts` (so they are bins of `bin_ms` without any more)
            sender  u64         begins, ends    present when the stream begins anew / ends here

An entry of the sink has the fields of `possm.batch.Prediction`: ``samples`` f32[Q, D], ``shape`` u32[2],
``times_s`` f64[Q]; ``behavior``, ``status`` and ``decoder_hash`` text; ``chunk``, ``spikes``, ``late``,
``unknown``, ``dropped``, ``jumps`` u64;
``start_s``, ``end_s``, ``compute_s``, ``input_delay_s`` f64, and ``ts`` and ``i`` as above.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from possm.batch import Prediction
from possm.config import require
from possm.streaming.links.base import Message
from possm.streaming.links.horizon import Packet, RigConfig

Fields = Mapping[bytes, bytes]
COUNTERS = ("chunk", "spikes", "late", "unknown", "dropped", "jumps")
SECONDS = ("start_s", "end_s", "compute_s", "input_delay_s")


@dataclass(frozen=True, kw_only=True)
class RedisPlace:
    """Which server."""

    host: str = "127.0.0.1"
    port: int = 6379
    db: int = 0
    password: str | None = None
    connect_s: float = math.inf
    """How long to try to reach it; infinity tries until Ctrl-C, and says so."""

    def __post_init__(self) -> None:
        require(0 < self.port < 65536, "port", self.port, "1 to 65535")


@dataclass(frozen=True, kw_only=True)
class RedisConfig(RedisPlace, RigConfig):
    """How a source reads."""

    dtype: str = "int8"
    """Type of `samples`."""
    bin_ms: float = 10.0
    """Length of a bin, where the entries do not say."""
    begin: str = "$"
    """Entry to begin after: ``$`` the newest there is, ``0`` reads all."""

    def __post_init__(self) -> None:
        RedisPlace.__post_init__(self)
        RigConfig.__post_init__(self)
        require(np.dtype(self.dtype).kind in "iuf", "dtype", self.dtype, "a number type, such as int8")
        require(self.bin_ms > 0, "bin_ms", self.bin_ms, "above 0")


@dataclass(frozen=True, kw_only=True)
class RedisSendConfig(RedisPlace):
    """How a sink writes."""

    maxlen: int = 100_000
    """About how many entries the stream keeps; the server forgets older ones."""
    queue: int = 256
    """Most predictions that wait for a slow server; then the oldest are dropped, and counted."""


def spike_fields(message: Message, *, number: int, sender: int = 0, ends: bool = False) -> dict[str, bytes]:
    """The fields of an entry of events."""
    fields = {
        "ts": _u64(time.monotonic_ns()),
        "i": _u64(number),
        "sender": _u64(sender),
        "until_s": np.float64(message.until_s).tobytes(),
        "times_s": np.asarray(message.spike_times_s, "<f8").tobytes(),
        "units": np.asarray(message.units, "<i4").tobytes(),
    }
    if message.counts is not None:
        fields["counts"] = np.asarray(message.counts, "<f4").tobytes()
    if message.start_s is not None:
        fields |= {"start_s": np.float64(message.start_s).tobytes(), "begins": b"1"}
    return fields | ({"ends": b"1"} if ends else {})


def read_spikes(fields: Fields, config: RedisConfig, *, received_s: float = math.nan) -> Packet:
    """The packet in an entry.

    Raises:
        ValueError: It cannot be read.
    """
    number, until_s = _one(fields, b"i", "<u8"), _one(fields, b"until_s", "<f8")
    start_s, counts = _one(fields, b"start_s", "<f8"), None
    if b"samples" in fields:
        if until_s is None:
            until_s = _needed(fields, b"ts", "<u8") * 1e-9
        start_s = until_s - config.bin_ms / 1000 if start_s is None else start_s
        samples = np.frombuffer(fields[b"samples"], config.dtype)
        units = np.flatnonzero(samples)
        counts = samples[units].astype(np.float32)
        times_s = np.full(len(units), (start_s + until_s) / 2)
    else:
        times_s = np.frombuffer(fields[b"times_s"], "<f8")
        units = np.frombuffer(fields[b"units"], "<i4")
        counts = np.frombuffer(fields[b"counts"], "<f4") if b"counts" in fields else None
        if len(units) != len(times_s) or (counts is not None and len(counts) != len(times_s)):
            raise ValueError(f"{len(times_s)} times and {len(units)} units")
    return Packet(
        times_s=times_s,
        units=units,
        counts=counts,
        start_s=math.nan if start_s is None else float(start_s),
        until_s=math.nan if until_s is None else float(until_s),
        sender=int(_one(fields, b"sender", "<u8") or 0),
        number=None if number is None else int(number),
        begins=b"begins" in fields,
        ends=b"ends" in fields,
        received_s=received_s,
    )


def prediction_fields(prediction: Prediction, *, number: int) -> dict[str, bytes | str]:
    """The fields of an entry of the sink."""
    fields: dict[str, bytes | str] = {name: _u64(getattr(prediction, name)) for name in COUNTERS}
    fields |= {name: np.float64(getattr(prediction, name)).tobytes() for name in SECONDS}
    return fields | {
        "ts": _u64(time.monotonic_ns()),
        "i": _u64(number),
        "behavior": prediction.behavior,
        "status": prediction.status,
        "decoder_hash": prediction.decoder_hash,
        "times_s": np.asarray(prediction.times_s, "<f8").tobytes(),
        "samples": np.asarray(prediction.values, "<f4").tobytes(),
        "shape": np.asarray(np.shape(prediction.values), "<u4").tobytes(),
    }


def read_prediction(fields: Fields) -> Prediction:
    """The prediction in an entry of the sink.

    Raises:
        ValueError: It cannot be read.
    """
    shape = np.frombuffer(fields[b"shape"], "<u4")
    facts: dict[str, Any] = {name: int(_needed(fields, name.encode(), "<u8")) for name in COUNTERS}
    facts |= {name: float(_needed(fields, name.encode(), "<f8")) for name in SECONDS}
    return Prediction(
        behavior=fields[b"behavior"].decode(),
        times_s=np.frombuffer(fields[b"times_s"], "<f8"),
        values=np.frombuffer(fields[b"samples"], "<f4").reshape(shape),
        status=fields[b"status"].decode(),
        decoder_hash=fields[b"decoder_hash"].decode(),
        **facts,
    )


def _u64(value: int) -> bytes:
    return np.uint64(value).tobytes()


def _one(fields: Fields, name: bytes, dtype: str) -> Any:
    if name not in fields:
        return None
    array = np.frombuffer(fields[name], dtype)
    if len(array) != 1:
        raise ValueError(f"field '{name.decode()}' of {len(fields[name])} bytes")
    return array[0]


def _needed(fields: Fields, name: bytes, dtype: str) -> Any:
    value = _one(fields, name, dtype)
    if value is None:
        raise ValueError(f"no field '{name.decode()}'")
    return value
