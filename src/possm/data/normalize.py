"""Causal normalization: features minus a running mean, over a running standard deviation, of the past only.

For features whose level drifts, such as spike-band power. One class for training and for a stream: what it
remembers is a value that is passed in and returned, so any cut of a recording into pieces gives the same
bits. A value is judged by those before it, never by itself or a later one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from possm.config import require


@dataclass(frozen=True, kw_only=True)
class NormalizeConfig:
    """How the past is weighed."""

    past_s: float = 10.0
    """Length of the past: all of it alike ("rolling"), or time constant ("exponential")."""
    kind: Literal["exponential", "rolling"] = "exponential"
    """Rolling remembers every bin of the window; exponential remembers three numbers a feature."""
    min_bins: int = 10
    """Until a feature has been seen so often it is answered with 0, as there is no telling what is usual."""
    min_std: float = 1e-6
    """A feature that varies less is taken to vary so much."""
    clip: float = 10.0
    """Answers are kept within +- this many standard deviations; infinity does not clip."""

    def __post_init__(self) -> None:
        require(0 < self.past_s < math.inf, "past_s", self.past_s, "above 0")
        require(self.kind in ("exponential", "rolling"), "kind", self.kind, "exponential or rolling")
        require(self.min_bins >= 2, "min_bins", self.min_bins, "2 or more")
        require(0 < self.min_std < math.inf, "min_std", self.min_std, "above 0")
        require(self.clip > 0, "clip", self.clip, "above 0")


@dataclass(frozen=True, eq=False)
class NormalizerState:
    """All that a normalizer remembers; a value, never changed in place."""

    seen: np.ndarray
    """(features,) int64: finite values so far."""
    missing: np.ndarray
    """(features,) int64: values that were not finite; they are answered with 0 and not remembered."""
    weight: np.ndarray
    """(features,) float64: what the weights of the past add up to (exponential)."""
    mean: np.ndarray
    """(features,) float64: weighted mean of the past (exponential)."""
    spread: np.ndarray
    """(features,) float64: weighted sum of squared deviations (exponential)."""
    ring: np.ndarray
    """(bins of the window, features) float64: the newest bins, NaN where there is none (rolling)."""
    next: int
    """Row of the ring that is written next."""


class CausalNormalizer:
    """Normalizes bins of features in order.

    Args:
        num_features: Columns.
        rate_hz: Bins a second.
        config: How the past is weighed.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(self, num_features: int, *, rate_hz: float, config: NormalizeConfig | None = None) -> None:
        require(num_features >= 1, "num_features", num_features, "1 or more")
        require(0 < rate_hz < math.inf, "rate_hz", rate_hz, "above 0")
        self.num_features, self.rate_hz, self.config = num_features, rate_hz, config or NormalizeConfig()
        bins = max(1, round(self.config.past_s * rate_hz))
        self._rows = bins if self.config.kind == "rolling" else 0
        self._keep = math.exp(-1 / (self.config.past_s * rate_hz))
        if self._rows:
            require(
                bins >= self.config.min_bins, "min_bins", self.config.min_bins, f"at most {bins}, the window"
            )

    def initial_state(self) -> NormalizerState:
        """The state before the first bin: nothing is known."""
        zeros, none = np.zeros(self.num_features), np.zeros(self.num_features, np.int64)
        ring = np.full((self._rows, self.num_features), np.nan)
        return NormalizerState(none, none, zeros, zeros, zeros, ring, 0)

    def __call__(
        self, values: np.ndarray, state: NormalizerState | None = None
    ) -> tuple[np.ndarray, NormalizerState]:
        """Normalize the next bins.

        Args:
            values: (bins, features), consecutive; NaN or infinite where a value is missing.
            state: What the call before returned; None is the initial one. After a cut in time, begin anew or
                go on, as the feature asks for.

        Returns:
            (bins, features) float32, all finite, and the state after the last bin.
        """
        values = np.asarray(values, np.float64)
        wanted = f"(bins, {self.num_features})"
        require(values.ndim == 2 and values.shape[1] == self.num_features, "values", values.shape, wanted)
        state = state or self.initial_state()
        state = replace(state, ring=state.ring.copy())  # written below, one bin after the other
        out = np.zeros(values.shape, np.float32)
        for row, value in enumerate(values):
            out[row] = self._judge(value, state)
            state = self._remember(value, state)
        return out, state

    def _judge(self, value: np.ndarray, state: NormalizerState) -> np.ndarray:
        if self._rows:
            known, mean, variance = _moments(state.ring)
        else:
            known, mean = state.seen, state.mean
            variance = state.spread / np.maximum(state.weight, 1e-300)
        std = np.maximum(np.sqrt(variance), self.config.min_std)
        good = np.isfinite(value) & (known >= self.config.min_bins)
        scaled = np.clip((np.where(good, value, mean) - mean) / std, -self.config.clip, self.config.clip)
        return scaled.astype(np.float32)

    def _remember(self, value: np.ndarray, state: NormalizerState) -> NormalizerState:
        good = np.isfinite(value)
        seen, missing = state.seen + good, state.missing + ~good
        if self._rows:
            state.ring[state.next] = np.where(good, value, np.nan)
            return replace(state, seen=seen, missing=missing, next=(state.next + 1) % self._rows)
        weight = np.where(good, state.weight * self._keep + 1, state.weight)
        value = np.where(good, value, state.mean)
        step = value - state.mean
        mean = state.mean + step / np.maximum(weight, 1)
        spread = np.where(good, state.spread * self._keep + step * (value - mean), state.spread)
        return replace(state, seen=seen, missing=missing, weight=weight, mean=mean, spread=spread)


def _moments(ring: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number, mean and variance of what is in a ring; summed anew, so that rounding does not build up."""
    there = np.isfinite(ring)
    known = there.sum(axis=0)
    mean = np.where(there, ring, 0.0).sum(axis=0) / np.maximum(known, 1)
    variance = np.where(there, (ring - mean) ** 2, 0.0).sum(axis=0) / np.maximum(known, 1)
    return known, mean, variance
