"""Behavior to the units a decoder is trained in, and back: (value - mean) / standard deviation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from possm.config import require
from possm.data.recording import Recording
from possm.errors import RecordingError


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of one behavior, per dimension, and its physical unit."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    unit: str = ""

    def __post_init__(self) -> None:
        fits = len(self.mean) == len(self.std) >= 1 and min(self.std) > 0
        require(
            fits, "scaling", (self.mean, self.std), "a mean and a standard deviation above 0 per dimension"
        )

    @classmethod
    def fit(cls, recordings: Iterable[Recording], behavior: str, *, split: str = "train") -> Scaling:
        """Of all samples in a split; rows with NaN are left out.

        Raises:
            RecordingError: No sample is there, the behavior never changes, or its unit does.
        """
        return _pooled([_moments(recording, behavior, split) for recording in recordings], behavior, split)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Physical -> scaled, float32: (n, D) -> (n, D)."""
        return ((values - np.asarray(self.mean)) / np.asarray(self.std)).astype(np.float32)

    def invert(self, values: np.ndarray) -> np.ndarray:
        """Scaled -> physical, in the dtype of the values: (n, D) -> (n, D)."""
        return values * np.asarray(self.std, values.dtype) + np.asarray(self.mean, values.dtype)


ScalingTable = Mapping[str, Mapping[str, Scaling]]
"""Session -> behavior -> scaling, where a session has one of its own."""
SCALED_BY = ("shared", "dataset", "session")


def scaling_of(
    session_id: str, scaling: Mapping[str, Scaling], session_scaling: ScalingTable
) -> dict[str, Scaling]:
    """The scaling of a session, by behavior: its own, and what all share where it has none."""
    return {**scaling, **session_scaling.get(session_id, {})}


def fit_scalings(
    recordings: Sequence[Recording], behaviors: Iterable[str], *, by: str = "shared", split: str = "train"
) -> tuple[dict[str, Scaling], dict[str, dict[str, Scaling]]]:
    """The scalings of a set of recordings; every file is read once.

    Args:
        recordings: One or more; one without a behavior has no part in that behavior's scaling.
        behaviors: What is decoded.
        by: "shared" is one scaling for all, "dataset" one for the recordings of one `dataset_id`, "session"
            one each.
        split: Where.

    Returns:
        Behavior -> the scaling of everything pooled, and session -> behavior -> its own, which is empty for
        "shared". Pooled over datasets of several physical units, a scaling has none.

    Raises:
        RecordingError: As `Scaling.fit`, for whatever shares a scaling.
    """
    require(by in SCALED_BY, "scaling", by, f"one of {', '.join(SCALED_BY)}")
    shared: dict[str, Scaling] = {}
    own: dict[str, dict[str, Scaling]] = {}
    for behavior in behaviors:
        there = [r for r in recordings if behavior in r.signals] or recordings
        moments = [_moments(recording, behavior, split) for recording in there]
        if by != "shared":
            groups = [r.session_id if by == "session" else r.dataset_id for r in there]
            fitted = {
                g: _pooled(_members(moments, groups, g), behavior, split) for g in dict.fromkeys(groups)
            }
            for recording, group in zip(there, groups, strict=True):
                own.setdefault(recording.session_id, {})[behavior] = fitted[group]
            if len({m.unit for m in moments}) > 1:
                moments = [replace(m, unit="") for m in moments]
        shared[behavior] = _pooled(moments, behavior, split)
    return shared, own


def _members(moments: Sequence[_Moments], groups: Sequence[str], group: str) -> list[_Moments]:
    return [m for m, g in zip(moments, groups, strict=True) if g == group]


@dataclass(frozen=True)
class _Moments:
    """What is left of the samples of one recording: they need not be in memory together."""

    name: str
    unit: str
    count: int
    mean: np.ndarray
    spread: np.ndarray
    """Sum of squared distances from the mean."""


def _moments(recording: Recording, behavior: str, split: str) -> _Moments:
    signal = recording.behavior(behavior)
    parts = [np.asarray(signal.slice(*pair).values, np.float64) for pair in recording.split(split)]
    values = np.concatenate([np.zeros((0, signal.num_dimensions)), *parts])
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        nothing = np.zeros(signal.num_dimensions)
        return _Moments(recording.name, signal.unit, 0, nothing, nothing)
    mean, spread = values.mean(axis=0), values.var(axis=0) * len(values)
    return _Moments(recording.name, signal.unit, len(values), mean, spread)


def _pooled(moments: Sequence[_Moments], behavior: str, split: str) -> Scaling:
    units = {m.unit: m.name for m in moments if m.unit}
    about = f"{moments[0].name if moments else 'no recording'}, behavior '{behavior}'"
    if len(units) > 1:
        raise RecordingError(
            "it has several physical units, so one scaling fits none",
            about=behavior,
            got=units,
            fix="--scaling dataset or --scaling session, or convert one of them",
        )
    count = sum(m.count for m in moments)
    if not count:
        raise RecordingError(f"no sample of it lies in the {split} split", about=about)
    mean = np.asarray(sum(m.count * m.mean for m in moments) / count)
    spread = sum(m.spread + m.count * (m.mean - mean) ** 2 for m in moments)
    std = np.sqrt(spread / count)
    if (std <= 1e-12 * np.maximum(1.0, np.abs(mean))).any():
        raise RecordingError(
            f"it is constant in the {split} split, so there is nothing to learn",
            about=about,
            got=f"standard deviation {std.tolist()}",
            fix="choose another behavior, or check the recording with `possm inspect`",
        )
    return Scaling(tuple(mean.tolist()), tuple(std.tolist()), next(iter(units), ""))
