"""Simulated sessions against their ground truth."""

import json
from dataclasses import replace

import numpy as np
import pytest

from possm.data.formats.hdf5 import read_hdf5
from possm.data.formats.hdf5_write import write_hdf5
from possm.data.population import Drift, movement_latents
from possm.data.recording import Recording
from possm.data.simulate import (
    SimulationConfig,
    simulate_dataset,
    simulate_session,
    simulated_reaching,
    simulated_units,
)
from possm.errors import ConfigError

CONFIG = SimulationConfig(duration_s=240.0, num_units=40)
SMALL = SimulationConfig(duration_s=30.0, num_units=5)
CLEAN = SimulationConfig(task="random_target", duration_s=400.0, num_units=40, noise=0, private_noise=0)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return simulate_session(CONFIG, subject=1, session=3, seed=7)


def times_of(recording: Recording, unit: int) -> np.ndarray:
    assert recording.spikes is not None
    return recording.spikes.times_s[recording.spikes.unit == unit]


def counts_of(recording: Recording, bin_s: float) -> np.ndarray:
    """(bins, units)."""
    edges = np.arange(0, recording.domain.end_s[0] + bin_s / 2, bin_s)
    columns = [np.histogram(times_of(recording, unit), edges)[0] for unit in range(recording.num_units)]
    return np.stack(columns, axis=1)


def ridge_r2(recording: Recording, behavior: str = "cursor.vel") -> float:
    """Causal ridge on 12 lags of 50 ms counts, fitted on the train part, scored on the test part."""
    counts = counts_of(recording, 0.05)
    lagged = [np.pad(counts, ((lag, 0), (0, 0)))[: len(counts)] for lag in range(12)]
    inputs = np.column_stack([*lagged, np.ones(len(counts))])
    times = 0.05 * np.arange(1, len(counts) + 1)  # each value from the spikes before it
    signal = recording.behavior(behavior)
    target = np.column_stack([np.interp(times, signal.times_s, column) for column in signal.values.T])
    train, test = (recording.split(name).contains(times) for name in ("train", "test"))
    gram = inputs[train].T @ inputs[train] + 300 * np.eye(inputs.shape[1])
    error = target - inputs @ np.linalg.solve(gram, inputs[train].T @ target[train])
    return float(1 - np.mean(error[test] ** 2) / np.mean(target[test].var(axis=0)))


# --- what is in a session


def test_names_domain_and_splits(recording):
    assert (recording.session_id, recording.subject_id) == ("sim-s01-d03", "sim-s01")
    assert list(recording.domain) == [(0.0, 240.0)]
    train, valid, test = (recording.split(name) for name in ("train", "valid", "test"))
    assert train.total_s == pytest.approx(0.7 * 240 - 1) and test.total_s == pytest.approx(0.2 * 240)
    assert train.end_s[-1] < valid.start_s[0] < valid.end_s[-1] < test.start_s[0]
    names = {"trials", "movement_phases.reach_period", "movement_phases.hold_period"}
    assert names <= set(recording.intervals)
    assert recording.attributes["session.recording_date"] == "2000-01-04 00:00:00"


def test_units_are_named_by_electrode(recording):
    truth = simulated_units(CONFIG, subject=1, session=3, seed=7)
    electrode, number = recording.unit_columns["electrode"], recording.unit_columns["unit_number"]
    np.testing.assert_array_equal(electrode, truth.electrode)
    assert recording.unit_ids == tuple(f"elec{e}/unit_{n}" for e, n in zip(electrode, number, strict=True))
    assert len(set(recording.unit_ids)) == 40
    assert len(set(electrode)) < 40  # some electrodes carry two
    assert electrode.min() >= 1 and electrode.max() <= 40


def test_signals_are_the_trajectory(recording):
    position, velocity = recording.behavior("cursor.pos"), recording.behavior("cursor.vel")
    assert (position.unit, velocity.unit, position.rate_hz, len(position)) == ("cm", "cm/s", 100.0, 24_000)
    reaching = simulated_reaching(CONFIG, subject=1, session=3, seed=7)
    np.testing.assert_array_equal(velocity.values, reaching.trajectory.at(velocity.times_s)[1])
    slope = np.gradient(position.values, 0.01, axis=0)
    assert np.abs(slope - velocity.values).max() < 1.0 and np.abs(velocity.values).max() > 20


