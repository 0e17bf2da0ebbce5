from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from possm.data.faults import Findings
from possm.data.formats import load_recording
from possm.data.formats.mapping import parse_map
from possm.data.formats.matfile import describe, load_matlab
from possm.data.formats.matlab import BEFORE_END_S, read_matlab
from possm.data.quality import inspect, prepare
from possm.data.recording import Recording
from possm.errors import ConfigError, RecordingError

scipy_io = pytest.importorskip("scipy.io", reason="MATLAB 5 files need scipy")

BIN_S = 0.05


def limblab(rows: int = 2000, start_s: float = 0.0) -> dict[str, Any]:
    """A struct as the Miller lab writes it: a cursor on a circle, Poisson counts as rates."""
    rng = np.random.default_rng(0)
    time = start_s + np.arange(rows) * BIN_S
    angle = 2 * np.pi * time / 5
    table = np.zeros((3, 10))
    table[:, 0], table[:, 5], table[:, 6], table[:, 7] = (
        [10, 20, 30], [11, 21, -1], [11.001, -1, -1], [13, 24, 35]
    )  # fmt: skip
    table[:, 8] = [82, 70, -1]
    return {
        "timeframe": time.astype(np.float32),
        "spikeratedata": (rng.poisson(1.0, (rows, 4)) / BIN_S).astype(np.float32),
        "spikeguide": np.array(["ee01u0", "ee02u0", "ee10u1", "ee11u2"]),
        "cursorposbin": (8 * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32),
        "words": np.array([[10.0, 23], [11.0, 66], [21.0, 71], [22.0, 161], [40.0, 64]]),
        "trialtable": table,
    }


def save(path: Path, content: dict[str, Any]) -> Path:
    scipy_io.savemat(path, content)
    return path


def save_73(path: Path, content: dict[str, Any]) -> Path:
    """The same content as MATLAB 7.3 lays it out: columns first, strings as codes, cells as references."""
    with h5py.File(path, "w") as file:
        cells = file.create_group("#refs#")

        def put(parent: h5py.Group, name: str, value: Any) -> None:
            if isinstance(value, dict):
                made = parent.create_group(name)
                made.attrs["MATLAB_class"] = np.bytes_("struct")
                for key, item in value.items():
                    put(made, key, item)
            elif isinstance(value, str):
                made = parent.create_dataset(name, data=np.array([[ord(c) for c in value]], np.uint16).T)
                made.attrs["MATLAB_class"] = np.bytes_("char")
            elif isinstance(value, list) or value.dtype.kind == "U":
                references = []
                for item in value:
                    key = f"c{len(cells)}"
                    put(cells, key, str(item) if isinstance(item, str) else item)
                    references.append(cells[key].ref)
                made = parent.create_dataset(name, data=np.array([references], dtype=h5py.ref_dtype))
                made.attrs["MATLAB_class"] = np.bytes_("cell")
            elif not value.size:
                made = parent.create_dataset(name, data=np.zeros(2, np.uint64))
                made.attrs["MATLAB_class"], made.attrs["MATLAB_empty"] = np.bytes_("double"), 1
            else:
                made = parent.create_dataset(name, data=np.atleast_2d(value).T)
                made.attrs["MATLAB_class"] = np.bytes_("double")

        for name, value in content.items():
            put(file, name, value)
    return path


