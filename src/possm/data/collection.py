"""Many recordings as one set: opened, their behaviors renamed, nothing there twice."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from possm.data.formats import load_recording
from possm.data.recording import Recording
from possm.errors import ConfigError, RecordingError

logger = logging.getLogger(__name__)


def open_recordings(paths: Iterable[str | Path], *, skip_bad: bool = False) -> list[Recording]:
    """Open files lazily: spikes and behavior stay on the disk.

    Args:
        paths: Native files.
        skip_bad: Leave out files that cannot be opened, with a warning for each; otherwise the first ends it.

    Raises:
        RecordingError: A file cannot be opened, or none can.
        ConfigError: Two files are of one session.
    """
    opened, paths = [], list(paths)
    for path in paths:
        try:
            opened.append(load_recording(path))
        except RecordingError as error:
            if not skip_bad:
                raise
            logger.warning("skipped, because it cannot be opened: %s", error)
    if paths and not opened:
        raise RecordingError("none of the files can be opened", got=f"{len(paths)} file(s)")
    check_distinct(opened)
    return opened


def check_distinct(recordings: Sequence[Recording]) -> None:
    """Whether no two recordings are of one session.

    Raises:
        ConfigError: Two are.
    """
    first: dict[str, Recording] = {}
    for recording in recordings:
        other = first.setdefault(recording.session_id, recording)
        if other is not recording:
            raise ConfigError(
                "two recordings are of the same session",
                about=recording.session_id,
                got=f"{other.name} and {recording.name}",
                fix="list every session once, or give one of them another session id",
            )


def renamed(recordings: Sequence[Recording], rules: Sequence[str], *, strict: bool = True) -> list[Recording]:
    """Recordings whose behaviors have other names, so that one thing has one name in all of them.

    Args:
        recordings: Are not changed.
        rules: ``old=new`` for every recording that has an ``old`` and no ``new``, or ``session:old=new`` for
            one. The old name is there no more.
        strict: Whether a rule that does nothing, where it was meant to, is an error.

    Raises:
        ConfigError: A rule cannot be read, or no recording has the old name and not all have the new one.
        RecordingError: The recording of a rule for one session has another behavior of the new name already,
            or none of the old.
    """
    made = list(recordings)
    for rule in rules:
        session, old, new = _parts(rule)
        meant = [i for i, r in enumerate(made) if session in ("", r.session_id)]
        changed = [i for i in meant if old in made[i].signals and new not in made[i].signals]
        if strict and session and meant and not changed:
            made[meant[0]].behavior(old)  # says what there is
            raise RecordingError(f"it has a behavior '{new}' already", about=made[meant[0]].name, got=rule)
        if strict and not changed and not all(new in made[i].signals for i in meant or range(len(made))):
            there = sorted({name for recording in made for name in recording.signals})
            raise ConfigError("a rename that changes nothing", got=rule, wanted=f"one of {', '.join(there)}")
        for i in changed:
            signals = {new if name == old else name: s for name, s in made[i].signals.items()}
            made[i] = replace(made[i], signals=signals)
    return made


def _parts(rule: str) -> tuple[str, str, str]:
    names, equals, new = rule.partition("=")
    session, _, old = names.rpartition(":")
    if not (equals and old and new):
        raise ConfigError("a rename cannot be read", got=rule, wanted="old=new, or session:old=new")
    return session, old, new