def test_irregular_time_stamps_stray_by_what_is_asked():
    recording = simulate_session(replace(SMALL, timestamp_jitter=0.4))
    velocity = recording.behavior("cursor.vel")
    gaps = np.diff(velocity.times_s)
    assert velocity.rate_hz is None and gaps.min() > 0.002 and gaps.max() < 0.018
    assert gaps.std() == pytest.approx(0.01 * 0.4 * np.sqrt(2 / 3), rel=0.1)
    trajectory = simulated_reaching(SMALL).trajectory
    np.testing.assert_array_equal(velocity.values, trajectory.at(velocity.times_s)[1])


def test_a_written_session_reads_back_the_same(tmp_path):
    recording = simulate_session(SMALL, subject=2, session=1)
    write_hdf5(recording, tmp_path / "sim.h5")
    again = read_hdf5(tmp_path / "sim.h5", lazy=False)
    assert same(recording, again) and again.session_id == "sim-s02-d01"
    np.testing.assert_array_equal(again.unit_columns["neuron"], recording.unit_columns["neuron"])
    assert again.intervals["trials"].columns["result"].tolist() == (
        recording.intervals["trials"].columns["result"].tolist()
    )
    assert json.loads(str(again.attributes["simulation.config"]))["num_units"] == 5


# --- spikes


def test_spikes_are_sorted_and_inside(recording):
    assert np.all(np.diff(recording.spikes.times_s) >= 0)
    assert recording.spikes.times_s[0] >= 0 and recording.spikes.times_s[-1] < 240.0
    assert recording.spikes.times_s.dtype == np.float64 and recording.spikes.unit.dtype == np.int64


def test_every_unit_fires_at_its_rate(recording):
    truth = simulated_units(CONFIG, subject=1, session=3, seed=7)
    expected = truth.mean_rate_hz * 240.0
    counts = np.bincount(recording.spikes.unit, minlength=40)
    wrong = np.abs(counts - expected) / np.sqrt(expected)
    assert wrong.max() < 4.0 and wrong.mean() < 1.2


def test_no_interval_is_below_the_refractory_time(recording):
    truth = simulated_units(CONFIG, subject=1, session=3, seed=7)
    shortest = np.array([np.diff(times_of(recording, i)).min() for i in range(40)])
    assert np.all(shortest >= truth.refractory_s)
    assert truth.refractory_s.min() >= 0.001 and truth.refractory_s.max() <= 0.002
    assert shortest.min() < 0.003  # and the refractory time is what limits them


def test_rates_of_a_population_are_diverse():
    rates = simulated_units(replace(CONFIG, num_units=2000, mean_rate_hz=12.0)).mean_rate_hz
    assert rates.mean() == pytest.approx(12.0, rel=0.07)
    assert rates.min() >= 1.0 and rates.max() <= 60.0 and np.log(rates).std() == pytest.approx(0.7, abs=0.1)


# --- tuning


def test_preferred_directions_are_found_again_by_regression_at_the_true_lag():
    recording, truth = simulate_session(CLEAN), simulated_units(CLEAN)
    counts, times = counts_of(recording, 0.02), 0.02 * np.arange(20_000) + 0.01
    reaching = simulated_reaching(CLEAN)
    error = np.empty(len(truth))
    for i in range(len(truth)):
        inputs = np.column_stack([movement_latents(reaching, times + truth.lag_s[i]), np.ones(len(times))])
        weight = np.linalg.lstsq(inputs, counts[:, i], rcond=None)[0]
        error[i] = np.arctan2(weight[1], weight[0]) - truth.preferred_direction_rad[i]
    error = np.abs(np.degrees(np.angle(np.exp(1j * error))))
    strong = truth.depth * np.sqrt(truth.mean_rate_hz) > 2.0
    assert strong.sum() > 12
    assert np.median(error[strong]) < 6 and error[strong].max() < 25


