"""Labels: what they are called, in which order, which moment has which, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from possm.data.formats import load_recording, write_hdf5
from possm.data.intervals import Intervals
from possm.data.labels import (
    TrialClasses,
    as_labels,
    class_names,
    class_numbers,
    inside,
    is_category,
    labelled_trials,
    softmax,
)
from possm.data.series import Signal
from possm.errors import RecordingError
from trial_toys import CLASSES, LABEL, trial_recording

RECORDING = trial_recording(trials=12)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([3, 11, 3]), ["3", "11", "3"]),
        (np.array([45.0, np.nan, 0.5]), ["45", "", "0.5"]),
        (np.array([0.1, np.inf], np.float32), ["0.1", ""]),
        (np.array([[1], [2]]), ["1", "2"]),
        (np.array(["a ", "", "?"]), ["a", "", "?"]),
        (np.array([b"up", b"down"]), ["up", "down"]),
        (np.array([True, False]), ["1", "0"]),
    ],
)
def test_numbers_and_strings_are_labels(values, wanted):
    assert as_labels(values).tolist() == wanted


@pytest.mark.parametrize("values", [np.zeros((4, 2)), np.array([None, "a"], object)])
def test_what_is_no_label_is_refused(values):
    with pytest.raises(RecordingError, match="label"):
        as_labels(values)


def test_classes_are_ordered_numbers_before_words():
    assert class_names(["10", "9", "", "b", "0.5", "a", "9", "nan"]) == ("0.5", "9", "10", "a", "b", "nan")


def test_unknown_labels_are_named_and_counted():
    assert class_numbers(np.array(["b", "", "a"]), ("a", "b"), about="day").tolist() == [1, -1, 0]
    labels = np.array(["a", "x", "x", "y", "b"])
    with pytest.raises(RecordingError, match=r"(?s)3 of 5 labels.*'x' \(2\), 'y' \(1\)") as error:
        class_numbers(labels, ("a", "b"), about="monday")
    assert "monday" in str(error.value) and "2 classes: a, b" in str(error.value)


def test_a_category_is_a_column_or_a_signal_of_whole_numbers():
    whole = Signal(np.zeros((5, 1), np.int64), rate_hz=1.0)
    recording = replace(
        RECORDING, signals={"state.sleep": whole, "x.y": Signal(np.zeros((5, 1)), rate_hz=1.0)}
    )
    assert is_category(recording, LABEL) and is_category(recording, "state.sleep")
    assert not is_category(recording, "x.y") and not is_category(recording, "trials.nothing")
    with pytest.raises(RecordingError, match=r"(?s)no behavior 'trials.nothing'.*state.sleep.*trials.target"):
        labelled_trials(recording, "trials.nothing")


def test_a_signal_of_whole_numbers_comes_back_from_a_file(tmp_path):
    state = Signal(np.arange(400)[:, None] // 100, rate_hz=10.0)
    write_hdf5(replace(RECORDING, signals={"brain.state": state}), tmp_path / "r.h5")
    with load_recording(tmp_path / "r.h5") as read:
        assert is_category(read, "brain.state")
        np.testing.assert_array_equal(read.behavior("brain.state").values[:], state.values)
    loaded = load_recording(tmp_path / "r.h5", lazy=False)
    assert class_names(as_labels(loaded.behavior("brain.state").values)) == ("0", "1", "2", "3")


def test_trials_of_no_length_are_refused():
    with pytest.raises(RecordingError, match=r"\[2.0, 2.0\) s, row 1"):
        Intervals(np.array([1.0, 2.0]), np.array([1.5, 2.0]))


def test_every_moment_has_the_class_of_its_trial():
    trials = Intervals(
        np.array([1.0, 2.0, 2.5, 5.0]), np.array([2.0, 4.0, 3.0, 6.0]), {"c": np.array(list("baaz"))}
    )
    trials = replace(trials, columns={"c": np.array(["b", "a", "c", ""])})
    known = TrialClasses.of(replace(RECORDING, intervals={"t": trials}), "t.c", ("a", "b", "c"))
    at = known.at(np.array([0.9, 1.0, 1.99, 2.0, 2.5, 2.99, 3.0, 3.99, 4.0, 5.5]))
    assert at.tolist() == [-1, 1, 1, 0, 2, 2, 0, 0, -1, -1]  # the newest of overlapping ones; none unlabelled
    assert known.unlabelled == 1 and len(known.trials) == 3
    assert known.at(np.zeros(0)).shape == (0,)


def test_inside_wants_whole_trials():
    parts = Intervals.of([(0.0, 2.0), (3.0, 4.0)])
    trials = Intervals(np.array([-0.5, 0.0, 1.5, 3.0, 3.5, 5.0]), np.array([0.5, 2.0, 3.5, 4.0, 4.2, 6.0]))
    assert inside(trials, parts).tolist() == [False, True, False, True, False, False]
    assert inside(trials, Intervals.of([])).tolist() == [False] * 6


def test_softmax_is_safe_and_keeps_the_dtype():
    logits = np.array([[1000.0, 1000.0, -1000.0], [0.0, np.log(2), np.log(5)]], np.float32)
    odds = softmax(logits)
    np.testing.assert_allclose(odds, [[0.5, 0.5, 0], [1 / 8, 2 / 8, 5 / 8]], rtol=1e-6)
    assert odds.dtype == np.float32


def test_toy_has_what_it_says():
    assert class_names(RECORDING.intervals["trials"].columns["target"]) == CLASSES
