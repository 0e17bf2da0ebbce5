"""What may be wrong with a recording: errors that stop its use, and warnings that come with a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from possm.data.faults import SYNCHRONOUS, synchronous
from possm.data.features import feature_warnings
from possm.data.recording import SPLITS, Recording
from possm.data.series import Binned, Signal, Spikes
from possm.errors import RecordingError

ROWS_AT_ONCE = 1 << 20
LONGEST_S = 1e6  # nobody records for 11 days on end; spikes over such a span are not in seconds
LATEST_S = 1e11  # beyond this (year 5000 on the Unix clock) a float64 cannot tell 10 microseconds apart
TICKS = {1e3: "milliseconds", 1e6: "microseconds", 1e9: "nanoseconds"}
QUIET_HZ = 0.5
GAP_STEPS = 5  # a step between samples this many times the usual one is a gap


def check_recording(recording: Recording) -> list[str]:
    """Look at everything in a recording.

    Returns:
        Warnings, each with a count or a duration; empty if nothing is odd.

    Raises:
        RecordingError: It cannot be used: times unsorted, NaN or not in seconds, units that are not in the
            table, no spike at all, impossible counts, overlapping splits, an empty domain.
    """
    if not len(recording.domain):
        raise RecordingError("the domain is empty: no time of this recording counts", about=recording.name)
    twice = [unit for unit, times in Counter(recording.unit_ids).items() if times > 1]
    if twice:
        raise RecordingError("unit ids repeat", about=recording.name, got=", ".join(twice[:5]))
    warnings: list[str] = []
    if recording.spikes is not None:
        warnings += _spikes(recording, recording.spikes)
    if recording.binned is not None:
        warnings += _binned(recording, recording.binned)
    for name, feature in recording.features.items():
        warnings += feature_warnings(recording, name, feature)
    for name, signal in recording.signals.items():
        warnings += _signal(recording, name, signal)
    columns = [column for part in recording.intervals.values() for column in part.columns.values()]
    labelled = any(column.dtype.kind == "U" for column in columns)
    if not recording.signals and not labelled:
        warnings.append("no behavior: nothing to decode")
    return warnings + _splits(recording)


def blocks(spikes: Spikes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Times and units, a million at a time, so that a lazy recording stays on the disk."""
    for row in range(0, len(spikes), ROWS_AT_ONCE):
        rows = slice(row, row + ROWS_AT_ONCE)
        yield np.asarray(spikes.times_s[rows]), np.asarray(spikes.unit[rows])


def unit_counts(recording: Recording) -> np.ndarray:
    """(units,) number of spikes of each unit; units out of range are left out."""
    total = np.zeros(recording.num_units)
    if recording.binned is not None:
        return np.asarray(np.nansum(np.asarray(recording.binned.values[:], np.float64), axis=0))
    assert recording.spikes is not None
    for _, unit in blocks(recording.spikes):
        known = unit[(unit >= 0) & (unit < recording.num_units)]
        total += np.bincount(known, minlength=recording.num_units)
    return total


def quiet_units(recording: Recording) -> list[str]:
    """A warning about units that hardly fire, or none."""
    binned = recording.binned
    seconds = recording.domain.total_s if binned is None else len(binned) / binned.rate_hz
    rate_hz = unit_counts(recording) / seconds
    silent, quiet = int((rate_hz == 0).sum()), int(((rate_hz > 0) & (rate_hz < QUIET_HZ)).sum())
    if not silent + quiet:
        return []
    parts = [f"{silent} never fire"] * (silent > 0) + [f"{quiet} fire below {QUIET_HZ} Hz"] * (quiet > 0)
    return [f"of {len(rate_hz)} units {' and '.join(parts)} (kept)"]


def _spikes(recording: Recording, spikes: Spikes) -> list[str]:
    about = recording.name
    if not len(spikes):
        raise RecordingError("there is not a single spike", about=about)
    wrong: Counter[str] = Counter()
    before, earliest, latest = -np.inf, np.inf, -np.inf
    for times, unit in blocks(spikes):
        wrong["nan"] += int((~np.isfinite(times)).sum())
        wrong["unsorted"] += int((np.diff(times, prepend=before) < 0).sum())
        wrong["unknown"] += int(((unit < 0) | (unit >= recording.num_units)).sum())
        wrong["negative"] += int((times < 0).sum())
        before, earliest, latest = times[-1], min(earliest, times.min()), max(latest, times.max())
    if wrong["nan"]:
        raise RecordingError(
            "spike times are NaN or infinite", about=about, got=f"{wrong['nan']} of {len(spikes)}"
        )
    _seconds(recording, spikes, earliest, latest)
    if wrong["unsorted"]:
        raise RecordingError(
            "spike times are not ascending",
            about=about,
            got=f"{wrong['unsorted']} steps back in time",
            fix="sort times and units together: order = numpy.argsort(times, kind='stable')",
        )
    if wrong["unknown"]:
        raise RecordingError(
            "spikes are from units that are not in the unit table",
            about=about,
            got=f"{wrong['unknown']} of {len(spikes)} spikes",
            wanted=f"rows 0 to {recording.num_units - 1}",
        )
    warnings = quiet_units(recording)
    if wrong["negative"]:
        warnings.append(f"{wrong['negative']} spikes before time 0")
    return warnings


