"""What the links to a rig share: they listen until Ctrl-C, and skip and count what cannot be read."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TypeVar

from possm.streaming.links.base import Message
from possm.streaming.links.horizon import CLOCKS, Horizon, LinkCounts, Packet, RigConfig
from possm.streaming.links.patience import Patience

log = logging.getLogger(__name__)
T = TypeVar("T")


class RigSource(ABC):
    """A source that listens to a rig; a link says how (`_receive`).

    Args:
        about: The address, for messages to people.
        config: How to listen.
    """

    def __init__(self, about: str, config: RigConfig) -> None:
        self.about, self.rig = about, config
        self._unit_ids = config.unit_ids()
        self.session_id: str | None = config.session
        self.counts = LinkCounts()
        """What has been seen so far."""
        self._now = CLOCKS[config.clock]
        self._closed = False

    @property
    def unit_ids(self) -> tuple[str, ...] | None:
        """Units that numbers mean; None where they mean the decoder's rows. Connects first, for a link that
        learns it from the rig."""
        self.connect()
        return self._unit_ids

    @unit_ids.setter
    def unit_ids(self, unit_ids: tuple[str, ...] | None) -> None:
        self._unit_ids = unit_ids

    def connect(self) -> None:  # noqa: B027 - most links have nothing to do
        """Reach the rig now, instead of with the first message."""

    def __iter__(self) -> Iterator[Message]:
        horizon, patience = Horizon(self.rig, self.counts), Patience(self.about, self.rig.timeout_s)
        while not self._closed:
            packets = self._receive_checked()
            if packets:
                patience.heard()
            for packet in packets:
                message = horizon.take(packet)
                if message is not None:
                    yield message
                if packet.ends:
                    return
            if not packets:
                patience.nothing()
                if (empty := horizon.tick()) is not None:
                    yield empty

    def close(self) -> None:
        """Stop listening."""
        if not self._closed:
            self._closed = True
            self._close()

    def _receive_checked(self) -> list[Packet]:
        return self._read_checked(lambda: self._receive(self.rig.tick_ms / 1000)) or []

    def _read_checked(self, read: Callable[[], T]) -> T | None:
        """What is read, or None when it cannot be; that is counted."""
        try:
            return read()
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            self.counts.malformed += 1
            if self.counts.malformed & (self.counts.malformed - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
                log.warning("%s: skipped %d message(s): %s", self.about, self.counts.malformed, error)
            return None

    @abstractmethod
    def _receive(self, wait_s: float) -> list[Packet]:
        """What has come, waiting for it that long at most; empty when nothing has.

        Raises:
            ValueError, TypeError, KeyError: Something came that cannot be read.
        """

    @abstractmethod
    def _close(self) -> None:
        """Let go of the connection."""
