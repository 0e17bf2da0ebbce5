"""Behavior to the units a decoder is trained in, and back: (value - mean) / standard deviation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
        parts, units, names = [], {}, []
        for recording in recordings:
            signal = recording.behavior(behavior)
            names.append(recording.name)
            if signal.unit:
                units[signal.unit] = recording.name
            for start_s, end_s in recording.split(split):
                parts.append(np.asarray(signal.slice(start_s, end_s).values, np.float64))
        values = np.concatenate(parts) if parts else np.zeros((0, 1))
        values = values[np.isfinite(values).all(axis=1)]
        about = f"{names[0] if names else 'no recording'}, behavior '{behavior}'"
        if len(units) > 1:
            raise RecordingError(
                "it has several physical units, so one scaling fits none", about=behavior, got=units
            )
        if not len(values):
            raise RecordingError(f"no sample of it lies in the {split} split", about=about)
        mean, std = values.mean(axis=0), values.std(axis=0)
        if (std <= 1e-12 * np.maximum(1.0, np.abs(mean))).any():
            raise RecordingError(
                f"it is constant in the {split} split, so there is nothing to learn",
                about=about,
                got=f"standard deviation {std.tolist()}",
                fix="choose another behavior, or check the recording with `possm inspect`",
            )
        return cls(tuple(mean.tolist()), tuple(std.tolist()), next(iter(units), ""))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Physical -> scaled, float32: (n, D) -> (n, D)."""
        return ((values - np.asarray(self.mean)) / np.asarray(self.std)).astype(np.float32)

    def invert(self, values: np.ndarray) -> np.ndarray:
        """Scaled -> physical, in the dtype of the values: (n, D) -> (n, D)."""
        return values * np.asarray(self.std, values.dtype) + np.asarray(self.mean, values.dtype)
