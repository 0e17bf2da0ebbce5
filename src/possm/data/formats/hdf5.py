"""The native file: HDF5 in the layout of brainsets and torch_brain. This module reads, `hdf5_write` writes.

Every group has an attribute ``object`` that names its class: Data, ArrayDict, IrregularTimeSeries,
RegularTimeSeries or Interval. `docs/formats.md` lists the groups and what becomes of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from possm.data.formats.hdf5_series import (
    Column,
    groups_in,
    kind_of,
    plain,
    read_binned,
    read_features,
    read_intervals,
    read_signals,
    read_spikes,
    strings,
)
from possm.data.formats.hdf5_write import FACTS, write_hdf5
from possm.data.formats.stored import StoredFile
from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.data.series import Binned, Signal
from possm.errors import RecordingError

__all__ = ["read_hdf5", "write_hdf5"]


def read_hdf5(path: str | Path, lazy: bool = True) -> Recording:
    """Open a recording of the native layout.

    Args:
        path: The ``.h5`` file.
        lazy: Leave spikes, counts and signals in the file and read what is sliced, until the recording is
            closed; otherwise read all.

    Raises:
        RecordingError: The file is missing, damaged, or of another layout.
    """
    path = Path(path)
    with _open(path) as file:
        try:
            recording = _recording(file, path)
            return _stored(recording, StoredFile.of(path)) if lazy else recording.load()
        except RecordingError:
            raise
        except Exception as error:  # h5py raises a dozen kinds of error on a damaged file
            raise RecordingError(
                "the file is damaged, or not of the brainsets layout",
                about=path,
                got=f"{type(error).__name__}: {error}",
                fix="fetch or prepare it again; docs/formats.md describes the layout",
            ) from error


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
        features=read_features(file),
        signals=dict(read_signals(file)),
        intervals=intervals,
        attributes=attributes,
        path=path,
    )


def _stored(recording: Recording, file: StoredFile) -> Recording:
    """The same recording with arrays that outlive the open file."""
    spikes, binned = recording.spikes, recording.binned
    if spikes is not None:
        spikes = replace(spikes, times_s=file.array(spikes.times_s), unit=file.array(spikes.unit))
    if binned is not None:
        binned = replace(binned, values=file.array(binned.values))
    features = {n: replace(part, values=file.array(part.values)) for n, part in recording.features.items()}
    signals = {name: _stored_signal(signal, file) for name, signal in recording.signals.items()}
    return replace(recording, spikes=spikes, binned=binned, features=features, signals=signals, file=file)


def _stored_signal(signal: Signal, file: StoredFile) -> Signal:
    column, times = isinstance(signal.values, Column), signal.timestamps_s
    values = Column(file.array(signal.values.dataset)) if column else file.array(signal.values)
    return replace(signal, values=values, timestamps_s=None if times is None else file.array(times))


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
