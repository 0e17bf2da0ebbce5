from __future__ import annotations

import errno
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from possm.data.formats import load_recording, write_hdf5
from possm.data.recording import Binned, Intervals, Recording, Signal, Spikes
from possm.data.splits import chronological_split
from possm.errors import PossmError, RecordingError


def a_recording() -> Recording:
    rng = np.random.default_rng(0)
    pos = Signal(rng.standard_normal((1000, 2)).astype(np.float32), rate_hz=20.0, unit="cm")
    vel = Signal(rng.standard_normal((1000, 2)), rate_hz=20.0, unit="cm/s")
    eye_times = np.sort(rng.uniform(0, 50, 300))
    trials = Intervals(
        np.array([1.0, 5.0]),
        np.array([4.0, 9.0]),
        {"result": np.array(["R", "fail"]), "go_cue_time": np.array([2.0, np.nan])},
    )
    recording = Recording(
        session_id="m_20240102",
        subject_id="m",
        unit_ids=tuple(f"group_0/elec{k}/unit_1" for k in range(5)),
        unit_columns={"electrode": np.arange(5), "area": np.array(["M1"] * 5)},
        domain=Intervals.of([(0, 20), (20, 45.5)]),
        spikes=Spikes(np.sort(rng.uniform(0, 50, 4000)), rng.integers(0, 5, 4000)),
        signals={
            "cursor.pos": pos,
            "cursor.vel": vel,
            "eye.pos": Signal(rng.standard_normal((300, 2)), timestamps_s=eye_times),
            "arm.left.angle": Signal(rng.standard_normal((300, 1)), timestamps_s=eye_times, unit="deg"),
        },
        intervals={"trials": trials, "movement_phases.reach_period": Intervals.of([(2, 4)])},
        attributes={"session.task": "center_out", "brainset.id": "tests", "subject.age": 3000.0, "note": "a"},
    )
    return chronological_split(recording)


