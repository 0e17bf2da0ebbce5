"""The report of a category: its accuracy, its trials, its confusions; alone and beside a movement."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from possm.data.intervals import Intervals
from possm.data.series import Signal
from possm.evaluation import class_figures
from possm.evaluation.answers import TrialAnswers
from possm.evaluation.assess import assess, write_assessment
from possm.evaluation.report import ReportData, write_report
from trial_toys import LABEL, class_decoder, trial_recording

RECORDING = trial_recording()


def answers(classes=("a", "b", "c"), trials=9, session="day"):
    rng = np.random.default_rng(0)
    start_s = np.arange(trials) * 1.0
    target = np.arange(trials) % len(classes)
    odds = rng.random((trials * 4, len(classes)))
    odds[3::4] = 0.1 * odds[3::4] + np.eye(len(classes))[target]  # decided rightly
    return TrialAnswers(
        session=session,
        behavior="t.c",
        classes=tuple(classes),
        trials=Intervals(start_s, start_s + 0.2),
        target=target,
        trial=np.repeat(np.arange(trials), 4),
        times_s=(start_s[:, None] + 0.05 * np.arange(1, 5)).ravel(),
        probabilities=odds / odds.sum(axis=1, keepdims=True),
    )


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_confusions_count_trials():
    figure = class_figures.confusion_figure(answers())
    assert texts(figure) == ["3", "3", "3"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    many = class_figures.confusion_figure(answers([f"k{i}" for i in range(31)], trials=62))
    assert texts(many) == []


def test_accuracy_grows_to_what_is_scored():
    one = answers()
    (axes,) = class_figures.evolving_figure([one, replace(one, session="other")]).axes
    x, y = axes.lines[0].get_data()
    np.testing.assert_allclose(x, [0.05, 0.1, 0.15, 0.2])
    assert y[-1] == 100 and len(axes.lines) == 3
    np.testing.assert_allclose(axes.lines[2].get_ydata(), 100 / 3)


def test_a_few_trials_are_drawn_spread_over_the_session():
    many = answers(trials=60)
    assert class_figures.shown_trials(many).tolist() == [0, 12, 24, 35, 47, 59]
    assert class_figures.shown_trials(answers(trials=3)).tolist() == [0, 1, 2]
    figure = class_figures.probabilities_figure(many)
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, many.probabilities[:4].T)
    assert figure.axes[1].get_title() == "trial 13: a, right"
    extent = figure.axes[0].images[0].get_extent()
    np.testing.assert_allclose(extent[:2], [0.0, 0.2])


def test_the_report_of_a_decoder(tmp_path):
    recording = replace(RECORDING, signals={"hand.x": Signal(np.zeros((5, 1)), rate_hz=1.0)})
    decoder = class_decoder(recording)
    result = assess(decoder, [recording])
    assert "accuracy" in result.table() and "Wiener" not in result.table()
    path = write_assessment(result, tmp_path, decoder=decoder, recording=recording)
    page = path.read_text()
    (row,) = json.loads((tmp_path / "scores.json").read_text())
    assert row["r2"] is None and row["trials"] == 10 and row["behavior"] == LABEL
    assert f"Accuracy {100 * row['accuracy']:.1f} %" in page
    for name in ("Accuracy while a trial runs", "Class probabilities", "Confusion matrix"):
        assert f'alt="{name}"' in page
    assert "R2 by session" not in page and "Wiener" not in page


def test_beside_a_movement(tmp_path):
    moving = {"session": "day", "behavior": "vel", "split": "test", "r2": 0.5, "r2_per_dimension": [0.5]}
    moving |= {"r2_wiener": 0.25, "seconds": 10.0, "chunks": 200}
    classed = {
        "session": "day",
        "behavior": "t.c",
        "split": "test",
        "r2": None,
        "accuracy": 0.75,
        "trials": 8,
    }
    data = ReportData(
        rows=[moving, classed], trials=[answers()], training=[{"epoch": 1, "valid_accuracy": 0.5}]
    )
    page = write_report(tmp_path / "r.html", data).read_text()
    assert "Accuracy 75.0 %" in page and "R<sup>2</sup> 0.500" in page
    assert page.count("<td>t.c</td>") == 1
