"""``redis:spikes?host=127.0.0.1``: Redis streams as in BRAND, one entry per bin with binary fields.

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
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from possm.batch import Prediction
from possm.config import require
from possm.errors import StreamError
from possm.streaming.links.base import Message, options
from possm.streaming.links.patience import need, retry
from possm.streaming.links.queued import QueuedSink
from possm.streaming.links.rig import Packet, RigConfig, RigSource

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


class RedisSource(RigSource):
    """Reads the entries of a stream; when the server goes away it waits for it, and goes on after the entry
    it had read last.

    Args:
        place: The name (key) of the stream.
        config: Which server, and how to read.

    Raises:
        StreamError: redis is not here.
    """

    def __init__(self, place: str, config: RedisConfig | None = None) -> None:
        self.config = config or RedisConfig()
        super().__init__(f"redis:{place} on {self.config.host}:{self.config.port}", self.config)
        self._redis = need("redis", "redis")
        self._key, self._last = place, None if self.config.begin == "$" else self.config.begin
        self._client: Any = None
        self._connected_before = False

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> RedisSource:
        """A stream, with the options of `RedisConfig`."""
        return cls(address, options(RedisConfig, texts))

    def connect(self) -> None:
        """Reach the server now, instead of with the first message; only what is written later is then read.

        Raises:
            StreamError: It cannot be reached.
        """
        if self._client is None:
            self._client = open_client(self.config, self.about)
            self.counts.reconnects += self._connected_before
            self._connected_before = True
        if self._last is None:
            newest = self._client.xrevrange(self._key, count=1)
            self._last = newest[0][0] if newest else "0"

    def _receive(self, wait_s: float) -> list[Packet]:
        try:
            self.connect()
            answer = self._client.xread({self._key: self._last}, count=100, block=max(1, int(1000 * wait_s)))
        except self._redis.exceptions.ConnectionError:
            self._client = None
            return []
        except self._redis.exceptions.RedisError as error:
            raise StreamError("the server refuses", about=self.about, got=error) from error
        received_s = self._now()
        packets = []
        for _, entries in answer:
            for identity, fields in entries:
                self._last = identity
                reading = partial(read_spikes, fields, self.config, received_s=received_s)
                if (packet := self._read_checked(reading)) is not None:
                    packets.append(packet)
        return packets

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()


class RedisSender:
    """Adds entries to a stream; what both the sink and a rig do. For one thread at a time.

    Args:
        place: The name (key) of the stream.
        config: Which server.

    Raises:
        StreamError: redis is not here.
    """

    def __init__(self, place: str, config: RedisSendConfig | None = None) -> None:
        self.config = config or RedisSendConfig()
        self.about = f"redis:{place} on {self.config.host}:{self.config.port}"
        self._redis = need("redis", "redis")
        self._key, self._number, self._sender = place, 0, secrets.randbits(31)
        self._client: Any = None

    def connect(self) -> None:
        """Reach the server now, instead of with the first entry.

        Raises:
            StreamError: It cannot be reached.
        """
        if self._client is None:
            self._client = open_client(self.config, self.about)

    def send_spikes(self, message: Message, *, ends: bool = False) -> None:
        """Add an entry of events, as a rig does; units are numbers."""
        self._add(lambda number: spike_fields(message, number=number, sender=self._sender, ends=ends))

    def close(self) -> None:
        """Close the connection; closing twice is fine."""
        if self._client is not None:
            self._client.close()

    def _add(self, fields: Callable[[int], Any]) -> None:
        number, self._number = self._number, self._number + 1
        try:
            self.connect()
            try:
                self._client.xadd(self._key, fields(number), maxlen=self.config.maxlen)
            except self._redis.exceptions.ConnectionError:  # it went away: wait for it, once
                self._client = None
                self.connect()
                self._client.xadd(self._key, fields(number), maxlen=self.config.maxlen)
        except self._redis.exceptions.RedisError as error:
            raise StreamError("the server refuses", about=self.about, got=error) from error


class RedisSink(RedisSender):
    """Adds every prediction as one entry."""

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> QueuedSink:
        """A stream, with the options of `RedisSendConfig`, in a thread of its own."""
        config = options(RedisSendConfig, texts)
        return QueuedSink(cls(address, config), queue=config.queue)

    def start(self, behaviors: Mapping[str, int]) -> None:
        """Reach the server.

        Raises:
            StreamError: It cannot be reached within `connect_s`.
        """
        self.connect()

    def write(self, prediction: Prediction) -> None:
        """Add one; when the server has gone, waits for it up to `connect_s`.

        Raises:
            StreamError: The server refuses.
        """
        self._add(lambda number: prediction_fields(prediction, number=number))


def open_client(place: RedisPlace, about: str) -> Any:
    """A connection, tried until it works.

    Raises:
        StreamError: It has not worked within `connect_s`, or the password is wrong.
    """
    redis = need("redis", "redis")
    once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)  # `retry` below says what it does
    client = redis.Redis(
        host=place.host, port=place.port, db=place.db, password=place.password, protocol=2, retry=once
    )

    def reach() -> Any:
        try:
            client.ping()
        except (
            redis.exceptions.AuthenticationError
        ) as error:  # a kind of ConnectionError, but waiting won't help
            raise StreamError("the server refuses", about=about, got=error, fix="give password=") from error
        return client

    try:
        return retry(reach, about, (redis.exceptions.ConnectionError,), timeout_s=place.connect_s)
    except redis.exceptions.RedisError as error:
        raise StreamError("the server refuses", about=about, got=error) from error


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
