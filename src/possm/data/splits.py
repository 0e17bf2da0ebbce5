"""Train, validation and test parts of a recording, in time order."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from possm.data.intervals import Intervals
from possm.data.recording import SPLITS, Recording
from possm.errors import ConfigError, RecordingError

SHORT = 0.02  # of the kept time: when the longest interval is shorter than this, intervals stay whole


def chronological_split(
    recording: Recording,
    *,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    gap_s: float = 1.0,
    within: Intervals | None = None,
) -> Recording:
    """The recording with ``train_domain``, ``valid_domain`` and ``test_domain`` among its intervals.

    The cuts divide the kept time (the domain), not the clock: a part recorded badly is in no split and
    does not count. In a recording of bins, a cut falls on the edge of a bin. Where the domain is many short
    intervals (reaches cut out and laid end to end), each goes to one part whole; the one that holds a cut
    goes to the later part.

    Args:
        recording: The recording; its data are not touched.
        fractions: Of the kept time, for train, valid and test; they add up to 1.
        gap_s: Left unused at the END of train and of valid, because behavior and activity are correlated over
            about a second. The test part does not depend on it.
        within: Split only this time.

    Raises:
        ConfigError: The fractions are not three numbers above 0 that add up to 1, or the gap is negative.
        RecordingError: Too little time for one of the parts.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-9):
        raise ConfigError("fractions of a split", got=fractions, wanted="three above 0 that add up to 1")
    if not gap_s >= 0:
        raise ConfigError("gap between the parts of a split", got=f"{gap_s} s", wanted="0 s or more")
    kept = (recording.domain if within is None else recording.domain & within) | Intervals.of([])
    if not len(kept):
        raise RecordingError("there is no time to split", about=recording.name, got=kept)
    whole = stays_whole(kept)
    targets = (fractions[0] * kept.total_s, (fractions[0] + fractions[1]) * kept.total_s)
    cuts = [cut_time(recording, kept, target, whole) for target in targets]
    edges = [kept.start_s[0], *cuts, kept.end_s[-1]]
    parts = {}
    for k, name in enumerate(SPLITS):
        part = kept.slice(edges[k], edges[k + 1])
        parts[f"{name}_domain"] = _without_end(part, edges[k + 1], gap_s, whole) if k < 2 else part
    for name, part in parts.items():
        if not len(part):
            raise RecordingError(
                f"nothing is left for {name}",
                about=recording.name,
                got=f"{kept.total_s:.3g} s in all; {gap_s:.3g} s are left out at the end of train and valid",
                fix="use a longer recording, other fractions, or a smaller gap",
            )
    return replace(recording, intervals={**recording.intervals, **parts})


def stays_whole(kept: Intervals) -> bool:
    """Whether this is many short intervals, none of which a cut should go through."""
    return bool((kept.end_s - kept.start_s).max() < SHORT * kept.total_s)


def cut_time(recording: Recording, kept: Intervals, target_s: float, whole: bool) -> float:
    """The time at which `target_s` of kept time have passed, on the edge of a bin if it has bins; where
    intervals stay whole, the start of the one that holds it."""
    passed = np.cumsum(kept.end_s - kept.start_s)
    k = min(int(np.searchsorted(passed, target_s + 1e-9, side="right")), len(kept) - 1)
    if whole:
        return float(kept.start_s[k])
    time_s = float(kept.end_s[k] - (passed[k] - target_s))
    clock = recording.bins
    if clock is not None:
        time_s = clock.start_s + math.floor((time_s - clock.start_s) * clock.rate_hz + 1e-6) / clock.rate_hz
    return max(time_s, float(kept.start_s[k]))


def _without_end(part: Intervals, end_s: float, gap_s: float, whole: bool) -> Intervals:
    """Train or valid without its last `gap_s` seconds; reaches that reach into them go as a whole."""
    if whole:
        return part.where(part.end_s <= end_s - gap_s)
    return part.slice(-np.inf, end_s - gap_s)
