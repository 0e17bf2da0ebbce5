"""Train, validation and test parts made of whole trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from possm.config import require
from possm.data.intervals import Intervals
from possm.data.recording import SPLITS, Recording
from possm.errors import RecordingError


def split_trials(
    recording: Recording,
    *,
    label: str | None = None,
    trials: str = "trials",
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    rng: np.random.Generator | int = 0,
) -> Recording:
    """The recording with ``train_domain``, ``valid_domain`` and ``test_domain`` of whole trials, by chance.

    Args:
        recording: The recording; its data are not touched.
        label: A column of the trials: every value of it is divided by itself (stratified), as nearly as whole
            trials allow. A part whose fraction is above 0 gets a trial of every label that has enough.
        trials: Name of the intervals.
        fractions: Of the trials, for train, valid and test; they add up to 1, and a part of 0 is empty.
        rng: Of the draw, or its seed.

    Raises:
        ConfigError: The fractions are not three numbers that add up to 1.
        RecordingError: No such trials or column, or a part of a fraction above 0 is left without a trial.
    """
    good = len(fractions) == 3 and min(fractions) >= 0 and abs(sum(fractions) - 1) < 1e-9
    require(good, "fractions of a split", tuple(fractions), "three numbers, 0 or more, that add up to 1")
    rng = np.random.default_rng(rng)
    table = _table(recording, trials, label)
    labels = np.zeros(len(table)) if label is None else table.columns[label]
    part = np.empty(len(table), np.int64)
    for value in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == value))
        part[rows] = np.repeat(range(3), _shares(len(rows), np.asarray(fractions)))
    for k, name in enumerate(SPLITS):
        if fractions[k] and not (part == k).any():
            raise RecordingError(
                f"no trial is left for {name}",
                about=recording.name,
                got=f"{len(table)} trials, fractions {tuple(fractions)}",
                fix="more trials, or other fractions",
            )
    return with_splits(recording, table, np.array(SPLITS)[part])


def with_splits(recording: Recording, table: Intervals, names: np.ndarray) -> Recording:
    """The recording with each trial of `table` in the split that `names` says; another name is no split."""
    parts = {
        f"{split}_domain": Intervals(table.start_s[names == split], table.end_s[names == split])
        for split in SPLITS
    }
    return replace(recording, intervals={**recording.intervals, **parts})


def _table(recording: Recording, trials: str, label: str | None) -> Intervals:
    if trials not in recording.intervals or not len(recording.intervals[trials]):
        have = ", ".join(recording.intervals) or "no intervals"
        raise RecordingError(f"there are no trials called '{trials}'", about=recording.name, got=have)
    table = recording.intervals[trials]
    if label is not None and label not in table.columns:
        have = ", ".join(table.columns) or "no columns"
        raise RecordingError(f"'{trials}' has no column '{label}'", about=recording.name, got=have)
    return table


def _shares(number: int, fractions: np.ndarray) -> np.ndarray:
    """(3,) how many of `number` trials each part gets: largest remainders, at least one if possible."""
    shares = np.floor(fractions * number + 1e-9).astype(np.int64)
    order = np.argsort(shares - fractions * number, kind="stable")
    shares[order[: number - shares.sum()]] += 1
    for k in np.flatnonzero((shares == 0) & (fractions > 0)):
        largest = int(np.argmax(shares))
        if shares[largest] > 1:
            shares[largest] -= 1
            shares[k] += 1
    return shares