def assert_is_limblab(recording: Recording, source: dict[str, Any]) -> None:
    assert (recording.session_id, recording.subject_id) == ("spike_20120905", "spike")
    assert recording.unit_ids == ("ee01u0", "ee02u0", "ee10u1", "ee11u2")
    assert recording.unit_columns["electrode"].tolist() == [1, 2, 10, 11]
    assert recording.unit_columns["unit_number"].tolist() == [0, 0, 1, 2]
    assert recording.binned is not None
    assert np.array_equal(recording.binned.values, np.rint(source["spikeratedata"] * BIN_S))
    pos = recording.signals["cursor.pos"]
    assert np.array_equal(pos.values, source["cursorposbin"])
    assert np.allclose(pos.times_s, source["timeframe"], atol=1e-4)
    speed = np.linalg.norm(recording.signals["cursor.vel"].values[1:-1], axis=1)
    assert np.allclose(speed, 8 * 2 * np.pi / 5, rtol=1e-3)
    trials = recording.intervals["trials"]
    assert list(trials) == [(10, 13), (20, 24), (30, 35)]
    assert trials.columns["result"].tolist() == ["R", "F", ""]
    assert np.array_equal(trials.columns["go_cue_time"], [11.001, 21, np.nan], equal_nan=True)
    assert np.array_equal(trials.columns["target_angle"], [90, 315, np.nan], equal_nan=True)
    assert list(recording.intervals["movement_phases.reach_period"]) == [(11.001, 13), (21, 24)]
    assert list(recording.intervals["movement_phases.hold_period"]) == [(10, 11), (20, 21)]


@pytest.mark.parametrize("version", [save, save_73])
@pytest.mark.parametrize("root", ["binnedData", "train_data"])
def test_versions_5_and_73_read_the_same(tmp_path: Path, version: Any, root: str) -> None:
    path = version(tmp_path / "Spike_09-05-12_WF_001.mat", {root: {**limblab(), "stim": np.zeros(0)}})
    assert_is_limblab(read_matlab(path, "limblab-binned"), limblab())


def test_another_layout_of_the_family_and_another_start(tmp_path: Path) -> None:
    source = limblab(start_s=1.0)
    table = np.full((2, 10), -1.0)
    table[:, 0], table[:, 2], table[:, 4], table[:, 7] = [10, 39], [10.1, 39.1], [11, -1], [11.3, np.nan]
    table[:, 8], table[:, 9] = [13, 42], [82, 65]
    source |= {"trialtable": table, "statemethods": np.array(["a", "b"])}
    recording = read_matlab(save(tmp_path / "Nick_CO_001-01.mat", {"binnedData": source}), "limblab-binned")
    assert recording.binned is not None
    assert recording.binned.start_s == recording.signals["cursor.pos"].times_s[0] == 1.0
    trials = recording.intervals["trials"]
    assert trials.columns["result"].tolist() == ["R", "A"]
    assert trials.columns["target_angle"].tolist() == [0.0, 90.0]  # words 66 and 64, clockwise from the top
    assert list(recording.intervals["movement_phases.reach_period"]) == [(11, 13)]


def test_frozen_silent_and_off_scale_time_is_not_in_the_domain(tmp_path: Path) -> None:
    source = limblab(4000)
    source["cursorposbin"][1000:1300] = 1.0  # 15 s
    source["spikeratedata"][2000:2060] = 0.0  # 3 s
    source["cursorposbin"][3000] = 32.0
    findings = Findings()
    path = save(tmp_path / "Spike_09-05-12_WF_001.mat", {"binnedData": source})
    recording = read_matlab(path, "limblab-binned", findings=findings)
    assert np.allclose(list(recording.domain), [(0, 50), (65, 100), (103, 149.5), (150.55, 200)])
    assert [(item.count, round(item.seconds, 2)) for item in findings.dropped] == [
        (300, 15),
        (60, 3),
        (21, 1.05),
    ]
    velocity = recording.signals["cursor.vel"]
    assert np.array_equal(np.isfinite(velocity.values[:, 0]), recording.domain.contains(velocity.times_s))