def test_lags_are_found_again():
    recording, truth = simulate_session(CLEAN), simulated_units(CLEAN)
    counts, times = counts_of(recording, 0.02), 0.02 * np.arange(20_000) + 0.01
    reaching, lags = simulated_reaching(CLEAN), np.arange(-0.12, 0.24, 0.02)
    strong = np.argsort(truth.depth * np.sqrt(truth.mean_rate_hz))[-8:]
    fit = np.empty((len(lags), len(strong)))
    for row, lag in enumerate(lags):
        drive = movement_latents(reaching, times + lag) @ truth.movement_loading[strong].T
        fit[row] = [np.corrcoef(np.exp(drive[:, k]), counts[:, unit])[0, 1] for k, unit in enumerate(strong)]
    found = lags[fit.argmax(axis=0)]
    assert np.abs(found - truth.lag_s[strong]).max() < 0.025
    assert np.ptp(truth.lag_s[strong]) > 0.05


def test_preferred_directions_crowd_along_an_axis_of_the_subject():
    many = replace(SMALL, num_units=5000)
    doubled = [np.exp(2j * simulated_units(many, subject=s).preferred_direction_rad).mean() for s in range(3)]
    np.testing.assert_allclose(np.abs(doubled), 0.15, atol=0.03)  # half of 0.3
    assert np.ptp(np.angle(doubled)) > 0.3
    once = np.exp(1j * simulated_units(many).preferred_direction_rad).mean()
    assert abs(once) < 0.05


def test_units_lead_and_follow():
    lag = simulated_units(replace(CONFIG, num_units=2000)).lag_s
    assert lag.mean() == pytest.approx(0.09, abs=0.01) and lag.std() > 0.03
    assert 0.01 < np.mean(lag < 0) < 0.15 and lag.min() >= -0.1 and lag.max() <= 0.2


@pytest.mark.parametrize("task", ["center_out", "random_target"])
def test_movement_can_be_decoded_and_only_when_units_are_tuned(task):
    config = SimulationConfig(task=task, duration_s=300.0)
    assert 0.75 < ridge_r2(simulate_session(config)) < 0.95
    assert ridge_r2(simulate_session(replace(config, tuning=0.0))) < 0.05


# --- seeds


def same(one: Recording, other: Recording) -> bool:
    return (
        np.array_equal(one.spikes.times_s, other.spikes.times_s)
        and np.array_equal(one.spikes.unit, other.spikes.unit)
        and np.array_equal(one.behavior("cursor.pos").values, other.behavior("cursor.pos").values)
        and one.unit_ids == other.unit_ids
        and list(one.intervals["trials"]) == list(other.intervals["trials"])
    )


def test_a_session_is_the_same_whatever_else_was_simulated():
    alone = simulate_session(SMALL, subject=1, session=1, seed=5)
    among = list(simulate_dataset(SMALL, num_subjects=2, num_sessions=4, seed=5))
    assert same(alone, among[3])
    assert not any(same(alone, other) for other in among[:3])
    assert not same(alone, simulate_session(SMALL, subject=1, session=1, seed=6))


def test_units_do_not_depend_on_task_or_length():
    longer = replace(SMALL, duration_s=60.0, task="random_target")
    one, other = simulated_units(SMALL, session=2), simulated_units(longer, session=2)
    np.testing.assert_array_equal(one.preferred_direction_rad, other.preferred_direction_rad)
    np.testing.assert_array_equal(one.mean_rate_hz, other.mean_rate_hz)


def test_sessions_are_divided_over_subjects():
    ids = [r.session_id for r in simulate_dataset(replace(SMALL, name="lab"), num_subjects=2, num_sessions=5)]
    assert ids == ["lab-s00-d00", "lab-s00-d01", "lab-s00-d02", "lab-s01-d00", "lab-s01-d01"]


# --- days and subjects


