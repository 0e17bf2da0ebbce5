"""Trials kept as rasters, a struct for each trial, laid out by class: (trials, classes) of units x bins.

Such files have no clock: their trials are put one after another in the order of their numbers, with a gap
between them in which nothing was recorded. A spike is placed in the middle of its bin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from possm.data.formats.rules import RastersRule
from possm.data.formats.source import Source
from possm.data.formats.trials import make_phase
from possm.data.intervals import Intervals
from possm.data.series import Spikes
from possm.errors import RecordingError


@dataclass(frozen=True)
class RasterTrials:
    """What a file of rasters holds."""

    spikes: Spikes
    num_units: int
    domain: Intervals
    """The trials: between them nothing was recorded."""
    intervals: dict[str, Intervals]
    """``trials``, the phases of the map, and the splits: the file's own, with every so-manieth training trial
    of each class for validation."""


@dataclass(frozen=True)
class _Trial:
    number: int
    label: int
    part: str
    raster: np.ndarray


def read_rasters(source: Source) -> RasterTrials:
    """Trials, their classes and their spikes.

    Raises:
        RecordingError: A trial is missing, or differs in its number of units or in its length.
    """
    rule = source.mapping.rasters
    assert rule is not None
    trials = [*_trials(source, rule, rule.train, "train"), *_trials(source, rule, rule.test, "test")]
    trials.sort(key=lambda trial: trial.number)
    shapes = {trial.raster.shape for trial in trials}
    if len(shapes) != 1:
        raise RecordingError(
            "the trials differ in shape",
            about=source.path,
            got=sorted(shapes),
            wanted="(units, bins), one for all",
        )
    num_units, num_bins = shapes.pop()
    length_s = num_bins * rule.bin_s
    start_s = np.arange(len(trials)) * (length_s + rule.gap_s)
    columns: dict[str, np.ndarray] = {
        rule.label: np.array([trial.label for trial in trials]),
        "number": np.array([trial.number for trial in trials]),
        "part": np.array([trial.part for trial in trials]),
        **{name: start_s + at_s for name, at_s in rule.times.items()},
    }
    whole = Intervals(start_s, start_s + length_s, columns)
    intervals = {"trials": whole, **{p.name: make_phase(source, whole, p) for p in source.mapping.phases}}
    bare = Intervals(whole.start_s, whole.end_s)
    intervals |= {
        f"{part}_domain": bare.where(columns["part"] == part) for part in ("train", "valid", "test")
    }
    source.findings.noticed.append(f"{len(trials)} trials without a clock, put {rule.gap_s:g} s apart")
    return RasterTrials(_spikes(trials, start_s, rule.bin_s), num_units, bare, intervals)


def _trials(source: Source, rule: RastersRule, field: str, part: str) -> list[_Trial]:
    """Trials of one part; every `valid_every`-th of a class, in the order of time, is for validation."""
    table, made = _table(source, field), []
    for column in range(table.shape[1]):
        mine = []
        for row in range(table.shape[0]):
            number = int(np.ravel(_entry(source, table[row, column], rule.number))[0])
            raster = np.atleast_2d(np.asarray(_entry(source, table[row, column], rule.raster)))
            mine.append(_Trial(number, column + 1, part, raster))
        mine.sort(key=lambda trial: trial.number)
        for place, trial in enumerate(mine):
            held = part == "train" and place % rule.valid_every == rule.valid_every - 1
            made.append(_Trial(trial.number, trial.label, "valid", trial.raster) if held else trial)
    return made


def _table(source: Source, field: str) -> np.ndarray:
    """(trials, classes) of structs."""
    value = source.get(field)
    table = value if isinstance(value, np.ndarray) else _nested(value)
    if table.ndim != 2 or table.dtype != object:
        raise RecordingError(
            "a field of rasters is a table of structs",
            about=source.path,
            got=f"{field}: {table.dtype} of shape {table.shape}",
            wanted="(trials, classes)",
        )
    return table


def _nested(value: Sequence[Any]) -> np.ndarray:
    rows = [list(row) if isinstance(row, Sequence | np.ndarray) else [row] for row in value]
    table = np.empty((len(rows), len(rows[0]) if rows else 0), object)
    for place in np.ndindex(table.shape):
        table[place] = rows[place[0]][place[1]]
    return table


def _entry(source: Source, struct: Any, name: str) -> Any:
    value = struct.get(name) if isinstance(struct, Mapping) else getattr(struct, name, None)
    if value is None:
        raise RecordingError("a trial lacks a field", about=source.path, wanted=name)
    return value


def _spikes(trials: Sequence[_Trial], start_s: np.ndarray, bin_s: float) -> Spikes:
    times, units = [], []
    for trial, begin_s in zip(trials, start_s.tolist(), strict=True):
        unit, bins = np.nonzero(trial.raster)
        count = np.asarray(trial.raster[unit, bins], np.int64)
        times.append(np.repeat(begin_s + (bins + 0.5) * bin_s, count))
        units.append(np.repeat(unit, count))
    times_s, unit = np.concatenate(times), np.concatenate(units)
    order = np.argsort(times_s, kind="stable")
    return Spikes(times_s[order], unit[order].astype(np.int64))
