"""What must hold before the first step, so that no run fails at its first validation, minutes later."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from possm.data.checks import check_recording
from possm.data.collection import check_distinct, renamed
from possm.data.labels import has_behavior
from possm.data.recording import Recording
from possm.errors import ConfigError, RecordingError
from possm.evaluation.score import evaluation_intervals
from possm.model.decoder import BehaviorConfig
from possm.training.categories import category_config, check_category, is_category
from possm.training.sentences import check_sequence, is_sequence, sequence_config

if TYPE_CHECKING:
    from possm.training.config import TrainConfig

logger = logging.getLogger(__name__)

SAME_CLOCK = 1e-5
"""Relative difference up to which bins and chunks share a clock; float32 time stamps are off by 1e-7."""


def gather(recordings: Sequence[Recording], config: TrainConfig) -> list[Recording]:
    """The recordings of a run: renamed as its settings say, and with `skip_bad` without those that are
    damaged or lack a split, each with a warning.

    Raises:
        RecordingError, ConfigError: As `check_run`; or two recordings are of one session, or a rename changes
            nothing.
    """
    gathered = renamed(recordings, config.rename)
    check_distinct(gathered)
    if config.skip_bad:
        gathered = [recording for recording in gathered if _is_good(recording, config)]
        if not gathered:
            raise ConfigError("every recording was skipped", fix="look at the warnings above")
    check_run(gathered, config, chunk_ms=config.decoder.chunk_ms, contents=not config.skip_bad)
    return gathered


def check_run(
    recordings: Sequence[Recording],
    config: TrainConfig,
    *,
    chunk_ms: int,
    contents: bool = True,
    adapting: bool = False,
) -> None:
    """Whether a run can be what its settings say.

    Args:
        recordings: All of the run.
        config: What it is told.
        chunk_ms: Step of the model.
        contents: Whether to read everything that is in the recordings.
        adapting: A decoder that is there, so its chunks and behaviors are not to choose.

    Raises:
        RecordingError: A recording is damaged, lacks a split, a behavior or the evaluation intervals, or has
            nothing to score in its valid split.
        ConfigError: There is none, one has bins that do not fill whole chunks, or a setting names intervals
            or a dataset that none has.
    """
    if not recordings:
        raise ConfigError("there is no recording to train on")
    for recording in recordings if contents else ():
        check_contents(recording, chunk_ms=chunk_ms, adapting=adapting)
    _check_presence(recordings, config, adapting=adapting)
    for name in config.behavior:
        there = having(recordings, name, allow_missing=config.allow_missing_behaviors)
        if is_sequence(there[0], name):
            check_sequence(there, name, config.decoder)
            continue
        classes = category_config(there, name) if is_category(there[0], name) else None
        for recording in there:
            if classes is None:
                _check_validation(recording, name, config.evaluate_within)
            else:
                within = config.evaluate_within
                selection = None if within is None else evaluation_intervals(recording, within)
                check_category(recording, classes, name, within=selection)
    check_names("interval_weights", config.interval_weights, {i for r in recordings for i in r.intervals})
    check_names("dataset_weights", config.dataset_weights, {r.dataset_id for r in recordings})


def check_contents(recording: Recording, *, chunk_ms: int, adapting: bool = False) -> None:
    """Whether a recording is sound; what is odd about it is logged.

    Raises:
        RecordingError: It is damaged, or lacks a split.
        ConfigError: It has bins that do not fill whole chunks.
    """
    for warning in check_recording(recording):
        logger.warning("%s: %s", recording.name, warning)
    for split in ("train", "valid"):
        recording.split(split)
    _check_bins(recording, chunk_ms, adapting=adapting)


def having(recordings: Sequence[Recording], behavior: str, *, allow_missing: bool) -> list[Recording]:
    """The recordings with a behavior; all of them, unless some may lack it."""
    there = [r for r in recordings if has_behavior(r, behavior)] if allow_missing else []
    return there or list(recordings)


def _is_good(recording: Recording, config: TrainConfig) -> bool:
    try:
        check_contents(recording, chunk_ms=config.decoder.chunk_ms)
    except RecordingError as error:
        logger.warning("skipped: %s", error)
        return False
    return True


def _check_presence(recordings: Sequence[Recording], config: TrainConfig, *, adapting: bool) -> None:
    """Every recording has every behavior, or one at least where some may be missing."""
    for recording in recordings:
        missing = [name for name in config.behavior if not has_behavior(recording, name)]
        if missing and (len(missing) == len(config.behavior) or not config.allow_missing_behaviors):
            fix = "name one of these, or --rename one of them"
            if adapting:
                fix = "--rename OLD=NEW one of these, or --behavior what it has"
            elif len(missing) < len(config.behavior):
                fix += "; with --allow-missing-behaviors it trains what it has"
            raise RecordingError(
                f"no behavior '{missing[0]}'",
                about=recording.name,
                got=", ".join(_behaviors(recording)) or "no behavior at all",
                fix=fix,
            )


def _behaviors(recording: Recording) -> list[str]:
    columns = [f"{name}.{column}" for name, part in recording.intervals.items() for column in part.columns]
    return [*recording.signals, *columns]


def behavior_configs(
    recordings: Sequence[Recording], names: Sequence[str], *, allow_missing: bool = False
) -> dict[str, BehaviorConfig]:
    """The sizes of the behaviors as they are in the recordings, and the classes of categories.

    Args:
        recordings: All of a run.
        names: Of the behaviors.
        allow_missing: Whether a recording may lack one.

    Raises:
        RecordingError: A recording lacks one.
        ConfigError: They differ between recordings.
    """
    behaviors = {}
    for name in names:
        there = having(recordings, name, allow_missing=allow_missing)
        if is_category(there[0], name):
            behaviors[name] = category_config(there, name)
            continue
        if is_sequence(there[0], name):
            behaviors[name] = sequence_config(there, name)
            continue
        sizes = {recording.behavior(name).num_dimensions for recording in there}
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


def _check_bins(recording: Recording, chunk_ms: int, *, adapting: bool) -> None:
    """A bin is one token at its centre. Where a chunk ends inside a bin, that token would bring spikes from
    after the end of the chunk, and the decoder would not be causal."""
    if recording.binned is None:
        return
    bin_ms = 1000 / recording.binned.rate_hz
    lengths = [number * bin_ms for number in range(1, 1 + max(20, math.ceil(chunk_ms / bin_ms)))]
    fitting = [round(ms) for ms in lengths if abs(ms - round(ms)) < SAME_CLOCK * ms]
    if chunk_ms not in fitting:
        near = None if adapting else min(fitting, key=lambda ms: abs(ms - chunk_ms), default=None)
        raise ConfigError(
            "a chunk does not hold a whole number of the recording's bins",
            about=recording.name,
            got=f"bins of {bin_ms:g} ms, chunks of {chunk_ms} ms",
            fix=f"bin it anew, {chunk_ms} ms or a part of it" if near is None else f"--chunk-ms {near}",
        )


def _check_validation(recording: Recording, behavior: str, within: str | None) -> None:
    scored = recording.split("valid")
    if within is not None:
        scored = scored & evaluation_intervals(recording, within)
    signal = recording.behavior(behavior)
    parts = [np.asarray(signal.slice(*pair).values, np.float64) for pair in scored]
    values = np.concatenate([np.zeros((0, signal.num_dimensions)), *parts])
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) < 2 or (np.ptp(values, axis=0) == 0).any():
        raise RecordingError(
            "validation R2 is not defined, so no weights can be selected",
            about=f"{recording.name}, behavior '{behavior}'",
            got=f"{len(values)} samples in the valid split" + (", constant" if len(values) > 1 else ""),
            fix="give the valid split samples of a behavior that changes",
        )
