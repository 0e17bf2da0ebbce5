"""Windows of recordings -> samples: the right tokens, targets and weights, and none from beyond the limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toys
from possm.data.augment import AugmentConfig
from possm.data.chunks import collate
from possm.data.intervals import Intervals
from possm.data.loader import SampleMaker
from possm.data.scaling import Scaling
from possm.data.series import Signal
from possm.data.vocabulary import Vocabulary
from possm.data.windows import Window
from possm.errors import CheckpointError, RecordingError

SPIKES = toys.recording(seconds=20)
BINS = toys.recording(seconds=20, bin_ms=50, session="binned")


def maker_of(*recordings, **changes):
    settings_ = {
        "recordings": recordings,
        "vocabulary": Vocabulary.of(recordings),
        "scaling": {"vel": Scaling((0.0, 0.0), (1.0, 1.0))},
        "chunk_ms": 50,
        "lead_ms": 50,
    }
    return SampleMaker(**{**settings_, **changes})


def absolute(sample, edges_s, name="vel"):
    """Times of the tokens and of the queries on the clock of the recording."""
    chunk = np.repeat(np.arange(sample.num_chunks), np.diff(sample.tokens.offsets))
    queries = sample.queries[name]
    return edges_s[chunk] + sample.tokens.time_s, edges_s[queries.chunk + 1] + queries.time_s


@settings(max_examples=60)
@given(
    start_s=st.floats(0, 12),
    length_s=st.floats(0.01, 3),
    lead_ms=st.sampled_from([0, 50, 70]),
    binned=st.booleans(),
    first=st.integers(0, 30),
)
def test_exactly_what_the_window_holds(start_s, length_s, lead_ms, binned, first):
    """Against the recording itself: every token and sample of the window, none at or after its limit."""
    recording = BINS if binned else SPIKES
    maker = maker_of(recording, lead_ms=lead_ms)
    limit_s = start_s + first * 0.05 + length_s
    window = Window(0, start_s, limit_s, first)
    sample, edges_s = maker.sample(window, num_chunks=20), maker.edges_s(window, 20)
    token_s, query_s = absolute(sample, edges_s)
    times_s, unit, count = recording.tokens(edges_s[0], min(edges_s[-1], limit_s))
    np.testing.assert_allclose(token_s, times_s, atol=1e-8)
    np.testing.assert_array_equal(sample.tokens.unit, unit + 1)  # row 0 is the blank unit
    np.testing.assert_array_equal(sample.tokens.count, count)
    assert (times_s < limit_s).all()

    signal = recording.behavior("vel")
    lead_s = lead_ms / 1000
    inside = (signal.times_s >= edges_s[0] + lead_s - 1e-9) & (signal.times_s < edges_s[-1] + lead_s - 1e-9)
    inside &= signal.times_s < limit_s
    np.testing.assert_allclose(query_s, signal.times_s[inside], atol=1e-8)
    np.testing.assert_allclose(sample.targets["vel"].values, signal.values[inside], rtol=1e-6)
    if lead_ms >= 50:
        ends_s = edges_s[sample.queries["vel"].chunk + 1]
        assert (ends_s <= signal.times_s[inside] + 1e-8).all()


def test_nan_targets_are_not_asked():
    values = SPIKES.signals["vel"].values.copy()
    values[100:150, 1] = np.nan
    holed = replace(SPIKES, signals={"vel": replace(SPIKES.signals["vel"], values=values)})
    sample = maker_of(holed).sample(Window(0, 0.5, 20.0), num_chunks=40)
    whole = maker_of(SPIKES).sample(Window(0, 0.5, 20.0), num_chunks=40)
    assert len(whole.queries["vel"].chunk) - len(sample.queries["vel"].chunk) == 50
    assert np.isfinite(sample.targets["vel"].values).all()


def test_irregular_and_several_behaviors():
    rng = np.random.default_rng(0)
    stamps = np.sort(rng.uniform(0, 20, 300))
    emg = Signal(rng.standard_normal((300, 3)), timestamps_s=stamps)
    recording = replace(SPIKES, signals={**SPIKES.signals, "emg": emg})
    scaling = {"vel": Scaling((0.0, 0.0), (1.0, 1.0)), "emg": Scaling((0.0,) * 3, (2.0,) * 3)}
    maker = maker_of(recording, scaling=scaling)
    window = Window(0, 1.0, 20.0)
    sample = maker.sample(window, num_chunks=30)
    inside = (stamps >= 1.05) & (stamps < 2.55)
    np.testing.assert_allclose(
        absolute(sample, maker.edges_s(window, 30), "emg")[1], stamps[inside], atol=1e-8
    )
    np.testing.assert_allclose(sample.targets["emg"].values, emg.values[inside] / 2, rtol=1e-6)
    assert len(sample.queries["vel"].chunk) == 150


def test_scaled_targets():
    maker = maker_of(SPIKES, scaling={"vel": Scaling((5.0, 4.0), (3.0, 2.0))})
    window = Window(0, 1.0, 20.0)
    values = maker.sample(window, num_chunks=10).targets["vel"].values
    raw = maker_of(SPIKES).sample(window, num_chunks=10).targets["vel"].values
    np.testing.assert_allclose(values, (raw - [5, 4]) / [3, 2], rtol=1e-4)
    assert values.dtype == np.float32


def test_targets_in_the_scaling_of_their_session():
    own = {SPIKES.session_id: {"vel": Scaling((5.0, 4.0), (3.0, 2.0))}}
    other = replace(SPIKES, session_id="other")
    maker = maker_of(SPIKES, other, session_scaling=own)
    first, second = (maker.sample(Window(i, 1.0, 20.0), num_chunks=10).targets["vel"].values for i in (0, 1))
    np.testing.assert_allclose(first, (second - [5, 4]) / [3, 2], rtol=1e-4)


def test_interval_weights_multiply():
    intervals = {
        **SPIKES.intervals,
        "reach": Intervals.of([(1.0, 1.5), (3.0, 3.2)]),
        "outlier": Intervals.of([(1.3, 2.0)]),
    }
    recording = replace(SPIKES, intervals=intervals)
    weights = {"reach": 5.0, "outlier": 0.1, "absent here": 7.0}
    maker = maker_of(recording, interval_weights=weights)
    window = Window(0, 0.5, 20.0)
    sample = maker.sample(window, num_chunks=60)
    times_s = absolute(sample, maker.edges_s(window, 60))[1] + 1e-7
    reach, outlier = intervals["reach"].contains(times_s), intervals["outlier"].contains(times_s)
    wanted = np.where(reach, 5.0, 1.0) * np.where(outlier, 0.1, 1.0)
    np.testing.assert_allclose(sample.targets["vel"].weights, wanted, rtol=1e-6)
    assert set(np.round(wanted, 3)) == {0.1, 0.5, 1.0, 5.0}


def test_units_the_vocabulary_does_not_know_are_left_out():
    known = replace(SPIKES, unit_ids=SPIKES.unit_ids[:7] + tuple(f"new{i}" for i in range(13)))
    maker = maker_of(known, vocabulary=Vocabulary.of([SPIKES]))
    sample = maker.sample(Window(0, 0.0, 20.0), num_chunks=20)
    _, unit, _ = SPIKES.tokens(0.0, 1.0)
    np.testing.assert_array_equal(sample.tokens.unit, unit[unit < 7] + 1)
    assert len(sample.tokens.unit) < len(unit)


def test_a_session_the_decoder_has_never_seen():
    other = replace(SPIKES, session_id="other")
    with pytest.raises(CheckpointError, match="never seen this session"):
        maker_of(other, vocabulary=Vocabulary.of([SPIKES])).sample(Window(0, 0.0, 20.0), num_chunks=2)


def test_sample_at_asks_only_given_times():
    maker = maker_of(SPIKES)
    window = Window(0, 2.0, 20.0, first_chunk=4)
    asked_s = np.array([2.26, 2.4, 2.31])
    sample = maker.sample_at(window, num_chunks=10, times_s={"vel": asked_s})
    np.testing.assert_allclose(absolute(sample, maker.edges_s(window, 10))[1], asked_s, atol=1e-8)
    assert not sample.targets
    plain = maker.sample(window, num_chunks=10)
    np.testing.assert_array_equal(sample.tokens.unit, plain.tokens.unit)


def test_augmentation_only_with_a_source_of_chance():
    maker = maker_of(SPIKES, augment=AugmentConfig(token_dropout=0.5))
    window = Window(0, 0.0, 20.0)
    plain = maker.sample(window, num_chunks=40)
    thinned = maker.sample(window, num_chunks=40, rng=np.random.default_rng(0))
    assert len(plain.tokens.unit) == len(SPIKES.tokens(0.0, 2.0)[0])
    assert len(thinned.tokens.unit) == pytest.approx(len(plain.tokens.unit) / 2, rel=0.15)
    np.testing.assert_array_equal(thinned.targets["vel"].values, plain.targets["vel"].values)


def test_a_behavior_that_some_recordings_lack():
    """It is an error, unless it may be; then the recording is asked for what it has."""
    scaling = {"vel": Scaling((0.0, 0.0), (1.0, 1.0)), "gaze": Scaling((0.0,) * 3, (1.0,) * 3)}
    with pytest.raises(RecordingError, match="no behavior 'gaze'"):
        maker_of(SPIKES, scaling=scaling).sample(Window(0, 0.0, 20.0), num_chunks=4)
    seeing = replace(
        SPIKES, session_id="b", signals={**SPIKES.signals, "gaze": Signal(np.ones((200, 3)), rate_hz=10.0)}
    )
    maker = maker_of(SPIKES, seeing, scaling=scaling, allow_missing=True)
    blind, whole = (maker.sample(Window(i, 0.0, 20.0), num_chunks=4) for i in (0, 1))
    assert blind.targets["gaze"].values.shape == (0, 3)
    assert len(blind.queries["gaze"].chunk) == 0 and len(blind.targets["vel"].values) == 20
    batch = collate([blind, whole, blind])
    np.testing.assert_array_equal(batch.queries["gaze"].chunk, [5, 7])
    np.testing.assert_array_equal(np.unique(batch.queries["vel"].chunk), np.arange(12))


def test_weights_of_datasets():
    """They multiply those of intervals."""
    reach = {**SPIKES.intervals, "reach": Intervals.of([(1.0, 1.5)])}
    one, other = (
        replace(SPIKES, session_id=name, intervals=reach, attributes={"brainset.id": name})
        for name in ("quiet", "loud")
    )
    maker = maker_of(one, other, interval_weights={"reach": 5.0}, dataset_weights={"quiet": 0.1})
    found = [set(maker.sample(Window(i, 0.5, 20.0), num_chunks=40).targets["vel"].weights) for i in (0, 1)]
    assert found[0] == {np.float32(0.1), np.float32(0.1) * 5} and found[1] == {1.0, 5.0}
