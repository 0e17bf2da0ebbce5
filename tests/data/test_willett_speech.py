"""The reader of the speech release, on files of its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_releases import cell, save
from possm.data.faults import Findings
from possm.data.formats import load_recording
from possm.data.formats.willett_speech import SpeechRelease, read_speech, speech_sessions
from possm.data.preparation import prepare_release
from possm.errors import ConfigError, RecordingError

DAY = "t12.2022.04.28"
TEXTS = {
    "train": ["Hi me.", "You and me?", "it's the boy!", "No.", "so it is"],
    "test": ["the zoo", "hi"],
    "competitionHoldOut": ["", "", ""],
}
BLOCKS = {"train": [4, 3, 3, 5, 5], "test": [6, 6], "competitionHoldOut": [1, 2, 2]}
LENGTHS = {"train": [30, 40, 25, 1, 35], "test": [20, 20], "competitionHoldOut": [10, 10, 10]}


def fields(partition: str, channels: int = 256) -> dict[str, Any]:
    rng = np.random.default_rng(sorted(TEXTS).index(partition))
    counts = [rng.poisson(0.5, (bins, channels)).astype(np.uint8) for bins in LENGTHS[partition]]
    power = [rng.gamma(2.0, 10.0, (bins, channels)) for bins in LENGTHS[partition]]
    return {
        "tx1": cell(counts, column=False),
        "tx2": cell([np.minimum(one, 1) for one in counts], column=False),
        "spikePow": cell(power, column=False),
        "sentenceText": list(TEXTS[partition]),
        "blockIdx": np.array(BLOCKS[partition])[:, None],
    }


def write(root: Path, version: str = "5", partition: str = "train", day: str = DAY, **changes: Any) -> Path:
    """The three files of a session; `changes` are of one of them. Returns the path of that one."""
    for name in TEXTS:
        made = {**fields(name), **(changes if name == partition else {})}
        kept = {key: part for key, part in made.items() if part is not None}
        save(root / "competitionData" / name / f"{day}.mat", kept, version)
    return root / "competitionData" / partition / f"{day}.mat"


@pytest.fixture
def lexicon(tmp_path) -> SpeechRelease:
    words = "hi HH AY1\nme M IY1\nyou Y UW1\nand AH0 N D\nand(2) AE1 N D\nit IH1 T\nthe DH AH0\nboy B OY1\n"
    words += "no N OW1  # comment\nso S OW1\nis IH1 Z\n;;; a comment\nzoo Z UW1\n"
    (tmp_path / "words.dict").write_text(words)
    return SpeechRelease(lexicon=str(tmp_path / "words.dict"))


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_a_session_reads_back_as_it_was_written(tmp_path, version, lexicon):
    findings = Findings()
    recording = read_speech(write(tmp_path, version), lexicon, findings=findings)
    assert (recording.session_id, recording.subject_id, recording.num_units) == (DAY, "t12", 256)
    assert recording.binned.rate_hz == 50.0 and recording.attributes["session.recording_date"] == "2022-04-28"
    trials = recording.intervals["trials"]
    assert trials.columns["block"].tolist() == [1, 2, 2, 3, 3, 4, 5, 5, 6, 6]
    order = [("competitionHoldOut", k) for k in range(3)]
    order += [("train", k) for k in (1, 2, 0, 3, 4)] + [("test", 0), ("test", 1)]
    for row, (partition, k) in enumerate(order):
        made, piece = fields(partition), (trials.start_s[row], trials.end_s[row])
        np.testing.assert_array_equal(recording.binned.slice(*piece).values, made["tx1"][0, k])
        power = recording.features["power"].slice(*piece).values
        np.testing.assert_allclose(power, made["spikePow"][0, k], rtol=1e-6)
        assert trials.columns["text"][row] == TEXTS[partition][k]
        assert trials.columns["partition"][row] == partition
    assert list(recording.domain) == list(trials) and not findings.dropped


def test_phonemes_and_splits(tmp_path, lexicon):
    recording = read_speech(write(tmp_path), lexicon)
    trials = recording.intervals["trials"]
    assert trials.columns["phonemes"].tolist() == [
        "",
        "",
        "",
        "Y UW SIL AH N D SIL M IY SIL",
        "IH T S SIL DH AH SIL B OY SIL",
        "HH AY SIL M IY SIL",
        "N OW SIL",
        "S OW SIL IH T SIL IH Z SIL",
        "DH AH SIL Z UW SIL",
        "HH AY SIL",
    ]
    rows = {
        part: np.flatnonzero(np.isin(trials.start_s, recording.split(part).start_s)).tolist()
        for part in ("train", "valid", "test")
    }
    assert rows == {"train": [3, 4, 5], "valid": [6, 7], "test": [8, 9]}  # valid: the last block of train


def test_areas_and_arrays(tmp_path, lexicon):
    columns = read_speech(write(tmp_path), lexicon).unit_columns
    assert columns["area"].tolist() == ["6v"] * 128 + ["44"] * 128
    # corners of the map in the readme of the release
    places = {62: "6v superior", 64: "6v superior", 125: "6v inferior", 0: "6v inferior"}
    places |= {192: "44 superior", 190: "44 superior", 129: "44 inferior", 253: "44 inferior"}
    assert {channel: columns["array"][channel] for channel in places} == places
    assert all((columns["array"] == name).sum() == 64 for name in set(places.values()))
    part = read_speech(write(tmp_path), SpeechRelease(area="6v", lexicon=lexicon.lexicon))
    assert part.num_units == 128 and part.features["power"].values.shape[1] == 128


def test_another_threshold(tmp_path, lexicon):
    recording = read_speech(write(tmp_path), SpeechRelease(threshold="tx2", lexicon=lexicon.lexicon))
    assert recording.binned.values.max() == 1 and recording.attributes["source_field"] == "tx2"


def test_unknown_words_and_empty_texts_are_counted(tmp_path, lexicon):
    findings = Findings()
    texts = ["", "zebra zebra and me", "hi", "?!", "hi"]
    recording = read_speech(write(tmp_path, sentenceText=texts), lexicon, findings=findings)
    assert [item.count for item in findings.dropped] == [3] and "unknown words" in findings.dropped[0].what
    assert findings.noticed == ["1 words are not in the lexicon: zebra"]
    used = sum(len(recording.split(part)) for part in ("train", "valid", "test"))
    assert used == 2 + 2


def test_without_a_lexicon_the_text_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("possm.data.formats.willett_speech.find_spec", lambda name: None)
    findings = Findings()
    recording = read_speech(write(tmp_path), findings=findings)
    assert "possm[speech]" in findings.noticed[0]
    assert set(recording.intervals["trials"].columns["phonemes"].tolist()) == {""}
    assert len(recording.split("train")) == 3


def test_sentences_without_a_bin_are_counted(tmp_path, lexicon):
    counts, power = (fields("train")[name].copy() for name in ("tx1", "spikePow"))
    counts[0, 1], power[0, 1] = counts[0, 1][:0], power[0, 1][:0]
    power[0, 2] = power[0, 2][:-1]
    findings = Findings()
    recording = read_speech(write(tmp_path, tx1=counts, spikePow=power), lexicon, findings=findings)
    assert [str(item) for item in findings.dropped] == [
        "sentences without a bin: 1",
        "sentences whose power and counts differ in length: 1",
    ]
    assert len(recording.intervals["trials"]) == 8


def test_missing_power(tmp_path, lexicon):
    findings = Findings()
    recording = read_speech(write(tmp_path, spikePow=None), lexicon, findings=findings)
    assert [str(item) for item in findings.dropped] == ["sentences (kept) without spike-band power: 5"]
    trials, power = recording.intervals["trials"], recording.features["power"]
    assert np.isnan(power.slice(trials.start_s[4], trials.end_s[4]).values).all()
    assert np.isfinite(power.slice(trials.start_s[0], trials.end_s[0]).values).all()

    narrow = {
        name: cell([one[:, :128] for one in fields(name)["spikePow"][0]], column=False) for name in TEXTS
    }
    for name in TEXTS:
        save(tmp_path / "narrow" / name / f"{DAY}.mat", {**fields(name), "spikePow": narrow[name]})
    findings = Findings()
    recording = read_speech(tmp_path / "narrow" / "train" / f"{DAY}.mat", lexicon, findings=findings)
    assert [str(item) for item in findings.dropped] == ["channels (kept) without spike-band power: 128"]
    assert np.isnan(recording.features["power"].values[:, 128:]).all()

    none = {name: {**fields(name)} for name in TEXTS}
    for name, made in none.items():
        del made["spikePow"]
        save(tmp_path / "none" / name / f"{DAY}.mat", made)
    findings = Findings()
    recording = read_speech(tmp_path / "none" / "train" / f"{DAY}.mat", lexicon, findings=findings)
    assert not recording.features and findings.noticed == ["no spike-band power (spikePow): counts only"]


def test_silence_of_all_channels_is_left_out_and_counted(tmp_path, lexicon):
    counts = fields("train")["tx1"].copy()
    counts[0, 4] = counts[0, 4].copy()
    counts[0, 4][10:20] = 0
    findings = Findings()
    recording = read_speech(write(tmp_path, tx1=counts), lexicon, findings=findings)
    assert [item.count for item in findings.dropped] == [10, 1]
    assert findings.dropped[0].seconds == pytest.approx(0.2)
    assert sum(len(recording.split(part)) for part in ("train", "valid")) == 4


def test_channels_that_change_are_refused(tmp_path, lexicon):
    counts = fields("train")["tx1"].copy()
    counts[0, 2] = counts[0, 2][:, :200]
    with pytest.raises(RecordingError, match=r"(?s)tx1.*channels changes.*\(25, 200\) in trial 2.*256"):
        read_speech(write(tmp_path, tx1=counts), lexicon)
    with pytest.raises(RecordingError, match="between partitions"):
        read_speech(write(tmp_path, partition="test", **fields("test", channels=128)), lexicon)


def test_bad_files_are_named(tmp_path, lexicon):
    def says(match: str, **changes: Any) -> None:
        with pytest.raises(RecordingError, match=match):
            read_speech(write(tmp_path, **changes), lexicon)

    says(r"(?s)train.*got: tx2, spikePow.*wanted: tx1", tx1=None)
    says("wanted: sentenceText", sentenceText=None)
    says("wanted: blockIdx", blockIdx=None)
    says("(?s)sentenceText 4.*wanted: 5", sentenceText=TEXTS["train"][:4])
    negative = cell([-np.ones((bins, 256)) for bins in LENGTHS["train"]], column=False)
    says("negative", tx1=negative)
    empty = cell([np.zeros((0, 256))] * 5, column=False)
    for name in TEXTS:
        few = {
            key: part[:, :5] if part.ndim == 2 else part
            for key, part in {"tx1": empty, "spikePow": empty}.items()
        }
        number = len(TEXTS[name])
        few = {key: part[:, :number] for key, part in few.items()}
        save(tmp_path / "empty" / name / f"{DAY}.mat", {**fields(name), **few})
    with pytest.raises(RecordingError, match="wanted: tx1|no usable sentence"):
        read_speech(tmp_path / "empty" / "train" / f"{DAY}.mat", lexicon)
    with pytest.raises(RecordingError, match="no speech session"):
        speech_sessions(tmp_path / "nowhere" / "deep")
    with pytest.raises(ConfigError, match="no such lexicon"):
        read_speech(write(tmp_path), SpeechRelease(lexicon="nowhere.dict"))


def test_a_held_out_partition_may_lack_its_texts_or_be_missing(tmp_path, lexicon):
    path = write(tmp_path, partition="competitionHoldOut", sentenceText=None)
    assert len(read_speech(path, lexicon).intervals["trials"]) == 10
    path.unlink()
    findings = Findings()
    recording = read_speech(tmp_path / "competitionData" / "train" / f"{DAY}.mat", lexicon, findings=findings)
    assert len(recording.intervals["trials"]) == 7
    assert findings.noticed == ["no file for the partition competitionHoldOut"]


def test_train_sentences_of_a_single_block_give_a_tenth_to_valid(tmp_path, lexicon):
    recording = read_speech(write(tmp_path, blockIdx=np.full((5, 1), 3)), lexicon)
    assert [len(recording.split(part)) for part in ("train", "valid", "test")] == [4, 1, 2]


def test_preparing_the_folder_of_all_sessions(tmp_path, lexicon):
    for day in (DAY, "t12.2022.05.05"):
        write(tmp_path, day=day)
    reports = list(prepare_release(tmp_path, release="willett-speech", out=tmp_path / "out", config=lexicon))
    assert [report.out.name for report in reports] == [f"{DAY}.h5", "t12.2022.05.05.h5"]
    with load_recording(reports[0].out) as recording:
        assert recording.intervals["trials"].columns["phonemes"][-1] == "HH AY SIL"
        assert recording.features["power"].values.shape == recording.binned.values.shape
        assert len(recording.split("test")) == 2
    with pytest.raises(ConfigError, match="willett-speech"):
        next(prepare_release(tmp_path, release="falcon", out=tmp_path))
