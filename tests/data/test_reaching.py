"""Simulated kinematics against what is known of them in closed form."""

import numpy as np
import pytest

from possm.data.intervals import Intervals
from possm.data.reaching import TASKS, ReachStyle, center_out, random_target
from possm.data.trajectory import TREMOR_HZ, Trajectory
from possm.errors import ConfigError

PLAIN = ReachStyle(curvature=0, endpoint_cm=0, correction=0, tremor_cm_s=0)


def one_movement(*, bow_cm: float = 0.0, tremor_cm_s: float = 0.0) -> Trajectory:
    waves = np.full((2, len(TREMOR_HZ)), tremor_cm_s)
    shift = np.array([[3.0, -4.0]])
    start, duration, bow = np.array([1.0]), np.array([0.5]), np.array([bow_cm])
    return Trajectory(start, duration, shift, bow, waves, np.zeros_like(waves))


def test_a_movement_is_minimum_jerk():
    times = np.linspace(0, 3, 30001)
    position, velocity = one_movement().at(times)
    speed = np.hypot(*velocity.T)
    assert speed.max() == pytest.approx(1.875 * 5.0 / 0.5)  # 1.875 d / T
    assert times[speed.argmax()] == pytest.approx(1.25)
    assert np.all(position[times < 1.0] == 0) and np.all(velocity[times < 1.0] == 0)
    np.testing.assert_allclose(position[times > 1.5], np.tile([3.0, -4.0], (np.sum(times > 1.5), 1)))
    np.testing.assert_allclose(position[times == 1.25], [[1.5, -2.0]])


def test_a_bow_goes_sideways_by_what_it_says():
    times = np.linspace(0, 3, 30001)
    position, _ = one_movement(bow_cm=0.7).at(times)
    sideways = position @ np.array([4.0, 3.0]) / 5.0  # to the left of (3, -4)
    assert sideways.max() == pytest.approx(0.7)
    assert sideways[-1] == pytest.approx(0.0, abs=1e-9)


def test_velocity_is_the_derivative_of_position():
    times = np.linspace(0, 3, 30001)
    position, velocity = one_movement(bow_cm=0.7, tremor_cm_s=0.3).at(times)
    np.testing.assert_allclose(np.gradient(position, times, axis=0)[1:-1], velocity[1:-1], atol=1e-3)


