"""What was answered while trials ran, and what that says: decisions, accuracy, confusions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from possm.data.intervals import Intervals
from possm.errors import ConfigError


@dataclass(frozen=True, eq=False, kw_only=True)
class TrialAnswers:
    """What was answered in every trial of one session, beside the true classes."""

    session: str
    behavior: str
    classes: tuple[str, ...]
    trials: Intervals
    """n of them."""
    target: np.ndarray
    """(n,) int64: their classes."""
    trial: np.ndarray
    """(m,) int64, ascending: the trial each answer is of."""
    times_s: np.ndarray
    """(m,) float64, ascending within a trial."""
    probabilities: np.ndarray
    """(m, classes)."""

    def __post_init__(self) -> None:
        sizes = {len(self.trial), len(self.times_s), len(self.probabilities)}
        if len(sizes) > 1 or np.shape(self.probabilities)[1:] != (len(self.classes),):
            raise ConfigError(
                "the answers of trials do not fit together",
                about=self.session,
                got=(np.shape(self.trial), np.shape(self.times_s), np.shape(self.probabilities)),
            )

    @property
    def decision(self) -> np.ndarray:
        """(n,) int64: the likeliest class at the end of each trial; -1 in a trial too short for an answer."""
        decided = np.full(len(self.trials), -1, np.int64)
        decided[self.trial] = self.probabilities.argmax(axis=1)  # the last of a trial stays
        return decided

    @property
    def accuracy(self) -> float:
        """Share of the trials decided rightly, 0 to 1; NaN without trials."""
        return float(np.mean(self.decision == self.target)) if len(self.trials) else float("nan")

    def evolving(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How accuracy grows from answer to answer of a trial: (k,) mean seconds since its start, (k,) share
        of the trials that would be decided rightly then, (k,) trials that have an answer so late."""
        elapsed_s = self.times_s - self.trials.start_s[self.trial]
        right = self.probabilities.argmax(axis=1) == self.target[self.trial]
        place = np.arange(len(self.trial)) - np.searchsorted(self.trial, self.trial)
        running = np.bincount(place)
        return np.bincount(place, elapsed_s) / running, np.bincount(place, right) / running, running

    def confusion(self) -> np.ndarray:
        """(classes, classes) int64 trials: true class by row, decided class by column."""
        table = np.zeros((len(self.classes), len(self.classes)), np.int64)
        decided = self.decision >= 0
        np.add.at(table, (self.target[decided], self.decision[decided]), 1)
        return table
