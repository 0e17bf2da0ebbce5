"""``udp:host:port``: datagrams of a fixed little-endian layout, both ways. Needs nothing but a socket.

The layout is in `possm.streaming.links.datagrams`.
"""

from __future__ import annotations

import math
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from possm.batch import Prediction
from possm.config import require
from possm.errors import StreamError
from possm.streaming.links.base import Message, options
from possm.streaming.links.datagrams import LARGEST, pack_prediction, pack_spikes, unpack_spikes
from possm.streaming.links.horizon import Packet, RigConfig
from possm.streaming.links.rig import RigSource

BUFFER_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class UdpConfig(RigConfig):
    """How a source listens."""


@dataclass(frozen=True, kw_only=True)
class UdpSendConfig:
    """How datagrams are sent."""

    max_bytes: int = 1400
    """Largest datagram; what fits one frame of Ethernet is not torn apart on the way."""

    def __post_init__(self) -> None:
        require(256 <= self.max_bytes <= LARGEST, "max_bytes", self.max_bytes, f"256 to {LARGEST}")


class UdpSource(RigSource):
    """Listens for datagrams of spikes; those with the largest buffer the system grants may wait.

    Args:
        place: ``host:port`` to listen at.
        config: How to listen.

    Raises:
        StreamError: The port is in use, or is not one of this machine.
    """

    def __init__(self, place: str, config: UdpConfig | None = None) -> None:
        super().__init__(f"udp:{place}", config or UdpConfig())
        host, port = split_place(place)
        self._socket = socket.socket(_family(host), socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            fix = "end who listens there, or choose another port"
            raise StreamError("cannot listen", about=self.about, got=error, fix=fix) from error
        self._socket.settimeout(self.rig.tick_ms / 1000)

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> UdpSource:
        """``host:port``, with the options of `UdpConfig`."""
        return cls(address, options(UdpConfig, texts))

    @property
    def port(self) -> int:
        """Where it listens; of use when it was opened at port 0."""
        return int(self._socket.getsockname()[1])

    def _receive(self, wait_s: float) -> list[Packet]:
        try:
            data = self._socket.recv(LARGEST)
        except TimeoutError:
            return []
        return [unpack_spikes(data, received_s=self._now())]

    def _close(self) -> None:
        self._socket.close()


class UdpSender:
    """Sends datagrams; what both the sink and a rig do.

    Args:
        place: ``host:port`` to send to.
        config: How to send.

    Raises:
        StreamError: There is no such place.
    """

    def __init__(self, place: str, config: UdpSendConfig | None = None) -> None:
        self.config, self.about = config or UdpSendConfig(), f"udp:{place}"
        host, port = split_place(place)
        self._socket = socket.socket(_family(host), socket.SOCK_DGRAM)
        self._sender, self._number, self._before_s = secrets.randbits(32), 0, math.nan
        self.refused = 0
        """Datagrams that nobody was there to take."""
        try:
            self._socket.connect((host, port))
        except OSError as error:
            self._socket.close()
            raise StreamError("cannot send there", about=self.about, got=error) from error

    def send_spikes(self, message: Message, *, ends: bool = False) -> None:
        """Send spikes, as a rig does; units are numbers."""
        many = pack_spikes(
            message,
            sender=self._sender,
            number=self._number,
            before_s=self._before_s,
            ends=ends,
            max_bytes=self.config.max_bytes,
        )
        for data in many:
            self._send(data)
        self._before_s = message.until_s

    def close(self) -> None:
        """Close the socket; closing twice is fine."""
        self._socket.close()

    def _send(self, data: bytes) -> None:
        self._number += 1
        for _ in range(3):
            try:
                self._socket.send(data)
                return
            except (
                ConnectionRefusedError
            ):  # said of an earlier one, this one was not sent: nobody listens, yet
                self.refused += 1
            except OSError as error:
                raise StreamError("cannot send", about=self.about, got=error) from error


class UdpSink(UdpSender):
    """Sends every prediction as one datagram; nobody needs to listen."""

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> UdpSink:
        """``host:port``, with the options of `UdpSendConfig`."""
        return cls(address, options(UdpSendConfig, texts))

    def start(self, behaviors: Mapping[str, int]) -> None:
        """Nothing to announce."""

    def write(self, prediction: Prediction) -> None:
        """Send one.

        Raises:
            StreamError: The system refuses.
        """
        self._send(pack_prediction(prediction, sender=self._sender, number=self._number))


def split_place(place: str) -> tuple[str, int]:
    """``host:port`` -> both.

    Raises:
        StreamError: It is not.
    """
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise StreamError("this is no place", got=place, wanted="host:port, such as 127.0.0.1:9000")
    return host.strip("[]"), int(port)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
