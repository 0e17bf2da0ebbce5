"""Errors a user can cause. Each says what came, what was wanted, and what to do.

PossmError
├── RecordingError    a recording file, or what is inside it
├── ConfigError       a setting, or settings that contradict each other
├── CheckpointError   a saved decoder
└── StreamError       a live stream, its source or its sink
"""

from __future__ import annotations


class PossmError(Exception):
    """Base of every error a user can cause; the command line exits with status 2 on it.

    Args:
        problem: What is wrong, as one clause without a full stop.
        about: The file, session, unit or stream it concerns.
        got: What came.
        wanted: What would have been right.
        fix: What to do now.
    """

    def __init__(
        self,
        problem: str,
        *,
        about: object = None,
        got: object = None,
        wanted: object = None,
        fix: str | None = None,
    ) -> None:
        self.problem, self.about = problem, about
        self.got, self.wanted, self.fix = got, wanted, fix
        head = problem if about is None else f"{about}: {problem}"
        parts = [("got", got), ("wanted", wanted), ("fix", fix)]
        tail = [f"\n  {word}: {value}" for word, value in parts if value is not None]
        super().__init__(head + "".join(tail))


class RecordingError(PossmError):
    """A recording file cannot be used as it is."""


class ConfigError(PossmError):
    """A setting is out of range, unknown, or contradicts another one."""


class CheckpointError(PossmError):
    """A saved decoder is damaged, foreign, or does not fit what it is asked for."""


class StreamError(PossmError):
    """A live stream cannot start or go on."""
