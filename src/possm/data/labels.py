"""Which class a moment belongs to: labels of trials, or the samples of a signal of classes.

A category is named like a signal (``state.sleep``), or by the intervals and the column that hold its labels
(``trials.target_id`` is column ``target_id`` of the intervals ``trials``). A label is a string; numbers
become strings ("3", "0.5"), and NaN or "" means that nobody labelled this trial.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.errors import RecordingError

logger = logging.getLogger(__name__)

UNLABELLED = ""
SHOWN = 5  # labels that an error names


def is_category(recording: Recording, behavior: str) -> bool:
    """Whether a behavior is one of classes: a signal of whole numbers, or a column of intervals (but not of
    sequences, see `possm.data.transcripts`)."""
    if behavior in recording.signals:
        return recording.signals[behavior].values.dtype.kind in "iub"
    return _column(recording, behavior) is not None and not is_sequence_name(behavior)


def is_sequence_name(behavior: str) -> bool:
    """Whether a column of this name holds sequences, not one label a trial."""
    column = behavior.rpartition(".")[2]
    return column == "phonemes" or column.endswith("_sequence")


def has_behavior(recording: Recording, behavior: str) -> bool:
    """Whether a recording has a behavior at all: a signal, or labels of trials."""
    return behavior in recording.signals or _column(recording, behavior) is not None


def labelled_trials(recording: Recording, behavior: str) -> tuple[Intervals, np.ndarray]:
    """The trials of a category and the label of each, "" where there is none.

    Raises:
        RecordingError: There is no such column; it names what there is.
    """
    column = _column(recording, behavior)
    if column is None:
        have = [f"{name}.{column}" for name, part in recording.intervals.items() for column in part.columns]
        raise RecordingError(
            f"no behavior '{behavior}'",
            about=recording.name,
            got=", ".join([*recording.signals, *have]) or "no behavior at all",
            fix="name one of these",
        )
    trials = recording.intervals[behavior.rpartition(".")[0]]
    return trials, as_labels(column)


def as_labels(values: np.ndarray) -> np.ndarray:
    """Numbers or strings as labels: (n,) or (n, 1) -> (n,) str.

    Raises:
        RecordingError: They have several columns, or are neither numbers nor strings.
    """
    values = np.asarray(values)
    if values.size != len(values):
        raise RecordingError("a label is one value", got=values.shape, wanted="(n,) or (n, 1)")
    values = values.reshape(-1)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind == "f":
        written = [np.format_float_positional(v, trim="-") if np.isfinite(v) else UNLABELLED for v in values]
        return np.array(written, np.str_)
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    if values.dtype.kind not in "iuU":
        raise RecordingError("labels are numbers or strings", got=f"values of type {values.dtype}")
    return np.char.strip(values.astype(np.str_))


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The different labels in order: numbers by size, before words by the alphabet."""
    return tuple(sorted({str(label) for label in labels} - {UNLABELLED}, key=_order))


def class_numbers(labels: np.ndarray, classes: Sequence[str], *, about: str) -> np.ndarray:
    """(n,) int64: the number of each label's class, -1 where it is unlabelled.

    Raises:
        RecordingError: Some labels are no class; they are named and counted.
    """
    numbers = {name: number for number, name in enumerate(classes)} | {UNLABELLED: -1}
    unknown = Counter(str(label) for label in labels if str(label) not in numbers)
    if unknown:
        named = ", ".join(f"'{label}' ({count})" for label, count in unknown.most_common(SHOWN))
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise RecordingError(
            f"{sum(unknown.values())} of {len(labels)} labels are of no class the decoder knows",
            about=about,
            got=named + more,
            wanted=f"{len(classes)} classes: {', '.join(classes)}",
            fix="correct or clear these labels, or train with them in the train split",
        )
    return np.array([numbers[str(label)] for label in labels], np.int64)


@dataclass(frozen=True, eq=False)
class TrialClasses:
    """Trials of one recording and the number of each one's class; unlabelled ones are not among them."""

    trials: Intervals
    number: np.ndarray
    """(n,) int64."""
    unlabelled: int = 0
    """Trials that have no label."""

    @classmethod
    def of(cls, recording: Recording, behavior: str, classes: Sequence[str]) -> TrialClasses:
        """Of all trials of a recording.

        Raises:
            RecordingError: There is no such column, or a label is of no class.
        """
        trials, labels = labelled_trials(recording, behavior)
        number = class_numbers(labels, classes, about=f"{recording.name}, '{behavior}'")
        known = number >= 0
        return cls(trials.where(known), number[known], int((~known).sum()))

    def at(self, times_s: np.ndarray) -> np.ndarray:
        """(m,) int64: the class of the trial that runs at each time, the newest if several do; -1 if none."""
        number = np.full(len(times_s), -1, np.int64)
        if len(times_s):
            near = (self.trials.start_s <= times_s.max()) & (self.trials.end_s > times_s.min())
            for row in np.flatnonzero(near):
                runs = (self.trials.start_s[row] <= times_s) & (times_s < self.trials.end_s[row])
                number[runs] = self.number[row]
        return number


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits -> probabilities, in their dtype: (..., classes) -> (..., classes)."""
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def inside(trials: Intervals, parts: Intervals) -> np.ndarray:
    """(trials,) bool: which lie wholly in one of some parts, such as those of a split."""
    slack_s = 1e-9  # clocks that divide each other must not fall to either side by rounding
    row = np.searchsorted(parts.start_s, trials.start_s + slack_s, side="right") - 1
    end_s = np.append(parts.end_s, -np.inf)[row]
    return np.asarray((row >= 0) & (trials.end_s <= end_s + slack_s))


def _column(recording: Recording, behavior: str) -> np.ndarray | None:
    name, _, column = behavior.rpartition(".")
    if name not in recording.intervals or column not in recording.intervals[name].columns:
        return None
    return recording.intervals[name].columns[column]


def _order(label: str) -> tuple[bool, float, str]:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (False, number, label) if math.isfinite(number) else (True, 0.0, label)
