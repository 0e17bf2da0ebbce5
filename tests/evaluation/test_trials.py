"""Categories are decoded trial by trial as a hand would, causally, and scored at the end of each trial."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from possm.data.chunks import collate
from possm.data.intervals import Intervals
from possm.data.labels import TrialClasses, softmax
from possm.data.loader import SampleMaker
from possm.data.series import Signal, Spikes
from possm.data.windows import Window
from possm.errors import ConfigError, RecordingError
from possm.evaluation.answers import TrialAnswers
from possm.evaluation.score import decode, evaluate
from possm.evaluation.trials import decode_trials, scored_trials
from trial_toys import CLASSES, LABEL, behavior, class_decoder, trial_recording

RECORDING = trial_recording()
DECODER = class_decoder(RECORDING)
DECODER.model.double()


def with_labels(labels):
    trials = RECORDING.intervals["trials"]
    changed = replace(trials, columns={"target": np.asarray(labels)})
    return replace(RECORDING, intervals={**RECORDING.intervals, "trials": changed})


def answers_of(**changes):
    """Two classes; trials of 2, 3 and 1 chunks; the third has no answer."""
    plain = {
        "session": "day",
        "behavior": "t.c",
        "classes": ("a", "b"),
        "trials": Intervals(np.array([0.0, 1.0, 2.0]), np.array([0.1, 1.15, 2.05])),
        "target": np.array([0, 1, 1]),
        "trial": np.array([0, 0, 1, 1, 1]),
        "times_s": np.array([0.05, 0.1, 1.05, 1.1, 1.15]),
        "probabilities": np.array([[0.4, 0.6], [0.7, 0.3], [0.9, 0.1], [0.4, 0.6], [0.8, 0.2]]),
    }
    return TrialAnswers(**{**plain, **changes})


def test_the_last_answer_decides():
    answers = answers_of()
    assert answers.decision.tolist() == [0, 0, -1]
    assert answers.accuracy == pytest.approx(1 / 3)
    assert answers.confusion().tolist() == [[1, 0], [1, 0]]
    time_s, accuracy, running = answers.evolving()
    np.testing.assert_allclose(time_s, [0.05, 0.1, 0.15])
    assert accuracy.tolist() == [0.0, 1.0, 0.0] and running.tolist() == [2, 2, 1]


def test_answers_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="do not fit"):
        answers_of(trial=np.array([0, 1]))


@pytest.mark.parametrize("lead_ms", [0, 50, 80])
@pytest.mark.parametrize("warmup_s", [0.0, 0.3])
def test_a_trial_is_decoded_as_by_hand(lead_ms, warmup_s):
    decoder = class_decoder(RECORDING, lead_ms=lead_ms)
    decoder.model.double()
    known = TrialClasses.of(RECORDING, LABEL, CLASSES)
    answers = decode_trials(decoder, RECORDING, LABEL, known, warmup_s=warmup_s)
    assert answers.trial.tolist() == np.repeat(np.arange(60), 12).tolist()
    begin_s, end_s = known.trials.start_s[7], known.trials.end_s[7]
    origin_s = begin_s - warmup_s
    wanted_s = begin_s + np.arange(12) * 0.05 + lead_ms / 1000
    maker = SampleMaker(
        recordings=[RECORDING], vocabulary=decoder.vocabulary, scaling={}, chunk_ms=50, lead_ms=lead_ms
    )
    chunks = 12 + round(warmup_s / 0.05)
    sample = maker.sample_at(Window(0, origin_s, end_s), num_chunks=chunks, times_s={LABEL: wanted_s})
    with torch.inference_mode():
        logits, _ = decoder.model(collate([sample]).to(torch.from_numpy))
    mine = answers.trial == 7
    np.testing.assert_allclose(answers.times_s[mine], wanted_s)
    np.testing.assert_allclose(answers.probabilities[mine], softmax(logits[LABEL].numpy()), rtol=1e-9)
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1)
    assert answers.probabilities.std(axis=0).min() > 1e-4


def test_trials_at_once_change_nothing(monkeypatch):
    known = TrialClasses.of(RECORDING, LABEL, CLASSES)
    many = decode_trials(DECODER, RECORDING, LABEL, known)
    monkeypatch.setattr("possm.evaluation.trials.TRIALS_AT_ONCE", 1)
    one = decode_trials(DECODER, RECORDING, LABEL, known)
    np.testing.assert_allclose(many.probabilities, one.probabilities, rtol=1e-9)


def test_no_answer_uses_a_later_spike():
    known = TrialClasses.of(RECORDING, LABEL, CLASSES)
    trial = known.trials.where(np.arange(60) == 5)
    known = TrialClasses(trial, known.number[5:6])
    cut_s = trial.start_s[0] + 0.3
    kept = RECORDING.spikes.times_s < cut_s
    changed = replace(RECORDING, spikes=Spikes(RECORDING.spikes.times_s[kept], RECORDING.spikes.unit[kept]))
    before, after = (decode_trials(DECODER, r, LABEL, known) for r in (RECORDING, changed))
    early = before.times_s <= cut_s + 1e-9
    assert early.sum() == 6
    np.testing.assert_array_equal(before.probabilities[early], after.probabilities[early])
    assert not np.allclose(before.probabilities[~early], after.probabilities[~early])


def test_spikes_after_the_end_of_a_trial_do_not_decide_it():
    """Trials of 0.58 s: the last chunk is cut short."""
    trials = RECORDING.intervals["trials"]
    short = Intervals(trials.start_s, trials.end_s - 0.02)
    answers = decode_trials(DECODER, RECORDING, LABEL, TrialClasses(short, np.zeros(60, np.int64)))
    kept = np.concatenate(
        [np.flatnonzero((RECORDING.spikes.times_s >= a) & (RECORDING.spikes.times_s < b)) for a, b in short]
    )
    changed = replace(RECORDING, spikes=Spikes(RECORDING.spikes.times_s[kept], RECORDING.spikes.unit[kept]))
    same = decode_trials(DECODER, changed, LABEL, TrialClasses(short, np.zeros(60, np.int64)))
    assert len(answers.trial) == 60 * 12
    np.testing.assert_array_equal(answers.probabilities, same.probabilities)


def test_evaluate_scores_whole_trials_of_the_split():
    (score,), decoded = evaluate(DECODER, RECORDING, split="test")
    known = scored_trials(RECORDING, LABEL, CLASSES, split="test", within=None)
    answers = decode_trials(DECODER, RECORDING, LABEL, known)
    assert score.trials == len(known.trials) == 10
    assert score.accuracy == score.value == answers.accuracy and np.isnan(score.r2)
    assert score.measure == "accuracy" and score.seconds == pytest.approx(6.0) and score.chunks == 120
    assert score.evolving["trials"] == [10] * 12
    np.testing.assert_allclose(score.evolving["time_s"], 0.05 + np.arange(12) * 0.05)
    assert score.evolving["accuracy"][-1] == score.accuracy
    np.testing.assert_array_equal(decoded[LABEL].values, answers.probabilities)
    row = score.to_json()
    assert row["accuracy"] == score.accuracy and row["trials"] == 10


def test_within_cuts_the_trials_and_decodes_that_alone():
    trials = RECORDING.intervals["trials"]
    late = Intervals(trials.start_s + 0.2, trials.start_s + 0.4)
    recording = replace(RECORDING, intervals={**RECORDING.intervals, "late": late})
    (score,), decoded = evaluate(DECODER, recording, within="late")
    known = TrialClasses(late, TrialClasses.of(RECORDING, LABEL, CLASSES).number)
    alone = decode_trials(DECODER, RECORDING, LABEL, known)
    test = np.isin(alone.trial, np.arange(5, 60, 6))
    assert score.trials == 10 and len(decoded[LABEL].times_s) == 40
    np.testing.assert_allclose(decoded[LABEL].values, alone.probabilities[test], rtol=1e-9)


def test_trials_across_the_edge_of_a_split_are_left_out():
    cut_s = RECORDING.intervals["trials"].start_s[5] + 0.3
    part = RECORDING.intervals["test_domain"].slice(cut_s, np.inf)
    known = scored_trials(
        replace(RECORDING, intervals={**RECORDING.intervals, "test_domain": part}),
        LABEL,
        CLASSES,
        split="test",
        within=None,
    )
    assert len(known.trials) == 9


def test_unknown_labels_of_the_split_are_an_error_and_missing_ones_are_not():
    labels = RECORDING.intervals["trials"].columns["target"].astype("U9")
    labels[[5, 11]] = "sideways"
    with pytest.raises(RecordingError, match=r"(?s)2 of 10 labels.*'sideways' \(2\)"):
        evaluate(DECODER, with_labels(labels))
    evaluate(DECODER, with_labels(labels), split="valid")  # nobody asks there
    labels[[5, 11]] = ""
    (score,), _ = evaluate(DECODER, with_labels(labels))
    assert score.trials == 8
    labels[:] = ""
    with pytest.raises(RecordingError, match=r"(?s)no labelled trial.*10 trials without a label"):
        evaluate(DECODER, with_labels(labels))


def test_decode_answers_once_a_chunk_without_labels():
    bare = replace(RECORDING, intervals={})
    decoded = decode(DECODER, bare, Intervals.of([(3.0, 5.0)]), warmup_s=0.0)[LABEL]
    np.testing.assert_allclose(decoded.times_s, 3.05 + np.arange(40) * 0.05)
    np.testing.assert_allclose(decoded.values.sum(axis=1), 1)


def test_a_signal_of_classes_is_scored_by_samples():
    labels = RECORDING.intervals["trials"]
    times_s = np.arange(0, 40, 0.1)
    number = TrialClasses.of(RECORDING, LABEL, CLASSES).at(times_s) + 1
    state = Signal(number[:, None], timestamps_s=times_s)
    recording = replace(RECORDING, signals={"brain.state": state})
    decoder = class_decoder(recording, behaviors={"brain.state": behavior(("0", "1", "2", "3"))})
    (score,), decoded = evaluate(decoder, recording)
    at = decoded["brain.state"]
    inside_s = times_s[recording.split("test").contains(times_s)]
    np.testing.assert_array_equal(at.times_s, inside_s)
    right = at.values.argmax(axis=1) == number[recording.split("test").contains(times_s)]
    assert score.accuracy == pytest.approx(right.mean()) and score.trials is None
    assert len(labels) == 60