def test_bins_that_are_missing_nan_or_out_of_order(tmp_path: Path) -> None:
    source = limblab()
    source["spikeratedata"][700:710, 1] = np.nan
    source["spikeratedata"][[499, 540, 699, 710], 0] = 20.0  # so that silence does not reach beyond the gaps
    keep = np.r_[0:500, 540:2000, 300]  # a gap of 2 s, and a row that comes again at the end
    for key in ("timeframe", "spikeratedata", "cursorposbin"):
        source[key] = source[key][keep]
    findings = Findings()
    path = save(tmp_path / "Spike_09-05-12_WF_001.mat", {"binnedData": source})
    recording = read_matlab(path, "limblab-binned", findings=findings)
    assert recording.binned is not None
    assert len(recording.binned) == 2000
    assert np.allclose(list(recording.domain), [(0, 25), (27, 35), (35.5, 100)])
    assert recording.signals["cursor.pos"].values[540].tolist() == limblab()["cursorposbin"][540].tolist()
    assert np.isnan(recording.signals["cursor.pos"].values[500:540]).all()
    assert [str(item) for item in findings.dropped][:2] == [
        "bins whose time does not go forward: 1",
        "bins that are missing or NaN: 50 (2.5 s)",
    ]


def test_a_sampling_rate_that_is_off_is_refused(tmp_path: Path) -> None:
    source = limblab()
    source["timeframe"] = source["timeframe"] * 0.8
    path = save(tmp_path / "a.mat", {"binnedData": source})
    with pytest.raises(
        RecordingError, match=r"(?s)times of the bins do not fit.*steps of 0\.04.*steps of 0\.05"
    ):
        read_matlab(path, "limblab-binned")


def test_a_mapped_field_that_is_missing_says_what_there_is(tmp_path: Path) -> None:
    source = limblab()
    del source["cursorposbin"]
    path = save(tmp_path / "a.mat", {"binnedData": source})
    with pytest.raises(RecordingError, match=r"(?s)missing or empty.*got: timeframe.*wanted: cursorposbin"):
        read_matlab(path, "limblab-binned")
    with pytest.raises(RecordingError, match=r"(?s)no struct it knows.*got: other.*binnedData or train_data"):
        read_matlab(save(tmp_path / "b.mat", {"other": source}), "limblab-binned")
    with pytest.raises(RecordingError, match="another length"):
        read_matlab(
            save(tmp_path / "c.mat", {"binnedData": {**source, "cursorposbin": np.ones((7, 2))}}),
            "limblab-binned",
        )


def test_a_file_with_no_usable_time_is_refused(tmp_path: Path) -> None:
    source = limblab()
    source["cursorposbin"][:] = 0.0
    with pytest.raises(
        RecordingError, match=r"(?s)no time of this recording is usable.*frozen for 10 s: 2000"
    ):
        read_matlab(save(tmp_path / "a.mat", {"binnedData": source}), "limblab-binned")


@pytest.mark.parametrize(
    "content", [b"", b"not a matlab file at all" * 20, b"MATLAB 5.0 MAT-file" + bytes(200)]
)
def test_what_is_no_matlab_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(RecordingError, match="not readable"):
        load_matlab(tmp_path / "a.mat")
    with pytest.raises(RecordingError, match="no such file"):
        load_matlab(tmp_path / "none.mat")


def test_without_scipy_a_version_5_file_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = save(tmp_path / "a.mat", {"a": 1.0}), builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RecordingError, match=r"(?s)needs scipy.*pip install 'possm\[matlab\]'"):
        load_matlab(path)


# ---------------------------------------------------------------- spike times
SPIKE_MAP = {
    "spikes": {"field": "neuron", "times": "t", "scale_s": 0.001},
    "signals": [
        {"name": "rat.pos", "field": ["x", "y"], "times": "time"},
        {"name": "rat.vel", "gradient_of": "rat.pos"},
    ],
}


