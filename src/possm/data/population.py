"""Simulated motor cortex: who the units are, what they read of a movement, and how they drift over days.

What subjects share is the movement code: the latents below, the same function of the movement in every
subject. What they do not share is the reading of it: each unit's loading on the latents and its lag.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from possm.data.reaching import Reaching
from possm.errors import ConfigError

MOVEMENT = ("velocity_x", "velocity_y", "speed", "position_x", "position_y")
"""Latents that a unit reads ahead of the movement, or behind it, by its lag."""
INTERNAL = ("plan_x", "plan_y", "onset")
"""Latents with no lag: the planned reach, and a burst at every movement whatever its direction."""
NUM_NOISE = 4
"""Dimensions of the fluctuation that units share and no movement explains, the slow arousal not counted."""

SPEED_CM_S, REACH_CM = 20.0, 8.0  # one unit of the velocity, position and plan latents
ARM_TURN_PER_CM = math.radians(2.5)  # the velocity code turns with the arm, as the hand moves sideways
LAG_RANGE_S = (-0.10, 0.20)
RATE_RANGE_HZ = (1.0, 60.0)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What changes from one session of a subject to the next."""

    turnover: float = 0.05
    """Part of the units that is lost, as many new ones taking their place on some electrode."""
    direction_deg: float = 5.0
    """Standard deviation of the turn of a preferred direction."""
    gain: float = 0.05
    """Standard deviation of the logarithm of a unit's modulation depth."""
    rate: float = 0.10
    """Standard deviation of the logarithm of a unit's mean rate."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError("not a drift", about=f"Drift.{name}", got=value, wanted="0 or more")
        if self.turnover > 1:
            raise ConfigError("not a part", about="Drift.turnover", got=self.turnover, wanted="0 to 1")


@dataclass(frozen=True)
class SimulatedUnits:
    """The units of one session, the ground truth of a simulation; arrays are (units, ...) in row order."""

    neuron: np.ndarray
    """int64; the same number in two sessions of a subject is the same neuron."""
    electrode: np.ndarray
    """int64; stays with a neuron for life, and may carry several."""
    mean_rate_hz: np.ndarray
    """Mean rate over a session."""
    preferred_direction_rad: np.ndarray
    """Direction of movement, with the hand in the middle, at which the unit fires most."""
    depth: np.ndarray
    """Change of the log rate at 20 cm/s along the preferred direction."""
    speed_gain: np.ndarray
    """Change of the log rate at 20 cm/s in whatever direction."""
    position_gain: np.ndarray
    """(units, 2) change of the log rate by 8 cm in x and in y."""
    plan_gain: np.ndarray
    """(units, 2) change of the log rate while a reach of 8 cm along x or y is planned."""
    onset_gain: np.ndarray
    """Change of the log rate at the start of any movement."""
    noise_gain: np.ndarray
    """(units, 1 + NUM_NOISE) reading of the arousal and of the shared fluctuation, each of deviation 1."""
    lag_s: np.ndarray
    """The unit fires at t as the movement at t + lag asks: above 0 it leads, below it follows."""
    refractory_s: np.ndarray
    """No two spikes of the unit are nearer than this."""

    def __len__(self) -> int:
        return len(self.neuron)

    @property
    def unit_number(self) -> np.ndarray:
        """(units,) int64: 1, 2, ... on each electrode, as a spike sorter would number them on that day."""
        return np.array(
            [np.sum(self.electrode[: i + 1] == e) for i, e in enumerate(self.electrode)], np.int64
        )

    @property
    def unit_ids(self) -> tuple[str, ...]:
        """Names as in brainsets files; they repeat across sessions and do not promise the same neuron."""
        pairs = zip(self.electrode.tolist(), self.unit_number.tolist(), strict=True)
        return tuple(f"elec{electrode}/unit_{number}" for electrode, number in pairs)

    @property
    def movement_loading(self) -> np.ndarray:
        """(units, 5): log rate per unit of each `MOVEMENT` latent."""
        angle = self.preferred_direction_rad
        direction = self.depth[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.concatenate([direction, self.speed_gain[:, None], self.position_gain], axis=1)

    @property
    def internal_loading(self) -> np.ndarray:
        """(units, 3): log rate per unit of each `INTERNAL` latent."""
        return np.concatenate([self.plan_gain, self.onset_gain[:, None]], axis=1)

    def where(self, rows: np.ndarray) -> SimulatedUnits:
        """The units a boolean or integer index picks, in its order."""
        return SimulatedUnits(*(getattr(self, f.name)[rows] for f in fields(self)))


def draw_units(
    num_units: int, *, mean_rate_hz: float, axis_rad: float, rng: np.random.Generator
) -> SimulatedUnits:
    """A population of one subject, on as many electrodes as units, some of them silent, some shared.

    Rates are log-normal (1 to 60 Hz). Preferred directions crowd along the axis of the subject.
    """
    normal = rng.standard_normal
    depth = np.minimum(0.8 * np.exp(0.5 * normal(num_units)), 2.0)
    rate = np.clip(mean_rate_hz * np.exp(0.7 * normal(num_units) - 0.7**2 / 2), *RATE_RANGE_HZ)
    return SimulatedUnits(
        neuron=np.arange(num_units),
        electrode=rng.integers(1, num_units + 1, num_units),
        mean_rate_hz=rate,
        preferred_direction_rad=_draw_directions(num_units, axis_rad, rng),
        depth=depth,
        speed_gain=depth * (0.2 + 0.35 * normal(num_units)),
        position_gain=depth[:, None] * 0.3 * normal((num_units, 2)),
        plan_gain=0.25 * normal((num_units, 2)),
        onset_gain=0.2 + 0.3 * normal(num_units),
        noise_gain=normal((num_units, 1 + NUM_NOISE)) * np.r_[0.5, np.ones(NUM_NOISE)]
        + np.r_[1, np.zeros(NUM_NOISE)],
        lag_s=np.clip(0.09 + 0.05 * normal(num_units), *LAG_RANGE_S),
        refractory_s=rng.uniform(0.001, 0.002, num_units),
    )


def _draw_directions(number: int, axis_rad: float, rng: np.random.Generator) -> np.ndarray:
    """Angles in [-pi, pi) whose density is proportional to 1 + 0.3 cos(2 (angle - axis))."""
    angle = rng.uniform(-np.pi, np.pi, 4 * number + 64)
    kept = angle[rng.random(len(angle)) * 1.3 < 1 + 0.3 * np.cos(2 * (angle - axis_rad))]
    return kept[:number]


def drift_units(
    units: SimulatedUnits, *, drift: Drift, newcomers: SimulatedUnits, rng: np.random.Generator
) -> SimulatedUnits:
    """The same population one session later; a lost unit gives its row to the newcomer of that row."""
    number = len(units)
    turn = np.radians(drift.direction_deg) * rng.standard_normal(number)
    gain = np.exp(drift.gain * rng.standard_normal(number) - drift.gain**2 / 2)
    rate = np.exp(drift.rate * rng.standard_normal(number) - drift.rate**2 / 2)
    lost = rng.random(number) < drift.turnover
    cos, sin = np.cos(turn), np.sin(turn)
    plan_x, plan_y = units.plan_gain.T
    older = replace(
        units,
        preferred_direction_rad=_wrap(units.preferred_direction_rad + turn),
        depth=units.depth * gain,
        speed_gain=units.speed_gain * gain,
        position_gain=units.position_gain * gain[:, None],
        plan_gain=np.stack([cos * plan_x - sin * plan_y, sin * plan_x + cos * plan_y], axis=1),
        mean_rate_hz=np.clip(units.mean_rate_hz * rate, *RATE_RANGE_HZ),
    )
    rows = np.where(lost, number + np.arange(number), np.arange(number))
    both = (np.concatenate([getattr(older, f.name), getattr(newcomers, f.name)]) for f in fields(units))
    return SimulatedUnits(*both).where(rows)


def _wrap(angle: np.ndarray) -> np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def movement_latents(reaching: Reaching, times_s: np.ndarray) -> np.ndarray:
    """(times, 5) the `MOVEMENT` latents, of size about 1; the velocity is in the frame of the arm."""
    position, velocity = reaching.trajectory.at(times_s)
    turn = ARM_TURN_PER_CM * position[:, 0]
    cos, sin, (x, y) = np.cos(turn), np.sin(turn), velocity.T / SPEED_CM_S
    return np.column_stack([cos * x - sin * y, sin * x + cos * y, np.hypot(x, y), position / REACH_CM])


def internal_latents(reaching: Reaching, times_s: np.ndarray) -> np.ndarray:
    """(times, 3) the `INTERNAL` latents.

    A plan appears 80 ms after its goal, saturates (time constant 100 ms) and fades when the movement begins;
    the onset is a burst of 80 ms deviation that peaks 60 ms before the movement.
    """
    latents = np.zeros((len(times_s), 3))
    for (known_s, onset_s), goal in zip(reaching.plan_s, reaching.goal_cm / REACH_CM, strict=True):
        first, last = np.searchsorted(times_s, (known_s + 0.08, onset_s + 0.6))
        time = times_s[first:last]
        built = 1 - np.exp(-(np.minimum(time, onset_s) - known_s - 0.08) / 0.1)
        plan = np.maximum(built, 0.0) * np.exp(-np.maximum(time - onset_s, 0) / 0.1)
        latents[first:last, :2] += plan[:, None] * goal
        first, last = np.searchsorted(times_s, (onset_s - 0.4, onset_s + 0.3))
        latents[first:last, 2] += np.exp(-0.5 * ((times_s[first:last] - onset_s + 0.06) / 0.08) ** 2)
    return latents
