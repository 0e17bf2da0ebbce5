"""Bad input: each is a clear error or a counted warning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from possm.data.formats import load_recording, write_hdf5
from possm.data.quality import check_recording, inspect
from possm.data.recording import Binned, Intervals, Recording, Signal, Spikes
from possm.data.splits import chronological_split
from possm.errors import RecordingError


def good() -> Recording:
    rng = np.random.default_rng(0)
    spikes = Spikes(np.sort(rng.uniform(0, 100, 4000)), rng.integers(0, 4, 4000))
    return Recording(
        session_id="s",
        unit_ids=("a", "b", "c", "d"),
        domain=Intervals.of([(0, 100)]),
        spikes=spikes,
        signals={"cursor.pos": Signal(rng.standard_normal((2000, 2)), rate_hz=20.0, unit="cm")},
    )


def with_spikes(change: str) -> Recording:
    recording = good()
    assert recording.spikes is not None
    times, unit = recording.spikes.times_s.copy(), recording.spikes.unit.copy()
    if change == "swap":
        times[[10, 500]] = times[[500, 10]]
    elif change == "nan":
        times[7] = np.nan
    elif change == "milliseconds":
        times = times * 1e3
    elif change == "1e12":
        times = times + 1e12
    elif change == "nanoseconds":
        times = times * 1e9
    elif change == "negative":
        times[:3] = [-5, -4, -3]
    elif change == "unit":
        unit[3] = 4
    elif change == "minus one":
        unit[3] = -1
    elif change == "none":
        times, unit = times[:0], unit[:0]
    return replace(recording, spikes=Spikes(times, unit))


def with_signal(signal: Signal) -> Recording:
    return replace(good(), signals={"cursor.pos": signal})


def test_a_good_recording_has_no_warnings() -> None:
    assert check_recording(chronological_split(good())) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("swap", r"(?s)not ascending.*got: \d+ steps back"),
        ("nan", r"(?s)NaN or infinite.*got: 1 of 4000"),
        ("milliseconds", r"(?s)not in seconds.*look like milliseconds.*divide them by 1000"),
        ("nanoseconds", r"(?s)not in seconds.*look like nanoseconds"),
        ("1e12", r"(?s)not in seconds.*got: 1e\+12 to"),
        ("unit", r"(?s)not in the unit table.*got: 1 of 4000.*rows 0 to 3"),
        ("minus one", r"(?s)not in the unit table.*got: 1 of 4000"),
        ("none", "not a single spike"),
    ],
)
def test_spikes_that_cannot_be_used(change: str, words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        check_recording(with_spikes(change))


def test_a_file_full_of_wrong_spikes_is_refused_the_same(tmp_path: Path) -> None:
    write_hdf5(with_spikes("unit"), tmp_path / "a.h5")
    with load_recording(tmp_path / "a.h5") as recording, pytest.raises(RecordingError, match="unit table"):
        check_recording(recording)


def test_milliseconds_without_any_behavior_are_found_by_their_span() -> None:
    recording = replace(with_spikes("milliseconds"), signals={})
    assert recording.spikes is not None
    day_ms = replace(recording, spikes=Spikes(recording.spikes.times_s * 864, recording.spikes.unit))
    with pytest.raises(RecordingError, match="not in seconds"):
        check_recording(day_ms)


def test_a_long_recording_with_little_behavior_is_no_error() -> None:
    short = Signal(np.random.default_rng(0).standard_normal((3, 1)), start_s=50.0, rate_hz=20.0)
    assert check_recording(with_signal(short)) == ["cursor.pos is 99.9 s shorter than the neural recording"]


def test_spikes_before_zero_are_counted() -> None:
    assert check_recording(with_spikes("negative")) == ["3 spikes before time 0"]


def test_units_that_hardly_fire_are_counted() -> None:
    recording = good()
    assert recording.spikes is not None
    unit = np.where(recording.spikes.unit == 3, 2, recording.spikes.unit)
    unit[5] = 3
    two_quiet = replace(
        recording, spikes=Spikes(recording.spikes.times_s, unit), unit_ids=("a", "b", "c", "d", "e")
    )
    assert check_recording(two_quiet) == ["of 5 units 1 never fire and 1 fire below 0.5 Hz (kept)"]


@pytest.mark.parametrize(("value", "words"), [(np.nan, "1 NaN or infinite, 0 neg"), (-1.0, "0 NaN.*1 neg")])
def test_impossible_counts(value: float, words: str) -> None:
    counts = np.ones((100, 2))
    counts[3, 1] = value
    recording = Recording("s", ("a", "b"), Intervals.of([(0, 5)]), binned=Binned(counts, 0.0, 20.0))
    with pytest.raises(RecordingError, match=f"(?s)impossible.*{words}"):
        check_recording(recording)


def test_bins_without_a_spike() -> None:
    binned = Binned(np.zeros((100, 2)), 0.0, 20.0)
    with pytest.raises(RecordingError, match="not a single spike in the bins"):
        check_recording(Recording("s", ("a", "b"), Intervals.of([(0, 5)]), binned=binned))


def test_synchronous_bins_are_a_counted_warning() -> None:
    counts = np.zeros((100, 20))
    counts[np.arange(100), np.arange(100) % 20] = 1
    counts[50:53] = 1
    recording = Recording(
        "s", tuple(map(str, range(20))), Intervals.of([(0, 5)]), binned=Binned(counts, 0.0, 20.0)
    )
    assert any(line.startswith("3 bins with over 80% of units active") for line in check_recording(recording))


def test_behavior_shorter_than_the_spikes() -> None:
    signal = Signal(np.random.default_rng(0).standard_normal((1599, 2)), start_s=10.0, rate_hz=20.0)
    assert check_recording(with_signal(signal)) == ["cursor.pos is 20.1 s shorter than the neural recording"]


def test_behavior_with_gaps() -> None:
    times = np.arange(2000) / 20
    keep = (times < 30) | (times >= 40)
    values = np.random.default_rng(0).standard_normal((2000, 2))
    values[100:120, 1] = np.nan
    gappy = Signal(values[keep], timestamps_s=times[keep])
    assert check_recording(with_signal(gappy)) == [
        "cursor.pos: 20 of 1800 samples in the domain are NaN",
        "cursor.pos has 1 gaps, 10.1 s in all",
    ]


def test_behavior_that_was_never_measured_in_the_domain() -> None:
    signal = Signal(np.full((2000, 2), np.nan), rate_hz=20.0)
    assert "cursor.pos has no measured sample in the domain" in check_recording(with_signal(signal))
    assert "cursor.pos has no samples" in check_recording(with_signal(Signal(np.ones((0, 2)), rate_hz=20.0)))


def test_constant_behavior() -> None:
    values = np.random.default_rng(0).standard_normal((2000, 3))
    values[:, 1] = 2.0
    assert check_recording(with_signal(Signal(values, rate_hz=20.0))) == [
        "cursor.pos: 1 of 3 dimensions never change (1)"
    ]


def test_times_of_behavior_that_run_back_or_repeat() -> None:
    times = np.arange(2000) / 20
    values = np.random.default_rng(0).standard_normal((2000, 1))
    doubled = times.copy()
    doubled[100] = doubled[99]
    assert check_recording(with_signal(Signal(values, timestamps_s=doubled))) == [
        "cursor.pos has 1 samples at the time of the one before"
    ]
    for wrong in (times[::-1].copy(), np.where(np.arange(2000) == 5, np.nan, times)):
        with pytest.raises(RecordingError, match="times of 'cursor.pos' are not ascending"):
            check_recording(with_signal(Signal(values, timestamps_s=wrong)))


def test_splits_that_overlap() -> None:
    split = chronological_split(good())
    wider = Intervals.of([(0, 72.5)])
    overlapping = replace(split, intervals={**split.intervals, "train_domain": wider})
    with pytest.raises(RecordingError, match=r"(?s)train and valid overlap.*2\.5 s in both"):
        check_recording(overlapping)


def test_splits_outside_the_domain_are_counted() -> None:
    split = chronological_split(good())
    beyond = replace(split, intervals={**split.intervals, "test_domain": Intervals.of([(90, 105)])})
    assert check_recording(beyond) == ["5.0 s of test lie outside the domain"]


def test_no_behavior_no_domain_and_units_twice() -> None:
    assert check_recording(replace(good(), signals={})) == ["no behavior: nothing to decode"]
    with pytest.raises(RecordingError, match="domain is empty"):
        check_recording(replace(good(), domain=Intervals.of([])))
    with pytest.raises(RecordingError, match=r"(?s)unit ids repeat.*got: a"):
        check_recording(replace(good(), unit_ids=("a", "a", "c", "d")))


def test_inspect_says_what_is_there_and_what_is_wrong(tmp_path: Path) -> None:
    write_hdf5(replace(chronological_split(good()), path=tmp_path / "a.h5"), tmp_path / "a.h5")
    text = inspect(tmp_path / "a.h5")
    for words in (
        "session s, subject not stated",
        "domain 100.0 s",
        "4 units, 4000 spikes, 10.0 Hz on average",
        "cursor.pos: 2000 x 2, 20 Hz, cm",
        "splits train 69.0 s, valid 9.0 s, test 20.0 s",
    ):
        assert words in text
    assert "PROBLEM" not in text
    write_hdf5(with_spikes("unit"), tmp_path / "b.h5")
    assert "PROBLEM" in inspect(tmp_path / "b.h5")