@pytest.mark.parametrize("version", [save, save_73])
def test_spike_times_in_structs_are_sorted_and_scaled(tmp_path: Path, version: Any) -> None:
    time = np.arange(0, 100, 0.5)
    neurons: Any = [{"t": np.array([2000.0, 1000.0])}, {"t": np.array([1500.0, np.nan, 70000.0])}]
    if version is save:
        neurons = np.array([(n["t"],) for n in neurons], dtype=[("t", object)])
    content = {"neuron": neurons, "time": time, "x": 2 * time, "y": -time}
    mapping, findings = parse_map(SPIKE_MAP, "m"), Findings()
    recording = read_matlab(version(tmp_path / "a.mat", content), mapping, findings=findings)
    assert recording.spikes is not None
    assert recording.spikes.times_s.tolist() == [1.0, 1.5, 2.0, 70.0]
    assert recording.spikes.unit.tolist() == [0, 1, 0, 1]
    assert recording.unit_ids == ("unit_1", "unit_2")
    assert list(recording.domain) == [(0.0, 100.0)]
    assert np.allclose(recording.signals["rat.vel"].values, [2, -1])
    assert [str(item) for item in findings.dropped] == ["spikes whose time is NaN: 1"]


def test_spike_times_in_one_list_with_unit_numbers(tmp_path: Path) -> None:
    mapping = parse_map({"spikes": {"field": "t", "unit": "u"}}, "m")
    path = save(tmp_path / "a.mat", {"t": np.array([0.5, 0.25, 2.0]), "u": np.array([7, 9, 7])})
    recording = read_matlab(path, mapping)
    assert recording.spikes is not None
    assert recording.spikes.times_s.tolist() == [0.25, 0.5, 2.0]
    assert recording.spikes.unit.tolist() == [1, 0, 0]


def test_samples_whose_time_does_not_go_forward_are_dropped(tmp_path: Path) -> None:
    mapping = parse_map(
        {"spikes": {"field": "t"}, "signals": [{"name": "a.x", "field": "x", "times": "time"}]}, "m"
    )
    cells = np.empty(1, object)
    cells[0] = np.array([0.5, 1.5])
    time = np.array([0.0, 1.0, 0.5, np.nan, 1.0, 2.0])
    findings = Findings()
    path = save(tmp_path / "a.mat", {"t": cells, "time": time, "x": np.arange(6.0)})
    signal = read_matlab(path, mapping, findings=findings).signals["a.x"]
    assert signal.times_s.tolist() == [0, 1, 2]
    assert signal.values.ravel().tolist() == [0, 1, 5]
    assert [item.count for item in findings.dropped] == [3]


