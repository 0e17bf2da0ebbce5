"""What a run has to know of a category before its first step: its classes, and that there are labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from possm.data.labels import UNLABELLED, as_labels, class_names, class_numbers, is_category, labelled_trials
from possm.data.recording import Intervals, Recording
from possm.errors import ConfigError, RecordingError
from possm.evaluation.trials import scored_trials
from possm.model.contract import BehaviorConfig

logger = logging.getLogger(__name__)

__all__ = ["category_config", "check_category", "is_category"]


def category_config(recordings: Sequence[Recording], behavior: str) -> BehaviorConfig:
    """The classes of a category: every label in the train splits, in order.

    Raises:
        ConfigError: It is a category in some recordings only.
        RecordingError: Fewer than two classes are there.
    """
    other = [recording.name for recording in recordings if not is_category(recording, behavior)]
    if other:
        raise ConfigError(f"'{behavior}' is a category, but not in all recordings", got=", ".join(other))
    classes = class_names(
        label for recording in recordings for label in _training_labels(recording, behavior)
    )
    if len(classes) < 2:
        raise RecordingError(
            f"there are no two classes of '{behavior}' to tell apart in the train split",
            about=recordings[0].name,
            got=", ".join(classes) or "no label",
        )
    return BehaviorConfig(num_dimensions=len(classes), readout="category", classes=classes)


def check_category(
    recording: Recording, behavior: BehaviorConfig, name: str, *, within: Intervals | None
) -> None:
    """Whether a recording can be trained on and validated; trials without a label are counted in the log.

    Raises:
        RecordingError: No labelled trial lies in the train or the valid split, or a label of the valid split
            is not in any train split.
    """
    labels = _training_labels(recording, name)
    if not np.any(labels != UNLABELLED):
        raise RecordingError(f"no label of '{name}' lies in the train split", about=recording.name)
    if name not in recording.signals:
        known = scored_trials(recording, name, behavior.classes, split="valid", within=within)
        missing = {"train": int((labels == UNLABELLED).sum()), "valid": known.unlabelled}
        for split, number in missing.items():
            if number:
                about = (recording.name, number, split, name)
                logger.warning("%s: %d trials of the %s split have no label '%s' and are left out", *about)
        return
    labels = _sample_labels(recording, name, "valid")
    numbers = class_numbers(labels, behavior.classes, about=f"{recording.name}, '{name}'")
    if not (numbers >= 0).any():
        raise RecordingError(f"no label of '{name}' lies in the valid split", about=recording.name)


def _training_labels(recording: Recording, behavior: str) -> np.ndarray:
    """Of every trial that a training window can touch, or of every sample."""
    if behavior in recording.signals:
        return _sample_labels(recording, behavior, "train")
    trials, labels = labelled_trials(recording, behavior)
    part = recording.split("train")
    touched = np.array([len(part.slice(start_s, end_s)) > 0 for start_s, end_s in trials], bool)
    return labels[touched]


def _sample_labels(recording: Recording, behavior: str, split: str) -> np.ndarray:
    signal = recording.behavior(behavior)
    parts = [as_labels(np.asarray(signal.slice(*pair).values)) for pair in recording.split(split)]
    return np.concatenate([np.zeros(0, np.str_), *parts])
