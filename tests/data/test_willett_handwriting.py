"""The reader of the handwriting release, on files of its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_releases import cell, save
from possm.data.faults import Findings
from possm.data.formats import load_recording
from possm.data.formats.willett_handwriting import HandwritingRelease, handwriting_sessions, read_handwriting
from possm.data.preparation import prepare_release
from possm.data.summary import inspect
from possm.errors import ConfigError, RecordingError

CUES = ["a", "doNothing", "comma"] * 10
EVERY, FIRST = 250, 100  # bins from one go cue to the next, and before the first


def fields(base: int = 1, **changes: Any) -> dict[str, Any]:
    """A session of 30 trials in two blocks of 15, on 12 channels; bins are counted from `base`."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (FIRST + 30 * EVERY, 12)).astype(np.uint8)
    go = FIRST + EVERY * np.arange(30)  # as Python counts
    made: dict[str, Any] = {
        "neuralActivityTimeSeries": counts,
        "clockTimeSeries": np.arange(len(counts))[:, None] * 0.01,
        "blockNumsTimeSeries": np.repeat([3, 7], [FIRST + 15 * EVERY - 100, 15 * EVERY + 100])[:, None],
        "blockList": np.array([[3], [7]]),
        "goPeriodOnsetTimeBin": (go + base)[:, None],
        "delayPeriodOnsetTimeBin": (go - 90 + base)[:, None],
        "characterCues": cell(list(CUES), column=True),
        "meansPerBlock": np.ones((2, 12)),
        "stdAcrossAllData": np.ones((1, 12)),
    }
    for name in set(CUES):
        rows = [k for k in range(30) if CUES[k] == name]
        made[f"neuralActivityCube_{name}"] = np.array([counts[go[k] - 50 : go[k] + 151] for k in rows])
    return {**made, **changes}


def write(folder: Path, session: str = "t5.2019.05.08", version: str = "5", **changes: Any) -> Path:
    made = fields(**changes)
    kept = {name: part for name, part in made.items() if part is not None}
    return save(folder / "Datasets" / session / "singleLetters.mat", kept, version)


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("base", [0, 1])
def test_a_session_reads_back_as_it_was_written(tmp_path, version, base):
    recording = read_handwriting(write(tmp_path, version=version, base=base))
    truth = fields()
    np.testing.assert_array_equal(recording.binned.values, truth["neuralActivityTimeSeries"])
    assert recording.binned.rate_hz == 100.0
    assert (recording.session_id, recording.subject_id) == ("t5.2019.05.08", "t5")
    assert recording.attributes["session.recording_date"] == "2019-05-08"
    trials = recording.intervals["trials"]
    assert trials.columns["cue"].tolist() == CUES
    assert trials.columns["character"].tolist() == ["a", "", "comma"] * 10
    np.testing.assert_allclose(trials.columns["go_cue_time"], (FIRST + EVERY * np.arange(30)) / 100)
    np.testing.assert_allclose(trials.columns["cue_time"], trials.columns["go_cue_time"] - 0.9)
    np.testing.assert_allclose(trials.start_s, trials.columns["go_cue_time"] - 0.8)
    np.testing.assert_allclose(trials.end_s, trials.columns["go_cue_time"] + 0.8)
    assert trials.columns["block"].tolist() == [3] * 15 + [7] * 15
    assert list(recording.domain) == [(0.0, 37.5), (37.5, 76.0)]
    assert recording.intervals["blocks"].columns["number"].tolist() == [3, 7]


def test_a_trial_is_the_activity_around_its_go_cue(tmp_path):
    made = fields()
    recording = read_handwriting(write(tmp_path), HandwritingRelease(before_s=0.5, after_s=1.51))
    trials = recording.intervals["trials"]
    third_comma = np.flatnonzero(trials.columns["character"] == "comma")[2]
    part = recording.binned.slice(trials.start_s[third_comma], trials.end_s[third_comma])
    np.testing.assert_array_equal(part.values, made["neuralActivityCube_comma"][2])


def test_splits_are_by_the_number_of_the_trial_of_a_character(tmp_path):
    recording = read_handwriting(write(tmp_path))
    trials = recording.intervals["trials"]
    of = {
        part: np.flatnonzero(np.isin(trials.start_s, recording.split(part).start_s))
        for part in ("valid", "test")
    }
    assert of["valid"].tolist() == [6, 8] and of["test"].tolist() == [15, 17]  # the 3rd and 6th a and comma
    assert len(recording.split("train")) == 16  # nothing of doNothing


