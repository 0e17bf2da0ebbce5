"""Waiting for a peer: said now and then, longer each time, and ended after a while."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from possm.errors import StreamError

log = logging.getLogger(__name__)
T = TypeVar("T")


def need(module: str, extra: str) -> Any:
    """A library that not everyone has.

    Raises:
        StreamError: It is not here, or cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, OSError) as error:
        fix = f"pip install 'possm[{extra}]'"
        raise StreamError(f"the link '{extra}' needs {module}", got=error, fix=fix) from error


class Patience:
    """Says now and then that nothing comes, and gives up after a while."""

    def __init__(self, about: str, timeout_s: float) -> None:
        self._about, self._timeout_s = about, timeout_s
        self.heard()

    def heard(self) -> None:
        """Something came."""
        self._since, self._notice_s = time.monotonic(), 2.0

    def nothing(self) -> None:
        """Nothing came.

        Raises:
            StreamError: For too long.
        """
        silent_s = time.monotonic() - self._since
        if silent_s >= self._timeout_s:
            raise StreamError(
                "nothing came",
                about=self._about,
                got=f"silence for {silent_s:.1f} s",
                wanted="spikes, or empty packets while there are none",
                fix="start the sender, check the address, or raise timeout_s",
            )
        if silent_s >= self._notice_s:
            log.warning("%s: nothing for %.0f s, still listening (Ctrl-C ends)", self._about, silent_s)
            self._notice_s *= 2


def retry(
    connect: Callable[[], T], about: str, errors: tuple[type[Exception], ...], *, timeout_s: float
) -> T:
    """Call until it works, waiting longer each time, from 0.1 to 5 s; every failure is shown.

    Raises:
        StreamError: It has not worked within `timeout_s`.
    """
    began, wait_s = time.monotonic(), 0.1
    while True:
        try:
            return connect()
        except errors as error:
            if time.monotonic() - began + wait_s > timeout_s:
                fix = "start it, check the address, or raise timeout_s"
                raise StreamError("nobody is there", about=about, got=error, fix=fix) from error
            log.warning("%s: nobody is there (%s), again in %.1f s (Ctrl-C ends)", about, error, wait_s)
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, 5.0)
