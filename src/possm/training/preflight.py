"""What must hold before the first step, so that no run fails at its first validation, minutes later."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from possm.data.checks import check_recording
from possm.data.recording import Recording
from possm.errors import ConfigError, RecordingError
from possm.evaluation.score import evaluation_intervals, targets_at
from possm.model.decoder import BehaviorConfig
from possm.training.categories import category_config, check_category, is_category

if TYPE_CHECKING:
    from possm.training.config import TrainConfig

logger = logging.getLogger(__name__)

SAME_CLOCK = 1e-5
"""Relative difference up to which bins and chunks share a clock; float32 time stamps are off by 1e-7."""


def check_run(recordings: Sequence[Recording], config: TrainConfig, *, chunk_ms: int) -> None:
    """Whether a run can be what its settings say.

    Raises:
        RecordingError, ConfigError: As `check_recordings`; or a setting names intervals that none has.
    """
    behaviors, within = config.behavior, config.evaluate_within
    check_recordings(recordings, behaviors=behaviors, chunk_ms=chunk_ms, within=within)
    check_names("interval_weights", config.interval_weights, {i for r in recordings for i in r.intervals})


def check_recordings(
    recordings: Sequence[Recording], *, behaviors: Sequence[str], chunk_ms: int, within: str | None
) -> None:
    """Whether these recordings can be trained on and validated.

    Args:
        recordings: All of a run.
        behaviors: What is to be decoded.
        chunk_ms: Step of the model.
        within: Intervals whose samples count in validation; None counts all.

    Raises:
        RecordingError: One is damaged, lacks a split, a behavior or the intervals, or has nothing to score in
            its valid split.
        ConfigError: There is none, or one has bins that do not fill whole chunks.
    """
    if not recordings:
        raise ConfigError("there is no recording to train on")
    for recording in recordings:
        for warning in check_recording(recording):
            logger.warning("%s: %s", recording.name, warning)
        recording.split("train")
        _check_bins(recording, chunk_ms)
    for name in behaviors:
        classes = category_config(recordings, name) if is_category(recordings[0], name) else None
        for recording in recordings:
            if classes is None:
                _check_validation(recording, name, within)
            else:
                selection = None if within is None else evaluation_intervals(recording, within)
                check_category(recording, classes, name, within=selection)


def behavior_configs(recordings: Sequence[Recording], names: Sequence[str]) -> dict[str, BehaviorConfig]:
    """The sizes of the behaviors as they are in the recordings, and the classes of categories.

    Raises:
        RecordingError: A recording lacks one.
        ConfigError: They differ between recordings.
    """
    behaviors = {}
    for name in names:
        if is_category(recordings[0], name):
            behaviors[name] = category_config(recordings, name)
            continue
        sizes = {recording.behavior(name).num_dimensions for recording in recordings}
        if len(sizes) > 1:
            raise ConfigError(f"behavior {name!r} differs in size between recordings", got=sorted(sizes))
        behaviors[name] = BehaviorConfig(num_dimensions=sizes.pop())
    return behaviors


def check_names(setting: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Whether a setting names what exists; a name that nothing answers to would change nothing, silently.

    Raises:
        ConfigError: One does not.
    """
    there = sorted(set(known))
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, 1)
            fix = f"did you mean {near[0]!r}?" if near else None
            raise ConfigError(
                f"{setting} names {name!r}", got=name, wanted=f"one of {', '.join(there)}", fix=fix
            )


def _check_bins(recording: Recording, chunk_ms: int) -> None:
    """A bin is one token at its centre. Where a chunk ends inside a bin, that token would bring spikes from
    after the end of the chunk, and the decoder would not be causal."""
    if recording.binned is None:
        return
    bin_ms = 1000 / recording.binned.rate_hz
    lengths = [number * bin_ms for number in range(1, 1 + max(20, math.ceil(chunk_ms / bin_ms)))]
    fitting = [round(ms) for ms in lengths if abs(ms - round(ms)) < SAME_CLOCK * ms]
    if chunk_ms not in fitting:
        near = min(fitting, key=lambda ms: abs(ms - chunk_ms), default=None)
        raise ConfigError(
            "a chunk does not hold a whole number of the recording's bins",
            about=recording.name,
            got=f"bins of {bin_ms:g} ms, chunks of {chunk_ms} ms",
            fix="bin it anew, with whole milliseconds" if near is None else f"--chunk-ms {near}",
        )


def _check_validation(recording: Recording, behavior: str, within: str | None) -> None:
    scored = recording.split("valid")
    if within is not None:
        scored = scored & evaluation_intervals(recording, within)
    times_s = recording.behavior(behavior).times_s
    values = targets_at(recording, behavior, times_s[scored.contains(times_s)])
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) < 2 or (np.ptp(values, axis=0) == 0).any():
        raise RecordingError(
            "validation R2 is not defined, so no weights can be selected",
            about=f"{recording.name}, behavior '{behavior}'",
            got=f"{len(values)} samples in the valid split" + (", constant" if len(values) > 1 else ""),
            fix="give the valid split samples of a behavior that changes",
        )
