"""The neural part of a MATLAB file: bins or spike times, and the names of the units."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from possm.data.faults import rows_to_intervals
from possm.data.formats.rules import BinsRule
from possm.data.formats.source import Source
from possm.data.intervals import Intervals
from possm.data.series import Binned, Spikes
from possm.errors import RecordingError

WHOLE = 0.05  # how far rate x bin may be from a whole count


def read_bins(source: Source) -> tuple[Binned, np.ndarray, Intervals]:
    """The counts; for every row of the file its bin (-1: dropped); and the time of bins the file lacks."""
    rule = source.mapping.bins
    assert rule is not None
    values = source.numbers(rule.field)
    values = values[:, None] if values.ndim == 1 else values
    start_s, rows = _rows(source, rule, len(values))
    counts = np.asarray(values, np.float64) * (rule.bin_s if rule.holds == "rates" else 1.0)
    whole = np.rint(counts)
    odd = int((np.abs(counts - whole) > WHOLE).sum())
    if odd and rule.holds == "rates":
        source.findings.noticed.append(
            f"{odd} rates are not whole counts in a bin of {rule.bin_s:g} s; rounded"
        )
    nan = ~np.isfinite(counts).all(axis=1)
    if nan.all() or counts[~nan].min() < 0:
        raise RecordingError("counts are negative, or all NaN", about=source.path, got=rule.field)
    there = np.zeros(int(rows.max()) + 1, bool)
    there[rows[(rows >= 0) & ~nan]] = True
    placed = np.zeros((len(there), values.shape[1]), np.min_scalar_type(int(whole[~nan].max())))
    placed[rows[(rows >= 0) & ~nan]] = whole[(rows >= 0) & ~nan]
    binned = Binned(placed, start_s=start_s, rate_hz=round(1 / rule.bin_s, 9))
    missing = rows_to_intervals(~there, binned)
    source.findings.drop("bins that are missing or NaN", int((~there).sum()), missing.total_s)
    return binned, rows, missing


def _rows(source: Source, rule: BinsRule, number: int) -> tuple[float, np.ndarray]:
    """Start of bin 0, and the bin of every row; a row whose time does not go forward gets -1."""
    if rule.times is None:
        return 0.0, np.arange(number)
    field = source.numbers(rule.times).ravel()
    times = field.astype(np.float64)
    if len(times) != number:
        raise RecordingError("bins need one time each", about=source.path, got=len(times), wanted=number)
    latest = np.maximum.accumulate(np.where(np.isfinite(times), times, -np.inf))
    good = np.isfinite(times) & (times > np.append(-np.inf, latest[:-1]))
    source.findings.drop("bins whose time does not go forward", int((~good).sum()))
    kept = times[good]
    # single precision holds seconds to a tenth of a millisecond only
    start_s = round(float(kept[0]), 4) if field.dtype == np.float32 else float(kept[0])
    exact = (kept - start_s) / rule.bin_s
    number_of = np.rint(exact).astype(np.int64)
    if len(kept) > 1 and (np.abs(exact - number_of).max() > 0.1 or (np.diff(number_of) < 1).any()):
        step_s = float(np.median(np.diff(kept)))
        raise RecordingError(
            "the times of the bins do not fit their length",
            about=source.path,
            got=f"{rule.times} in steps of {step_s:g} s (median)",
            wanted=f"steps of {rule.bin_s:g} s",
            fix="correct bin_s in the map",
        )
    rows = np.full(number, -1)
    rows[good] = number_of
    return start_s, rows


def read_spikes(source: Source) -> tuple[Spikes, int]:
    """Spike times of all units in one ascending list; and the number of units."""
    rule = source.mapping.spikes
    assert rule is not None
    if rule.unit is not None:
        times, labels = source.numbers(rule.field).ravel(), source.numbers(rule.unit).ravel()
        names, unit = np.unique(labels, return_inverse=True)
        return _sorted(source, times, unit, rule.scale_s), len(names)
    entries = source.get(rule.field)
    entries = entries if isinstance(entries, (list, np.ndarray)) else [entries]
    lists = [np.atleast_1d(np.asarray(_times(source, entry), np.float64)).ravel() for entry in entries]
    unit = np.repeat(np.arange(len(lists)), [len(part) for part in lists])
    return _sorted(source, np.concatenate(lists), unit, rule.scale_s), len(lists)


def _times(source: Source, entry: object) -> object:
    rule = source.mapping.spikes
    assert rule is not None
    if rule.times is None:
        return entry
    if not isinstance(entry, Mapping) or rule.times not in entry:
        got = ", ".join(entry) if isinstance(entry, Mapping) else type(entry).__name__
        raise RecordingError(
            f"an entry of '{rule.field}' has no spike times", about=source.path, got=got, wanted=rule.times
        )
    return entry[rule.times]


def _sorted(source: Source, times: np.ndarray, unit: np.ndarray, scale_s: float) -> Spikes:
    if len(times) != len(unit):
        raise RecordingError("spikes need one unit each", about=source.path, got=len(unit), wanted=len(times))
    good = np.isfinite(times)
    source.findings.drop("spikes whose time is NaN", int((~good).sum()))
    times, unit = times[good].astype(np.float64) * scale_s, unit[good].astype(np.int64)
    order = np.argsort(times, kind="stable")
    return Spikes(times[order], unit[order])


def read_units(source: Source, number: int) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Names of the units, and the numbers the map takes out of them."""
    rule = source.mapping.units
    if rule.ids is None:
        digits = len(str(number))
        names = [f"{rule.prefix}{k + 1:0{digits}d}" for k in range(number)]
    else:
        names = [str(name).strip() for name in np.atleast_1d(np.asarray(source.get(rule.ids)))]
    if len(names) != number or len(set(names)) != number:
        raise RecordingError(
            "units need one name each, all different",
            about=source.path,
            got=f"{len(names)} names, {len(set(names))} of them different",
            wanted=f"{number} units",
        )
    columns = {}
    for column, pattern in rule.columns.items():
        found = [re.search(pattern, name) for name in names]
        columns[column] = np.array([int(match.group(1)) if match else -1 for match in found], np.int64)
    return tuple(names), columns
