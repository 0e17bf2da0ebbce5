"""``redis:spikes?host=127.0.0.1``: Redis streams as in BRAND; what is in an entry is in `entries`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from possm.batch import Prediction
from possm.errors import StreamError
from possm.streaming.links.base import Message, options
from possm.streaming.links.entries import (
    RedisConfig,
    RedisPlace,
    RedisSendConfig,
    prediction_fields,
    read_spikes,
    spike_fields,
)
from possm.streaming.links.horizon import Packet
from possm.streaming.links.patience import need, retry
from possm.streaming.links.queued import QueuedSink
from possm.streaming.links.rig import RigSource


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
