"""Binned history: which bins a time may see, at edges, cuts and gaps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from possm.baselines.lags import Bins, Design, bin_recording
from possm.data.recording import Binned, Intervals, Recording, Spikes
from possm.errors import RecordingError

NAN = np.nan


def binned(values, domain=None, start_s=0.0, rate_hz=10.0):
    values = np.asarray(values, float)
    end_s = start_s + len(values) / rate_hz
    return Recording(
        session_id="s",
        unit_ids=tuple(f"u{k}" for k in range(values.shape[1])),
        domain=Intervals.of(domain or [(start_s, end_s)]),
        binned=Binned(values, start_s, rate_hz),
    )


def spiking(times_s, unit, num_units, domain):
    return Recording(
        session_id="s",
        unit_ids=tuple(f"u{k}" for k in range(num_units)),
        domain=Intervals.of(domain),
        spikes=Spikes(np.asarray(times_s, float), np.asarray(unit, np.int64)),
    )


def history(recording, times_s, cross_gaps=False, **how):
    bins = bin_recording(recording, 100.0, cross_gaps=cross_gaps)
    return bins.lagged(np.asarray(times_s, float), **how)


COUNTS = np.array([[1.0], [2], [3], [4], [5], [6], [7], [8], [9], [10]])  # bin i holds i + 1


def test_strict_history_ends_at_the_time():
    got = history(binned(COUNTS), [0.0, 0.05, 0.1, 0.3, 0.39, 0.4], lags=2)
    expected = [[NAN, NAN], [NAN, NAN], [1, NAN], [3, 2], [3, 2], [4, 3]]
    np.testing.assert_array_equal(got, expected)


def test_the_papers_convention_adds_the_bin_that_holds_the_time():
    got = history(binned(COUNTS), [0.0, 0.05, 0.1, 0.3, 0.39], lags=2, strict=False)
    np.testing.assert_array_equal(got, [[1, NAN], [1, NAN], [2, 1], [4, 3], [4, 3]])


def test_wide_lags_sum_bins_end_to_end():
    got = history(binned(COUNTS), [0.4, 0.5], lags=2, width=2)
    np.testing.assert_array_equal(got, [[4 + 3, 2 + 1], [5 + 4, 3 + 2]])


def test_lags_come_newest_first_with_the_units_side_by_side():
    got = history(binned(np.column_stack([COUNTS, 10 * COUNTS])), [0.3], lags=2)
    np.testing.assert_array_equal(got, [[3, 30, 2, 20]])


@pytest.mark.parametrize("cross_gaps", [False, True])
def test_history_never_crosses_a_cut(cross_gaps):
    joined = binned(COUNTS, domain=[(0.0, 0.5), (0.5, 1.0)])
    got = history(joined, [0.4, 0.5, 0.6, 0.7], lags=2, cross_gaps=cross_gaps)
    np.testing.assert_array_equal(got, [[4, 3], [NAN, NAN], [6, NAN], [7, 6]])
    ahead = history(joined, [0.49, 0.5], lags=1, strict=False, cross_gaps=cross_gaps)
    np.testing.assert_array_equal(ahead, [[5], [6]])


def test_history_crosses_a_gap_only_when_asked():
    gapped = binned(COUNTS, domain=[(0.0, 0.4), (0.6, 1.0)])
    np.testing.assert_array_equal(history(gapped, [0.6, 0.7], lags=2), [[NAN, NAN], [7, NAN]])
    np.testing.assert_array_equal(history(gapped, [0.6, 0.7], lags=2, cross_gaps=True), [[6, 5], [7, 6]])


def test_outside_the_domain_there_is_no_history():
    gapped = binned(COUNTS, domain=[(0.2, 0.4), (0.6, 0.8)])
    assert np.isnan(history(gapped, [0.0, 0.1, 0.4, 0.5, 0.8, 5.0, -3.0], lags=2)).all()


@given(
    start_s=st.floats(-1e4, 1e4),
    rate_hz=st.sampled_from([10.0, 20.0, 33.3, 50.0, 100.0, 1000.0]),
    data=st.data(),
)
def test_samples_on_the_clock_of_the_bins_never_miss_one(start_s, rate_hz, data):
    """Rounding must not decide which bin is the newest: sample k is at the edge of bins k - 1 and k."""
    recording = binned(np.arange(1.0, 201)[:, None], start_s=start_s, rate_hz=rate_hz)
    sample = data.draw(st.integers(1, 199))
    shifted = start_s + data.draw(st.sampled_from([0.0, 1.0, -7.25]))
    time_s = shifted + (sample / rate_hz + (start_s - shifted))
    bins = bin_recording(recording, 50.0)
    assert bins.lagged(np.array([time_s]), lags=1)[0, 0] == sample
    assert bins.lagged(np.array([time_s]), lags=1, strict=False)[0, 0] == sample + 1


@given(data=st.data())
def test_spikes_are_counted_like_a_slow_loop_does(data):
    number = data.draw(st.integers(0, 60))
    times = np.sort(np.array(data.draw(st.lists(st.floats(2.0, 4.999), min_size=number, max_size=number))))
    unit = np.array(data.draw(st.lists(st.integers(0, 2), min_size=number, max_size=number)), np.int64)
    at_s = data.draw(st.floats(2.0, 4.99))
    got = history(spiking(times, unit, 3, [(2.0, 5.0)]), [at_s], lags=3, width=2)[0].reshape(3, 3)
    newest_edge = int(np.floor((at_s - 2.0) / 0.1 + 1e-8))
    for lag in range(3):
        high, low = newest_edge - 2 * lag, newest_edge - 2 * lag - 2
        if low < 0:
            assert np.isnan(got[lag]).all()
            continue
        inside = (times >= 2.0 + low * 0.1) & (times < 2.0 + high * 0.1)
        np.testing.assert_array_equal(got[lag], np.bincount(unit[inside], minlength=3))


def test_future_spikes_do_not_move_the_past():
    rng = np.random.default_rng(0)
    times, unit = np.sort(rng.uniform(0, 20, 800)), rng.integers(0, 4, 800)
    asked = np.sort(rng.uniform(0, 10, 300))
    changed = np.sort(np.concatenate([times[times < 10], rng.uniform(10, 20, 900)]))
    unit_changed = np.concatenate([unit[times < 10], rng.integers(0, 4, 900)])
    before = history(spiking(times, unit, 4, [(0.0, 20.0)]), asked, lags=5)
    after = history(spiking(changed, unit_changed, 4, [(0.0, 20.0)]), asked, lags=5)
    np.testing.assert_array_equal(before, after)


def test_ceiling_caps_each_unit():
    bins = bin_recording(binned(np.column_stack([COUNTS, COUNTS])), 50.0).capped(np.array([2.0, np.inf]))
    assert bins.values[:, 0].max() == 2.0 and bins.values[:, 1].max() == 10.0


def test_values_that_are_no_numbers_are_refused():
    bad = COUNTS.copy()
    bad[3] = NAN
    with pytest.raises(RecordingError, match="1 of 10 values"):
        bin_recording(binned(bad), 50.0)


def test_folding_samples_of_one_bin_keeps_the_normal_equations():
    rng = np.random.default_rng(0)
    edges_s = np.arange(41) * 0.05
    bins = Bins(
        rng.poisson(2.0, (40, 3)).astype(float), edges_s, Intervals.of([(0.0, 1.0), (1.0, 2.0)]), True
    )
    times_s = np.sort(rng.uniform(0.0, 2.0, 300))
    target = rng.standard_normal((300, 2))
    design = Design(bins, lags=4, width=1, strict=True)
    folded_s, folded, weight = design.fold(times_s, target)
    assert len(folded_s) < 45
    assert weight.sum() == 300
    whole = np.nan_to_num(bins.lagged(times_s, lags=4))
    part = np.nan_to_num(bins.lagged(folded_s, lags=4))
    np.testing.assert_allclose(part.T @ (part * weight[:, None]), whole.T @ whole)
    np.testing.assert_allclose(part.T @ (folded * weight[:, None]), whole.T @ target)
