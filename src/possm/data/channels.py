"""Counts of the channels of an array: what they read of the latents, as Poisson counts in bins.

Threshold crossings on a channel come from several neurons, so there is no dead time between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from possm.data.population import NUM_NOISE
from possm.data.spiking import private_noise, rate_hz, shared_noise, shifted

STEPS_A_BIN = 2  # rates are sampled this often in a bin


@dataclass(frozen=True)
class Channels:
    """What the channels of one session read; arrays are (channels, ...) in row order."""

    mean_rate_hz: np.ndarray
    """Mean count rate over the session."""
    loading: np.ndarray
    """(channels, latents) change of the log rate per unit of each latent."""
    lag_s: np.ndarray
    """The channel fires at t as the latents at t + lag ask."""
    noise_gain: np.ndarray
    """(channels, 1 + NUM_NOISE) reading of the arousal and of the shared fluctuation."""
    now_loading: np.ndarray
    """(channels, further latents) the same for latents that are read without a lag; may have no columns."""

    def __len__(self) -> int:
        return len(self.mean_rate_hz)


@dataclass(frozen=True)
class BinClock:
    """The bins of a session, from time 0 on, and the times at which latents are wanted to make them."""

    num_bins: int
    bin_s: float
    margin_s: float
    """Latents are known this much before the first bin and after the last: the largest lag."""

    @property
    def step_s(self) -> float:
        """Time between two samples of the latents."""
        return self.bin_s / STEPS_A_BIN

    @property
    def num_steps(self) -> int:
        """Samples of the rates of a session."""
        return self.num_bins * STEPS_A_BIN

    @property
    def margin(self) -> int:
        """Samples before the first bin."""
        return math.ceil(self.margin_s / self.step_s) + 1

    @property
    def around_s(self) -> np.ndarray:
        """Times of the latents that are read with a lag, the margins included."""
        return (np.arange(self.num_steps + 2 * self.margin) - self.margin + 0.5) * self.step_s

    @property
    def times_s(self) -> np.ndarray:
        """Times of the rates: those of `around_s` inside the session."""
        return self.around_s[self.margin : self.margin + self.num_steps]


def binned_rates(
    channels: Channels,
    around: np.ndarray,
    now: np.ndarray,
    *,
    clock: BinClock,
    noise: float,
    slow_noise: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """(bins, channels) float64 rate in Hz, averaged over each bin.

    Args:
        channels: What they read.
        around: (samples at `clock.around_s`, latents).
        now: (samples at `clock.times_s`, further latents).
        clock: The bins.
        noise: Deviation of the log rates that channels share (see `spiking.shared_noise`).
        slow_noise: Deviation of each channel's own slow change of log rate.
        rng: Of the noise.
    """
    number, step_s = clock.num_steps, clock.step_s
    shared = shared_noise(number, noise, num_fast=NUM_NOISE, step_s=step_s, rng=rng)
    rates = np.empty((clock.num_bins, len(channels)))
    for i in range(len(channels)):
        drive = shifted(around @ channels.loading[i], clock.margin + channels.lag_s[i] / step_s, number)
        drive += now @ channels.now_loading[i] + shared @ channels.noise_gain[i]
        drive += private_noise(number, slow_noise, duration_s=number * step_s, rng=rng)
        rates[:, i] = rate_hz(drive, channels.mean_rate_hz[i]).reshape(-1, STEPS_A_BIN).mean(axis=1)
    return rates


def poisson_counts(rates_hz: np.ndarray, bin_s: float, rng: np.random.Generator) -> np.ndarray:
    """(bins, channels) int16 counts of Poisson processes of these rates."""
    return rng.poisson(rates_hz * bin_s).astype(np.int16)
