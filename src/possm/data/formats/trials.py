"""Trials of a MATLAB file: its table and its event words as intervals."""

from __future__ import annotations

import numpy as np

from possm.data.formats.matfile import find_field
from possm.data.formats.rules import ColumnRule, PhaseRule, TrialsRule
from possm.data.formats.source import Source
from possm.data.intervals import Intervals
from possm.errors import RecordingError


def read_trials(source: Source) -> dict[str, Intervals]:
    """The intervals "trials" and the phases the map makes from their columns; empty without a trial table."""
    rule = next((rule for rule in source.mapping.trials if _fits(source, rule)), None)
    if rule is None:
        return {}
    table = np.atleast_2d(source.numbers(rule.field).astype(np.float64))
    start, end = (_column(source, table, ColumnRule(column=(k,))) for k in (rule.start, rule.end))
    good = np.isfinite(start) & np.isfinite(end) & (end > start)
    source.findings.drop("trials without a start or an end", int((~good).sum()))
    order = np.flatnonzero(good)[np.argsort(start[good], kind="stable")]
    columns = {name: _fill(source, table, column, start, end) for name, column in rule.columns.items()}
    trials = Intervals(start[order], end[order], {name: column[order] for name, column in columns.items()})
    phases = {phase.name: make_phase(source, trials, phase) for phase in source.mapping.phases}
    return {"trials": trials, **phases}


def _fits(source: Source, rule: TrialsRule) -> bool:
    wanted = rule.if_field is None or find_field(source.fields, rule.if_field) is not None
    unwanted = rule.unless_field is not None and find_field(source.fields, rule.unless_field) is not None
    return wanted and not unwanted and find_field(source.fields, rule.field) is not None


def _column(source: Source, table: np.ndarray, rule: ColumnRule) -> np.ndarray:
    """The first of some columns that is not missing, row by row; NaN where all are."""
    if max(rule.column) >= table.shape[1]:
        raise RecordingError(
            "the trial table has too few columns", about=source.path, got=table.shape[1], wanted=rule.column
        )
    out = np.full(len(table), np.nan)
    for column in reversed(rule.column):
        there = np.isfinite(table[:, column]) & (table[:, column] != -1)
        out[there] = table[there, column]
    return out


def _fill(
    source: Source, table: np.ndarray, rule: ColumnRule, start: np.ndarray, end: np.ndarray
) -> np.ndarray:
    if rule.word is not None:
        return _scaled(_word(source, rule, start, end), rule)
    values = _column(source, table, rule)
    if rule.letter:
        return np.array(
            [chr(int(value)) if np.isfinite(value) and 32 <= value < 127 else "" for value in values]
        )
    return _scaled(values, rule)


def _scaled(values: np.ndarray, rule: ColumnRule) -> np.ndarray:
    values = values * rule.times + rule.plus
    return values if rule.modulo is None else np.mod(values, rule.modulo)


def _word(source: Source, rule: ColumnRule, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The newest word in the range during each trial, less the lower end of the range; NaN without one."""
    assert rule.word is not None
    if source.mapping.words is None:
        raise RecordingError(
            "a trial column takes a word, but the map has no [words]", about=source.mapping.name
        )
    words = np.atleast_2d(source.numbers(source.mapping.words.field).astype(np.float64))
    words = words[(words[:, 1] >= rule.word[0]) & (words[:, 1] <= rule.word[1])]
    words = words[np.argsort(words[:, 0], kind="stable")]
    newest = np.searchsorted(words[:, 0], end, side="right") - 1
    out = np.full(len(start), np.nan)
    there = newest >= 0
    there[there] = words[newest[there], 0] >= start[there]
    out[there] = words[newest[there], 1] - rule.word[0]
    return out


def make_phase(source: Source, trials: Intervals, rule: PhaseRule) -> Intervals:
    """The intervals between two columns of the trials.

    Raises:
        RecordingError: The phase names columns that are not there.
    """
    known = {"start": trials.start_s, "end": trials.end_s, **trials.columns}
    missing = sorted({rule.start, rule.end, *rule.where} - set(known))
    if missing:
        raise RecordingError(
            f"the phase '{rule.name}' names unknown columns",
            about=source.mapping.name,
            got=missing,
            wanted=list(known),
        )
    start, end = known[rule.start], known[rule.end]
    keep = np.isfinite(start) & np.isfinite(end) & (end > start)
    for column, values in rule.where.items():
        keep &= np.isin(known[column], np.asarray(values))
    return Intervals.of(zip(start[keep].tolist(), end[keep].tolist(), strict=True))
