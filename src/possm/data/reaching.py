"""Simulated reaching: how a cursor moves through a session of center-out or random-target reaches.

A reach is one minimum-jerk movement (Flash & Hogan 1985), bowed sideways by chance, and now and then
a second one that starts before the first has ended and corrects it (Meyer et al. 1988). The movements of a
session and a little tremor add up to one smooth trajectory (`possm.data.trajectory`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from possm.data.intervals import Intervals
from possm.data.trajectory import TREMOR_HZ, Trajectory
from possm.errors import ConfigError

TARGET_DISTANCE_CM = 8.0  # centre to target in the center-out task
TARGET_RADIUS_CM = 1.0  # a reach that ends further out has failed
WORKSPACE_CM = 8.0  # random targets lie within +- this in x and y
RANDOM_DISTANCE_CM = (4.0, 14.0)  # from one random target to the next
TARGETS_PER_RUN = 4  # random targets in a row, before a rest


@dataclass(frozen=True, kw_only=True)
class ReachStyle:
    """How a subject moves. The spreads are standard deviations of the logarithm, so 0.15 is about 15 %."""

    hold_s: float = 0.4
    """Mean rest in the centre (or between random targets) before something happens; varies by half of it."""
    delay_s: float = 0.5
    """Mean time from target to go cue, center-out only; varies by half of it."""
    reaction_s: float = 0.26
    """Median time from go cue to the start of the movement."""
    reaction_spread: float = 0.15
    movement_s: float = 0.6
    """Median time of an 8 cm reach; the time grows with the root of the distance."""
    movement_spread: float = 0.15
    curvature: float = 0.08
    """Standard deviation of the sideways bow, as a part of the distance."""
    endpoint_cm: float = 0.4
    """Standard deviation of where a reach ends around its target, in x and in y."""
    correction: float = 0.25
    """Probability that a reach falls short and is corrected on the way."""
    tremor_cm_s: float = 0.4
    """Root mean square velocity of the tremor, in x and in y."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            positive = name in ("reaction_s", "movement_s")
            if not (math.isfinite(value) and value >= 0) or (positive and value == 0):
                wanted = "a finite number above 0" if positive else "a finite number, 0 or more"
                raise ConfigError("not a way to reach", about=f"ReachStyle.{name}", got=value, wanted=wanted)
        if self.correction > 1:
            raise ConfigError(
                "not a probability", about="ReachStyle.correction", got=self.correction, wanted="0 to 1"
            )


@dataclass(frozen=True)
class Reaching:
    """What a subject did in one session."""

    trajectory: Trajectory
    trials: Intervals
    """One row a target, with the columns target_id (-1: not one of eight), target_pos (cm), target_on_time,
    go_cue_time, move_onset_time, arrival_time (s), result ("R" reached, "F" failed) and is_valid."""
    phases: dict[str, Intervals]
    """hold_period, reach_period, return_period, random_period, invalid, as brainsets files have them."""
    plan_s: np.ndarray
    """(k, 2): when the goal of each reach, the way back included, was known, and when the movement began."""
    goal_cm: np.ndarray
    """(k, 2): the way from where the reach began to its goal."""


@dataclass
class _Hand:
    """Where the hand is while a session is made up, and what it has done so far."""

    style: ReachStyle
    rng: np.random.Generator
    place: np.ndarray = field(default_factory=lambda: np.zeros(2))
    moves: list[tuple[float, float, np.ndarray, float]] = field(default_factory=list)
    plans: list[tuple[float, float]] = field(default_factory=list)
    goals: list[np.ndarray] = field(default_factory=list)

    def wait_s(self, mean_s: float) -> float:
        return mean_s * self.rng.uniform(0.5, 1.5)

    def reach(self, goal: np.ndarray, known_s: float, cue_s: float) -> tuple[float, float]:
        """Move to about `goal` after the cue; when the movement begins and when it has arrived."""
        style, rng = self.style, self.rng
        onset_s = cue_s + style.reaction_s * math.exp(style.reaction_spread * rng.standard_normal())
        way = goal + style.endpoint_cm * rng.standard_normal(2) - self.place
        distance = math.hypot(*way)
        time_s = style.movement_s * math.sqrt(max(distance, 1.0) / TARGET_DISTANCE_CM)
        time_s *= math.exp(style.movement_spread * rng.standard_normal())
        bow = style.curvature * distance * rng.standard_normal()
        arrival_s = onset_s + time_s
        if rng.random() < style.correction:
            first = way * rng.uniform(0.75, 0.92) + 0.05 * distance * rng.standard_normal(2)
            again_s, again_time_s = onset_s + time_s * rng.uniform(0.65, 0.85), time_s * rng.uniform(0.5, 0.7)
            self.moves += [(onset_s, time_s, first, bow), (again_s, again_time_s, way - first, 0.0)]
            arrival_s = max(arrival_s, again_s + again_time_s)
        else:
            self.moves.append((onset_s, time_s, way, bow))
        self.plans.append((known_s, onset_s))
        self.goals.append(goal - self.place)
        self.place = self.place + way
        return onset_s, arrival_s

    def trajectory(self) -> Trajectory:
        waves = self.rng.standard_normal((2, len(TREMOR_HZ))) * self.style.tremor_cm_s
        waves *= math.sqrt(2 / len(TREMOR_HZ))
        phase = self.rng.uniform(0, 2 * np.pi, waves.shape)
        start, duration, shift, bow = map(np.array, zip(*self.moves, strict=True))
        return Trajectory(start, duration, shift, bow, waves, phase)


