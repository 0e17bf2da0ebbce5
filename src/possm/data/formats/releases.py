"""Public releases that have a reader of their own: by the name `possm prepare --format` knows them by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from possm.data.formats.willett_handwriting import (
    HandwritingRelease,
    handwriting_sessions,
    read_handwriting,
)
from possm.data.formats.willett_speech import SpeechRelease, read_speech, speech_sessions
from possm.data.recording import Recording


@dataclass(frozen=True)
class Release:
    """How to read one public release."""

    config: type
    """What can be chosen."""
    sessions: Callable[[Path], list[Path]]
    """A file or folder -> the files to read, one a session."""
    read: Callable[..., Recording]
    """``(file, config, *, findings)`` -> a recording with splits."""


RELEASES: dict[str, Release] = {
    "willett-handwriting": Release(HandwritingRelease, handwriting_sessions, read_handwriting),
    "willett-speech": Release(SpeechRelease, speech_sessions, read_speech),
}
"""A further release is one module and one line."""
