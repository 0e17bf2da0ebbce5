"""The Kalman filter: the textbook's filter in its steady state, fitted where the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import toys
from possm.baselines.fitted import FitInputs
from possm.baselines.grid import chunk_series
from possm.baselines.kalman import (
    SCHEDULE,
    Kalman,
    KalmanGrid,
    Series,
    fit_kalman,
    run_filters,
    schedule,
    states,
    summed_counts,
)
from possm.baselines.kalman_decoder import KalmanConfig, fit_kalman_decoder
from possm.checkpoint import Decoder
from possm.data.intervals import Intervals
from possm.data.scaling import Scaling
from possm.data.series import Signal
from possm.data.vocabulary import Vocabulary
from possm.errors import RecordingError
from possm.evaluation.score import decode, evaluate
from possm.model.contract import BehaviorConfig

ONE = KalmanGrid(widths=(1,), ahead=(0,), orders=(1,), drifts=(1.0,), shrinkages=(0.0,))


def linear_system(*, length=6000, units=6, seed=0):
    """b[c + 1] = 0.95 b[c] + w, counts = H b + v: the model itself, order 1."""
    rng = np.random.default_rng(seed)
    behavior = np.zeros((length, 2))
    for row in range(1, length):
        behavior[row] = 0.95 * behavior[row - 1] + 0.3 * rng.standard_normal(2)
    mixing = rng.standard_normal((units, 2))
    counts = behavior @ mixing.T + 2.0 * rng.standard_normal((length, units))
    train = np.arange(length) < 4000
    return Series(counts, behavior, np.zeros(length, np.int64), train, ~train), mixing


def textbook(counts, *, step, drift, observe, noise, prior):
    """Predict, update."""
    state, spread, path = np.zeros(len(step)), prior, []
    for number, seen in enumerate(counts):
        if number:
            state, spread = step @ state, step @ spread @ step.T + drift
        gain = spread @ observe.T @ np.linalg.inv(observe @ spread @ observe.T + noise)
        state = state + gain @ (seen - observe @ state)
        spread = (np.eye(len(step)) - gain @ observe) @ spread
        path.append(state)
    return np.array(path)


TRUTH = {"step": 0.95 * np.eye(2), "drift": 0.09 * np.eye(2), "prior": 0.9 * np.eye(2)}


def run(spread, transition, evidence, series):
    """One filter over a series."""
    seen = (series.counts @ evidence.T)[:, None]
    return run_filters(spread[None], transition[None], seen, series.stretch)[:, 0]


def test_it_is_the_textbook_filter():
    """From the first chunk on, and where the covariance is taken as steady."""
    series, mixing = linear_system()
    evidence = mixing.T / 4.0
    spread, transition = schedule(**TRUTH, information=evidence @ mixing)
    wanted = textbook(series.counts, **TRUTH, observe=mixing, noise=4 * np.eye(6))
    np.testing.assert_allclose(run(spread, transition, evidence, series), wanted, atol=1e-9)


def test_fitted_it_is_nearly_the_filter_of_the_truth():
    series, mixing = linear_system()
    fit = fit_kalman(series, ONE)
    got = run(fit.spread, fit.transition, fit.evidence, series)
    wanted = textbook(series.counts, **TRUTH, observe=mixing, noise=4 * np.eye(6))
    np.testing.assert_allclose(got, wanted, atol=0.15)  # of numbers of size 1
    assert np.corrcoef(got[:, 0], wanted[:, 0])[0, 1] > 0.999


def test_the_steady_state_solves_the_riccati_equation():
    rng = np.random.default_rng(0)
    step = 0.4 * rng.standard_normal((4, 4))
    drift, information = (m @ m.T for m in (rng.standard_normal((4, 4)), rng.standard_normal((4, 4))))
    spread, transition = schedule(step, drift, information, 5 * np.eye(4))
    before = step @ spread[-1] @ step.T + drift
    np.testing.assert_allclose(np.linalg.inv(np.linalg.inv(before) + information), spread[-1], rtol=1e-6)
    assert len(spread) == len(transition) == SCHEDULE
    assert np.abs(np.linalg.eigvals(transition[-1])).max() < 1


def test_states_hold_neighbours_in_time_and_stop_at_cuts():
    behavior = np.arange(8.0)[:, None]
    stretch = np.array([0, 0, 0, 0, 1, 1, 1, -1])
    series = Series(np.zeros((8, 1)), behavior, stretch, stretch >= 0, stretch >= 0)
    got = states(series, 1, 2)
    nan = np.nan
    wanted = [[1, 0, nan], [2, 1, 0], [3, 2, 1], [nan, 3, 2], [5, 4, nan], [6, 5, 4], [nan, 6, 5], [nan] * 3]
    np.testing.assert_array_equal(got, wanted)


def test_counts_are_summed_within_a_stretch():
    counts = np.array([[1.0], [2.0], [4.0], [8.0], [16.0]])
    stretch = np.array([0, 0, 0, 1, 1])
    series = Series(counts, counts, stretch, stretch >= 0, stretch >= 0)
    np.testing.assert_allclose(summed_counts(series, 3)[:, 0] * np.sqrt(3), [1, 3, 7, 8, 24])
    np.testing.assert_array_equal(summed_counts(series, 1), counts)


def test_filters_start_anew_in_every_stretch():
    """x = M x + P y with M = 1/2, and P = 3 for the first chunk, 1 later."""
    spread, transition = np.ones((1, 4, 1, 1)), np.full((1, 4, 1, 1), 0.5)
    spread[0, 0] = 3
    path = run_filters(spread, transition, np.ones((7, 1, 1)), np.array([0, 0, 0, 0, 0, 1, 1]))
    np.testing.assert_allclose(path[:, 0, 0], [3, 2.5, 2.25, 2.125, 2.0625, 3, 2.5])


def test_settings_are_chosen_by_validation():
    """The candidate that is chosen is the best of those tried alone."""
    series, _ = linear_system(length=5000)
    grid = replace(ONE, widths=(1, 2), orders=(1, 2), drifts=(0.3, 1.0))
    alone = [
        fit_kalman(series, replace(grid, widths=(w,), orders=(o,), drifts=(d,)))
        for w in grid.widths
        for o in grid.orders
        for d in grid.drifts
    ]
    best = fit_kalman(series, grid)
    assert best.valid_r2.mean() == max(fit.valid_r2.mean() for fit in alone)
    assert (best.width, best.drift) == (1, 1.0)


def fitted(*recordings, behaviors=("vel",), scaled_by=(), **changes) -> Decoder:
    scaling = {name: Scaling.fit(scaled_by or recordings, name) for name in behaviors}
    sizes = {name: recordings[0].behavior(name).num_dimensions for name in behaviors}
    made = {name: BehaviorConfig(num_dimensions=size) for name, size in sizes.items()}
    config = KalmanConfig(behaviors=made, **{"ahead": (0, 1), "orders": (1, 2), "widths": (1, 3), **changes})
    vocabulary = Vocabulary.of(recordings)
    inputs = FitInputs(recordings=recordings, vocabulary=vocabulary, scaling_of=lambda session: scaling)
    return Decoder(fit_kalman_decoder(config, inputs), vocabulary, scaling)


@pytest.mark.parametrize("bin_ms", [None, 10, 50])
def test_decodes_a_linear_code(bin_ms):
    recording = toys.recording(seconds=60, bin_ms=bin_ms)
    assert evaluate(fitted(recording), recording)[0][0].r2 > 0.8


def test_the_decoder_runs_the_fitted_filter():
    recording = toys.recording(bin_ms=50)
    decoder = fitted(recording)
    scaling = {"vel": decoder.scaling["vel"]}
    inputs = FitInputs(
        recordings=[recording], vocabulary=decoder.vocabulary, scaling_of=lambda session: scaling
    )
    series, mean, phase = chunk_series(recording, decoder.config, inputs)
    assert phase == pytest.approx([-0.1, -0.1])  # samples at 0, 10, ..., 40 of 50 ms
    fit: Kalman = fit_kalman(series, decoder.config.grid)
    summed = replace(series, counts=summed_counts(series, fit.width))
    path = run(fit.spread, fit.transition, fit.evidence, summed)
    middle_s = (np.arange(len(path)) + 1.5) * 0.05  # of what chunk 0, 1, ... are asked for
    keep = middle_s < 39.9
    got = decode(decoder, recording, Intervals.of([(0.0, 40.0)]), times_s={"vel": middle_s[keep]})["vel"]
    wanted = scaling["vel"].invert(path @ (fit.value + 0.1 * fit.slope).T + mean)
    np.testing.assert_allclose(got.values, wanted[keep], atol=1e-3)


def test_the_slope_helps_within_a_chunk():
    """At 250 ms chunks a slow movement goes far; the decoder follows it."""
    recording = toys.recording(seconds=100, units=40)
    decoder = fitted(recording, chunk_ms=250, lead_ms=0)
    straight = evaluate(decoder, recording)[0][0].r2
    decoder.model.readout[:, :, 2:] = 0
    assert straight > evaluate(decoder, recording)[0][0].r2 + 0.005


def test_sessions_keep_to_themselves():
    """Sessions of other units, and filters of other sizes, side by side as alone."""
    recordings = [toys.recording(seed=n, session=f"day{n}", units=8 + 4 * n, bin_ms=50) for n in (0, 1)]
    together = fitted(*recordings)
    assert together.model.mean.abs().max() > 0  # the mean of each session, seen from the scaling of both
    for recording in recordings:
        got = decode(together, recording, recording.split("test"))["vel"].values
        alone = fitted(recording, scaled_by=recordings)  # the scale decides what RIDGE is against
        alone = decode(alone, recording, recording.split("test"))["vel"].values
        np.testing.assert_allclose(got, alone, atol=1e-3)


def test_a_behavior_slower_than_the_chunks_is_interpolated():
    """15 samples a second under chunks of 50 ms: some chunks have none."""
    recording = toys.recording(seconds=60)
    rows = np.arange(0, 6000, 7)
    signal = Signal(recording.behavior("vel").values[rows], timestamps_s=rows / 100)
    slow = replace(recording, signals={"vel": signal})
    assert evaluate(fitted(slow), slow)[0][0].r2 > 0.75


def test_one_sample_a_chunk_wherever_it_lies():
    """At the start, the middle or the end of what a chunk answers for, also on the edge but for rounding."""
    recording = toys.recording(seconds=60, bin_ms=50)
    values, scores = recording.behavior("vel").values, []
    for first, shift_s in ((0, 0.0), (0, -5e-10), (2, 0.0), (4, 0.0)):
        signal = Signal(values[first::5], start_s=first / 100 + shift_s, rate_hz=20.0)
        moved = replace(recording, signals={"vel": signal})
        scores.append(evaluate(fitted(moved), moved)[0][0].r2)
    assert min(scores) > 0.75  # later is harder
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)


def test_nothing_is_asked_beyond_a_cut():
    """The last chunk of a stretch answers for what comes after it, which is another stretch's."""
    starts_s = np.arange(0.0, 40.0, 2.0)
    recording = replace(toys.recording(bin_ms=50), domain=Intervals.of([(s, s + 2.0) for s in starts_s]))
    inputs = FitInputs(
        recordings=[recording],
        vocabulary=Vocabulary.of([recording]),
        scaling_of=lambda session: {"vel": Scaling.fit([recording], "vel")},
    )
    config = KalmanConfig(behaviors={"vel": BehaviorConfig(num_dimensions=2)})
    series, _, _ = chunk_series(recording, config, inputs)
    assert np.flatnonzero(np.isnan(series.behavior[:, 0])).tolist() == list(range(39, 800, 40))
    at_once, _, _ = chunk_series(recording, replace(config, lead_ms=0), inputs)
    assert np.isfinite(at_once.behavior).all()


def test_too_short_to_fit():
    recording = toys.recording(seconds=20)
    intervals = {**recording.intervals, "train_domain": Intervals.of([(1.0, 1.2), (2.0, 2.2)])}
    with pytest.raises(RecordingError, match="too few chunks in a row") as caught:
        fitted(replace(recording, intervals=intervals), orders=(3,), ahead=(2,))
    assert "toy" in str(caught.value)
