"""One module per transport: sources and sinks, opened by an address such as ``replay:day.h5?speed=1``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import parse_qsl

from possm.errors import StreamError
from possm.streaming.links.base import Message, Sink, Source
from possm.streaming.links.callback import CallbackSink, CallbackSource
from possm.streaming.links.csv import CsvSink, CsvSource
from possm.streaming.links.lsl import LslSource
from possm.streaming.links.outlets import LslSink
from possm.streaming.links.redis import RedisSink, RedisSource
from possm.streaming.links.replay import ReplaySource
from possm.streaming.links.udp import UdpSink, UdpSource
from possm.streaming.links.zmq import ZmqSink, ZmqSource

__all__ = ["SINKS", "SOURCES", "Message", "Sink", "Source", "open_sink", "open_source"]

T = TypeVar("T")
Opener = Callable[[str, Mapping[str, str]], T]
"""Takes what stands after ``kind:``, and the options."""

SOURCES: dict[str, Opener[Source]] = {
    "replay": ReplaySource.open,
    "csv": CsvSource.open,
    "callback": CallbackSource.open,
    "lsl": LslSource.open,
    "zmq": ZmqSource.open,
    "udp": UdpSource.open,
    "redis": RedisSource.open,
}
"""By kind."""
SINKS: dict[str, Opener[Sink]] = {
    "csv": CsvSink.open,
    "callback": CallbackSink.open,
    "lsl": LslSink.open,
    "zmq": ZmqSink.open,
    "udp": UdpSink.open,
    "redis": RedisSink.open,
}
"""By kind."""


def open_source(address: str) -> Source:
    """Open a source by its address: ``kind:place?option=value&option=value``.

    Raises:
        StreamError: The address cannot be read, or there is nothing to open there.
        ConfigError: An option is unknown or out of range.
        RecordingError: The recording cannot be used.
    """
    return _open(address, SOURCES, "source")


def open_sink(address: str) -> Sink:
    """Open a sink by its address, such as ``csv:out.csv``.

    Raises:
        StreamError: The address cannot be read, or the sink refuses.
        ConfigError: An option is unknown or out of range.
    """
    return _open(address, SINKS, "sink")


def _open(address: str, kinds: Mapping[str, Opener[T]], what: str) -> T:
    kind, _, rest = address.partition(":")
    place, _, query = rest.partition("?")
    if kind not in kinds or not place:
        raise StreamError(
            f"cannot open this {what}",
            about=address,
            got=f"kind '{kind}'" if kind not in kinds else "no place after the kind",
            wanted=f"{what} = kind:place, kind one of {', '.join(kinds)}",
        )
    return kinds[kind](place, dict(parse_qsl(query, keep_blank_values=True)))