def _seconds(recording: Recording, spikes: Spikes, earliest: float, latest: float) -> None:
    """Raise if the spike times are not in seconds, or not on the clock of the behavior."""
    spans = [signal.times_s[[0, -1]] for signal in recording.signals.values() if len(signal) > 1]
    longest_s = max((float(last - first) for first, last in spans), default=0.0)
    ratio = (latest - earliest) / longest_s if longest_s > 0 else 1.0
    rate_hz = len(spikes) / max(latest - earliest, 1e-9) / recording.num_units
    # a long recording with a second of behavior is no error; with units that hardly fire it is one
    guess = next((factor for factor in TICKS if 0.3 < ratio / factor < 3 and rate_hz < QUIET_HZ), None)
    if guess is None and latest - earliest <= LONGEST_S and max(abs(earliest), abs(latest)) <= LATEST_S:
        return
    raise RecordingError(
        "spike times are not in seconds",
        about=recording.name,
        got=f"{earliest:g} to {latest:g}" + (f", which look like {TICKS[guess]}" if guess else ""),
        wanted="seconds, on the clock of the behavior",
        fix=f"divide them by {guess:g}"
        if guess
        else "find out the tick of the file's clock (milliseconds, microseconds, samples?) and convert",
    )


def _binned(recording: Recording, binned: Binned) -> list[str]:
    values = np.asarray(binned.values[:])
    bad, negative = int((~np.isfinite(values)).sum()), int((values < 0).sum())
    if bad or negative:
        raise RecordingError(
            "binned counts are impossible",
            about=recording.name,
            got=f"{bad} NaN or infinite, {negative} negative",
        )
    if not (values > 0).any():
        raise RecordingError("there is not a single spike in the bins", about=recording.name)
    warnings = quiet_units(recording)
    together = synchronous(binned)
    if together:
        share = f"{SYNCHRONOUS:.0%} of units"
        warnings.append(f"{together} bins with over {share} active, likely artefacts (kept)")
    return warnings


def _signal(recording: Recording, name: str, signal: Signal) -> list[str]:
    if not len(signal):
        return [f"{name} has no samples"]
    times, values = signal.times_s, np.asarray(signal.values[:])
    if signal.timestamps_s is not None:
        _ascending(recording, name, times)
    warnings = []
    measured = np.isfinite(values).all(axis=1)
    inside = recording.domain.contains(times)
    missing = int((~measured & inside).sum())
    if missing:
        warnings.append(f"{name}: {missing} of {int(inside.sum())} samples in the domain are NaN")
    known = values[measured & inside]
    if not len(known):
        return [*warnings, f"{name} has no measured sample in the domain"]
    still = [str(k) for k in range(known.shape[1]) if known[:, k].min() == known[:, k].max()]
    if still:
        warnings.append(
            f"{name}: {len(still)} of {known.shape[1]} dimensions never change ({', '.join(still)})"
        )
    return warnings + _coverage(recording, name, times, signal.rate_hz)


def _ascending(recording: Recording, name: str, times: np.ndarray) -> None:
    back = int((~(np.diff(times) >= 0)).sum())  # NaN counts, too
    if back or not np.isfinite(times).all():
        raise RecordingError(
            f"the times of '{name}' are not ascending", about=recording.name, got=f"{back} steps back, or NaN"
        )


def _coverage(recording: Recording, name: str, times: np.ndarray, rate_hz: float | None) -> list[str]:
    """Warnings about time of the domain without behavior: at its ends, and in gaps between samples."""
    steps = np.diff(times)
    usual_s = 1 / rate_hz if rate_hz is not None else float(np.median(steps)) if len(steps) else 0.0
    start_s, end_s = float(recording.domain.start_s[0]), float(recording.domain.end_s.max())
    before, after = times[0] - start_s, end_s - times[-1]
    warnings = []
    short_s = max(before, 0.0) * (before > GAP_STEPS * usual_s) + max(after, 0.0) * (
        after > GAP_STEPS * usual_s
    )
    if short_s > 0:
        warnings.append(f"{name} is {short_s:.1f} s shorter than the neural recording")
    gaps = steps[steps > GAP_STEPS * usual_s] if rate_hz is None and usual_s > 0 else steps[:0]
    if len(gaps):
        warnings.append(f"{name} has {len(gaps)} gaps, {gaps.sum():.1f} s in all")
    doubled = int((steps == 0).sum())
    if doubled:
        warnings.append(f"{name} has {doubled} samples at the time of the one before")
    return warnings


def _splits(recording: Recording) -> list[str]:
    parts = {name: recording.split(name) for name in SPLITS if f"{name}_domain" in recording.intervals}
    for one, other in combinations(parts, 2):
        shared_s = (parts[one] & parts[other]).total_s
        if shared_s > 0:
            raise RecordingError(
                f"the splits {one} and {other} overlap",
                about=recording.name,
                got=f"{shared_s:.3g} s in both",
                fix="make new ones with possm.data.splits.chronological_split",
            )
    outside = {name: (part - recording.domain).total_s for name, part in parts.items()}
    return [f"{s:.1f} s of {name} lie outside the domain" for name, s in outside.items() if s > 1e-6]
