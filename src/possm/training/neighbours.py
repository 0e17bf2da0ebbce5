"""Which rows a new session may start from: on an implanted array, those of its electrodes, days before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from possm.data.recording import Recording
from possm.data.vocabulary import DATE, Vocabulary, electrodes_of


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Where the rows of one new session come from."""

    session: str | None
    """The nearest earlier session of the subject; None where there is none."""
    units: tuple[np.ndarray, ...]
    """For each unit, the rows its own starts at the mean of; empty where nothing is like it."""
    by_electrode: int
    """Units that were found by their electrode; the others with rows, by their unit id."""

    @property
    def found(self) -> int:
        """Units with rows."""
        return sum(len(rows) > 0 for rows in self.units)


def find_neighbours(recording: Recording, vocabulary: Vocabulary) -> Neighbours:
    """Look for each unit in the earlier sessions of its subject, the latest of them first.

    A unit is like those on its electrode; among several, like the one of its own unit id, else like their
    mean. Where electrodes are not known, it is like the unit of its id. Sessions are ordered by recording
    date; those without one come after the others, the last in the vocabulary first, and those of a later date
    are left out.
    """
    earlier = earlier_sessions(recording, vocabulary)
    known = _Sessions(earlier, vocabulary)
    by_electrode, units = 0, []
    for unit, electrode in zip(recording.unit_ids, electrodes_of(recording), strict=True):
        rows = np.zeros(0, np.int64)
        for session in known:
            rows, same_electrode = session.like(unit, electrode)
            if len(rows):
                by_electrode += same_electrode
                break
        units.append(rows)
    return Neighbours(earlier[0] if earlier else None, tuple(units), by_electrode)


def earlier_sessions(recording: Recording, vocabulary: Vocabulary) -> list[str]:
    """The sessions of the recording's subject that were not recorded after it, the nearest in time first."""
    if recording.subject_id is None:
        return []
    mine = [
        session
        for session in reversed(vocabulary.sessions)
        if vocabulary.subjects.get(session) == recording.subject_id and session != recording.session_id
    ]
    today = _digits(str(recording.attributes.get(DATE, "")))
    dates = {session: _digits(vocabulary.dates.get(session, "")) for session in mine}
    dated = [s for s in mine if dates[s] and today and dates[s] <= today]
    undated = [s for s in mine if not dates[s] or not today]
    return sorted(dated, key=lambda session: dates[session], reverse=True) + undated


class _Sessions:
    """Known sessions, looked into only as far as somebody searches."""

    def __init__(self, names: list[str], vocabulary: Vocabulary) -> None:
        self._names, self._vocabulary = names, vocabulary
        self._open: list[_Session] = []

    def __iter__(self) -> Iterator[_Session]:
        for number, name in enumerate(self._names):
            if number == len(self._open):
                self._open.append(_Session(name, self._vocabulary))
            yield self._open[number]


class _Session:
    """The units of one known session, by electrode and by id."""

    def __init__(self, session: str, vocabulary: Vocabulary) -> None:
        ids = vocabulary.units_of(session)
        rows = vocabulary.rows_of(session, ids)
        self.by_id = dict(zip(ids, rows.tolist(), strict=True))
        self.by_electrode: dict[str, list[int]] = defaultdict(list)
        for row in rows.tolist() if vocabulary.electrodes else ():
            self.by_electrode[vocabulary.electrodes[row]].append(row)
        self.by_electrode.pop("", None)

    def like(self, unit: str, electrode: str) -> tuple[np.ndarray, bool]:
        """Rows of the units like this one, and whether its electrode says so."""
        if electrode and self.by_electrode:
            rows = self.by_electrode.get(electrode, [])
            same = [self.by_id[unit]] if self.by_id.get(unit) in rows else rows
            return np.array(same, np.int64), True
        same = [self.by_id[unit]] if unit in self.by_id else []
        return np.array(same, np.int64), False


def _digits(date: str) -> str:
    """A date as digits that sort by time: 2012-10-18, 20121018 and 2012-10-18 09:30 alike."""
    return "".join(c for c in date if c.isdigit())[:14].ljust(14, "0") if date else ""
