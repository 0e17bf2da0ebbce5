"""Simulated handwriting against its ground truth."""

from dataclasses import replace

import numpy as np
import pytest

from possm.data.checks import check_recording
from possm.data.formats.hdf5 import read_hdf5, write_hdf5
from possm.data.handwriting import (
    HandwritingConfig,
    simulate_handwriting,
    simulate_handwriting_dataset,
    simulated_channels,
    simulated_writing,
)
from possm.data.intervals import Intervals
from possm.data.letters import CHARACTERS, STROKES, WritingStyle, write_letter
from possm.data.recording import Recording
from possm.data.trial_splits import with_splits
from possm.errors import ConfigError

SMALL = HandwritingConfig(trials_per_character=5, characters=("a", "l", "m", "comma"), num_units=40)
STILL = WritingStyle(size_spread=0, speed_spread=0, reaction_spread=0, slant_deg=0, wobble=0)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return simulate_handwriting(SMALL, subject=1, session=2, seed=3)


def accuracy(recording: Recording, other: Recording | None = None, bins: int = 10) -> float:
    """Nearest class average of the counts of each trial: averages of the train part, scored on the rest.

    With `other`, all its trials are scored by the averages of `recording`.
    """

    def read(one: Recording) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert one.binned is not None
        trials, counts = one.intervals["trials"], []
        for start, end in trials:
            part = one.binned.slice(start, end).values[:160]
            counts.append(part.reshape(-1, bins, one.num_units).sum(axis=1).ravel())
        train = np.isin(trials.start_s, one.split("train").start_s)
        return np.sqrt(np.array(counts)), trials.columns["character"], train

    counts, labels, train = read(recording)
    names = np.unique(labels)
    averages = np.array([counts[train & (labels == name)].mean(axis=0) for name in names])
    asked, truth = (counts[~train], labels[~train]) if other is None else read(other)[:2]
    distance = ((asked[:, None] - averages) ** 2).sum(axis=2)
    return float((names[distance.argmin(axis=1)] == truth).mean())


def test_what_is_in_a_session(recording):
    assert recording.session_id == "handwriting-s01-d02" and recording.num_units == 40
    trials = recording.intervals["trials"]
    assert len(trials) == 20 and np.allclose(trials.end_s - trials.start_s, 1.6)
    assert np.allclose(trials.columns["go_cue_time"], (trials.start_s + trials.end_s) / 2)
    assert sorted(trials.columns["character"]) == sorted(SMALL.characters * 5)
    assert set(trials.columns["block"]) == {0, 1}
    assert recording.binned.rate_hz == 100.0 and recording.domain.end_s[0] > trials.end_s[-1]
    assert check_recording(recording) == []


def test_splits_are_stratified_whole_trials(recording):
    trials = recording.intervals["trials"]
    for part, number in {"train": 3, "valid": 1, "test": 1}.items():
        picked = np.isin(trials.start_s, recording.split(part).start_s)
        assert sorted(trials.columns["character"][picked]) == sorted(SMALL.characters * number)


def test_the_same_numbers_give_the_same_session(recording):
    again = simulate_handwriting(SMALL, subject=1, session=2, seed=3)
    np.testing.assert_array_equal(again.binned.values, recording.binned.values)
    for numbers in ({"subject": 2, "session": 2}, {"subject": 1, "session": 1}, {"seed": 4}):
        other = simulate_handwriting(SMALL, **{"seed": 3, **numbers})
        size = min(len(other.binned), len(recording.binned))
        assert (other.binned.values[:size] != recording.binned.values[:size]).any()


def test_the_order_of_trials_does_not_depend_on_the_channels(recording):
    other = simulated_writing(replace(SMALL, num_units=3), subject=1, session=2, seed=3)
    np.testing.assert_array_equal(
        other.trials.columns["character"], recording.intervals["trials"].columns["character"]
    )


def test_counts_have_the_rates_of_the_truth(recording):
    truth = simulated_channels(SMALL, subject=1, session=2, seed=3)
    seconds = len(recording.binned) / 100.0
    counted = recording.binned.values.sum(axis=0)
    expected = truth.mean_rate_hz * seconds
    assert np.abs(counted - expected).max() < 5 * np.sqrt(expected).max()
    np.testing.assert_allclose(counted.sum(), expected.sum(), rtol=0.02)
    assert recording.binned.values.min() == 0 and recording.binned.values.dtype == np.int16


