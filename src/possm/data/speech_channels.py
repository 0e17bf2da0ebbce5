"""The channels of simulated speech: what they read of the articulators, their power, and how both drift."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from possm.config import require
from possm.data.articulation import ARTICULATORS
from possm.data.channels import Channels
from possm.data.population import NUM_NOISE
from possm.data.simulate import stream

_DRAW, _DAY = 210, 211  # random streams of their own, see `simulate`

LAG_S = (-0.05, 0.25)
"""Channels lead the articulators by this much at most, or follow them."""
NUM_READ = 4  # of the latents, that a channel reads
DEPTH = 1.5  # change of the log rate of a typical channel per unit of what it reads
ELSEWHERE = 0.15  # depth of the channels in area 44, as a part of those in 6v
POWER_UV2, EXPONENT = 30.0, 0.5  # of the spike-band power: its level, and how it grows with the rate
RATES_HZ = (1.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class SpeechDrift:
    """What changes from one day to the next."""

    gain: float = 0.05
    """Standard deviation of the logarithm of a channel's modulation depth."""
    rate: float = 0.1
    """Standard deviation of the logarithm of a channel's mean rate."""
    rotation_deg: float = 4.0
    """Angle by which what a channel reads turns, in a direction of its own."""
    power: float = 0.1
    """Standard deviation of the logarithm of a channel's level of power."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(math.isfinite(value) and value >= 0, f"SpeechDrift.{name}", value, "0 or more")


@dataclass(frozen=True)
class SpeechChannels:
    """The channels of one day, the ground truth of a simulation."""

    channels: Channels
    area: np.ndarray
    """(channels,) "6v" for the first half, "44" for the second."""
    power_uv2: np.ndarray
    """(channels,) spike-band power at the mean rate."""
    exponent: np.ndarray
    """(channels,) the power grows with this power of the rate."""

    def power(self, rates_hz: np.ndarray, *, noise: float, rng: np.random.Generator) -> np.ndarray:
        """(bins, channels) spike-band power in square microvolts, log-normal around what the rates say.

        It follows the rate, not the counts: it is made of spikes too small to be counted, too.
        """
        expected = self.power_uv2 * (rates_hz / self.channels.mean_rate_hz) ** self.exponent
        return np.asarray(expected * np.exp(noise * rng.standard_normal(rates_hz.shape)))


def speech_channels(
    number: int, *, mean_rate_hz: float, drift: SpeechDrift, numbers: tuple[int, int, int]
) -> SpeechChannels:
    """The channels of a subject on a day; `numbers` are seed, subject and day."""
    seed, subject, day = numbers
    truth = _draw(number, mean_rate_hz, stream(_DRAW, seed, subject, 0))
    for passed in range(1, day + 1):
        truth = _next_day(truth, drift, stream(_DAY, seed, subject, passed))
    return truth


def _draw(number: int, mean_rate_hz: float, rng: np.random.Generator) -> SpeechChannels:
    normal = rng.standard_normal
    area = np.where(np.arange(number) < (number + 1) // 2, "6v", "44")
    loading = normal((number, 2 * len(ARTICULATORS)))
    unread = np.argsort(rng.random(loading.shape), axis=1) >= NUM_READ
    loading[unread] = 0.0
    depth = DEPTH * np.exp(0.4 * normal(number)) * np.where(area == "6v", 1.0, ELSEWHERE)
    loading *= (depth / np.linalg.norm(loading, axis=1))[:, None]
    channels = Channels(
        mean_rate_hz=np.clip(mean_rate_hz * np.exp(0.6 * normal(number) - 0.6**2 / 2), *RATES_HZ),
        loading=loading,
        lag_s=np.clip(0.1 + 0.04 * normal(number), *LAG_S),
        noise_gain=normal((number, 1 + NUM_NOISE)) * np.r_[0.5, np.ones(NUM_NOISE)]
        + np.r_[1, np.zeros(NUM_NOISE)],
        now_loading=(0.2 * depth / DEPTH * normal(number))[:, None],
    )
    power = POWER_UV2 * np.exp(0.5 * normal(number))
    return SpeechChannels(channels, area, power, EXPONENT * np.exp(0.2 * normal(number)))


def _next_day(truth: SpeechChannels, drift: SpeechDrift, rng: np.random.Generator) -> SpeechChannels:
    old, number = truth.channels, len(truth.channels)

    def factor(deviation: float) -> np.ndarray:
        return np.asarray(np.exp(deviation * rng.standard_normal(number) - deviation**2 / 2))

    loading = rotated(old.loading, math.radians(drift.rotation_deg), rng) * factor(drift.gain)[:, None]
    rate = np.clip(old.mean_rate_hz * factor(drift.rate), *RATES_HZ)
    channels = replace(old, loading=loading, mean_rate_hz=rate)
    return replace(truth, channels=channels, power_uv2=truth.power_uv2 * factor(drift.power))


def rotated(rows: np.ndarray, angle_rad: float, rng: np.random.Generator) -> np.ndarray:
    """Every row turned by an angle towards a random direction; lengths stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / length
    other = rng.standard_normal(rows.shape)
    other -= (other * unit).sum(axis=1, keepdims=True) * unit
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return np.asarray(length * (math.cos(angle_rad) * unit + math.sin(angle_rad) * other))