def test_without_cubes_bins_count_from_one(tmp_path):
    none = {f"neuralActivityCube_{name}": None for name in set(CUES)}
    findings = Findings()
    recording = read_handwriting(write(tmp_path, base=1, **none), findings=findings)
    assert recording.intervals["trials"].columns["go_cue_time"][0] == pytest.approx(1.0)
    assert "bins are taken to count from 1" in findings.noticed[0]


def test_silence_of_all_channels_is_left_out_and_counted(tmp_path):
    counts = fields()["neuralActivityTimeSeries"].copy()
    counts[FIRST + 2 * EVERY : FIRST + 2 * EVERY + 30] = 0  # in the third trial, a comma
    counts[FIRST + 5 * EVERY] = 0  # a single bin is no fault
    findings = Findings()
    recording = read_handwriting(write(tmp_path, neuralActivityTimeSeries=counts), findings=findings)
    assert {item.what.split(" ")[0]: item.count for item in findings.dropped} == {"bins": 30, "trials": 1}
    assert recording.domain.total_s == pytest.approx(76.0 - 0.3)
    used = np.concatenate([recording.split(part).start_s for part in ("train", "valid", "test")])
    assert recording.intervals["trials"].start_s[2] not in used


def test_trials_over_the_end_of_a_block_are_counted(tmp_path):
    blocks = np.repeat([1, 2], [FIRST + 3 * EVERY + 40, 27 * EVERY - 40])[:, None]  # 0.4 s after a go cue
    findings = Findings()
    recording = read_handwriting(write(tmp_path, blockNumsTimeSeries=blocks), findings=findings)
    assert len(recording.intervals["trials"]) == 29
    assert [str(item) for item in findings.dropped] == ["trials that reach over the end of a block: 1"]


def test_trials_without_cue_or_time_are_counted(tmp_path):
    go = fields()["goPeriodOnsetTimeBin"].astype(float)
    go[4] = np.nan
    cues = cell([*CUES[:-1], ""], column=True)
    findings = Findings()
    read_handwriting(write(tmp_path, goPeriodOnsetTimeBin=go, characterCues=cues), findings=findings)
    assert [str(item) for item in findings.dropped] == ["trials without a cue or a go time: 2"]


def test_bad_files_are_named(tmp_path):
    def says(match: str, **changes: Any) -> None:
        with pytest.raises(RecordingError, match=match):
            read_handwriting(write(tmp_path, **changes))

    says(r"(?s)singleLetters.mat.*got: .*blockList.*wanted: characterCues", characterCues=None)
    says("neuralActivityTimeSeries", neuralActivityTimeSeries=None)
    says("30 characterCues, 29 goPeriodOnsetTimeBin", goPeriodOnsetTimeBin=np.arange(29)[:, None])
    says("do not fit each other", blockNumsTimeSeries=np.ones((10, 1)))
    says("negative", neuralActivityTimeSeries=-np.ones((7600, 12)))
    says("none of a character", characterCues=cell(["doNothing"] * 30, column=True))
    says("wanted: goPeriodOnsetTimeBin", goPeriodOnsetTimeBin=np.zeros((0, 1)))
    with pytest.raises(RecordingError, match="no such file"):
        read_handwriting(tmp_path / "absent.mat")
    with pytest.raises(RecordingError, match="no handwriting session"):
        handwriting_sessions(tmp_path / "Datasets" / "x")
    with pytest.raises(ConfigError, match="after_s"):
        HandwritingRelease(after_s=0.0)


def test_preparing_the_folder_of_all_sessions(tmp_path):
    for day in ("t5.2019.05.08", "t5.2020.01.06"):
        write(tmp_path, day)
    out = tmp_path / "out"
    reports = list(prepare_release(tmp_path, release="willett-handwriting", out=out))
    assert [report.out.name for report in reports] == ["t5.2019.05.08.h5", "t5.2020.01.06.h5"]
    assert reports[0].splits_s == pytest.approx({"train": 16 * 1.6, "valid": 3.2, "test": 3.2})
    assert "willett-speech" in inspect(tmp_path / "Datasets" / "t5.2019.05.08" / "singleLetters.mat")
    assert "(willett-handwriting)" in reports[0].text() and "no behavior" not in reports[0].text()
    with load_recording(reports[1].out) as recording:
        assert recording.intervals["trials"].columns["cue"].tolist() == CUES
        assert len(recording.split("train")) == 16