_TIMES = ("target_on_time", "go_cue_time", "move_onset_time", "arrival_time")
_COLUMNS = ("start", "end", "target_id", "target_pos", *_TIMES, "result")


def _trials(rows: list[tuple]) -> Intervals:
    columns = {name: np.array(column) for name, column in zip(_COLUMNS, zip(*rows, strict=True), strict=True)}
    columns["is_valid"] = columns["result"] == "R"
    return Intervals(columns.pop("start"), columns.pop("end"), columns)


def _result(place: np.ndarray, target: np.ndarray) -> str:
    return "R" if math.dist(place, target) < TARGET_RADIUS_CM else "F"


def center_out(duration_s: float, *, style: ReachStyle, rng: np.random.Generator) -> Reaching:
    """Hold in the centre, see one of eight targets, wait for the go cue, reach, hold, and go back.

    Targets come in shuffled blocks of eight, so that every direction is equally frequent.
    """
    hand, rows, back_s = _Hand(style, rng), [], []
    start_s, block = 0.0, np.empty(0, int)
    while True:
        block = block if len(block) else rng.permutation(8)
        number, block = int(block[0]), block[1:]
        angle = number * math.pi / 4
        target = TARGET_DISTANCE_CM * np.array([math.cos(angle), math.sin(angle)])
        on_s = start_s + hand.wait_s(style.hold_s)
        cue_s = on_s + hand.wait_s(style.delay_s)
        onset_s, arrival_s = hand.reach(target, on_s, cue_s)
        end_s = arrival_s + hand.wait_s(style.hold_s)
        if end_s > duration_s:
            break
        result = _result(hand.place, target)
        rows.append((start_s, end_s, number, target, on_s, cue_s, onset_s, arrival_s, result))
        _, home_s = hand.reach(np.zeros(2), end_s, end_s)
        start_s = min(home_s + 0.1, duration_s)
        back_s.append(start_s)
    return _center_out_session(hand, rows, np.array(back_s), duration_s)


def _center_out_session(hand: _Hand, rows: list[tuple], back_s: np.ndarray, duration_s: float) -> Reaching:
    _need_trials(rows, duration_s)
    trials = _trials(rows)
    valid = trials.columns["is_valid"]
    back = (back_s > trials.end_s) & valid
    cue_s = trials.columns["go_cue_time"]
    phases = {
        "hold_period": Intervals(trials.columns["target_on_time"][valid], cue_s[valid]),
        "reach_period": Intervals(cue_s[valid], trials.end_s[valid]),
        "return_period": Intervals(trials.end_s[back], back_s[back]),
        "invalid": Intervals(trials.start_s[~valid], trials.end_s[~valid]),
    }
    phases["random_period"] = _rest(duration_s, phases)
    return Reaching(hand.trajectory(), trials, phases, np.array(hand.plans), np.array(hand.goals))


def random_target(duration_s: float, *, style: ReachStyle, rng: np.random.Generator) -> Reaching:
    """From one random target to the next, four in a row, then a rest of a second or so."""
    hand, rows = _Hand(style, rng), []
    start_s, target = 0.0, np.zeros(2)
    while True:
        cue_s = start_s + hand.wait_s(style.hold_s)
        target = _next_target(target, rng)
        onset_s, arrival_s = hand.reach(target, cue_s, cue_s)
        end_s = arrival_s + 0.1
        if end_s > duration_s:
            break
        result = _result(hand.place, target)
        rows.append((start_s, end_s, -1, target, cue_s, cue_s, onset_s, arrival_s, result))
        start_s = end_s if len(rows) % TARGETS_PER_RUN else end_s + hand.wait_s(1.0)
    _need_trials(rows, duration_s)
    trials = _trials(rows)
    phases = {"hold_period": Intervals(trials.start_s, trials.columns["go_cue_time"])}
    phases["random_period"] = _rest(duration_s, phases)
    return Reaching(hand.trajectory(), trials, phases, np.array(hand.plans), np.array(hand.goals))


def _next_target(last: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    while True:
        target = rng.uniform(-WORKSPACE_CM, WORKSPACE_CM, 2)
        if RANDOM_DISTANCE_CM[0] < math.dist(target, last) < RANDOM_DISTANCE_CM[1]:
            return target


def _rest(duration_s: float, phases: dict[str, Intervals]) -> Intervals:
    """Everything that is no other phase, as brainsets cuts it."""
    rest = Intervals.of([(0.0, duration_s)])
    for phase in phases.values():
        rest = rest - phase
    return rest


def _need_trials(rows: list[tuple], duration_s: float) -> None:
    if not rows:
        raise ConfigError(
            "no reach ends before the session does",
            about="duration_s",
            got=f"{duration_s} s",
            fix="make it longer",
        )


Task = Literal["center_out", "random_target"]
TASKS: dict[str, Callable[..., Reaching]] = {"center_out": center_out, "random_target": random_target}
"""``(duration_s, *, style, rng) -> Reaching`` by name; a new task is a function and its name here."""
