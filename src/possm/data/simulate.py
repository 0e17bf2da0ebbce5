"""Simulated recordings: reaching, a population of motor cortex, and its spikes, over sessions and subjects.

    config = SimulationConfig(task="center_out", duration_s=600)
    recording = simulate_session(config, subject=1, session=3, seed=0)      # "sim-s01-d03"
    truth = simulated_units(config, subject=1, session=3, seed=0)           # what its units are tuned to

A session depends on the configuration, the seed and its own two numbers, not on what else was simulated.
See docs/simulator.md for the model and its numbers.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from possm.config import to_json
from possm.data.intervals import Intervals
from possm.data.population import (
    LAG_RANGE_S,
    NUM_NOISE,
    RATE_RANGE_HZ,
    Drift,
    SimulatedUnits,
    draw_units,
    drift_units,
    internal_latents,
    movement_latents,
)
from possm.data.reaching import TASKS, Reaching, ReachStyle, Task
from possm.data.recording import Recording
from possm.data.series import Signal, Spikes
from possm.data.spiking import private_noise, rate_hz, shared_noise, shifted, spike_times
from possm.data.splits import chronological_split
from possm.data.trajectory import Trajectory
from possm.errors import ConfigError

STEP_S = 0.005  # rates are sampled this often; spike times are continuous
FIRST_DAY = datetime.date(2000, 1, 1)

# Every random stream of a simulation has a number of its own, so that none depends on how much another drew.
_AXIS, _UNITS, _DRIFT, _REACHING, _NOISE, _SPIKES, _CLOCK = range(7)


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """What to simulate."""

    task: Task = "center_out"
    """Eight targets with an instructed delay, or one random target after the other."""
    duration_s: float = 600.0
    """Length of a session, at least 30 s."""
    num_units: int = 100
    """Units in every session."""
    mean_rate_hz: float = 12.0
    """Mean rate over units, before each is held within 1 to 60 Hz (which costs a tenth at 30 Hz)."""
    tuning: float = 1.0
    """Factor on everything a movement does to the rates; 0 makes units that know of no movement."""
    noise: float = 0.15
    """Deviation of the log rates that units share: a fluctuation (0.2 s), and as much slow arousal (20 s)."""
    private_noise: float = 0.1
    """Deviation of each unit's own slow change of log rate within a session (two minutes)."""
    behavior_rate_hz: float = 100.0
    """Samples of the cursor a second."""
    timestamp_jitter: float = 0.0
    """0: a regular signal. Above, at most 0.45: irregular time stamps that stray by this part of a sample."""
    drift: Drift = field(default_factory=Drift)
    """What changes between the sessions of a subject."""
    style: ReachStyle = field(default_factory=ReachStyle)
    """How the subjects move."""
    name: str = "sim"
    """Begins every session and subject id; give simulations that are to be mixed different names."""

    def __post_init__(self) -> None:
        low, high = RATE_RANGE_HZ
        checks = {
            "task": (self.task in TASKS, " or ".join(TASKS)),
            "duration_s": (math.isfinite(self.duration_s) and self.duration_s >= 30, "30 s or more"),
            "num_units": (isinstance(self.num_units, int) and self.num_units >= 1, "an int, 1 or more"),
            "mean_rate_hz": (low <= self.mean_rate_hz <= high, f"{low} to {high} Hz"),
            "tuning": (math.isfinite(self.tuning) and self.tuning >= 0, "0 or more"),
            "noise": (math.isfinite(self.noise) and self.noise >= 0, "0 or more"),
            "private_noise": (math.isfinite(self.private_noise) and self.private_noise >= 0, "0 or more"),
            "behavior_rate_hz": (1 <= self.behavior_rate_hz <= 10_000, "1 to 10000 Hz"),
            "timestamp_jitter": (0 <= self.timestamp_jitter <= 0.45, "0 to 0.45 of a sample"),
            "name": (bool(self.name) and "/" not in self.name, "a word without a slash"),
        }
        for name, (good, wanted) in checks.items():
            if not good:
                about = f"SimulationConfig.{name}"
                raise ConfigError("cannot simulate this", about=about, got=getattr(self, name), wanted=wanted)


