"""Simulated imagined handwriting: one of 31 characters a trial, read from 192 channels in 10 ms counts.

    config = HandwritingConfig(trials_per_character=10)
    recording = simulate_handwriting(config, session=3, seed=0)      # "handwriting-s00-d03"

The pen is a hand to the simulated cortex: channels read its velocity, speed and position as units read a
reaching hand (`possm.data.population`), so a decoder of reaches has something to give. A character is shown,
waits for the go cue, and is written; sessions of a subject drift from day to day. See docs/clinical-data.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from possm.config import require
from possm.data.channels import BinClock, Channels, binned_rates, poisson_counts
from possm.data.intervals import Intervals
from possm.data.letters import CHARACTERS, Move, WritingStyle, write_letter
from possm.data.population import (
    LAG_RANGE_S,
    RATE_RANGE_HZ,
    Drift,
    SimulatedUnits,
    internal_latents,
    movement_latents,
)
from possm.data.reaching import Reaching
from possm.data.recording import Recording
from possm.data.series import Binned
from possm.data.simulate import check_numbers, drifted_units, session_facts, sessions_of, stream
from possm.data.trajectory import TREMOR_HZ, Trajectory
from possm.data.trial_splits import split_trials

_WRITING, _NOISE, _COUNTS, _SPLIT = range(100, 104)  # random streams of their own, see `simulate`

REST_S = (0.3, 0.9)  # from the end of a letter to the next one; the pen goes home in the first part of it
TRIALS_A_BLOCK = 3  # of every character, then a pause: the blocks of the real sessions
MAX_TRIALS = 1000


@dataclass(frozen=True, kw_only=True)
class HandwritingConfig:
    """What to simulate."""

    task: Literal["handwriting"] = "handwriting"
    trials_per_character: int = 10
    """Trials of each character in a session, in shuffled rounds."""
    characters: tuple[str, ...] = CHARACTERS
    """The classes, by their names in `letters.CHARACTERS`."""
    before_s: float = 0.8
    """A trial begins this much before its go cue ..."""
    after_s: float = 0.8
    """... and ends this much after it."""
    num_units: int = 192
    """Channels."""
    bin_ms: float = 10.0
    """Width of the bins that counts are given in."""
    mean_rate_hz: float = 15.0
    """Mean count rate over channels, before each is held within 1 to 60 Hz."""
    tuning: float = 1.0
    """Factor on everything writing does to the rates; 0 makes channels that know of no letter."""
    noise: float = 0.15
    """Deviation of the log rates that channels share: a fluctuation (0.2 s), and as much arousal (20 s)."""
    private_noise: float = 0.1
    """Deviation of each channel's own slow change of log rate within a session (two minutes)."""
    drift: Drift = field(default_factory=Drift)
    """What changes between the sessions of a subject."""
    style: WritingStyle = field(default_factory=WritingStyle)
    """How letters differ from trial to trial."""
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Of the trials of each character, for train, valid and test."""
    name: str = "handwriting"
    """Begins every session and subject id; give simulations that are to be mixed different names."""

    def __post_init__(self) -> None:
        low, high = RATE_RANGE_HZ
        unknown = [c for c in self.characters if c not in CHARACTERS]
        checks = {
            "trials_per_character": (1 <= self.trials_per_character <= MAX_TRIALS, f"1 to {MAX_TRIALS}"),
            "characters": (
                not unknown and 0 < len(self.characters) == len(set(self.characters)),
                f"different names out of {', '.join(CHARACTERS)}",
            ),
            "before_s": (0 <= self.before_s <= 5, "0 to 5 s"),
            "after_s": (0.1 <= self.after_s <= 5, "0.1 to 5 s"),
            "num_units": (self.num_units >= 1, "1 or more"),
            "bin_ms": (1 <= self.bin_ms <= 100, "1 to 100 ms"),
            "mean_rate_hz": (low <= self.mean_rate_hz <= high, f"{low} to {high} Hz"),
            "tuning": (math.isfinite(self.tuning) and self.tuning >= 0, "0 or more"),
            "noise": (math.isfinite(self.noise) and self.noise >= 0, "0 or more"),
            "private_noise": (math.isfinite(self.private_noise) and self.private_noise >= 0, "0 or more"),
            "name": (bool(self.name) and "/" not in self.name, "a word without a slash"),
        }
        for name, (good, wanted) in checks.items():
            require(good, f"HandwritingConfig.{name}", getattr(self, name), wanted)


def simulate_handwriting(
    config: HandwritingConfig, *, subject: int = 0, session: int = 0, seed: int = 0
) -> Recording:
    """One session of one subject, in memory: counts, and ``trials`` with their ``character``.

    Columns of the trials: ``character`` (string), ``go_cue_time``, ``cue_time`` (the character was shown),
    ``onset_time``, ``letter_end_time`` (s), ``block``. The splits are whole trials, stratified by character.
    """
    numbers = (seed, subject, session)
    channels = simulated_channels(config, subject=subject, session=session, seed=seed)
    writing = simulated_writing(config, subject=subject, session=session, seed=seed)
    bin_s = config.bin_ms / 1000
    num_bins = math.ceil((float(writing.trials.end_s[-1]) + REST_S[0]) / bin_s)
    clock = BinClock(num_bins, bin_s, margin_s=max(map(abs, LAG_RANGE_S)))
    rates = binned_rates(
        _reading(channels),
        config.tuning * movement_latents(writing, clock.around_s),
        config.tuning * internal_latents(writing, clock.times_s),
        clock=clock,
        noise=config.noise,
        slow_noise=config.private_noise,
        rng=stream(_NOISE, *numbers),
    )
    recording = Recording(
        session_id=f"{config.name}-s{subject:02d}-d{session:02d}",
        subject_id=f"{config.name}-s{subject:02d}",
        unit_ids=tuple(f"channel_{i:03d}" for i in range(config.num_units)),
        unit_columns={"electrode": channels.electrode, "neuron": channels.neuron},
        binned=Binned(poisson_counts(rates, bin_s, stream(_COUNTS, *numbers)), 0.0, 1 / bin_s),
        intervals={"trials": writing.trials},
        domain=Intervals.of([(0.0, num_bins * bin_s)]),
        attributes=session_facts(config, *numbers, task="imagined_handwriting"),
    )
    return split_trials(
        recording, label="character", fractions=config.fractions, rng=stream(_SPLIT, *numbers)
    )


def simulate_handwriting_dataset(
    config: HandwritingConfig, *, num_subjects: int = 1, num_sessions: int = 1, seed: int = 0
) -> Iterator[Recording]:
    """`num_sessions` sessions in all, divided over the subjects as evenly as can be, one after the other."""
    return (
        simulate_handwriting(config, subject=subject, session=day, seed=seed)
        for subject, day in sessions_of(num_subjects, num_sessions)
    )


def simulated_channels(
    config: HandwritingConfig, *, subject: int = 0, session: int = 0, seed: int = 0
) -> SimulatedUnits:
    """The ground truth of a session: what each channel reads on that day; one electrode each, in order."""
    units = drifted_units(config, subject=subject, session=session, seed=seed)
    return replace(units, electrode=np.arange(1, len(units) + 1))


def simulated_writing(
    config: HandwritingConfig, *, subject: int = 0, session: int = 0, seed: int = 0
) -> Reaching:
    """The movement of the pen in a session, exact at any time, with its trials."""
    check_numbers(seed=seed, subject=subject, session=session)
    rng = stream(_WRITING, seed, subject, session)
    pen = _Pen(config.style, rng)
    rows = []
    for repetition in range(config.trials_per_character):
        for character in rng.permutation(config.characters).tolist():
            rows.append((*pen.trial(character, config), repetition // TRIALS_A_BLOCK))
    names = ("start", "end", "character", "cue_time", "go_cue_time", "onset_time", "letter_end_time", "block")
    columns = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
    trials = Intervals(columns.pop("start"), columns.pop("end"), columns)
    plan_s = np.stack([columns["cue_time"], columns["onset_time"]], axis=1)
    return Reaching(pen.trajectory(), trials, {}, plan_s, np.array(pen.goals_cm))


@dataclass
class _Pen:
    """The pen while a session is made up."""

    style: WritingStyle
    rng: np.random.Generator
    free_s: float = 0.5
    """When the next trial may begin."""
    moves: list[Move] = field(default_factory=list)
    goals_cm: list[tuple[float, float]] = field(default_factory=list)
    """Where the first stroke of each letter leads: what is planned."""

    def trial(
        self, character: str, config: HandwritingConfig
    ) -> tuple[float, float, str, float, float, float, float]:
        """Write one letter and bring the pen home: start, end, character, cue, go, onset, letter end."""
        style, rng = self.style, self.rng
        cue_s = self.free_s
        start_s = cue_s + rng.uniform(0.1, 0.5)
        go_s = start_s + config.before_s
        onset_s = go_s + style.reaction_s * math.exp(style.reaction_spread * rng.standard_normal())
        moves, written_s = write_letter(character, onset_s, style=style, rng=rng)
        way = np.sum([move[2] for move in moves], axis=0)
        end_s = go_s + config.after_s
        rest_s = rng.uniform(*REST_S)
        home_s = max(end_s, written_s)
        self.moves += [*moves, (home_s, rest_s, (-way[0], -way[1]), 0.0)]
        self.goals_cm.append(moves[0][2])
        self.free_s = home_s + rest_s
        return start_s, end_s, character, cue_s, go_s, onset_s, written_s

    def trajectory(self) -> Trajectory:
        """The sum of all movements."""
        start, duration, shift, bow = map(np.array, zip(*self.moves, strict=True))
        still = np.zeros((2, len(TREMOR_HZ)))
        return Trajectory(start, duration, shift, bow, still, still)


def _reading(units: SimulatedUnits) -> Channels:
    return Channels(
        mean_rate_hz=units.mean_rate_hz,
        loading=units.movement_loading,
        lag_s=units.lag_s,
        noise_gain=units.noise_gain,
        now_loading=units.internal_loading,
    )
