"""What is in a recording, in a few lines to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from possm.data.checks import check_recording, unit_counts
from possm.data.formats import load_recording
from possm.data.formats.mapping import list_maps
from possm.data.formats.matfile import describe, load_matlab
from possm.data.formats.releases import RELEASES
from possm.data.recording import SPLITS, Recording
from possm.data.series import Binned, Signal
from possm.errors import RecordingError


def inspect(path: str | Path) -> str:
    """Everything worth knowing about a recording file, warnings included, as text.

    Of a MATLAB file, which needs a map to be a recording, it lists the fields and the shipped maps.

    Raises:
        RecordingError: The file cannot be opened. What is wrong inside is part of the text.
    """
    path = Path(path)
    if path.suffix.lower() == ".mat":
        maps = [f"  {name}: {about}" for name, about in list_maps().items()]
        lines = [str(path), *("  " + line for line in describe(load_matlab(path))), "maps:", *maps]
        return "\n".join([*lines, f"or --format {' | '.join(RELEASES)}, for a file of these releases"])
    with load_recording(path) as recording:
        lines = [str(path), *("  " + line for line in summarize(recording))]
        lines += [f"  {name}: {value}" for name, value in recording.attributes.items()]
        try:
            lines += [f"warning: {warning}" for warning in check_recording(recording)]
        except RecordingError as error:
            lines.append(f"PROBLEM: {error}")
    return "\n".join(lines)


def summarize(recording: Recording) -> list[str]:
    """Lines on who, how long, units, behaviors, intervals and splits."""
    subject = recording.subject_id or "not stated"
    pieces = f" in {len(recording.domain)} pieces" if len(recording.domain) > 1 else ""
    lines = [
        f"session {recording.session_id}, subject {subject}",
        f"domain {recording.domain.total_s:.1f} s{pieces}",
        _activity(recording),
    ]
    lines += [_feature(name, feature) for name, feature in recording.features.items()]
    lines += [_behavior(name, signal) for name, signal in recording.signals.items()]
    splits = {f"{name}_domain" for name in SPLITS}
    for name, part in recording.intervals.items():
        if name not in splits:
            columns = f" ({', '.join(part.columns)})" if part.columns else ""
            lines.append(f"{name}: {len(part)} intervals, {part.total_s:.1f} s{columns}")
    there = [name for name in SPLITS if f"{name}_domain" in recording.intervals]
    if there:
        lines.append("splits " + ", ".join(f"{name} {recording.split(name).total_s:.1f} s" for name in there))
    return lines


def _activity(recording: Recording) -> str:
    counts = unit_counts(recording)
    if recording.binned is not None:
        seconds = len(recording.binned) / recording.binned.rate_hz
        kind = f"{counts.sum():.0f} counts in bins of {1e3 / recording.binned.rate_hz:g} ms"
    else:
        assert recording.spikes is not None
        seconds = recording.domain.total_s
        kind = f"{len(recording.spikes)} spikes"
    rate_hz = counts / seconds if seconds else counts
    spread = (
        f"{rate_hz.mean():.1f} Hz on average, {rate_hz.min():.1f} to {rate_hz.max():.1f}"
        if len(rate_hz)
        else "-"
    )
    return f"{recording.num_units} units, {kind}, {spread}"


def _feature(name: str, feature: Binned) -> str:
    known = np.isfinite(np.asarray(feature.values[:]))
    share = "" if known.all() else f", {1 - known.mean():.1%} not measured"
    return f"{name}: {len(feature)} x {known.shape[1]}, bins of {1e3 / feature.rate_hz:g} ms{share}"


def _behavior(name: str, signal: Signal) -> str:
    unit = signal.unit or "unit not stated"
    if signal.rate_hz is not None:
        rate = f"{signal.rate_hz:g} Hz"
    elif len(signal) > 1:
        rate = f"about {1 / float(np.median(np.diff(signal.times_s))):.3g} Hz, own times"
    else:
        rate = "own times"
    values = np.asarray(signal.values[:])
    known = values[np.isfinite(values).all(axis=1)]
    reach = f", {known.min():.3g} to {known.max():.3g}" if known.size else ", nothing measured"
    return f"{name}: {len(signal)} x {signal.num_dimensions}, {rate}, {unit}{reach}"
