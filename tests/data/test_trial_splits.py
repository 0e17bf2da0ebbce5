"""Splits of whole trials, stratified by a label."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.data.series import Binned
from possm.data.trial_splits import split_trials
from possm.errors import ConfigError, RecordingError

PARTS = ("train", "valid", "test")


def recording_of(labels: list[str]) -> Recording:
    start = np.arange(len(labels), dtype=float)
    trials = Intervals(start, start + 0.5, {"label": np.array(labels)})
    return Recording(
        session_id="s",
        unit_ids=("a",),
        domain=Intervals.of([(0.0, float(len(labels)))]),
        binned=Binned(np.ones((10 * len(labels), 1)), 0.0, 10.0),
        intervals={"trials": trials},
    )


def labels_in(recording: Recording, part: str) -> list[str]:
    trials = recording.intervals["trials"]
    picked = np.isin(trials.start_s, recording.split(part).start_s)
    return trials.columns["label"][picked].tolist()


def test_every_label_is_divided_by_itself():
    made = split_trials(recording_of(["a", "b"] * 10), label="label")
    for part, number in zip(PARTS, (7, 1, 2), strict=True):
        assert sorted(labels_in(made, part)) == ["a"] * number + ["b"] * number


def test_trials_are_whole_and_in_one_part():
    made = split_trials(recording_of(list("abc") * 7), label="label")
    pieces = [pair for part in PARTS for pair in made.split(part)]
    assert sorted(pieces) == list(made.intervals["trials"])


def test_the_draw_follows_its_seed():
    one, two, other = (split_trials(recording_of(["a"] * 40), rng=seed) for seed in (1, 1, 2))
    assert list(one.split("test")) == list(two.split("test")) != list(other.split("test"))


def test_a_part_of_nothing_is_empty():
    made = split_trials(recording_of(["a"] * 4), fractions=(0.5, 0.0, 0.5))
    assert [len(made.split(part)) for part in PARTS] == [2, 0, 2]


@given(number=st.integers(3, 40), test=st.floats(0.05, 0.5), valid=st.floats(0.05, 0.4))
def test_parts_are_as_near_to_their_fractions_as_trials_allow(number, test, valid):
    fractions = (1 - test - valid, valid, test)
    made = split_trials(recording_of(["a"] * number), label="label", fractions=fractions)
    lengths = np.array([len(made.split(part)) for part in PARTS])
    assert lengths.sum() == number and lengths.min() >= 1
    assert np.abs(lengths - number * np.array(fractions)).max() < 2


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (np.nan, 0.5, 0.5)])
def test_impossible_fractions(fractions):
    with pytest.raises(ConfigError, match="fractions"):
        split_trials(recording_of(["a"] * 9), fractions=fractions)


def test_errors_name_what_there_is():
    with pytest.raises(RecordingError, match=r"'colour'\n.*label"):
        split_trials(recording_of(["a"] * 9), label="colour")
    with pytest.raises(RecordingError, match=r"'reaches'\n.*trials"):
        split_trials(recording_of(["a"] * 9), trials="reaches")
    with pytest.raises(RecordingError, match="no trial is left for valid"):
        split_trials(recording_of(["a"] * 2))
