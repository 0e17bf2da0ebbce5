"""Counts beyond a unit's cap are cut off: the same in training, scoring, streaming, and reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toys
from possm.config import from_json, to_json
from possm.data.caps import capped, chunk_counts, fit_caps, with_fitted_caps
from possm.data.intervals import Intervals
from possm.data.series import Binned, Spikes
from possm.data.vocabulary import Vocabulary
from possm.errors import ConfigError, RecordingError


def counted(values, *, rate_hz=20.0, session="s"):
    """A recording of these counts (bins, units), all of it train."""
    values = np.asarray(values, float)
    made = toys.recording(session=session, seconds=len(values) / rate_hz, units=values.shape[1], split=False)
    whole = Intervals.of([(0.0, len(values) / rate_hz)])
    binned = Binned(values, 0.0, rate_hz)
    return replace(made, spikes=None, binned=binned, domain=whole, intervals={"train_domain": whole})


def test_the_percentile_of_each_unit_and_at_least_one():
    values = np.zeros((400, 3))
    values[:, 0] = np.arange(400) % 4  # 3 in a quarter of the bins
    values[:100, 1] = 1
    values[7, 1] = 50
    caps = fit_caps(counted(values), chunk_ms=50, percentile=99.5)
    assert caps.most.tolist() == [3, 1, 1]
    assert (caps.cut, caps.total) == (49, values.sum())
    assert fit_caps(counted(values), chunk_ms=50, percentile=100).most.tolist() == [3, 50, 1]
    assert "49 of" in str(caps)


def test_chunks_with_nearly_all_units_at_once_do_not_raise_caps():
    """Two in a hundred, as on the worst days: beyond any percentile below 98, and still left out."""
    rng = np.random.default_rng(0)
    values = rng.poisson(0.5, (500, 30)).clip(max=3)
    values[::50] = 20
    caps = fit_caps(counted(values), chunk_ms=50)
    assert caps.artefacts == 10
    assert caps.most.max() <= 3
    often = np.full((500, 30), 2)  # units that always fire are no artefact
    assert fit_caps(counted(often), chunk_ms=50).most.tolist() == [2] * 30


def test_counts_per_chunk_of_spikes_and_of_bins():
    """A bin of 10 ms is part of a chunk; spikes are counted the same, whatever the split leaves out."""
    recording = toys.recording(seconds=20)
    binned = toys.in_bins(recording, 10, 20)
    one, two = (chunk_counts(r, chunk_ms=50, split="train") for r in (recording, binned))
    assert one.shape == (int(recording.split("train").total_s * 20 + 1e-6), 20)
    assert np.array_equal(one, two)
    edges = np.arange(len(one) + 1) * 0.05
    for unit in (0, 7):
        times = recording.spikes.times_s[recording.spikes.unit == unit]
        assert np.array_equal(one[:, unit], np.histogram(times, edges)[0])


@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=30),
    caps=st.lists(st.integers(1, 6), min_size=4, max_size=4),
)
def test_the_first_ones_stay(pairs, caps):
    key = np.array([k for k, _ in pairs], np.int64)
    count = np.array([c for _, c in pairs], np.float32)
    left, room = [], dict(enumerate(caps))
    for k, c in pairs:
        left.append(min(c, room[k]))
        room[k] -= left[-1]
    got = capped(key, count, np.array(caps, float)[key])
    assert got.tolist() == left
    assert got.dtype == np.float32


def test_a_vocabulary_keeps_caps_by_row():
    one, two = counted(np.eye(3), session="a"), counted(np.eye(3) * 5, session="b")
    vocabulary = Vocabulary.of([one])
    assert vocabulary.caps == ()
    assert vocabulary.caps_of(np.array([0, 1])) is None
    with_caps, report = with_fitted_caps(vocabulary, [one], chunk_ms=50, percentile=100)
    assert with_caps.caps == (0, 1, 1, 1)
    assert report == {"capped_share": 0}
    longer = with_caps.extend([two])
    assert longer.caps == (0, 1, 1, 1, 0, 0, 0)
    both, _ = with_fitted_caps(longer, [two], chunk_ms=50, percentile=100)
    assert both.caps == (0, 1, 1, 1, 5, 5, 5)
    assert both.caps_of(np.array([4, -1, 0])).tolist() == [5, np.inf, np.inf]
    assert both.only(["b"])[0].caps == (0, 5, 5, 5)
    assert from_json(Vocabulary, to_json(both)) == both
    assert with_fitted_caps(vocabulary, [one], chunk_ms=50, percentile=None) == (vocabulary, {})


def test_refused():
    recording = counted(np.eye(3))
    with pytest.raises(ConfigError, match="cap_percentile"):
        fit_caps(recording, chunk_ms=50, percentile=0.0)
    with pytest.raises(RecordingError, match="no whole chunk"):
        fit_caps(recording, chunk_ms=500)
    with pytest.raises(ConfigError, match="caps"):
        Vocabulary(("", "a/b"), ("a",), caps=(1.0,))


def test_spikes_beyond_the_cap_are_left_out_of_batches():
    """The loader's tokens: the first spikes of a unit in a chunk stay, at their times."""
    from possm.data.loader import SampleMaker
    from possm.data.windows import Window

    times = np.array([0.001, 0.002, 0.003, 0.051, 0.052])
    spikes = Spikes(times, np.array([0, 0, 0, 0, 1]))
    recording = replace(toys.recording(seconds=1, units=2, split=False), spikes=spikes)
    vocabulary = Vocabulary.of([recording]).with_caps("toy", ["u0"], np.array([2.0]))
    maker = SampleMaker(recordings=[recording], vocabulary=vocabulary, scaling={}, chunk_ms=50, lead_ms=50)
    window = Window(0, 0.0, 1.0)
    tokens = maker.tokens(window, maker.edges_s(window, 2))
    assert tokens.offsets.tolist() == [0, 2, 4]
    assert tokens.unit.tolist() == [1, 1, 1, 2]
    np.testing.assert_allclose(tokens.time_s, [0.001, 0.002, 0.001, 0.002], atol=1e-6)