class Named(Protocol):
    """The part of a configuration that all simulations share."""

    @property
    def name(self) -> str:
        """Begins every session and subject id."""


class Population(Protocol):
    """The part of a configuration that says who the units are."""

    @property
    def num_units(self) -> int:
        """Units in every session."""

    @property
    def mean_rate_hz(self) -> float:
        """Mean rate over units."""

    @property
    def drift(self) -> Drift:
        """What changes from day to day."""


def simulate_session(
    config: SimulationConfig, *, subject: int = 0, session: int = 0, seed: int = 0
) -> Recording:
    """One session of one subject, as a recording in memory with train, valid and test domains (70/10/20 %).

    Signals: ``cursor.pos`` (cm) and ``cursor.vel`` (cm/s). Intervals: ``trials`` and ``movement_phases.*``.
    Session k of a subject is k days of drift after session 0.
    """
    numbers = (seed, subject, session)
    units = simulated_units(config, subject=subject, session=session, seed=seed)
    reaching = simulated_reaching(config, subject=subject, session=session, seed=seed)
    recording = Recording(
        session_id=f"{config.name}-s{subject:02d}-d{session:02d}",
        subject_id=f"{config.name}-s{subject:02d}",
        unit_ids=units.unit_ids,
        unit_columns={"electrode": units.electrode, "unit_number": units.unit_number, "neuron": units.neuron},
        spikes=_spikes(config, units, reaching, numbers),
        signals=_signals(config, reaching.trajectory, stream(_CLOCK, *numbers)),
        intervals={
            "trials": reaching.trials,
            **{f"movement_phases.{name}": phase for name, phase in reaching.phases.items()},
        },
        domain=Intervals.of([(0.0, config.duration_s)]),
        attributes=session_facts(config, *numbers, task=f"{config.task}_reaching"),
    )
    return chronological_split(recording)


def simulate_dataset(
    config: SimulationConfig, *, num_subjects: int = 1, num_sessions: int = 1, seed: int = 0
) -> Iterator[Recording]:
    """`num_sessions` sessions in all, divided over the subjects as evenly as can be, one after the other."""
    return (
        simulate_session(config, subject=subject, session=day, seed=seed)
        for subject, day in sessions_of(num_subjects, num_sessions)
    )


def sessions_of(num_subjects: int, num_sessions: int) -> list[tuple[int, int]]:
    """Subject and day of each of `num_sessions` sessions, divided over the subjects as evenly as can be."""
    for name, value in {"num_subjects": num_subjects, "num_sessions": num_sessions}.items():
        if value < 1:
            raise ConfigError("nothing to simulate", about=name, got=value, wanted="1 or more")
    if num_sessions < num_subjects:
        raise ConfigError(
            "some subjects would have no session",
            about="num_sessions",
            got=num_sessions,
            wanted=f"{num_subjects} or more, one for each subject",
        )
    days = [len(range(subject, num_sessions, num_subjects)) for subject in range(num_subjects)]
    return [(subject, day) for subject in range(num_subjects) for day in range(days[subject])]


def simulated_units(
    config: SimulationConfig, *, subject: int = 0, session: int = 0, seed: int = 0
) -> SimulatedUnits:
    """The ground truth of a session: its units in the row order of the recording, as they are on that day."""
    units = drifted_units(config, subject=subject, session=session, seed=seed)
    return units.where(np.lexsort((units.neuron, units.electrode)))


def drifted_units(config: Population, *, subject: int = 0, session: int = 0, seed: int = 0) -> SimulatedUnits:
    """The units of a session in the order they were drawn: a newcomer stands where the lost unit stood."""
    check_numbers(seed=seed, subject=subject, session=session)
    axis = stream(_AXIS, seed, subject, 0).uniform(0, np.pi)

    def fresh(day: int) -> SimulatedUnits:
        rng = stream(_UNITS, seed, subject, day)
        units = draw_units(config.num_units, mean_rate_hz=config.mean_rate_hz, axis_rad=axis, rng=rng)
        units.neuron[:] += day * config.num_units
        return units

    units = fresh(0)
    for day in range(1, session + 1):
        rng = stream(_DRIFT, seed, subject, day)
        units = drift_units(units, drift=config.drift, newcomers=fresh(day), rng=rng)
    return units