# ---------------------------------------------------------------- joined reaches
def joined(reaches: int = 60, rows: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """X as in contdata95: positions of reaches end to end, and the backward difference within each."""
    rng = np.random.default_rng(0)
    steps = rng.uniform(-3, 3, (reaches, rows, 2))
    steps[:, 0] = 0.0
    position = np.cumsum(steps, axis=1) + rng.uniform(50, 100, (reaches, 1, 2)) * rng.choice(
        [-1, 1], (reaches, 1, 1)
    )
    return np.concatenate([position, steps / 0.1], axis=2).reshape(-1, 4), rng.poisson(
        1.0, (reaches * rows, 5)
    )


def test_joined_reaches_are_cut_apart_and_stamped_in_their_own_reach(tmp_path: Path) -> None:
    table, counts = joined()
    recording = read_matlab(save(tmp_path / "contdata95.mat", {"X": table, "Y": counts}), "contdata95")
    assert len(recording.domain) == 60
    assert np.allclose(recording.domain.start_s, 2 * np.arange(60))
    times = recording.signals["hand.pos"].times_s
    assert np.allclose(times, 0.1 * np.arange(1, 1201) - BEFORE_END_S, atol=1e-11, rtol=0)
    reach = np.searchsorted(recording.domain.start_s, times, side="right") - 1
    assert np.array_equal(reach, np.repeat(np.arange(60), 20))
    central = recording.signals["hand.central_vel"].values.reshape(60, 20, 2)
    position = table[:, :2].reshape(60, 20, 2)
    assert np.allclose(central[:, 1:-1], (position[:, 2:] - position[:, :-2]) / 0.2)
    assert np.allclose(central[:, 0], (position[:, 1] - position[:, 0]) / 0.1)


# ---------------------------------------------------------------- prepare, inspect
def test_prepare_writes_a_native_file_and_reports(tmp_path: Path) -> None:
    source = limblab(4000)
    source["cursorposbin"][1000:1300] = 1.0
    path = save(tmp_path / "Spike_09-05-12_WF_001.mat", {"binnedData": source})
    report = prepare(path, map_name="limblab-binned", out=tmp_path / "out" / "a.h5")
    assert (report.session_id, report.total_s) == ("spike_20120905", 200.0)
    assert report.kept_s == pytest.approx(185.0)
    assert report.splits_s == pytest.approx({"train": 128.5, "valid": 17.5, "test": 37.0})
    for words in ("dropped 15.0 of 200.0 s", "frozen for 10 s: 300 (15.0 s)", "cursor.pos: 4000 x 2, 20 Hz"):
        assert words in report.text()
    with load_recording(tmp_path / "out" / "a.h5") as recording:
        assert recording.split("test").total_s == pytest.approx(37.0)
        assert recording.attributes["source_file"] == path.name
        assert recording.unit_columns["electrode"].tolist() == [1, 2, 10, 11]


def test_prepare_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mat", {"binnedData": limblab()})
    with pytest.raises(ConfigError, match=r"ends with \.h5"):
        prepare(path, map_name="limblab-binned", out=tmp_path / "a.npz")
    with pytest.raises(ConfigError, match="no such map"):
        prepare(path, map_name="limblab", out=tmp_path / "a.h5")
    with pytest.raises(RecordingError, match=r"\.mat"):
        prepare(tmp_path / "a.csv", map_name="limblab-binned", out=tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


def test_inspect_lists_the_fields_of_a_matlab_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mat", {"binnedData": limblab(), "note": "hello"})
    text = inspect(path)
    assert "binnedData.spikeratedata: float32 (2000, 4)" in text
    assert "note: hello" in text
    assert "limblab-binned: " in text
    assert describe({"neuron": [{"t": np.zeros(3)}] * 2}) == ["neuron: list of 2 of structs with t"]


# ---------------------------------------------------------------- the real files
def test_every_real_recording_can_be_prepared(recordings: Path, tmp_path: Path) -> None:
    wanted = {
        "monkey_*": ("limblab-binned", 21),
        "reach_contdata95": ("contdata95", 1),
        "rat_place_cells": ("place-cells", 1),
    }
    for folder, (map_name, number) in wanted.items():
        paths = sorted(recordings.glob(f"{folder}/*.mat"))
        assert len(paths) == number
        for path in paths:
            report = prepare(path, map_name=map_name, out=tmp_path / "a.h5")
            assert report.kept_s > 360
            with load_recording(tmp_path / "a.h5") as recording:
                assert recording.subject_id


@pytest.mark.parametrize(
    ("file", "dropped_s"), [("07-20", 835.2), ("08-07", 51.4), ("09-12", 270.8), ("09-05", 0.0)]
)
def test_real_faults_are_those_of_the_reference(recordings: Path, file: str, dropped_s: float) -> None:
    path = next(recordings.glob(f"monkey_spike_wrist/Spike_{file}-12_*.mat"))
    recording = read_matlab(path, "limblab-binned")
    assert recording.binned is not None
    start_s, end_s = recording.binned.span_s
    assert end_s - start_s - recording.domain.total_s == pytest.approx(dropped_s, abs=0.06)


def test_the_real_joined_reaches_are_1456(recordings: Path) -> None:
    recording = read_matlab(recordings / "reach_contdata95" / "contdata95.mat", "contdata95")
    assert len(recording.domain) == 1456
    first = np.searchsorted(recording.signals["hand.pos"].times_s, recording.domain.start_s)
    velocity = recording.signals["hand.vel"].values
    assert (velocity[first] == 0).all()
    assert int((velocity == 0).all(axis=1).sum()) == 1456
