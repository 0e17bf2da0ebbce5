"""Names <-> rows: which row of the decoder's tables belongs to which unit and which session."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from possm.config import require
from possm.data.recording import Recording
from possm.errors import CheckpointError, ConfigError

BLANK_UNIT = ""
"""Name of unit row 0, the blank unit that stands in for an empty chunk."""
DATE = "session.recording_date"
"""Attribute of a recording: when it was made."""


@dataclass(frozen=True)
class Vocabulary:
    """The units and sessions a decoder knows. Unit row 0 is the blank unit."""

    units: tuple[str, ...] = (BLANK_UNIT,)
    """``session_id/unit_id`` by row."""
    sessions: tuple[str, ...] = ()
    """``session_id`` by row."""
    subjects: dict[str, str] = field(default_factory=dict)
    """Session -> subject, where known."""
    electrodes: tuple[str, ...] = ()
    """The electrode each unit was recorded on, by row: "" where unknown, and empty if none is known."""
    dates: dict[str, str] = field(default_factory=dict)
    """Session -> recording date as the file gives it, where it does."""
    caps: tuple[float, ...] = ()
    """The most that each unit may say in one chunk, by row (see `possm.data.caps`): 0 where there is no cap,
    and empty if none has one."""

    def __post_init__(self) -> None:
        for name in ("electrodes", "caps"):
            column = getattr(self, name)
            wanted = f"none, or one for each of {len(self.units)} units"
            require(len(column) in (0, len(self.units)), name, len(column), wanted)
        require(not self.caps or min(self.caps) >= 0, "caps", min(self.caps, default=0), "0 or more")

    @classmethod
    def of(cls, recordings: Iterable[Recording]) -> Vocabulary:
        """The vocabulary of these recordings."""
        return cls().extend(recordings)

    def extend(self, recordings: Iterable[Recording]) -> Vocabulary:
        """This vocabulary and new rows for new sessions; known rows keep their place.

        Raises:
            ConfigError: Two recordings are of one session, or its id contains a slash.
        """
        units, sessions, subjects = list(self.units), list(self.sessions), dict(self.subjects)
        electrodes, dates = list(self.electrodes or [""] * len(units)), dict(self.dates)
        for recording in recordings:
            if recording.session_id in sessions:
                raise ConfigError(
                    "two recordings are of the same session",
                    about=recording.name,
                    got=recording.session_id,
                    fix="list every session once, or rename one of them",
                )
            if "/" in recording.session_id:
                raise ConfigError(
                    "a session id may not contain a slash, which sets session and unit apart",
                    about=recording.name,
                    got=recording.session_id,
                )
            sessions.append(recording.session_id)
            units.extend(recording.global_unit_ids)
            electrodes.extend(electrodes_of(recording))
            if recording.subject_id is not None:
                subjects[recording.session_id] = recording.subject_id
            if DATE in recording.attributes:
                dates[recording.session_id] = str(recording.attributes[DATE])
        known = tuple(electrodes) if any(electrodes) else ()
        return Vocabulary(tuple(units), tuple(sessions), subjects, known, dates, self._longer(len(units)))

    def with_units(self, recordings: Iterable[Recording]) -> Vocabulary:
        """This vocabulary and rows for the units it lacks of sessions it knows."""
        units, electrodes = list(self.units), list(self.electrodes or [""] * len(self.units))
        for recording in recordings:
            for unit, electrode in zip(recording.global_unit_ids, electrodes_of(recording), strict=True):
                if unit not in self._unit_rows:
                    units.append(unit)
                    electrodes.append(electrode)
        known = tuple(electrodes) if any(electrodes) else ()
        return replace(self, units=tuple(units), electrodes=known, caps=self._longer(len(units)))

    def with_caps(self, session_id: str, unit_ids: Sequence[str], most: np.ndarray) -> Vocabulary:
        """This vocabulary with caps (n,) for these units of a session, all of which it knows."""
        caps = np.array(self.caps or [0.0] * len(self.units))
        caps[self.rows_of(session_id, unit_ids)] = most
        return replace(self, caps=tuple(caps.tolist()))

    def caps_of(self, rows: np.ndarray) -> np.ndarray | None:
        """(n,) float64: the cap of each row, infinite where there is none, also for row -1; None if no row
        has one."""
        caps = self._caps[rows]
        return caps if np.isfinite(caps).any() else None

    def _longer(self, number: int) -> tuple[float, ...]:
        return self.caps + (0.0,) * (number - len(self.caps)) if self.caps else ()

    def only(self, sessions: Iterable[str]) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
        """What is known of some sessions.

        Returns:
            Their vocabulary, in the order of this one; and the rows of this one that it keeps: units (the
            blank one among them) and sessions, both int64.
        """
        wanted = set(sessions)
        session_rows = [row for row, name in enumerate(self.sessions) if name in wanted]
        unit_rows = [0]
        unit_rows += [row for row, unit in enumerate(self.units) if row and unit.split("/", 1)[0] in wanted]
        kept = tuple(self.sessions[row] for row in session_rows)
        vocabulary = Vocabulary(
            tuple(self.units[row] for row in unit_rows),
            kept,
            {name: subject for name, subject in self.subjects.items() if name in wanted},
            tuple(self.electrodes[row] for row in unit_rows) if self.electrodes else (),
            {name: date for name, date in self.dates.items() if name in wanted},
            tuple(self.caps[row] for row in unit_rows) if self.caps else (),
        )
        return vocabulary, np.array(unit_rows, np.int64), np.array(session_rows, np.int64)

    def session_row(self, session_id: str) -> int:
        """Row of a session.

        Raises:
            CheckpointError: The decoder was never trained on it.
        """
        if session_id not in self._session_rows:
            near = ", ".join(self.sessions[-5:])
            raise CheckpointError(
                "the decoder has never seen this session",
                about=session_id,
                got=f"a decoder of {len(self.sessions)} session(s): {near}",
                fix="adapt it with calibration data of this session, or pass the session it was trained on",
            )
        return self._session_rows[session_id]

    def unit_rows(self, recording: Recording) -> np.ndarray:
        """(units,) int64: vocabulary row of every unit of a recording, -1 where unknown."""
        return self.rows_of(recording.session_id, recording.unit_ids)

    def rows_of(self, session_id: str, unit_ids: Iterable[str]) -> np.ndarray:
        """(units,) int64: vocabulary rows of units of one session, -1 where unknown."""
        rows = self._unit_rows
        return np.array([rows.get(f"{session_id}/{unit}", -1) for unit in unit_ids], np.int64)

    def units_of(self, session_id: str) -> tuple[str, ...]:
        """The unit ids known for one session, in row order."""
        skip = len(session_id) + 1
        return tuple(self.units[row][skip:] for row in self._rows_by_session.get(session_id, ()))

    @cached_property
    def _caps(self) -> np.ndarray:
        """By row, and one more, infinite, which row -1 finds."""
        caps = np.array([*(self.caps or [0.0] * len(self.units)), 0.0])
        return np.where(caps > 0, caps, np.inf)

    @cached_property
    def _unit_rows(self) -> dict[str, int]:
        return {unit: row for row, unit in enumerate(self.units)}

    @cached_property
    def _rows_by_session(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = defaultdict(list)
        for row, unit in enumerate(self.units[1:], 1):
            rows[unit.split("/", 1)[0]].append(row)
        return rows

    @cached_property
    def _session_rows(self) -> dict[str, int]:
        return {session: row for row, session in enumerate(self.sessions)}


def electrodes_of(recording: Recording) -> list[str]:
    """The electrode of every unit as the recording names it, "" where it says nothing."""
    column = recording.unit_columns.get("electrode")
    if column is None:
        return [""] * recording.num_units
    return [name.decode() if isinstance(name, bytes) else str(name) for name in np.asarray(column).tolist()]
