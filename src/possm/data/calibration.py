"""The first minutes of a recording as calibration data: what a new session has when it is adapted to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from possm.config import require
from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.data.splits import cut_time, stays_whole
from possm.errors import ConfigError


def calibration(recording: Recording, minutes: float, *, valid_share: float = 0.2) -> Recording:
    """The recording with only the first minutes of its train split to learn from.

    The end of these minutes becomes the valid split: weights are selected by data that a user with so many
    minutes has. The recording's own valid split is not among them and is not looked at; the test split stays.

    Args:
        recording: With a train split.
        minutes: How much of it, in time order.
        valid_share: Of these minutes; the rest is the train split.

    Raises:
        ConfigError: The train split is shorter, or a share is out of range.
        RecordingError: There is no train split.
    """
    require(0 < minutes < float("inf"), "minutes", minutes, "above 0")
    require(0 < valid_share < 1, "valid_share", valid_share, "above 0, below 1")
    train, seconds = recording.split("train"), 60 * minutes
    if seconds > train.total_s + 1e-6:
        raise ConfigError(
            "the train split is shorter than the calibration asked for",
            about=recording.name,
            got=f"{train.total_s / 60:.3g} minutes",
            wanted=f"{minutes:g} minutes",
            fix="ask for less, or leave minutes out to use all of it",
        )
    end_s = _passed(recording, train, seconds)
    cut_s = _passed(recording, train, (1 - valid_share) * seconds)
    parts = {"train_domain": train.slice(-np.inf, cut_s), "valid_domain": train.slice(cut_s, end_s)}
    return replace(recording, intervals={**recording.intervals, **parts})


def _passed(recording: Recording, train: Intervals, seconds: float) -> float:
    if seconds >= train.total_s - 1e-6:
        return float(train.end_s[-1])
    return cut_time(recording, train, seconds, stays_whole(train))
