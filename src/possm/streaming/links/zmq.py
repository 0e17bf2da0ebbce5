"""``zmq:tcp://127.0.0.1:5555``: messages in msgpack over ZeroMQ.

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

Sockets: a source is PULL or SUB, a sink PUB or PUSH; by default PULL and PUB bind, SUB and PUSH connect.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from possm.batch import Prediction
from possm.config import require
from possm.errors import StreamError
from possm.streaming.links.base import Message, options
from possm.streaming.links.patience import need
from possm.streaming.links.queued import QueuedSink
from possm.streaming.links.rig import Packet, RigConfig, RigSource

log = logging.getLogger(__name__)
TOPIC_PREDICTION = b"possm.prediction"


@dataclass(frozen=True, kw_only=True)
class ZmqConfig(RigConfig):
    """How a source listens."""

    pattern: str = "pull"
    """``pull`` or ``sub``."""
    bind: bool | None = None
    """Wait at the address for others to connect; None does if the pattern is ``pull``."""
    topic: str = ""
    """For ``sub``: only messages whose first frame begins so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.pattern in ("pull", "sub"), "pattern", self.pattern, "pull or sub")


@dataclass(frozen=True, kw_only=True)
class ZmqSendConfig:
    """How a sink sends."""

    pattern: str = "pub"
    """``pub`` (to whoever listens, with the topic ``possm.prediction``) or ``push`` (to one, no topic)."""
    bind: bool | None = None
    """Wait at the address for others to connect; None does if the pattern is ``pub``."""
    queue: int = 256
    """Most predictions that wait for a slow peer; then the oldest are dropped, and counted."""

    def __post_init__(self) -> None:
        require(self.pattern in ("pub", "push"), "pattern", self.pattern, "pub or push")
        require(self.queue >= 1, "queue", self.queue, "1 or more")


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


class ZmqSource(RigSource):
    """Listens for messages of spikes.

    Args:
        place: A ZeroMQ endpoint, such as ``tcp://127.0.0.1:5555`` or ``ipc:///tmp/spikes``.
        config: How to listen.

    Raises:
        StreamError: pyzmq or msgpack is not here, the port is in use, or the endpoint is none.
    """

    def __init__(self, place: str, config: ZmqConfig | None = None) -> None:
        config = config or ZmqConfig()
        super().__init__(f"zmq:{place}", config)
        need("msgpack", "zmq")
        bind = config.pattern == "pull" if config.bind is None else config.bind
        self._socket = open_socket(place, config.pattern, bind=bind)
        if config.pattern == "sub":
            self._socket.subscribe(config.topic)

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> ZmqSource:
        """An endpoint, with the options of `ZmqConfig`."""
        return cls(address, options(ZmqConfig, texts))

    @property
    def endpoint(self) -> str:
        """Where it listens; of use when it was bound to ``tcp://127.0.0.1:*``."""
        return str(self._socket.last_endpoint.decode())

    def _receive(self, wait_s: float) -> list[Packet]:
        if not self._socket.poll(1000 * wait_s):
            return []
        data = self._socket.recv_multipart()[-1]
        return [unpack_spikes(data, received_s=self._now())]

    def _close(self) -> None:
        self._socket.close(linger=0)


class ZmqSender:
    """Sends messages; what both the sink and a rig do. For one thread at a time.

    Args:
        place: A ZeroMQ endpoint.
        pattern: ``pub`` or ``push``.
        bind: Wait there for others to connect, or connect.
        patience_s: How long a message may wait for a peer with room for it.

    Raises:
        StreamError: pyzmq or msgpack is not here, the port is in use, or the endpoint is none.
    """

    def __init__(
        self, place: str, *, pattern: str = "push", bind: bool = False, patience_s: float = 1.0
    ) -> None:
        need("msgpack", "zmq")
        self._zmq = need("zmq", "zmq")
        self._socket = open_socket(place, pattern, bind=bind)
        self._pattern, self._sender, self._number = pattern, secrets.randbits(31), 0
        self._patience_ms = int(1000 * patience_s)
        self.dropped = 0
        """Messages that nobody was there to take."""

    @property
    def endpoint(self) -> str:
        """Where it sends; of use when it was bound to ``tcp://127.0.0.1:*``."""
        return str(self._socket.last_endpoint.decode())

    def send_spikes(self, message: Message, *, ends: bool = False, **facts: Any) -> None:
        """Send spikes, as a rig does."""
        data = pack_spikes(message, ends=ends, sender=self._sender, number=self._number, **facts)
        self._send([data])

    def close(self, linger_s: float = 1.0) -> None:
        """Give what is on its way a moment, and close; closing twice is fine."""
        self._socket.close(linger=int(1000 * linger_s))

    def _send(self, frames: list[bytes]) -> None:
        self._number += 1
        if self._socket.poll(self._patience_ms, self._zmq.POLLOUT):
            self._socket.send_multipart(frames)
            return
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
            log.warning("nobody took %d message(s)", self.dropped)


class ZmqSink(ZmqSender):
    """Sends every prediction as one message."""

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> QueuedSink:
        """An endpoint, with the options of `ZmqSendConfig`, in a thread of its own."""
        config = options(ZmqSendConfig, texts)
        bind = config.pattern == "pub" if config.bind is None else config.bind
        return QueuedSink(cls(address, pattern=config.pattern, bind=bind), queue=config.queue)

    def start(self, behaviors: Mapping[str, int]) -> None:
        """Nothing to announce."""

    def write(self, prediction: Prediction) -> None:
        """Send one; waits up to `patience_s` for a peer with room, then it is dropped and counted."""
        data = pack_prediction(prediction, sender=self._sender, number=self._number)
        self._send([TOPIC_PREDICTION, data] if self._pattern == "pub" else [data])


def open_socket(place: str, pattern: str, *, bind: bool) -> Any:
    """A socket at an endpoint.

    Raises:
        StreamError: pyzmq is not here, the port is in use, or the endpoint is none.
    """
    zmq = need("zmq", "zmq")
    socket = zmq.Context.instance().socket(getattr(zmq, pattern.upper()))
    socket.set_hwm(100_000)
    try:
        (socket.bind if bind else socket.connect)(place)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise StreamError(
            f"cannot {'listen' if bind else 'connect'} there",
            about=f"zmq:{place}",
            got=error,
            wanted="a free ZeroMQ endpoint, such as tcp://127.0.0.1:5555",
            fix="end who listens there, or choose another port",
        ) from error
    return socket


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