def assert_same(one: Recording, other: Recording) -> None:
    assert (one.session_id, one.subject_id, one.unit_ids) == (
        other.session_id,
        other.subject_id,
        other.unit_ids,
    )
    assert dict(one.attributes) == dict(other.attributes)
    assert list(one.domain) == list(other.domain)
    assert set(one.signals) == set(other.signals)
    assert set(one.intervals) == set(other.intervals)
    for name, column in one.unit_columns.items():
        assert np.array_equal(column, other.unit_columns[name])
    for name, signal in one.signals.items():
        assert np.array_equal(signal.values[:], other.signals[name].values[:], equal_nan=True)
        assert np.array_equal(signal.times_s, other.signals[name].times_s)
        assert (signal.unit, signal.rate_hz) == (other.signals[name].unit, other.signals[name].rate_hz)
    for name, part in one.intervals.items():
        assert list(part) == list(other.intervals[name])
        for key, column in part.columns.items():
            assert np.array_equal(
                column, other.intervals[name].columns[key], equal_nan=column.dtype.kind == "f"
            )
    for a, b in zip(one.tokens(-1, 60), other.tokens(-1, 60), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("lazy", [True, False])
def test_what_is_written_is_read(tmp_path: Path, lazy: bool) -> None:
    recording = a_recording()
    write_hdf5(recording, tmp_path / "a.h5")
    with load_recording(tmp_path / "a.h5", lazy=lazy) as opened:
        assert_same(recording, opened)
        assert_same(recording, opened.load())


def test_binned_counts_are_written_and_read(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(1, (100, 3)).astype(np.uint8)
    binned = Recording(
        "b", ("x", "y", "z"), Intervals.of([(1, 6)]), binned=Binned(counts, start_s=1.0, rate_hz=20.0)
    )
    write_hdf5(binned, tmp_path / "b.h5")
    with load_recording(tmp_path / "b.h5") as opened:
        assert_same(binned, opened)
        assert opened.binned is not None
        assert opened.binned.values.dtype == np.uint8


def test_a_lazy_recording_can_be_written_again(tmp_path: Path) -> None:
    recording = a_recording()
    write_hdf5(recording, tmp_path / "a.h5")
    with load_recording(tmp_path / "a.h5") as opened:
        write_hdf5(replace(opened, session_id="again"), tmp_path / "b.h5")
        write_hdf5(opened, tmp_path / "a.h5")  # over the file it comes from
    for name, session in (("a", "m_20240102"), ("b", "again")):
        with load_recording(tmp_path / f"{name}.h5") as opened:
            assert_same(replace(recording, session_id=session), opened)


def test_slices_of_a_file_equal_slices_of_memory(tmp_path: Path) -> None:
    recording = a_recording()
    write_hdf5(recording, tmp_path / "a.h5")
    with load_recording(tmp_path / "a.h5") as opened:
        for start_s, end_s in ((0, 1), (3.3, 4.7), (-5, 0.5), (44, 99), (7, 7), (49.9, 60)):
            one, other = recording.slice(start_s, end_s), opened.slice(start_s, end_s)
            assert isinstance(other.signals["cursor.pos"].values, np.ndarray)
            assert_same(one, other)


# ---------------------------------------------------------------- files of others
def group(parent: h5py.Group, name: str, kind: str, **attributes: Any) -> h5py.Group:
    made = parent.create_group(name)
    made.attrs["object"] = kind
    for key, value in attributes.items():
        made.attrs[key] = value
    return made


def interval(
    parent: h5py.Group, name: str, start: list[float], end: list[float], **columns: Any
) -> h5py.Group:
    text = [key for key, column in columns.items() if np.asarray(column).dtype.kind == "U"]
    made = group(
        parent, name, "Interval",
        timekeys=np.array(["start", "end"], "S"), _unicode_keys=np.array(text, "S"),
    )  # fmt: skip
    for key, column in {"start": np.array(start, float), "end": np.array(end, float), **columns}.items():
        made[key] = np.asarray(column).astype("S") if key in text else column
    return made


def foreign_file(path: Path, change: Callable[[h5py.File], None] | None = None) -> Path:
    """A file as the brainsets pipelines write them: no subject, regular cursor, waveforms, nested phases."""
    with h5py.File(path, "w") as file:
        file.attrs.update(object="Data", absolute_start=0.0)
        group(file, "brainset", "Data", id="odoherty", derived_version="1.0.0")
        group(file, "session", "Data", id="indy_20160407", recording_date="2016-04-07 00:00:00")
        units = group(file, "units", "ArrayDict", _unicode_keys=np.array(["id"], "S"))
        units["id"] = np.array([b"M1 001/sorted_01", b"M1 001/sorted_02"])
        units["unit_number"] = np.array([1, 2])
        units["average_waveform"] = np.zeros((2, 48))
        spikes = group(file, "spikes", "IrregularTimeSeries", timekeys=np.array(["timestamps"], "S"))
        spikes["timestamps"] = np.array([10.5, 10.75, 11.5, 12.25])
        spikes["unit_index"] = np.array([0, 1, 1, 0])
        spikes["waveforms"] = np.ones((4, 48))
        spikes["timestamp_indices_1s"] = np.array([0, 2, 3, 4])
        interval(spikes, "domain", [10.0], [13.0])
        cursor = group(file, "cursor", "RegularTimeSeries", sampling_rate=4.0)
        pos = np.arange(24.0).reshape(12, 2)
        pos[3] = np.nan
        cursor["pos"] = pos
        cursor["speed"] = np.arange(12.0)
        cursor["state"] = np.arange(12)
        interval(cursor, "domain", [10.0], [13.0])
        phases = group(file, "movement_phases", "Data", absolute_start=0.0)
        interval(phases, "reach_period", [10.5], [11.0])
        interval(phases, "domain", [10.0], [13.0])
        interval(
            file, "trials", [11.0, 10.0, 12.0, np.nan], [12.0, 11.0, 12.0, 13.0],
            result=np.array(["F", "R", "I", "I"]), is_valid=np.array([False, True, True, True]),
        )  # fmt: skip
        interval(file, "domain", [10.0], [13.0])
        if change:
            change(file)
    return path


def test_a_brainsets_file_opens_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), load_recording(foreign_file(tmp_path / "x.h5")) as recording:
        assert (recording.session_id, recording.subject_id) == ("indy_20160407", None)
        assert recording.unit_ids == ("M1 001/sorted_01", "M1 001/sorted_02")
        assert set(recording.unit_columns) == {"unit_number"}
        assert set(recording.signals) == {"cursor.pos", "cursor.speed", "cursor.state"}  # no waveforms
        assert recording.behavior("cursor.pos").times_s.tolist() == [10 + k / 4 for k in range(12)]
        assert recording.behavior("cursor.speed").slice(10.5, 11.0).values.tolist() == [[2.0], [3.0]]
        assert np.isnan(recording.behavior("cursor.pos").slice(10.75, 11).values).all()
        assert list(recording.intervals["movement_phases.reach_period"]) == [(10.5, 11.0)]
        assert list(recording.intervals["trials"]) == [(10.0, 11.0), (11.0, 12.0)]
        assert recording.intervals["trials"].columns["result"].tolist() == ["R", "F"]
        assert recording.attributes["session.recording_date"] == "2016-04-07 00:00:00"
        assert recording.tokens(10.75, 12.25)[0].tolist() == [10.75, 11.5]
    assert "dropped 2 of 4 intervals of 'trials'" in caplog.text


def test_without_an_index_of_seconds_slices_are_the_same(tmp_path: Path) -> None:
    def without(file: h5py.File) -> None:
        del file["spikes/timestamp_indices_1s"]

    with load_recording(foreign_file(tmp_path / "x.h5", without)) as recording:
        assert recording.tokens(10.75, 12.25)[0].tolist() == [10.75, 11.5]


def test_an_index_of_seconds_that_cannot_be_one_is_not_used(tmp_path: Path) -> None:
    def wrong(file: h5py.File) -> None:
        file["spikes/timestamp_indices_1s"][:] = [0, 3, 1, 9]

    with load_recording(foreign_file(tmp_path / "x.h5", wrong)) as recording:
        assert recording.tokens(10.75, 12.25)[0].tolist() == [10.75, 11.5]


def test_no_spikes_outside_their_domain_count_as_silence(tmp_path: Path) -> None:
    def shorter(file: h5py.File) -> None:
        file["spikes/domain/end"][0] = 12.5

    with load_recording(foreign_file(tmp_path / "x.h5", shorter)) as recording:
        assert list(recording.domain) == [(10.0, 12.5)]


def test_a_sampling_rate_that_is_off_is_refused(tmp_path: Path) -> None:
    def off(file: h5py.File) -> None:
        file["cursor"].attrs["sampling_rate"] = 8.0

    with pytest.raises(RecordingError, match=r"(?s)sampling rate of 'cursor' is off.*12 rows at 8 Hz"):
        load_recording(foreign_file(tmp_path / "x.h5", off))


def test_unit_ids_that_repeat_are_refused(tmp_path: Path) -> None:
    def twice(file: h5py.File) -> None:
        file["units/id"][1] = b"M1 001/sorted_01"

    with pytest.raises(RecordingError, match=r"(?s)unit ids repeat.*M1 001/sorted_01"):
        load_recording(foreign_file(tmp_path / "x.h5", twice))


def test_a_file_without_neural_activity_says_what_it_holds(tmp_path: Path) -> None:
    def nothing(file: h5py.File) -> None:
        del file["spikes"]

    with pytest.raises(RecordingError, match=r"(?s)no neural activity.*cursor.*'counts'"):
        load_recording(foreign_file(tmp_path / "x.h5", nothing))


# ---------------------------------------------------------------- damaged files and full disks
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = foreign_file(tmp_path / "x.h5").read_bytes()
    cut = tmp_path / "cut.h5"
    for length in np.linspace(0, len(whole) - 1, 40, dtype=int):
        cut.write_bytes(whole[:length])
        with pytest.raises(RecordingError, match="cut short|not readable|damaged"):
            load_recording(cut)


def test_a_damaged_layout_is_one_clear_error(tmp_path: Path) -> None:
    def damage(file: h5py.File) -> None:
        del file["spikes/unit_index"]

    with pytest.raises(RecordingError, match=r"(?s)damaged, or not of the brainsets layout.*unit_index"):
        load_recording(foreign_file(tmp_path / "x.h5", damage))


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such file"):
        load_recording(tmp_path / "none.h5")
    with pytest.raises(RecordingError, match="unknown kind of file"):
        load_recording(tmp_path / "a.csv")
    with pytest.raises(RecordingError, match="possm prepare"):
        load_recording(tmp_path / "a.mat")


def test_a_full_disk_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = a_recording()
    write_hdf5(recording, tmp_path / "a.h5")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(h5py.Dataset, "__setitem__", full)
    with pytest.raises(PossmError, match=r"(?s)could not be written.*No space left.*unchanged"):
        write_hdf5(replace(recording, session_id="new"), tmp_path / "a.h5")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    with load_recording(tmp_path / "a.h5") as opened:
        assert_same(recording, opened)


def test_what_does_not_fit_the_layout_is_refused(tmp_path: Path) -> None:
    recording = a_recording()
    pos, path = recording.signals["cursor.pos"], tmp_path / "a.h5"
    for name in ("speed", "spikes.pos"):
        with pytest.raises(RecordingError, match="cannot be written under this name"):
            write_hdf5(replace(recording, signals={name: pos}), path)
    faster = {"cursor.pos": pos, "cursor.vel": replace(pos, rate_hz=40.0)}
    with pytest.raises(RecordingError, match="another clock"):
        write_hdf5(replace(recording, signals=faster), path)
    with pytest.raises(RecordingError, match="outside ASCII"):
        write_hdf5(replace(recording, unit_ids=("ä", "b", "c", "d", "e")), path)
    back = Spikes(np.array([1.0, 0.5]), np.array([0, 0]))
    with pytest.raises(RecordingError, match="not ascending"):
        write_hdf5(replace(recording, spikes=back), path)
    assert not path.exists()


# ---------------------------------------------------------------- torch_brain
@pytest.mark.parametrize("lazy", [True, False])
def test_torch_brain_opens_what_is_written(tmp_path: Path, lazy: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pytest.importorskip("torch_brain.data", reason="torch_brain is not installed")
    recording = a_recording()
    write_hdf5(recording, tmp_path / "a.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with h5py.File(tmp_path / "a.h5") as file:
            opened = data.Data.from_hdf5(file, lazy=lazy)
            part = opened.slice(2.0, 3.5, reset_origin=False)
            ours = recording.slice(2.0, 3.5)
            assert ours.spikes is not None
            assert np.array_equal(part.spikes.timestamps, ours.spikes.times_s)
            assert np.array_equal(part.spikes.unit_index, ours.spikes.unit)
            assert np.allclose(part.cursor.timestamps, ours.signals["cursor.pos"].times_s)
            assert np.array_equal(part.cursor.pos, ours.signals["cursor.pos"].values)
            assert np.array_equal(part.eye.timestamps, ours.signals["eye.pos"].times_s)
            assert part.trials.result.tolist() == ["R"]
            assert part.arm.left.angle.shape == ours.signals["arm.left.angle"].values.shape
            assert opened.units.id.tolist() == list(recording.unit_ids)
            assert (opened.session.id, opened.subject.id) == ("m_20240102", "m")
            assert np.array_equal(opened.train_domain.end, recording.split("train").end_s)


def test_what_torch_brain_writes_opens_here(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tb = pytest.importorskip("torch_brain.data", reason="torch_brain is not installed")
        times = np.sort(np.random.default_rng(0).uniform(5, 25, 300))
        cursor = tb.RegularTimeSeries(
            pos=np.arange(200.0).reshape(100, 2), sampling_rate=5.0, domain_start=5.0
        )
        made = tb.Data(
            spikes=tb.IrregularTimeSeries(
                timestamps=times, unit_index=np.arange(300) % 3, domain=tb.Interval(5.0, 25.0)
            ),
            units=tb.ArrayDict(id=np.array(["a", "b", "c"])),
            cursor=cursor,
            trials=tb.Interval(
                start=np.array([6.0, 9.0]), end=np.array([8.0, 12.0]), result=np.array(["R", "F"])
            ),
            session=tb.Data(id="theirs"),
            domain=tb.Interval(5.0, 25.0),
        )
        with h5py.File(tmp_path / "a.h5", "w") as file:
            made.to_hdf5(file)
    with load_recording(tmp_path / "a.h5") as recording:
        assert (recording.session_id, recording.unit_ids) == ("theirs", ("a", "b", "c"))
        assert np.array_equal(recording.tokens(7.5, 19.25)[0], times[(times >= 7.5) & (times < 19.25)])
        assert np.allclose(recording.behavior("cursor.pos").times_s, cursor.timestamps)
        assert recording.intervals["trials"].columns["result"].tolist() == ["R", "F"]
        assert list(recording.domain) == [(5.0, 25.0)]
