"""From what units read of a movement to exact spike times: log-linear rates, refractory Poisson spikes."""

from __future__ import annotations

import numpy as np

MAX_RATE_HZ = 150.0
"""No unit fires faster, however strong its drive."""
AROUSAL_TAU_S, NOISE_TAU_S, PRIVATE_TAU_S = 20.0, 0.2, 120.0


def coloured_noise(
    shape: tuple[int, int], *, step_s: float, tau_s: float, rng: np.random.Generator
) -> np.ndarray:
    """(steps, series) stationary Gaussian noise of deviation 1 whose correlation decays with `tau_s`.

    An Ornstein-Uhlenbeck process, made in the frequency domain: exact in its spectrum, and periodic in time.
    """
    steps, series = shape
    turn = 2 * np.pi * np.fft.rfftfreq(steps, step_s)
    spectrum = np.fft.rfft(rng.standard_normal((series, steps))) / np.sqrt(1 + (turn * tau_s) ** 2)
    spectrum[:, 0] = 0.0
    noise = np.fft.irfft(spectrum, steps)
    return np.ascontiguousarray(noise.T / np.maximum(noise.std(axis=1), 1e-12))


def shared_noise(
    steps: int, deviation: float, *, num_fast: int, step_s: float, rng: np.random.Generator
) -> np.ndarray:
    """(steps, 1 + num_fast): arousal of the given deviation, and fast dimensions that have it together."""
    arousal = coloured_noise((steps, 1), step_s=step_s, tau_s=AROUSAL_TAU_S, rng=rng)
    fast = coloured_noise((steps, num_fast), step_s=step_s, tau_s=NOISE_TAU_S, rng=rng)
    return deviation * np.concatenate([arousal, fast / np.sqrt(num_fast)], axis=1)


def private_noise(steps: int, deviation: float, *, duration_s: float, rng: np.random.Generator) -> np.ndarray:
    """(steps,) a change of one unit so slow that two samples a minute carry it."""
    knots = max(int(duration_s / 30), 1) + 1
    slow = coloured_noise((2 * knots, 1), step_s=30.0, tau_s=PRIVATE_TAU_S, rng=rng)[:knots, 0]
    return np.asarray(deviation * np.interp(np.linspace(0, knots - 1, steps), np.arange(knots), slow))


def shifted(series: np.ndarray, by_steps: float, number: int) -> np.ndarray:
    """`number` samples of a series from `by_steps` on, linear between two samples."""
    whole = int(np.floor(by_steps))
    part = by_steps - whole
    return (1 - part) * series[whole : whole + number] + part * series[whole + 1 : whole + 1 + number]


def rate_hz(log_drive: np.ndarray, mean_rate_hz: float) -> np.ndarray:
    """The rate that follows a drive in log units and has the given mean, at most `MAX_RATE_HZ`."""
    rate = np.exp(log_drive)
    rate *= mean_rate_hz / rate.mean()
    for _ in range(20):  # what the ceiling cuts off is made up for elsewhere, until the mean holds
        capped = np.minimum(rate, MAX_RATE_HZ)
        short = mean_rate_hz / capped.mean()
        if short < 1.001:
            break
        rate *= short
    return capped


def spike_times(
    rate_hz: np.ndarray, *, step_s: float, refractory_s: float, rng: np.random.Generator
) -> np.ndarray:
    """Ascending exact times (s, after the first sample) of a unit whose rate is sampled every `step_s`.

    Poisson spikes by time rescaling; those nearer than the refractory time to the last one that stayed are
    taken out, and the rate is raised beforehand by what that costs, so that `rate_hz` holds on average.
    """
    hazard = rate_hz / (1 - rate_hz * refractory_s)
    expected = np.concatenate([[0.0], np.cumsum((hazard[1:] + hazard[:-1]) * (step_s / 2))])
    number = rng.poisson(expected[-1])
    marks = np.sort(rng.uniform(0, expected[-1], number))
    times = np.interp(marks, expected, np.arange(len(expected)) * step_s)
    return enforce_refractory(times, refractory_s)


def enforce_refractory(times_s: np.ndarray, refractory_s: float) -> np.ndarray:
    """The spikes that are left when each one silences the unit for the refractory time.

    In a run of spikes too near to each other, the second is certainly silenced, as the first stays. One pass
    takes out the second of every run; a few passes leave no run.
    """
    while True:
        near = np.append(False, np.diff(times_s) < refractory_s)[: len(times_s)]
        if not near.any():
            return times_s
        near[1:] &= ~near[:-1]
        times_s = times_s[~near]
