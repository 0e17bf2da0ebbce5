"""The machine a stream runs on: garbage collection off the hot path, warm caches, priority and a core.

Nothing here changes an answer. What the system refuses is said, and the stream runs without it.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from possm.config import require

log = logging.getLogger(__name__)

PRIORITY = 50
"""Real-time priority to ask for: above all that is ordinary, not above interrupts of a real-time kernel."""
LOCK_NOW, LOCK_LATER = 1, 2
"""Flags of mlockall on Linux."""


@dataclass(frozen=True, kw_only=True)
class HostConfig:
    """How the thread of the stream uses the machine; what it asks of the operating system is taken back
    afterwards."""

    realtime: bool = False
    """Real-time priority (SCHED_FIFO), and memory that is never paged out. Needs rights."""
    core: int | None = None
    """The core to stay on; None leaves that to the system."""
    keep_warm: bool = True
    """Rehearse the step after messages that end no chunk, see `KeepWarm`."""

    def __post_init__(self) -> None:
        require(self.core is None or self.core >= 0, "core", self.core, "0 or more")


class Collector:
    """Garbage collection when there is time for it, and never in between.

    While it is entered, automatic collection is off and everything that was there before is left out of it;
    afterwards both are as they were.

    Args:
        every_s: How often `idle` collects; what a stream leaves behind in that time is little.
    """

    def __init__(self, *, every_s: float = 1.0) -> None:
        self.every_s = every_s
        self.collections = 0
        """How often garbage was collected."""
        self.max_ms = 0.0
        """The longest that took."""

    def __enter__(self) -> Collector:
        self._was_on, self._was_frozen = gc.isenabled(), gc.get_freeze_count() > 0
        gc.collect()
        gc.freeze()
        gc.disable()
        self._next_s = time.monotonic() + self.every_s
        return self

    def __exit__(self, *_: object) -> None:
        if not self._was_frozen:
            gc.unfreeze()
        if self._was_on:
            gc.enable()

    def idle(self) -> None:
        """Nothing is waiting for an answer: collect, if it is time to."""
        began_s = time.monotonic()
        if began_s < self._next_s:
            return
        gc.collect()
        ended_s = time.monotonic()
        self.collections, self._next_s = self.collections + 1, ended_s + self.every_s
        self.max_ms = max(self.max_ms, 1000 * (ended_s - began_s))


class KeepWarm:
    """Has the step rehearsed while no chunk ends, for at most a tenth of the time; what comes meanwhile waits
    for as long as one step.

    Args:
        rehearse: Runs a step that changes nothing.
    """

    SHARE = 0.1

    def __init__(self, rehearse: Callable[[], None]) -> None:
        self._rehearse = rehearse
        self._next_s = -math.inf

    def idle(self) -> None:
        """Nothing is waiting for an answer: rehearse, if it is time to."""
        began_s = time.monotonic()
        if began_s < self._next_s:
            return
        self._rehearse()
        ended_s = time.monotonic()
        self._next_s = ended_s + (ended_s - began_s) * (1 / self.SHARE - 1)


@contextmanager
def steady_host(config: HostConfig) -> Iterator[tuple[str, ...]]:
    """Ask the system for what the configuration says, and take it back at the end.

    Yields:
        What was refused, in words.
    """
    refused: list[str] = []
    with ExitStack() as undo:
        if config.core is not None:
            _ask(refused, f"core {config.core}", "name a core of this machine", _pin, config.core, undo)
        if config.realtime:
            fix = "run as root, or grant CAP_SYS_NICE and an rtprio limit in /etc/security/limits.conf"
            _ask(refused, "real-time priority", fix, _prioritise, undo)
            fix = "run as root, or set memlock to unlimited in /etc/security/limits.conf"
            _ask(refused, "locked memory", fix, _lock_memory, undo)
        yield tuple(refused)


def _ask(refused: list[str], what: str, fix: str, function: Callable[..., None], *arguments: object) -> None:
    try:
        function(*arguments)
    except (OSError, AttributeError, ImportError, ValueError) as error:  # the middle two: not Linux
        refused.append(f"{what} refused ({error}): {fix}")
        log.warning("%s", refused[-1])


def _pin(core: int, undo: ExitStack) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    undo.callback(os.sched_setaffinity, 0, before)


def _prioritise(undo: ExitStack) -> None:
    policy, before = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    undo.callback(os.sched_setscheduler, 0, policy, before)


def _lock_memory(undo: ExitStack) -> None:
    import resource  # not on every system

    if not sys.platform.startswith("linux"):
        raise OSError("not on this system")
    # Under a limit, locking what comes later would make an ordinary allocation fail in the middle of a run.
    free = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if not free:
        raise OSError("the memlock limit is not unlimited")
    system = ctypes.CDLL(None, use_errno=True)
    if system.mlockall(LOCK_NOW | LOCK_LATER) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    undo.callback(system.munlockall)