def test_a_position_does_not_depend_on_the_times_asked():
    trajectory = center_out(60.0, style=ReachStyle(), rng=np.random.default_rng(3)).trajectory
    times = np.sort(np.random.default_rng(0).uniform(0, 60, 500))
    together, _ = trajectory.at(times)
    alone = np.concatenate([trajectory.at(times[i : i + 1])[0] for i in range(500)])
    np.testing.assert_allclose(alone, together, atol=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_events_of_a_trial_come_in_order(task):
    reaching = TASKS[task](300.0, style=ReachStyle(), rng=np.random.default_rng(0))
    trials, column = reaching.trials, reaching.trials.columns
    order = [trials.start_s, column["target_on_time"], column["go_cue_time"], column["move_onset_time"]]
    order += [column["arrival_time"], trials.end_s]
    assert all(np.all(a <= b) for a, b in zip(order[:-1], order[1:], strict=True))
    assert np.all(trials.start_s[1:] >= trials.end_s[:-1]) and trials.end_s[-1] <= 300.0
    reaction = column["move_onset_time"] - column["go_cue_time"]
    assert np.median(reaction) == pytest.approx(0.26, rel=0.1) and reaction.std() > 0.02


@pytest.mark.parametrize("task", TASKS)
def test_a_plain_reach_is_one_minimum_jerk_from_target_to_target(task):
    reaching = TASKS[task](120.0, style=PLAIN, rng=np.random.default_rng(1))
    column = reaching.trials.columns
    for i in range(len(reaching.trials)):
        onset, arrival = column["move_onset_time"][i], column["arrival_time"][i]
        position, velocity = reaching.trajectory.at(np.linspace(onset, arrival, 1001))
        distance = np.hypot(*(column["target_pos"][i] - position[0]))
        np.testing.assert_allclose(position[-1], column["target_pos"][i], atol=1e-9)
        assert np.hypot(*velocity.T).max() == pytest.approx(1.875 * distance / (arrival - onset), rel=1e-6)
    at_go_cue = reaching.trajectory.at(column["go_cue_time"])[1]
    assert np.all(at_go_cue == 0)  # holds are holds
    assert set(column["result"]) == {"R"}


def test_center_out_targets_are_eight_and_balanced():
    column = center_out(600.0, style=ReachStyle(), rng=np.random.default_rng(0)).trials.columns
    counts = np.bincount(column["target_id"], minlength=8)
    assert len(counts) == 8 and np.ptp(counts) <= 1 and counts.sum() > 120
    np.testing.assert_allclose(np.hypot(*column["target_pos"].T), 8.0)
    angle = np.degrees(np.arctan2(*column["target_pos"].T[::-1])) % 360
    np.testing.assert_allclose(angle, 45.0 * column["target_id"], atol=1e-9)


def test_random_targets_are_where_and_as_far_as_stated():
    column = random_target(600.0, style=ReachStyle(), rng=np.random.default_rng(0)).trials.columns
    target = column["target_pos"]
    assert np.abs(target).max() <= 8.0 and np.abs(target).max() > 7.0
    step = np.hypot(*np.diff(target, axis=0).T)
    assert step.min() >= 4.0 and step.max() <= 14.0
    assert set(column["target_id"]) == {-1}


@pytest.mark.parametrize("task", TASKS)
def test_phases_divide_the_session(task):
    reaching = TASKS[task](300.0, style=ReachStyle(), rng=np.random.default_rng(0))
    times = np.random.default_rng(1).uniform(0, 300.0, 20_000)
    member = sum(phase.contains(times).astype(int) for phase in reaching.phases.values())
    assert np.all(member == 1)


def test_center_out_phases_follow_the_trials():
    wild = ReachStyle(endpoint_cm=0.6)
    reaching = center_out(300.0, style=wild, rng=np.random.default_rng(0))
    trials, column = reaching.trials, reaching.trials.columns
    valid = column["is_valid"]
    end, _ = reaching.trajectory.at(trials.end_s)
    missed = np.hypot(*(end - column["target_pos"]).T)
    assert 0 < np.sum(~valid) < len(valid)
    assert missed[~valid].min() > 0.8 and missed[valid].max() < 1.2  # radius 1, and a little tremor
    reach = reaching.phases["reach_period"]
    np.testing.assert_array_equal(reach.start_s, column["go_cue_time"][valid])
    np.testing.assert_array_equal(reach.end_s, trials.end_s[valid])
    np.testing.assert_array_equal(reaching.phases["invalid"].start_s, trials.start_s[~valid])
    assert isinstance(reaching.phases["return_period"], Intervals)


def test_style_spreads_are_what_they_say():
    style = ReachStyle(correction=0, movement_spread=0.2, endpoint_cm=0.5, tremor_cm_s=0.8)
    reaching = center_out(1200.0, style=style, rng=np.random.default_rng(0))
    column = reaching.trials.columns
    moved = column["arrival_time"] - column["move_onset_time"]
    assert np.log(moved).std() == pytest.approx(0.2, rel=0.25)
    assert np.median(moved) == pytest.approx(0.6, rel=0.1)
    off = reaching.trajectory.at(column["arrival_time"])[0] - column["target_pos"]
    assert off.std() == pytest.approx(0.5, rel=0.15)
    still = reaching.trajectory.at(column["go_cue_time"])[1]
    assert 0.3 < still.std() < 1.5


@pytest.mark.parametrize(
    "wrong", [{"movement_s": 0.0}, {"reaction_s": -1.0}, {"curvature": np.nan}, {"correction": 1.5}]
)
def test_a_style_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"ReachStyle.{next(iter(wrong))}"):
        ReachStyle(**wrong)


@pytest.mark.parametrize("task", TASKS)
def test_a_session_too_short_for_a_reach_is_refused(task):
    with pytest.raises(ConfigError, match="duration_s"):
        TASKS[task](0.5, style=ReachStyle(), rng=np.random.default_rng(0))
