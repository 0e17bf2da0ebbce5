"""The figures of a category in the report: probabilities while trials run, accuracy over time, confusions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from possm.evaluation.answers import TrialAnswers
from possm.evaluation.figures import DECODED, TRUE, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MAX_TRIALS = 6  # trials whose probabilities are drawn
NUMBERED = 16  # classes up to which numbers stand in the cells of a confusion matrix


def shown_trials(answers: TrialAnswers) -> np.ndarray:
    """Numbers of the trials that are drawn: evenly spread over the session, not chosen for their looks."""
    answered = np.unique(answers.trial)
    places = np.linspace(0, len(answered) - 1, min(MAX_TRIALS, len(answered)))
    return answered[np.rint(places).astype(int)]


def probabilities_figure(answers: TrialAnswers) -> Figure:
    """The probability of every class while a few trials run: class by time, the true class framed."""
    shown = shown_trials(answers)
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = _figure(0.6 + rows * (1.2 + 0.11 * min(len(answers.classes), 32)))
    for place, trial in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, columns, place)
        image = _probabilities(axes, answers, int(trial))
        if place > len(shown) - columns:
            axes.set_xlabel("time in the trial (s)")
    figure.colorbar(image, ax=figure.axes, label="probability", shrink=0.7)
    return figure


def _probabilities(axes: Axes, answers: TrialAnswers, trial: int) -> AxesImage:
    mine = answers.trial == trial
    elapsed_s = answers.times_s[mine] - answers.trials.start_s[trial]
    step_s = float(np.median(np.diff(elapsed_s))) if mine.sum() > 1 else 0.05
    extent = (elapsed_s[0] - step_s, elapsed_s[-1], len(answers.classes) - 0.5, -0.5)
    image = axes.imshow(
        answers.probabilities[mine].T,
        aspect="auto",
        extent=extent,
        vmin=0,
        vmax=1,
        cmap="Blues",
        interpolation="nearest",
    )
    true, decided = int(answers.target[trial]), int(answers.decision[trial])
    for edge in (true - 0.5, true + 0.5):
        axes.axhline(edge, color=TRUE, linewidth=1.0)
    mark = "right" if true == decided else f"decided {answers.classes[decided]}"
    axes.set_title(f"trial {trial + 1}: {answers.classes[true]}, {mark}")
    _class_ticks(
        axes, answers.classes, only=range(len(answers.classes)) if len(answers.classes) <= 16 else {true}
    )
    axes.grid(visible=False)
    return image


def evolving_figure(all_answers: Sequence[TrialAnswers]) -> Figure:
    """Accuracy against the time since the start of the trial, one line a session; chance is dotted."""
    figure = _figure(2.9)
    axes = figure.add_subplot()
    for number, answers in enumerate(all_answers):
        time_s, accuracy, _ = answers.evolving()
        label = answers.session if len(all_answers) <= 6 else None
        axes.plot(
            time_s, 100 * accuracy, marker="o", markersize=3, linewidth=1.5, color=f"C{number}", label=label
        )
    axes.axhline(100 / len(all_answers[0].classes), color=TRUE, linestyle=":", linewidth=1.0)
    axes.set_ylim(0, 101)
    axes.set_xlabel("time in the trial (s)")
    axes.set_ylabel("accuracy (%)")
    if 1 < len(all_answers) <= 6:
        axes.legend(loc="lower right", fontsize=8)
    return figure


def confusion_figure(answers: TrialAnswers) -> Figure:
    """True class by row, decided class by column, and beside it the accuracy in each class.

    Colours are by share of the row; numbers, where they fit, are trials.
    """
    table, classes = answers.confusion(), answers.classes
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure = _figure(1.6 + 0.26 * max(8, len(classes)))
    matrix, bars = figure.subplots(1, 2, width_ratios=(2, 1))
    image = matrix.imshow(share, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    matrix.grid(visible=False)
    _class_ticks(matrix, classes, only=range(len(classes)))
    long = max(len(name) for name in classes) > 3 or len(classes) > NUMBERED
    matrix.set_xticks(range(len(classes)), classes, fontsize=8, rotation=90 if long else 0)
    matrix.set_xlabel("decided")
    matrix.set_ylabel("true")
    if len(classes) <= NUMBERED:
        for (row, column), number in np.ndenumerate(table):
            if number:
                colour = "white" if share[row, column] > 0.5 else TRUE
                matrix.text(column, row, str(number), ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, ax=matrix, label="share of the true class")
    bars.barh(range(len(classes)), 100 * np.diag(share), color=DECODED)
    bars.set_ylim(len(classes) - 0.5, -0.5)
    bars.set_xlim(0, 101)
    bars.set_xlabel("accuracy in the class (%)")
    _class_ticks(bars, classes, only=range(len(classes)))
    return figure


def _class_ticks(axes: Axes, classes: Sequence[str], *, only: Sequence[int] | range | set[int]) -> None:
    places = sorted(only)
    axes.set_yticks(places, [classes[place] for place in places], fontsize=8)


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")
