"""Smooth movement as a sum of minimum-jerk pieces: position and velocity are exact at any time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TREMOR_HZ = np.array([0.4, 0.7, 1.1, 1.6, 2.3, 3.1])
"""Frequencies the tremor is made of."""


@dataclass(frozen=True)
class Trajectory:
    """Cursor movement as a sum of minimum-jerk movements and tremor, exact at any time."""

    start_s: np.ndarray
    """(m,) when each movement begins."""
    duration_s: np.ndarray
    """(m,)."""
    shift_cm: np.ndarray
    """(m, 2) where each movement leads."""
    bow_cm: np.ndarray
    """(m,) furthest sideways excursion, to the left of the way."""
    tremor_cm_s: np.ndarray
    """(2, waves) velocity amplitudes at the frequencies `TREMOR_HZ`."""
    tremor_phase: np.ndarray
    """(2, waves) radians."""

    def at(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position (n, 2) in cm and velocity (n, 2) in cm/s at ascending times; (0, 0) is the centre."""
        position, velocity = self._tremor(times_s)
        done = np.zeros((len(times_s) + 1, 2))
        first = np.searchsorted(times_s, self.start_s)
        last = np.searchsorted(times_s, self.start_s + self.duration_s)
        for i in range(len(self.start_s)):
            rows, duration, shift = slice(first[i], last[i]), self.duration_s[i], self.shift_cm[i]
            sideways = np.array([-shift[1], shift[0]]) * (self.bow_cm[i] / max(math.hypot(*shift), 1e-9))
            phase = (times_s[rows, None] - self.start_s[i]) / duration
            way, speed = minimum_jerk(phase)
            out, out_speed = _bow(phase)
            position[rows] += way * shift + out * sideways
            velocity[rows] += (speed * shift + out_speed * sideways) / duration
            done[last[i]] += shift
        return position + np.cumsum(done[:-1], axis=0), velocity

    def _tremor(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        position, velocity = np.zeros((2, len(times_s), 2))
        for axis in range(2):
            for wave, frequency_hz in enumerate(TREMOR_HZ):
                amplitude = self.tremor_cm_s[axis, wave]
                if amplitude:
                    turn = 2 * np.pi * frequency_hz
                    angle = turn * times_s + self.tremor_phase[axis, wave]
                    position[:, axis] += amplitude / turn * np.sin(angle)
                    velocity[:, axis] += amplitude * np.cos(angle)
        return position, velocity


def minimum_jerk(phase: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Part of the way covered, and its derivative, at a phase of 0 to 1; the derivative peaks at 1.875."""
    way = phase**3 * (10 - 15 * phase + 6 * phase**2)
    return way, 30 * (phase * (1 - phase)) ** 2


def _bow(phase: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A sideways bump of height 1 that leaves position, velocity and acceleration at both ends alone."""
    inside = phase * (1 - phase)
    return 64 * inside**3, 192 * inside**2 * (1 - 2 * phase)
