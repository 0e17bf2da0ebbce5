"""The native file: HDF5 in the layout of brainsets and torch_brain. This module reads, `hdf5_write` writes.

Every group has an attribute ``object`` that names its class: Data, ArrayDict, IrregularTimeSeries,
RegularTimeSeries or Interval. `docs/formats.md` lists the groups and what becomes of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from possm.data.formats.hdf5_series import (
    groups_in,
    kind_of,
    plain,
    read_binned,
    read_intervals,
    read_signals,
    read_spikes,
    strings,
)
from possm.data.formats.hdf5_write import FACTS, write_hdf5
from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.data.series import Binned
from possm.errors import RecordingError

__all__ = ["read_hdf5", "write_hdf5"]


def read_hdf5(path: str | Path, lazy: bool = True) -> Recording:
    """Open a recording of the native layout.

    Args:
        path: The ``.h5`` file.
        lazy: Leave spikes, counts and signals in the file and read what is sliced (close the recording,
            or use it in a ``with``); otherwise read all and close the file.

    Raises:
        RecordingError: The file is missing, damaged, or of another layout.
    """
    path = Path(path)
    file = _open(path)
    try:
        recording = _recording(file, path)
        if lazy:
            return recording
        recording = recording.load()
    except RecordingError:
        file.close()
        raise
    except Exception as error:  # h5py raises a dozen kinds of error on a damaged file
        file.close()
        raise RecordingError(
            "the file is damaged, or not of the brainsets layout",
            about=path,
            got=f"{type(error).__name__}: {error}",
            fix="fetch or prepare it again; docs/formats.md describes the layout",
        ) from error
    file.close()
    return recording


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise RecordingError("there is no such file", about=path)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        cause = "is cut short" if "truncated" in str(error) else "is not readable as HDF5"
        raise RecordingError(
            f"the file {cause}", about=path, got=str(error), fix="copy, download or prepare it again"
        ) from error


def _recording(file: h5py.File, path: Path) -> Recording:
    attributes = dict(_facts(file))
    intervals = {
        name: read_intervals(group, name) for name, group in groups_in(file) if kind_of(group) == "Interval"
    }
    spikes, spikes_domain = read_spikes(file)
    binned = read_binned(file) if spikes is None else None
    if spikes is None and binned is None:
        raise RecordingError(
            "there is no neural activity in the file",
            about=path,
            got=", ".join(file) or "an empty file",
            wanted="a group 'spikes' (timestamps, unit_index) or 'counts' (counts)",
        )
    domain = _domain(file, spikes_domain, binned)
    unit_ids, unit_columns = _units(file, path, binned)
    return Recording(
        session_id=str(attributes.pop("session.id", path.stem)),
        subject_id=None if "subject.id" not in attributes else str(attributes.pop("subject.id")),
        unit_ids=unit_ids,
        unit_columns=unit_columns,
        domain=domain,
        spikes=spikes,
        binned=binned,
        signals=dict(read_signals(file)),
        intervals=intervals,
        attributes=attributes,
        path=path,
        file=file,
    )


def _facts(file: h5py.File) -> Iterator[tuple[str, str | float]]:
    """Attributes of the file and of its Data groups as ``group.name``."""
    for prefix, group in [("", file), *((f"{n}.", g) for n, g in groups_in(file) if kind_of(g) == "Data")]:
        for name, value in group.attrs.items():
            if name not in FACTS:
                yield prefix + name, plain(value)


def _domain(file: h5py.File, spikes: Intervals | None, binned: Binned | None) -> Intervals:
    """Where the recording counts and its neural activity was recorded."""
    recorded = spikes
    if recorded is None:
        recorded = Intervals.of([binned.span_s]) if binned is not None and len(binned) else Intervals.of([])
    if "domain" not in file:
        return recorded
    domain = read_intervals(file["domain"], "domain")
    return domain & recorded if len(recorded) else domain


def _units(
    file: h5py.File, path: Path, binned: Binned | None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    columns = {}
    if "units" in file:  # wide columns (average waveforms) stay in the file
        columns = {name: strings(data[:]) for name, data in file["units"].items() if data.ndim == 1}
    if "id" not in columns:
        if binned is None:
            raise RecordingError(
                "the unit table has no ids", about=path, got=list(columns), wanted="units/id"
            )
        return tuple(f"channel_{k}" for k in range(binned.values.shape[1])), columns
    ids = tuple(str(unit) for unit in columns.pop("id"))
    twice = [unit for unit, times in Counter(ids).items() if times > 1]
    if twice:
        raise RecordingError("unit ids repeat inside the session", about=path, got=", ".join(twice[:5]))
    return ids, columns