def turned(config: SimulationConfig, days: int) -> np.ndarray:
    first, last = simulated_units(config), simulated_units(config, session=days)
    np.testing.assert_array_equal(first.neuron, last.neuron)
    turn = last.preferred_direction_rad - first.preferred_direction_rad
    return np.degrees(np.angle(np.exp(1j * turn)))


def test_tuning_walks_by_the_stated_amount_a_day():
    drift = Drift(turnover=0.0, direction_deg=4.0, gain=0.07, rate=0.05)
    config = replace(SMALL, num_units=2000, drift=drift)
    assert turned(config, 1).std() == pytest.approx(4.0, rel=0.08)
    assert turned(config, 9).std() == pytest.approx(12.0, rel=0.08)
    first, last = simulated_units(config), simulated_units(config, session=4)
    assert np.log(last.depth / first.depth).std() == pytest.approx(2 * 0.07, rel=0.08)
    inside = (first.mean_rate_hz > 2) & (first.mean_rate_hz < 40)
    change = np.log(last.mean_rate_hz / first.mean_rate_hz)[inside]
    assert change.std() == pytest.approx(2 * 0.05, rel=0.08)
    np.testing.assert_array_equal(first.lag_s, last.lag_s)


def test_without_drift_nothing_changes():
    still = replace(CONFIG, drift=Drift(turnover=0, direction_deg=0, gain=0, rate=0))
    first, last = simulated_units(still), simulated_units(still, session=5)
    np.testing.assert_allclose(first.movement_loading, last.movement_loading, atol=1e-12)
    np.testing.assert_array_equal(first.mean_rate_hz, last.mean_rate_hz)


def test_units_vanish_and_appear_and_keep_their_electrode():
    config = replace(SMALL, num_units=1000, drift=Drift(turnover=0.2))
    first, later = simulated_units(config), simulated_units(config, session=3)
    shared, row, row_later = np.intersect1d(first.neuron, later.neuron, return_indices=True)
    assert len(shared) == pytest.approx(1000 * 0.8**3, abs=60)
    np.testing.assert_array_equal(first.electrode[row], later.electrode[row_later])
    assert len(later) == 1000 and len(set(later.neuron)) == 1000
    new = ~np.isin(later.neuron, first.neuron)
    assert later.neuron[new].min() >= 1000  # a number is never used again


def test_tuning_of_two_subjects_has_nothing_in_common():
    config = replace(SMALL, num_units=1000)
    one, other = simulated_units(config, subject=0), simulated_units(config, subject=1)
    for name in ("mean_rate_hz", "depth", "lag_s"):
        assert abs(np.corrcoef(getattr(one, name), getattr(other, name))[0, 1]) < 0.12
    apart = one.preferred_direction_rad - other.preferred_direction_rad
    assert abs(np.exp(1j * apart).mean()) < 0.12


# --- errors


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "juggling"},
        {"duration_s": 10.0},
        {"duration_s": np.inf},
        {"num_units": 0},
        {"num_units": 2.5},
        {"mean_rate_hz": 0.5},
        {"tuning": -1.0},
        {"noise": np.nan},
        {"private_noise": -0.1},
        {"behavior_rate_hz": 0.0},
        {"timestamp_jitter": 0.5},
        {"name": "a/b"},
    ],
)
def test_a_configuration_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"SimulationConfig.{next(iter(wrong))}"):
        SimulationConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"turnover": 1.2}, {"direction_deg": -1.0}, {"gain": np.nan}])
def test_a_drift_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"Drift.{next(iter(wrong))}"):
        Drift(**wrong)


@pytest.mark.parametrize("wrong", [{"subject": -1}, {"session": -1}, {"seed": -1}])
def test_negative_numbers_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        simulate_session(SMALL, **wrong)
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        simulated_units(SMALL, **wrong)


@pytest.mark.parametrize(
    "wrong", [{"num_subjects": 0}, {"num_sessions": 0}, {"num_subjects": 3, "num_sessions": 2}]
)
def test_a_dataset_that_cannot_be_is_refused_before_the_first_session(wrong):
    with pytest.raises(ConfigError, match="num_"):
        simulate_dataset(SMALL, **wrong)
