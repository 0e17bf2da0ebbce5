"""The native file: HDF5 in the layout of brainsets and torch_brain. This module reads, `hdf5_write` writes.

Every group has an attribute ``object`` that names its class: Data, ArrayDict, IrregularTimeSeries,
RegularTimeSeries or Interval. `docs/formats.md` lists the groups and what becomes of each.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from possm.data.formats.hdf5_write import FACTS, write_hdf5
from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.data.series import Binned, Signal, Spikes
from possm.errors import RecordingError

__all__ = ["read_hdf5", "write_hdf5"]

logger = logging.getLogger(__name__)

RATE_TOLERANCE = 0.01
KEPT_ELSEWHERE = {"spikes", "units", "counts"}


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
    intervals = {name: _intervals(group, name) for name, group in _groups(file) if _kind(group) == "Interval"}
    spikes, spikes_domain = _spikes(file)
    binned = _binned(file) if spikes is None else None
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
        signals=dict(_signals(file)),
        intervals=intervals,
        attributes=attributes,
        path=path,
        file=file,
    )


def _kind(group: h5py.Group) -> str:
    return str(_plain(group.attrs.get("object", "")))


def _groups(parent: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Group]]:
    """Groups with their dotted names, those inside Data groups (movement_phases.reach_period) included."""
    for name, group in parent.items():
        if not isinstance(group, h5py.Group) or name == "domain" or (not prefix and name in KEPT_ELSEWHERE):
            continue
        yield prefix + name, group
        if _kind(group) == "Data":
            yield from _groups(group, f"{prefix}{name}.")


def _facts(file: h5py.File) -> Iterator[tuple[str, str | float]]:
    """Attributes of the file and of its Data groups as ``group.name``."""
    for prefix, group in [("", file), *((f"{n}.", g) for n, g in _groups(file) if _kind(g) == "Data")]:
        for name, value in group.attrs.items():
            if name not in FACTS:
                yield prefix + name, _plain(value)


def _plain(value: Any) -> Any:
    """An attribute as a Python string or number."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.generic):
        return _plain(value.item())
    return value if isinstance(value, (str, int, float)) else str(value)


def _strings(values: np.ndarray) -> np.ndarray:
    """Fixed or variable length HDF5 strings as a numpy string array; other arrays as they are."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8")
    if values.dtype.kind == "O":
        return np.array([str(_plain(value)) for value in values])
    return values


def _spikes(file: h5py.File) -> tuple[Spikes | None, Intervals | None]:
    if "spikes" not in file:
        return None, None
    group = file["spikes"]
    domain = _intervals(group["domain"], "spikes.domain") if "domain" in group else None
    index = group["timestamp_indices_1s"][:] if "timestamp_indices_1s" in group else None
    start_s = float(domain.start_s[0]) if domain is not None and len(domain) else None
    if start_s is None or not _is_index(index, len(group["timestamps"])):
        index, start_s = None, 0.0
    return Spikes(group["timestamps"], group["unit_index"], index_1s=index, index_start_s=start_s), domain


def _is_index(index: np.ndarray | None, num_spikes: int) -> bool:
    """Whether it can be an index; a wrong one would hide spikes, none only costs a bisection."""
    if index is None or not len(index):
        return False
    return bool(index[0] >= 0 and index[-1] <= num_spikes and (np.diff(index) >= 0).all())


def _binned(file: h5py.File) -> Binned | None:
    if "counts" not in file:
        return None
    group = file["counts"]
    start_s, rate_hz = _clock(group, len(group["counts"]))
    return Binned(group["counts"], start_s=start_s, rate_hz=rate_hz)


def _clock(group: h5py.Group, rows: int) -> tuple[float, float]:
    """Start and rate of a regular series, whose domain must be as long as its rows take."""
    rate_hz = float(group.attrs["sampling_rate"])
    if "domain" not in group:
        return 0.0, rate_hz
    start_s, end_s = float(group["domain"]["start"][0]), float(group["domain"]["end"][-1])
    by_rate_s = rows / rate_hz
    # some writers let the domain end with the last sample, others a step later
    if abs(end_s - start_s - by_rate_s) > max(RATE_TOLERANCE * by_rate_s, 2 / rate_hz):
        raise RecordingError(
            f"the sampling rate of '{group.name[1:]}' is off",
            about=group.file.filename,
            got=f"{rows} rows at {rate_hz:g} Hz, which take {by_rate_s:.3f} s",
            wanted=f"{end_s - start_s:.3f} s, the length of its domain",
        )
    return start_s, rate_hz


def _signals(file: h5py.File) -> Iterator[tuple[str, Signal]]:
    """Every float dataset with one or two axes in a time series, as ``group.dataset``."""
    for prefix, group in _groups(file):
        kind = _kind(group)
        if kind not in ("RegularTimeSeries", "IrregularTimeSeries"):
            continue
        for name, dataset in group.items():
            if not _is_signal(name, dataset):
                continue
            values = dataset if dataset.ndim == 2 else Column(dataset)
            unit = str(_plain(dataset.attrs.get("unit", "")))
            if kind == "IrregularTimeSeries":
                yield f"{prefix}.{name}", Signal(values, timestamps_s=group["timestamps"], unit=unit)
            else:
                start_s, rate_hz = _clock(group, len(values))
                yield f"{prefix}.{name}", Signal(values, start_s=start_s, rate_hz=rate_hz, unit=unit)


def _is_signal(name: str, dataset: object) -> bool:
    if not isinstance(dataset, h5py.Dataset) or name in ("timestamps", "timestamp_indices_1s"):
        return False
    return dataset.dtype.kind == "f" and dataset.ndim in (1, 2)


class Column:
    """A dataset of shape (n,) that slices like one of shape (n, 1)."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self.shape = (*dataset.shape, 1)
        self.dtype = dataset.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.asarray(self.dataset[rows])[:, None]


def _intervals(group: h5py.Group, name: str) -> Intervals:
    """Intervals in order; rows that are no interval (NaN, or an end not above the start) are dropped."""
    start, end = np.asarray(group["start"][:], np.float64), np.asarray(group["end"][:], np.float64)
    good = np.isfinite(start) & np.isfinite(end) & (start < end)
    if not good.all():
        logger.warning("%s: dropped %d of %d intervals of '%s': no length, or NaN",
                       group.file.filename, (~good).sum(), len(good), name)  # fmt: skip
    order = np.flatnonzero(good)[np.argsort(start[good], kind="stable")]
    columns = {key: _strings(data[:])[order] for key, data in group.items() if key not in ("start", "end")}
    return Intervals(start[order], end[order], columns)


def _domain(file: h5py.File, spikes: Intervals | None, binned: Binned | None) -> Intervals:
    """Where the recording counts and its neural activity was recorded."""
    recorded = spikes
    if recorded is None:
        recorded = Intervals.of([binned.span_s]) if binned is not None and len(binned) else Intervals.of([])
    if "domain" not in file:
        return recorded
    domain = _intervals(file["domain"], "domain")
    return domain & recorded if len(recorded) else domain


def _units(
    file: h5py.File, path: Path, binned: Binned | None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    columns = {}
    if "units" in file:  # wide columns (average waveforms) stay in the file
        columns = {name: _strings(data[:]) for name, data in file["units"].items() if data.ndim == 1}
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
