"""``zmq:tcp://127.0.0.1:5555``: messages in msgpack (`msgpacks`) over ZeroMQ.

A source is PULL or SUB, a sink PUB or PUSH; by default PULL and PUB bind, SUB and PUSH connect.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from possm.batch import Prediction
from possm.config import require
from possm.errors import StreamError
from possm.streaming.links.base import Message, options
from possm.streaming.links.horizon import Packet, RigConfig
from possm.streaming.links.msgpacks import pack_prediction, pack_spikes, unpack_spikes
from possm.streaming.links.patience import need
from possm.streaming.links.queued import QueuedSink
from possm.streaming.links.rig import RigSource

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
