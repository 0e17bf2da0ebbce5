"""What the public releases of Willett et al. have in common: session names, fields, cells, silence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from possm.data import faults
from possm.data.faults import Findings
from possm.data.formats.matfile import find_field
from possm.data.intervals import Intervals
from possm.data.series import Binned
from possm.errors import RecordingError

SESSION = re.compile(r"^(?P<subject>t\d+)\.(?P<year>\d{4})\.(?P<month>\d\d)\.(?P<day>\d\d)$")
SILENT_S = 0.1  # a whole array that is silent for this long was not recorded
BUSY = 3.0  # counts a bin, of all channels together: below, silence may be nothing but few channels


def session_facts(name: str, brainset: str, task: str) -> tuple[str | None, dict[str, str | float]]:
    """Subject and attributes of a session called like ``t5.2019.05.08``; no subject for other names."""
    facts: dict[str, str | float] = {
        "brainset.id": brainset,
        "session.task": task,
        "subject.species": "homo sapiens",
        "device.recording_tech": "utah array threshold crossings",
    }
    match = SESSION.match(name)
    if match is None:
        return None, facts
    facts["session.recording_date"] = f"{match['year']}-{match['month']}-{match['day']}"
    return match["subject"], facts


def field(content: Mapping[str, Any], name: str, path: Path, *, release: str) -> Any:
    """A field of the release; an error lists the fields there are."""
    value = find_field(content, name)
    if value is None:
        raise RecordingError(
            f"a field of the {release} release is missing or empty",
            about=path,
            got=", ".join(content) or "no fields",
            wanted=name,
            fix="check that this is the right file; docs/clinical-data.md names the files and fields",
        )
    return value


def cells(value: Any) -> list[Any]:
    """The entries of a cell array; one with a single cell has been unwrapped by the reader."""
    if isinstance(value, list):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        return list(value.ravel())
    return [value]


def texts(value: Any) -> list[str]:
    """The rows of a char matrix, or a cell array of strings, without the spaces that fill the rows."""
    return [str(part).strip() if isinstance(part, str) else "" for part in cells(value)]


def numbers(value: Any) -> np.ndarray:
    """A column of numbers, whatever its shape in the file; (n,)."""
    return np.atleast_1d(np.asarray(value)).ravel()


def matrices(value: Any, *, about: str) -> list[np.ndarray]:
    """Cells of (bins, channels) matrices, single axes put back.

    Raises:
        RecordingError: The number of channels is not the same in all.
    """
    parts = [np.asarray(part) for part in cells(value)]
    widths = Counter(part.shape[1] for part in parts if part.ndim == 2 and part.size)
    widths = widths or Counter(part.size for part in parts if part.size)
    width = widths.most_common(1)[0][0] if widths else 0
    shaped = [part.reshape(1, -1) if part.ndim == 1 else part for part in parts]
    for k, part in enumerate(shaped):
        if part.size and (part.ndim != 2 or part.shape[1] != width):
            raise RecordingError(
                "the number of channels changes",
                about=about,
                got=f"{part.shape} in trial {k}",
                wanted=f"(bins, {width}), as in most trials",
                fix="leave these trials out, or read them as a session of their own",
            )
    return [part if part.size else np.zeros((0, width), part.dtype) for part in shaped]


def drop_silence(domain: Intervals, binned: Binned, findings: Findings) -> Intervals:
    """The domain without the time in which no channel fires for `SILENT_S`; what goes is counted."""
    total = float(np.asarray(binned.values, np.float64).sum())
    if not len(binned) or total / len(binned) < BUSY:
        return domain
    marked = faults.silent(binned, seconds=SILENT_S)
    silent = faults.rows_to_intervals(marked, binned)
    lost_s = (domain & silent).total_s
    findings.drop(f"bins while no channel fires for {SILENT_S:g} s", int(marked.sum()), lost_s)
    return domain - silent


def inside(trials: Intervals, domain: Intervals) -> np.ndarray:
    """(trials,) whether a trial lies wholly in one interval of the domain."""
    k = np.searchsorted(domain.start_s, trials.start_s + 1e-9, side="right") - 1
    found = np.asarray(k >= 0)
    found[found] = domain.end_s[k[found]] >= trials.end_s[found] - 1e-9
    return found
