"""Rates to spikes: exact refractoriness, exact rates, continuous times."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from possm.data.spiking import MAX_RATE_HZ, coloured_noise, enforce_refractory, rate_hz, shifted, spike_times


@given(st.lists(st.floats(0, 1), max_size=60), st.floats(0, 0.3))
def test_refractory_is_that_of_a_spike_by_spike_loop(times, refractory_s):
    times = np.sort(np.array(times, float))
    kept: list[float] = []
    for time in times:
        if not kept or time - kept[-1] >= refractory_s:
            kept.append(time)
    np.testing.assert_array_equal(enforce_refractory(times, refractory_s), kept)


@pytest.mark.parametrize("rate", [5.0, 60.0, 150.0])
def test_a_constant_rate_is_met_and_the_intervals_are_exponential(rate):
    times = spike_times(np.full(60_001, rate), step_s=0.005, refractory_s=0.002, rng=np.random.default_rng(0))
    assert len(times) == pytest.approx(300 * rate, abs=4 * np.sqrt(300 * rate))
    gaps = np.diff(times)
    assert gaps.min() >= 0.002
    # a dead time, then exponential: mean 1/rate, deviation 1/rate less the dead time
    assert gaps.std() == pytest.approx(1 / rate - 0.002, rel=0.1)
    assert np.all(times[1:] > times[:-1]) and times[-1] <= 300.0


def test_spikes_follow_a_rate_that_changes():
    seconds = np.arange(0, 200, 0.005)
    rate = 30 + 25 * np.sin(2 * np.pi * seconds)
    times = spike_times(rate, step_s=0.005, refractory_s=0.001, rng=np.random.default_rng(0))
    counts = np.histogram(times % 1.0, bins=20, range=(0, 1))[0] / (200 / 20)
    wanted = 30 + 25 * np.sin(2 * np.pi * (np.arange(20) + 0.5) / 20)
    assert np.abs(counts - wanted).max() < 4 * np.sqrt(wanted.max() / 10)
    assert np.corrcoef(counts, wanted)[0, 1] > 0.98


def test_times_lie_on_no_grid():
    times = spike_times(np.full(20_001, 50.0), step_s=0.005, refractory_s=0.0, rng=np.random.default_rng(0))
    within_ms = (times * 1000) % 1.0
    counts = np.histogram(within_ms, bins=10, range=(0, 1))[0]
    assert np.abs(counts - len(times) / 10).max() < 5 * np.sqrt(len(times) / 10)


def test_no_rate_no_spikes():
    silent = np.zeros(101)
    assert not len(spike_times(silent, step_s=0.005, refractory_s=0.001, rng=np.random.default_rng(0)))


def test_rate_has_the_mean_asked_for_and_a_ceiling():
    drive = np.sin(np.linspace(0, 50, 10_000))
    assert rate_hz(drive, 12.0).mean() == pytest.approx(12.0)
    np.testing.assert_allclose(np.ptp(np.log(rate_hz(drive, 12.0))), np.ptp(drive))
    capped = rate_hz(3 * drive, 60.0)
    assert capped.max() == MAX_RATE_HZ and capped.mean() == pytest.approx(60.0, rel=2e-3)


@given(st.floats(0, 40))
def test_shifted_reads_between_the_samples(by):
    line = 3.0 * np.arange(100) - 7.0
    np.testing.assert_allclose(shifted(line, by, 50), 3.0 * (np.arange(50) + by) - 7.0, atol=1e-9)


def test_coloured_noise_forgets_at_its_time_constant():
    noise = coloured_noise((200_000, 2), step_s=0.01, tau_s=0.5, rng=np.random.default_rng(0))
    np.testing.assert_allclose(noise.std(axis=0), 1.0)
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=1e-9)
    after = np.mean(noise[:-50] * noise[50:], axis=0)  # 0.5 s later
    np.testing.assert_allclose(after, np.exp(-1), atol=0.06)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.15
