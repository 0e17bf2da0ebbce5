"""What the report says of categories: accuracy, how it grows while a trial runs, and what is confused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from possm.evaluation import class_figures
from possm.evaluation.answers import TrialAnswers
from possm.evaluation.figures import finite, to_png
from possm.evaluation.page import image, table

MAX_SESSIONS = 4  # sessions whose trials and confusions are drawn; the tables show all
HOW = (
    "A trial is decided by the likeliest class of its last answer; its answers use the spikes up to their "
    "time alone. "
)


def is_class_row(row: Mapping[str, Any]) -> bool:
    """Whether a row of scores.json is of a category."""
    return row.get("accuracy") is not None


def class_headlines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The accuracy of each behavior and split, and what it means."""
    for behavior, split in dict.fromkeys((str(r.get("behavior")), str(r.get("split"))) for r in rows):
        mine = [r for r in rows if (str(r.get("behavior")), str(r.get("split"))) == (behavior, split)]
        each = [float(r["accuracy"]) for r in mine if finite(r.get("accuracy"))]
        number = f"{100 * np.mean(each):.1f} %" if each else "not defined"
        spread = f" &plusmn; {100 * np.std(each):.1f}" if len(each) > 1 else ""
        counted = sum(int(r["trials"]) for r in mine if finite(r.get("trials")))
        what = f"{counted:,} trials" if counted else "all samples"
        yield (
            f'<section class="headline"><p class="number">Accuracy {number}<small>{spread}</small></p>'
            f"<p><b>{escape(behavior)}</b>, {escape(split)} split, {what} of {len(mine)} session(s).</p>"
            f"<p>{HOW}</p></section>"
        )


def class_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The accuracy of every session."""
    body = [
        [
            *(str(row.get(key, "")) for key in ("session", "behavior", "split")),
            f"{100 * float(row['accuracy']):.1f} %" if finite(row.get("accuracy")) else "not defined",
            f"{row['trials']:,}" if finite(row.get("trials")) else "-",
        ]
        for row in rows
    ]
    head = ("session", "behavior", "split", "accuracy", "trials")
    return f"<h2>Accuracy</h2>{table(head, body, classes={3: 'n', 4: 'n'})}" if rows else ""


def class_sections(answers: Sequence[TrialAnswers]) -> Iterator[str]:
    """Figures of all categories: accuracy over time, a few trials, confusions."""
    for behavior in dict.fromkeys(a.behavior for a in answers):
        mine = [a for a in answers if a.behavior == behavior]
        yield f"<h2>{escape(behavior)} while a trial runs</h2>"
        note = (
            "Share of the trials whose likeliest class is the true one, against the time since the trial "
            "began. Only trials that still run count; the dotted line is chance."
        )
        yield _image(class_figures.evolving_figure(mine), "Accuracy while a trial runs", note)
        for one in mine[:MAX_SESSIONS]:
            note = (
                f"{one.session}: the probability of each class in {len(class_figures.shown_trials(one))} "
                f"trials of {len(one.trials)}, evenly spread over the session; lines frame the true class."
            )
            yield _image(class_figures.probabilities_figure(one), "Class probabilities", note)
            note = (
                f"{one.session}: true class by row, decided class by column; numbers are trials. Beside it, "
                "the accuracy in each class."
            )
            yield _image(class_figures.confusion_figure(one), "Confusion matrix", note)
        if len(mine) > MAX_SESSIONS:
            yield f"<p class=note>The first {MAX_SESSIONS} of {len(mine)} sessions are drawn.</p>"


def _image(figure: Any, name: str, note: str) -> str:
    return image(to_png(figure), name, note)