def simulated_reaching(
    config: SimulationConfig, *, subject: int = 0, session: int = 0, seed: int = 0
) -> Reaching:
    """The movement of a session, exact at any time, with its trials and phases."""
    check_numbers(seed=seed, subject=subject, session=session)
    rng = stream(_REACHING, seed, subject, session)
    return TASKS[config.task](config.duration_s, style=config.style, rng=rng)


def check_numbers(**numbers: int) -> None:
    """Raise unless every number is 0 or more."""
    for name, value in numbers.items():
        if value < 0:
            raise ConfigError("not a number of a simulation", about=name, got=value, wanted="0 or more")


def stream(purpose: int, seed: int, subject: int, session: int) -> np.random.Generator:
    """Random numbers that belong to one purpose of one session, and to nothing else."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, subject, session)))


def _spikes(
    config: SimulationConfig, units: SimulatedUnits, reaching: Reaching, numbers: tuple[int, int, int]
) -> Spikes:
    number = math.ceil(config.duration_s / STEP_S) + 1
    step_s = config.duration_s / (number - 1)
    margin = math.ceil(max(map(abs, LAG_RANGE_S)) / step_s) + 1
    around_s = (np.arange(number + 2 * margin) - margin) * step_s
    movement = config.tuning * movement_latents(reaching, around_s)
    internal = config.tuning * internal_latents(reaching, around_s[margin : margin + number])
    rng, spike_rng = stream(_NOISE, *numbers), stream(_SPIKES, *numbers)
    shared = shared_noise(number, config.noise, num_fast=NUM_NOISE, step_s=step_s, rng=rng)
    times = []
    for i in range(len(units)):
        ahead = margin + units.lag_s[i] / step_s
        drive = shifted(movement @ units.movement_loading[i], ahead, number)
        drive += internal @ units.internal_loading[i] + shared @ units.noise_gain[i]
        drive += private_noise(number, config.private_noise, duration_s=config.duration_s, rng=rng)
        rate = rate_hz(drive, units.mean_rate_hz[i])
        times.append(spike_times(rate, step_s=step_s, refractory_s=units.refractory_s[i], rng=spike_rng))
    unit = np.repeat(np.arange(len(units)), [len(t) for t in times])
    merged = np.concatenate(times)
    order = np.argsort(merged, kind="stable")
    return Spikes(merged[order], unit[order])


def _signals(config: SimulationConfig, trajectory: Trajectory, rng: np.random.Generator) -> dict[str, Signal]:
    rate = config.behavior_rate_hz
    times = np.arange(math.ceil(config.duration_s * rate - 1e-9)) / rate
    if config.timestamp_jitter:
        stray = rng.uniform(-config.timestamp_jitter, config.timestamp_jitter, len(times))
        times = times + (0.5 + stray) / rate
        times = times[times < config.duration_s]
    position, velocity = trajectory.at(times)

    def signal(values: np.ndarray, unit: str) -> Signal:
        if config.timestamp_jitter:
            return Signal(values, timestamps_s=times, unit=unit)
        return Signal(values, start_s=0.0, rate_hz=rate, unit=unit)

    return {"cursor.pos": signal(position, "cm"), "cursor.vel": signal(velocity, "cm/s")}


def session_facts(
    config: Named, seed: int, subject: int, session: int, *, task: str
) -> dict[str, str | float]:
    """The attributes of a simulated session; its configuration is among them as JSON."""
    day = FIRST_DAY + datetime.timedelta(days=session)
    return {
        "brainset.id": f"{config.name}_simulated",
        "brainset.description": "simulated motor cortex, not a recording of an animal",
        "session.recording_date": f"{day.isoformat()} 00:00:00",
        "session.task": task,
        "subject.species": "simulated",
        "device.id": f"{config.name}-s{subject:02d}",
        "device.recording_tech": "simulated",
        "simulation.seed": float(seed),
        "simulation.config": json.dumps(to_json(config)),
    }
