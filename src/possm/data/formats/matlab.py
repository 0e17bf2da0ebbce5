"""MATLAB files, versions 5 to 7.3, through a map that says which field is what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from possm.data import faults
from possm.data.faults import Findings
from possm.data.formats.mapping import list_maps, load_map, who
from possm.data.formats.matfile import find_field
from possm.data.formats.matunits import read_bins, read_spikes, read_units
from possm.data.formats.rasters import read_rasters
from possm.data.formats.rules import MatlabMap, SignalRule
from possm.data.formats.source import Source, open_source
from possm.data.formats.trials import read_trials
from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.data.series import Binned, Signal, Spikes
from possm.errors import RecordingError

__all__ = ["list_maps", "load_map", "read_matlab"]

BEFORE_END_S = 5e-10
"""A sample stamped at the end of its bin lies this much before it: inside its own reach, not in the next one.
Decoders count a sample so near to the end of a chunk as at its end (`possm.data.chunks.EDGE_TOLERANCE_S`)."""


def read_matlab(
    path: str | Path, mapping: MatlabMap | str | Path, *, findings: Findings | None = None
) -> Recording:
    """Read a MATLAB recording into memory.

    Args:
        path: The ``.mat`` file.
        mapping: A map, the name of a shipped one (`list_maps`), or the path of a ``.toml`` file.
        findings: Filled with what was dropped and noticed.

    Raises:
        RecordingError: The file is unreadable, or does not hold what the map says.
        ConfigError: There is no such map, or it is not valid.
    """
    path = Path(path)
    mapping = mapping if isinstance(mapping, MatlabMap) else load_map(mapping)
    findings = Findings() if findings is None else findings
    source = open_source(path, mapping, findings)
    if mapping.rasters is not None:
        return _of_rasters(source)
    binned, rows, bad = read_bins(source) if mapping.bins is not None else (None, None, Intervals.of([]))
    spikes, num_units = read_spikes(source) if binned is None else (None, binned.values.shape[1])
    signals = {
        rule.name: signal
        for rule in mapping.signals
        if rule.field is not None and (signal := _signal(source, rule, binned, rows)) is not None
    }
    domain = _cut(source, signals, _hull(source, binned, spikes, signals) - bad)
    domain = domain - _faults(source, signals, binned)
    if not len(domain):
        dropped = "; ".join(map(str, source.findings.dropped))
        raise RecordingError("no time of this recording is usable", about=path, got=dropped)
    for rule in mapping.signals:
        if rule.gradient_of in signals:
            signals[rule.name] = _gradient(signals[rule.gradient_of], domain, rule.unit)
    session_id, subject_id, attributes = who(mapping, path.stem)
    unit_ids, unit_columns = read_units(source, num_units)
    return Recording(
        session_id=session_id,
        subject_id=subject_id,
        unit_ids=unit_ids,
        unit_columns=unit_columns,
        domain=domain,
        spikes=spikes,
        binned=binned,
        signals=signals,
        intervals=read_trials(source),
        attributes={**attributes, "possm_map": mapping.name, "source_file": path.name},
    )


def _of_rasters(source: Source) -> Recording:
    read = read_rasters(source)
    session_id, subject_id, attributes = who(source.mapping, source.path.stem)
    unit_ids, unit_columns = read_units(source, read.num_units)
    return Recording(
        session_id=session_id,
        subject_id=subject_id,
        unit_ids=unit_ids,
        unit_columns=unit_columns,
        domain=read.domain,
        spikes=read.spikes,
        intervals=read.intervals,
        attributes={**attributes, "possm_map": source.mapping.name, "source_file": source.path.name},
    )


def _signal(
    source: Source, rule: SignalRule, binned: Binned | None, rows: np.ndarray | None
) -> Signal | None:
    names = [rule.field] if isinstance(rule.field, str) else list(rule.field or ())
    if rule.optional and any(find_field(source.fields, name) is None for name in names):
        return None
    parts = [source.numbers(name) for name in names]
    values = np.column_stack(parts) if len(parts) > 1 else parts[0]
    values = values[:, None] if values.ndim == 1 else values
    if rule.columns is not None:
        if values.ndim != 2 or max(rule.columns) >= values.shape[1]:
            raise RecordingError(
                f"'{rule.name}' has too few columns", about=source.path, got=values.shape, wanted=rule.columns
            )
        values = values[:, list(rule.columns)]
    if values.dtype.kind != "f":
        values = values.astype(np.float32)
    return _timed(source, rule, values) if rule.times else _on_bins(source, rule, values, binned, rows)


def _timed(source: Source, rule: SignalRule, values: np.ndarray) -> Signal:
    """A signal with its own times; samples whose time is NaN or not after the one before go."""
    times = source.numbers(str(rule.times)).astype(np.float64).ravel()
    _same_length(source, rule, len(values), len(times))
    latest = np.maximum.accumulate(np.where(np.isfinite(times), times, -np.inf))
    good = np.isfinite(times) & (times > np.append(-np.inf, latest[:-1]))
    source.findings.drop(f"samples of {rule.name} whose time does not go forward", int((~good).sum()))
    return Signal(values[good], timestamps_s=times[good], unit=rule.unit)


def _on_bins(
    source: Source, rule: SignalRule, values: np.ndarray, binned: Binned | None, rows: np.ndarray | None
) -> Signal:
    """A signal with one sample a bin; where bins were missing it is NaN."""
    assert binned is not None and rows is not None
    _same_length(source, rule, len(values), len(rows))
    placed = np.full((len(binned), values.shape[1]), np.nan, values.dtype)
    placed[rows[rows >= 0]] = values[rows >= 0]
    start_s = binned.start_s + (1 / binned.rate_hz - BEFORE_END_S if rule.stamp == "end" else 0.0)
    return Signal(placed, start_s=start_s, rate_hz=binned.rate_hz, unit=rule.unit)


def _same_length(source: Source, rule: SignalRule, got: int, wanted: int) -> None:
    if got != wanted:
        raise RecordingError(
            f"'{rule.name}' has another length than its times",
            about=source.path,
            got=f"{got} samples",
            wanted=f"{wanted}, as many as {'times' if rule.times else 'bins'}",
        )


def _hull(
    source: Source, binned: Binned | None, spikes: Spikes | None, signals: Mapping[str, Signal]
) -> Intervals:
    """From the first to the last bin; or for spike times, while some behavior was measured."""
    if binned is not None:
        return Intervals.of([binned.span_s])
    times = [signal.times_s for signal in signals.values() if len(signal) > 1]
    if times:
        step_s = min(float(np.median(np.diff(t))) for t in times)
        return Intervals.of([(min(float(t[0]) for t in times), max(float(t[-1]) for t in times) + step_s)])
    if spikes is None or not len(spikes):
        raise RecordingError("there is neither a spike nor a behavior", about=source.path)
    return Intervals.of([(float(spikes.times_s[0]), float(np.nextafter(spikes.times_s[-1], np.inf)))])


def _cut(source: Source, signals: Mapping[str, Signal], domain: Intervals) -> Intervals:
    """The domain in pieces where the position steps by more than the velocity says."""
    rule = source.mapping.cuts
    if rule is None:
        return domain
    position, velocity = signals[rule.position], signals[rule.velocity]
    assert position.rate_hz is not None
    step = np.diff(position.values, axis=0) - velocity.values[1:] / position.rate_hz
    first = np.append(0, np.flatnonzero(np.abs(step).max(axis=1) > rule.tolerance) + 1)
    start, end = domain.start_s[0], domain.end_s[-1]
    edges = np.append(start + first / position.rate_hz, end)
    source.findings.noticed.append(
        f"{len(first)} pieces joined end to end; each is an interval of the domain"
    )
    return domain & Intervals(edges[:-1], edges[1:])


def _faults(source: Source, signals: Mapping[str, Signal], binned: Binned | None) -> Intervals:
    """Everything the quality rules take out; a bin or sample may fall under several."""
    rule, bad = source.mapping.quality, Intervals.of([])

    def mark(what: str, rows: np.ndarray, series: Binned | Signal) -> None:
        nonlocal bad
        found = faults.rows_to_intervals(rows, series)
        source.findings.drop(what, int(rows.sum()), found.total_s)
        bad = bad | found

    if rule.frozen is not None:
        signal = signals[rule.frozen.signal]
        marked = faults.frozen(signal, within=rule.frozen.within, seconds=rule.frozen.seconds)
        mark(f"samples while {rule.frozen.signal} is frozen for {rule.frozen.seconds:g} s", marked, signal)
    if rule.silent_s is not None and binned is not None:
        marked = faults.silent(binned, seconds=rule.silent_s)
        mark(f"bins while no unit fires for {rule.silent_s:g} s", marked, binned)
    if rule.off_scale is not None:
        signal = signals[rule.off_scale.signal]
        marked = faults.off_scale(signal, limit=rule.off_scale.limit, margin_s=rule.off_scale.margin_s)
        mark(
            f"samples around {rule.off_scale.signal} off scale (limit {rule.off_scale.limit:g})",
            marked,
            signal,
        )
    return bad


def _gradient(signal: Signal, domain: Intervals, unit: str) -> Signal:
    """Central differences within each interval of the domain, one-sided at its ends; NaN elsewhere."""
    times, values = signal.times_s, np.asarray(signal.values, np.float64)
    out = np.full(values.shape, np.nan)
    first, last = np.searchsorted(times, domain.start_s), np.searchsorted(times, domain.end_s)
    for a, b in zip(first.tolist(), last.tolist(), strict=True):
        if b - a >= 2:
            spacing = times[a:b] if signal.rate_hz is None else 1 / signal.rate_hz
            out[a:b] = np.gradient(values[a:b], spacing, axis=0)
    return Signal(
        out.astype(signal.values.dtype),
        timestamps_s=signal.timestamps_s,
        start_s=signal.start_s,
        rate_hz=signal.rate_hz,
        unit=unit,
    )