def test_characters_can_be_told_apart_only_when_channels_are_tuned():
    config = HandwritingConfig(trials_per_character=8)
    assert accuracy(simulate_handwriting(config)) > 0.5  # of 31
    assert accuracy(simulate_handwriting(replace(config, tuning=0.0))) < 0.15


def test_a_plan_is_known_from_the_cue_on():
    config = replace(SMALL, trials_per_character=40, num_units=192, characters=("l", "z"))
    recording = simulate_handwriting(config)
    trials = recording.intervals["trials"]

    def accuracy_around(time_s: np.ndarray) -> float:
        window = Intervals(time_s, time_s + 0.3, trials.columns)
        return accuracy(with_splits(replace(recording, intervals={"trials": window}), window, part), bins=30)

    part = np.where(np.isin(trials.start_s, recording.split("train").start_s), "train", "test")
    before = accuracy_around(trials.columns["cue_time"] - 0.3)
    delay = accuracy_around(trials.columns["go_cue_time"] - 0.3)
    assert 0.2 < before < 0.8 < 0.9 < delay


def test_days_drift():
    config = HandwritingConfig(trials_per_character=6, num_units=96, characters=CHARACTERS[:10])
    first, next_day, later = (simulate_handwriting(config, session=day) for day in (0, 1, 20))
    near, far = accuracy(first, next_day), accuracy(first, later)
    assert near > far + 0.2
    still = simulated_channels(config, session=20).neuron == simulated_channels(config, session=0).neuron
    assert 0.2 < still.mean() < 0.6  # 0.95 ** 20 = 0.36


def test_a_session_survives_its_file(recording, tmp_path):
    write_hdf5(recording, tmp_path / "a.h5")
    again = read_hdf5(tmp_path / "a.h5", lazy=False)
    np.testing.assert_array_equal(again.binned.values, recording.binned.values)
    one, two = again.intervals["trials"], recording.intervals["trials"]
    assert one.columns["character"].tolist() == two.columns["character"].tolist()
    assert list(again.split("test")) == list(recording.split("test"))


def test_sessions_are_divided_over_subjects():
    config = replace(SMALL, trials_per_character=3, num_units=2)
    made = simulate_handwriting_dataset(config, num_subjects=2, num_sessions=3)
    names = ["handwriting-s00-d00", "handwriting-s00-d01", "handwriting-s01-d00"]
    assert [recording.session_id for recording in made] == names


# --- letters


def test_there_are_31_different_characters():
    assert len(CHARACTERS) == 31 and CHARACTERS[:3] == ("a", "b", "c") and CHARACTERS[26] == "greaterThan"
    assert len(set(STROKES.values())) == 31


def test_a_letter_leads_where_its_strokes_lead():
    moves, end_s = write_letter("t", 2.0, style=STILL, rng=np.random.default_rng(0))
    assert [move[0] for move in moves][0] == 2.0 and end_s == moves[-1][0] + moves[-1][1]
    np.testing.assert_allclose(np.sum([m[2] for m in moves], axis=0), 4.0 * np.array([0.4, -0.5]))
    # the second stroke begins when 30 % of the first are left
    np.testing.assert_allclose(moves[1][0], 2.0 + 0.7 * 0.2 * np.sqrt(1.7))


def test_trials_differ_in_speed_and_size():
    rng = np.random.default_rng(0)
    letters = [write_letter("z", 0.0, style=WritingStyle(), rng=rng) for _ in range(300)]
    times = np.log([end for _, end in letters])
    sizes = np.log([np.hypot(*moves[1][2]) for moves, _ in letters])
    assert times.std() == pytest.approx(0.15, rel=0.15)
    assert sizes.std() == pytest.approx(np.hypot(0.15, 0.08 / np.hypot(0.8, 1.0)), rel=0.15)


def test_the_pen_rests_at_home_between_letters():
    writing = simulated_writing(SMALL)
    before = writing.trials.columns["cue_time"]
    position, velocity = writing.trajectory.at(before)
    np.testing.assert_allclose(position, 0.0, atol=1e-9)
    np.testing.assert_allclose(velocity, 0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"trials_per_character": 0}, "trials_per_character"),
        ({"characters": ("a", "alpha")}, "characters"),
        ({"characters": ("a", "a")}, "characters"),
        ({"after_s": 0.0}, "after_s"),
        ({"num_units": 0}, "num_units"),
        ({"tuning": float("nan")}, "tuning"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_what_cannot_be_simulated(change, about):
    with pytest.raises(ConfigError, match=about):
        HandwritingConfig(**change)
    with pytest.raises(ConfigError, match="overlap"):
        WritingStyle(overlap=1.0)
