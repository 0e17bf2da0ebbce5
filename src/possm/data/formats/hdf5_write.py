"""Writing a recording as HDF5, so that torch_brain's own loader opens it too."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np

from possm.data.files import atomic_path
from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.data.series import Array, Binned, Signal, Spikes
from possm.errors import PossmError, RecordingError

FACTS = ("object", "absolute_start", "_unicode_keys", "timekeys", "sampling_rate")
"""Attributes that belong to the layout, not to the recording."""

ROWS_AT_ONCE = 1 << 20  # a lazy recording larger than memory is copied piece by piece


def write_hdf5(recording: Recording, path: str | Path) -> None:
    """Write `recording` to `path`, all or nothing: when it fails, an earlier file stays as it was.

    Raises:
        RecordingError: The recording does not fit the layout, or the disk refuses.
    """
    try:
        with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
            _write(recording, file)
    except PossmError:
        raise
    except (OSError, RuntimeError) as error:  # h5py turns some write failures into RuntimeError
        raise RecordingError(
            "the recording could not be written",
            about=path,
            got=str(error),
            fix="free some disk space, or write elsewhere; a file that was there before is unchanged",
        ) from error


def _write(recording: Recording, file: h5py.File) -> None:
    _mark(file, "Data", absolute_start=0.0)
    facts = {"session.id": recording.session_id, **recording.attributes}
    if recording.subject_id is not None:
        facts["subject.id"] = recording.subject_id
    for name, value in facts.items():
        *parents, leaf = name.split(".")
        _data_group(file, parents).attrs[leaf] = value
    _arrays(_new(file, "units", "ArrayDict"), {"id": np.array(recording.unit_ids), **recording.unit_columns})
    hull = _hull(recording)
    if recording.spikes is not None:
        _spikes(_new(file, "spikes", "IrregularTimeSeries"), recording.spikes, hull, recording.name)
    if recording.binned is not None:
        _binned(_new(file, "counts", "RegularTimeSeries"), recording.binned)
    for name, feature in recording.features.items():
        parent = _time_group(file, ["features"], recording.domain)
        group = _new(parent, name, "RegularTimeSeries")
        _copy(group, "values", feature.values)
        _clock(group, feature)
    for name, signals in groupby(sorted(recording.signals.items()), lambda item: _series_name(item[0])):
        *parents, leaf = name.split(".")
        _series(_time_group(file, parents, recording.domain), leaf, dict(signals))
    for name, intervals in recording.intervals.items():
        *parents, leaf = name.split(".")
        _intervals(_time_group(file, parents, recording.domain), leaf, intervals)
    _intervals(file, "domain", recording.domain)


def _hull(recording: Recording) -> tuple[float, float]:
    """One stretch that holds the domain and every spike."""
    ends = [(recording.domain.start_s.min(), recording.domain.end_s.max())] if len(recording.domain) else []
    if recording.spikes is not None and len(recording.spikes):
        first, last = recording.spikes.times_s[0], recording.spikes.times_s[len(recording.spikes) - 1]
        ends.append((first, np.nextafter(last, np.inf)))
    if not ends:
        raise RecordingError("a recording without time cannot be written", about=recording.name)
    return float(min(start for start, _ in ends)), float(max(end for _, end in ends))


def _series_name(signal: str) -> str:
    group, dot, _ = signal.rpartition(".")
    if not dot or group in ("spikes", "units", "counts", "features", "domain"):
        raise RecordingError(
            f"the behavior '{signal}' cannot be written under this name",
            wanted="two parts such as 'cursor.pos', the first not spikes, units, counts, features or domain",
        )
    return group


def _mark(group: h5py.Group, kind: str, **attributes: object) -> None:
    group.attrs["object"] = kind
    for name, value in attributes.items():
        group.attrs[name] = value


def _new(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    group = parent.create_group(name)
    _mark(group, kind)
    return group


def _data_group(file: h5py.File, names: list[str]) -> h5py.Group:
    """The nested Data group of these names, made where it is missing."""
    group: h5py.Group = file
    for name in names:
        if name not in group:
            _mark(group.create_group(name), "Data", absolute_start=0.0)
        group = group[name]
    return group


def _time_group(file: h5py.File, names: list[str], domain: Intervals) -> h5py.Group:
    """A nested Data group for things in time; torch_brain wants a domain in each."""
    for depth in range(1, len(names) + 1):
        group = _data_group(file, names[:depth])
        if "domain" not in group:
            _intervals(group, "domain", domain)
    return _data_group(file, names)


def _arrays(group: h5py.Group, arrays: dict[str, np.ndarray]) -> None:
    """Datasets; strings as fixed length ASCII, as the layout wants, with the names of those that were."""
    text = [name for name, array in arrays.items() if array.dtype.kind == "U"]
    for name, array in arrays.items():
        try:
            group.create_dataset(name, data=array.astype("S") if name in text else array)
        except UnicodeEncodeError as error:
            raise RecordingError(
                f"'{name}' holds letters outside ASCII", got=error.object, fix="rename them in plain ASCII"
            ) from error
    group.attrs["_unicode_keys"] = np.array(text, dtype="S")


def _intervals(parent: h5py.Group, name: str, intervals: Intervals) -> None:
    group = _new(parent, name, "Interval")
    _arrays(group, {"start": intervals.start_s, "end": intervals.end_s, **intervals.columns})
    # torch_brain shifts these columns when it slices and resets the origin
    times = [column for column in intervals.columns if column.endswith(("_s", "_time"))]
    group.attrs["timekeys"] = np.array(["start", "end", *times], dtype="S")


def _blocks(array: Array) -> Iterator[tuple[int, np.ndarray]]:
    for row in range(0, array.shape[0], ROWS_AT_ONCE):
        yield row, np.asarray(array[row : row + ROWS_AT_ONCE])


def _copy(group: h5py.Group, name: str, array: Array, dtype: np.dtype | type | None = None) -> h5py.Dataset:
    dataset = group.create_dataset(name, shape=array.shape, dtype=dtype or array.dtype)
    for row, block in _blocks(array):
        dataset[row : row + len(block)] = block
    return dataset


def _times(group: h5py.Group, times_s: Array, hull: tuple[float, float], about: str) -> None:
    """Timestamps with their index of seconds and their domain; refuses times that are not ascending."""
    grid = np.arange(hull[0], hull[1] + 1.0, 1.0)
    index, before = np.zeros(len(grid), np.int64), -np.inf
    dataset = group.create_dataset("timestamps", shape=times_s.shape, dtype=np.float64)
    for row, block in _blocks(times_s):
        if not (np.diff(block, prepend=before) >= 0).all():
            raise RecordingError(
                "times are not ascending, or NaN", about=about, fix="sort or drop them first"
            )
        dataset[row : row + len(block)] = block
        index += np.searchsorted(block, grid)
        before = block[-1]
    group.create_dataset("timestamp_indices_1s", data=index)
    group.attrs["timekeys"] = np.array(["timestamps"], dtype="S")
    group.attrs["_unicode_keys"] = np.array([], dtype="S")
    _intervals(group, "domain", Intervals.of([hull]))


def _spikes(group: h5py.Group, spikes: Spikes, hull: tuple[float, float], about: str) -> None:
    _times(group, spikes.times_s, hull, about)
    _copy(group, "unit_index", spikes.unit, np.int64)


def _clock(group: h5py.Group, series: Binned | Signal) -> None:
    """Rate and domain of a regular series; the first row of a slice becomes the start."""
    assert series.rate_hz is not None
    if not len(series):
        raise RecordingError("an empty regular series has no time and cannot be written", about=group.name)
    start_s = series.start_s + series.first / series.rate_hz
    group.attrs["sampling_rate"] = float(series.rate_hz)
    _intervals(group, "domain", Intervals.of([(start_s, start_s + len(series) / series.rate_hz)]))


def _binned(group: h5py.Group, binned: Binned) -> None:
    _copy(group, "counts", binned.values)
    _clock(group, binned)


def _series(parent: h5py.Group, name: str, signals: dict[str, Signal]) -> None:
    """The signals of one group; they share one clock."""
    first, one = next(iter(signals.items()))
    times = one.times_s
    for key, signal in signals.items():
        if not np.array_equal(signal.times_s, times) or signal.rate_hz != one.rate_hz:
            raise RecordingError(
                f"'{key}' has another clock than '{first}'",
                fix="give them different first names; signals that share one share its times",
            )
    regular = one.rate_hz is not None
    group = _new(parent, name, "RegularTimeSeries" if regular else "IrregularTimeSeries")
    for key, signal in signals.items():
        dataset = _copy(group, key.rpartition(".")[2], signal.values)
        if signal.unit:
            dataset.attrs["unit"] = signal.unit
    if regular:
        _clock(group, one)
    else:
        hull = (float(times[0]), float(np.nextafter(times[-1], np.inf))) if len(times) else (0.0, 1.0)
        _times(group, times, hull, name)
