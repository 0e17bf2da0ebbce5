"""Files of rasters: every spike of every trial is where it was, and the file's own split is kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from possm.data.formats.mapping import load_map, parse_map
from possm.data.formats.matlab import read_matlab
from possm.data.preparation import prepare
from possm.errors import ConfigError, RecordingError

TRIALS, CLASSES, UNITS, BINS = 12, 8, 5, 700
MAP = {
    "rasters": {
        "train": "train_trial",
        "test": "test_trial",
        "raster": "spikes",
        "number": "trialId",
        "bin_s": 0.001,
        "label": "direction",
    }
}


def rasters(seed=0, trials=TRIALS):
    """part -> (trials, classes) structs; the numbers of all trials are a permutation."""
    rng = np.random.default_rng(seed)
    numbers = iter(100 + rng.permutation(2 * trials * CLASSES))
    made = {}
    for part in ("train_trial", "test_trial"):
        table = np.empty((trials, CLASSES), [("trialId", object), ("spikes", object)])
        for place in np.ndindex(table.shape):
            table[place] = (next(numbers), (rng.random((UNITS, BINS)) < 0.01).astype(np.uint8))
        made[part] = table
    return made


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "ps4_realdata.mat"
        savemat(path, content)
        return path

    return write


def test_every_spike_is_where_it_was(file):
    content = rasters()
    recording = read_matlab(file(content), "reach-delay")
    trials = recording.intervals["trials"]
    assert recording.session_id == "reach_delay_1ms" and recording.num_units == UNITS
    assert (np.diff(trials.columns["number"]) > 0).all()
    np.testing.assert_allclose(np.diff(trials.start_s), 1.0)
    total = 0
    for row, (begin_s, end_s) in enumerate(trials):
        part = "test" if trials.columns["part"][row] == "test" else "train"
        column = content[f"{part}_trial"][:, trials.columns["direction"][row] - 1]
        (raster,) = [trial["spikes"] for trial in column if trial["trialId"] == trials.columns["number"][row]]
        spikes = recording.spikes.slice(begin_s, end_s)
        got = np.zeros((UNITS, BINS), int)
        np.add.at(got, (spikes.unit, np.floor((spikes.times_s - begin_s) * 1000 + 1e-6).astype(int)), 1)
        np.testing.assert_array_equal(got, raster)
        total += len(spikes)
    assert total == len(recording.spikes)


def test_the_split_is_the_file_s_own(file):
    recording = read_matlab(file(rasters()), "reach-delay")
    trials = recording.intervals["trials"]
    part, direction = trials.columns["part"], trials.columns["direction"]
    for name, each in (("train", 10), ("valid", 2), ("test", 12)):
        mine = part == name
        assert np.bincount(direction[mine], minlength=9).tolist() == [0] + [each] * 8
        np.testing.assert_array_equal(recording.split(name).start_s, trials.start_s[mine])
        np.testing.assert_array_equal(recording.split(name).end_s, trials.end_s[mine])


def test_the_windows_of_the_plan(file):
    recording = read_matlab(file(rasters()), "reach-delay")
    start_s = recording.intervals["trials"].start_s
    late, early = (recording.intervals[f"movement_phases.{n}plan_period"] for n in ("", "early_"))
    np.testing.assert_allclose(late.start_s - start_s, 0.35)
    np.testing.assert_allclose(late.end_s - start_s, 0.7)
    np.testing.assert_allclose(early.end_s - start_s, 0.55)
    np.testing.assert_allclose(recording.intervals["trials"].columns["target_on_time"] - start_s, 0.2)


def test_prepare_keeps_the_split(file, tmp_path):
    report = prepare(file(rasters()), map_name="reach-delay", out=tmp_path / "r.h5")
    assert report.splits_s == pytest.approx({"train": 56.0, "valid": 11.2, "test": 67.2})
    assert "192 trials without a clock, put 0.3 s apart" in report.text()


def test_counts_above_one_are_as_many_spikes(file):
    content = rasters()
    content["train_trial"][0, 0]["spikes"][:] = 0
    content["train_trial"][0, 0]["spikes"][2, 10] = 3
    recording = read_matlab(file(content), "reach-delay")
    number = content["train_trial"][0, 0]["trialId"]
    begin_s = recording.intervals["trials"].start_s[
        recording.intervals["trials"].columns["number"] == number
    ][0]
    spikes = recording.spikes.slice(begin_s, begin_s + 0.7)
    assert spikes.unit.tolist() == [2] * 3
    np.testing.assert_allclose(spikes.times_s - begin_s, 0.0105)


def test_what_does_not_fit_is_refused(file):
    content = rasters(trials=2)
    content["test_trial"][1, 3]["spikes"] = np.zeros((UNITS, BINS - 1), np.uint8)
    with pytest.raises(RecordingError, match="trials differ in shape"):
        read_matlab(file(content), "reach-delay")
    with pytest.raises(RecordingError, match="names a field that is missing"):
        read_matlab(file({"train_trial": rasters(trials=2)["train_trial"]}), "reach-delay")
    with pytest.raises(RecordingError, match="lacks a field"):
        broken = {"rasters": {**MAP["rasters"], "raster": "counts"}}
        read_matlab(file(rasters(trials=2)), parse_map(broken, "mine"))
    with pytest.raises(RecordingError, match="table of structs"):
        read_matlab(file({**rasters(trials=2), "train_trial": np.zeros((3, 4))}), "reach-delay")


def test_a_map_of_rasters_has_nothing_else():
    assert load_map("reach-delay").rasters is not None
    with pytest.raises(ConfigError, match="no signals"):
        parse_map({**MAP, "signals": [{"name": "a.b", "field": "c", "times": "t"}]}, "mine")
    with pytest.raises(ConfigError, match="one of"):
        parse_map({**MAP, "bins": {"field": "a", "holds": "counts", "bin_s": 0.1}}, "mine")
