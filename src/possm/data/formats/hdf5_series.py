"""The series and intervals inside a file of the native layout; see `hdf5`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from possm.data.intervals import Intervals
from possm.data.series import Binned, Signal, Spikes
from possm.errors import RecordingError

logger = logging.getLogger(__name__)

RATE_TOLERANCE = 0.01
KEPT_ELSEWHERE = {"spikes", "units", "counts", "features"}


def kind_of(group: h5py.Group) -> str:
    """The class a group says it is."""
    return str(plain(group.attrs.get("object", "")))


def groups_in(parent: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Group]]:
    """Groups with their dotted names, those inside Data groups (movement_phases.reach_period) included."""
    for name, group in parent.items():
        if not isinstance(group, h5py.Group) or name == "domain" or (not prefix and name in KEPT_ELSEWHERE):
            continue
        yield prefix + name, group
        if kind_of(group) == "Data":
            yield from groups_in(group, f"{prefix}{name}.")


def plain(value: Any) -> Any:
    """An attribute as a Python string or number."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.generic):
        return plain(value.item())
    return value if isinstance(value, (str, int, float)) else str(value)


def strings(values: np.ndarray) -> np.ndarray:
    """Fixed or variable length HDF5 strings as a numpy string array; other arrays as they are."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8")
    if values.dtype.kind == "O":
        return np.array([str(plain(value)) for value in values])
    return values


def read_intervals(group: h5py.Group, name: str) -> Intervals:
    """Intervals in order; rows that are no interval (NaN, or an end not above the start) are dropped."""
    start, end = np.asarray(group["start"][:], np.float64), np.asarray(group["end"][:], np.float64)
    good = np.isfinite(start) & np.isfinite(end) & (start < end)
    if not good.all():
        logger.warning("%s: dropped %d of %d intervals of '%s': no length, or NaN",
                       group.file.filename, (~good).sum(), len(good), name)  # fmt: skip
    order = np.flatnonzero(good)[np.argsort(start[good], kind="stable")]
    columns = {key: strings(data[:])[order] for key, data in group.items() if key not in ("start", "end")}
    return Intervals(start[order], end[order], columns)


def read_spikes(file: h5py.File) -> tuple[Spikes | None, Intervals | None]:
    """The spikes and their domain, if there are any."""
    if "spikes" not in file:
        return None, None
    group = file["spikes"]
    domain = read_intervals(group["domain"], "spikes.domain") if "domain" in group else None
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


def read_binned(file: h5py.File) -> Binned | None:
    """The binned counts, if there are any."""
    if "counts" not in file:
        return None
    group = file["counts"]
    start_s, rate_hz = _clock(group, len(group["counts"]))
    return Binned(group["counts"], start_s=start_s, rate_hz=rate_hz)


def read_features(file: h5py.File) -> dict[str, Binned]:
    """What was measured in every bin besides counts, by name."""
    features = {}
    for name, group in file["features"].items() if "features" in file else ():
        if kind_of(group) == "RegularTimeSeries":
            start_s, rate_hz = _clock(group, len(group["values"]))
            features[name] = Binned(group["values"], start_s=start_s, rate_hz=rate_hz)
    return features


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


def read_signals(file: h5py.File) -> Iterator[tuple[str, Signal]]:
    """Every dataset of numbers with one or two axes in a time series, as ``group.dataset``; one of whole
    numbers can be decoded as a category (`possm.data.labels`)."""
    for prefix, group in groups_in(file):
        kind = kind_of(group)
        if kind not in ("RegularTimeSeries", "IrregularTimeSeries"):
            continue
        for name, dataset in group.items():
            if not _is_signal(name, dataset):
                continue
            values = dataset if dataset.ndim == 2 else Column(dataset)
            unit = str(plain(dataset.attrs.get("unit", "")))
            if kind == "IrregularTimeSeries":
                yield f"{prefix}.{name}", Signal(values, timestamps_s=group["timestamps"], unit=unit)
            else:
                start_s, rate_hz = _clock(group, len(values))
                yield f"{prefix}.{name}", Signal(values, start_s=start_s, rate_hz=rate_hz, unit=unit)


def _is_signal(name: str, dataset: object) -> bool:
    if not isinstance(dataset, h5py.Dataset) or name in ("timestamps", "timestamp_indices_1s"):
        return False
    return dataset.dtype.kind in "fiu" and dataset.ndim in (1, 2)


class Column:
    """An array of shape (n,) in a file that slices like one of shape (n, 1)."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.shape = (*dataset.shape, 1)
        self.dtype = dataset.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.asarray(self.dataset[rows])[:, None]
