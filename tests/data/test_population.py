"""The movement code of the simulated cortex at points where it is known."""

import numpy as np
import pytest

from possm.data.intervals import Intervals
from possm.data.population import internal_latents, movement_latents
from possm.data.reaching import Reaching
from possm.data.simulate import SimulationConfig, simulate_session
from possm.data.trajectory import TREMOR_HZ, Trajectory

STILL = np.zeros((2, len(TREMOR_HZ)))


@pytest.fixture
def reaching() -> Reaching:
    """At 0 s 6 cm to the right; at 2 s, planned since 1 s, 8 cm up; half a second each."""
    shift = np.array([[6.0, 0.0], [0.0, 8.0]])
    trajectory = Trajectory(np.array([0.0, 2.0]), np.full(2, 0.5), shift, np.zeros(2), STILL, STILL)
    plans = np.array([[-0.5, 0.0], [1.0, 2.0]])
    return Reaching(trajectory, Intervals.of([]), {}, plans, shift)


def test_the_velocity_code_turns_with_the_arm(reaching):
    latents = movement_latents(reaching, np.array([1.5, 2.25]))
    np.testing.assert_allclose(latents[0], [0, 0, 0, 6 / 8, 0], atol=1e-12)
    speed = 1.875 * 8.0 / 0.5 / 20.0
    turn = np.radians(2.5 * 6.0)  # to the left, as the hand is to the right
    wanted = [-speed * np.sin(turn), speed * np.cos(turn), speed, 6 / 8, 4 / 8]
    np.testing.assert_allclose(latents[1], wanted)


def test_a_plan_builds_up_and_fades(reaching):
    times = np.arange(0.7, 3.0, 0.01)
    plan = internal_latents(reaching, times)[:, :2]
    np.testing.assert_array_equal(plan[times < 1.08], 0.0)
    np.testing.assert_allclose(plan[np.isclose(times, 1.18), 1], 1 - np.exp(-1))
    np.testing.assert_allclose(plan[np.isclose(times, 2.0), 1], 1.0, atol=1e-3)
    np.testing.assert_allclose(plan[np.isclose(times, 2.1), 1], np.exp(-1), atol=1e-3)
    assert plan[-1, 1] < 0.01 and np.all(plan[:, 0] == 0)


def test_an_onset_peaks_before_the_movement_whatever_its_direction(reaching):
    times = np.arange(-0.5, 3.0, 0.01)
    onset = internal_latents(reaching, times)[:, 2]
    peaks = times[1:-1][(onset[1:-1] > onset[:-2]) & (onset[1:-1] > onset[2:])]
    np.testing.assert_allclose(peaks, [-0.06, 1.94], atol=1e-9)
    np.testing.assert_allclose(onset[np.isclose(times, 1.94)], 1.0)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_shared_noise_is_shared(noise):
    config = SimulationConfig(duration_s=200.0, num_units=30, tuning=0.0, noise=noise, private_noise=0.0)
    recording = simulate_session(config)
    counts = [np.histogram(recording.spikes.times_s[recording.spikes.unit == i], 200)[0] for i in range(30)]
    correlation = np.corrcoef(counts)[np.triu_indices(30, 1)]
    assert correlation.mean() > 0.25 if noise else abs(correlation.mean()) < 0.02
