"""Windows of one epoch: inside their intervals, side by side, new every time and the same for one seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toys
from possm.data.intervals import Intervals
from possm.data.windows import count_windows, random_windows, snap_to_bins
from possm.errors import ConfigError

SPIKES = toys.recording(seconds=10, split=False)
BINS = toys.recording(seconds=10, bin_ms=50, split=False)


def with_train(recording, pairs):
    return replace(recording, intervals={"train_domain": Intervals.of(pairs)})


def windows_of(recording, window_s, seed=0):
    return random_windows([recording], "train", window_s, np.random.default_rng(seed))


PAIRS = st.lists(st.tuples(st.floats(0, 3), st.floats(0.05, 8)), min_size=1, max_size=5).map(
    lambda steps: [tuple(pair) for pair in chained(steps)]
)


def chained(steps):
    """(gap, length) one after the other; touching intervals included."""
    time_s = 0.0
    for gap_s, length_s in steps:
        start_s = time_s + (0 if gap_s < 0.5 else gap_s)
        time_s = start_s + length_s
        yield start_s, time_s


@given(pairs=PAIRS, window_s=st.sampled_from([0.5, 1.0, 4.0]), seed=st.integers(0, 99))
def test_inside_their_interval_and_side_by_side(pairs, window_s, seed):
    windows = windows_of(with_train(SPIKES, pairs), window_s, seed)
    for start_s, end_s in pairs:
        inside = sorted(w.start_s for w in windows if w.limit_s == end_s)
        assert inside, "every interval is trained on"
        assert inside[0] >= start_s
        if end_s - start_s <= window_s:
            assert inside == [start_s]  # one window, cut off at the end of the interval
            continue
        assert inside[-1] + window_s <= end_s + 1e-9
        assert (np.diff(inside) >= window_s - 1e-9).all()
        assert len(inside) >= int((end_s - start_s) / window_s) - 1
        unused_s = end_s - start_s - window_s * len(inside)
        assert unused_s < 1.5 * window_s + 1e-9  # nothing but what windows are moved by
    assert {w.limit_s for w in windows} == {end_s for _, end_s in pairs}
    assert len(windows) == count_windows([with_train(SPIKES, pairs)], "train", window_s)


@settings(max_examples=50)
@given(start_s=st.floats(0, 3), length_s=st.floats(0.3, 6), seed=st.integers(0, 99))
def test_windows_of_bins_begin_on_an_edge(start_s, length_s, seed):
    windows = windows_of(with_train(BINS, [(start_s, start_s + length_s)]), 1.0, seed)
    begins = np.array([w.start_s for w in windows])
    np.testing.assert_allclose(begins * 20, np.round(begins * 20), atol=1e-6)
    assert (begins >= start_s - 1e-6).all()
    assert (np.diff(np.sort(begins)) > 1.0 - 1e-6).all()


@pytest.mark.parametrize(
    ("time_s", "wanted"), [(0.0, 0.0), (0.05, 0.05), (0.050001, 0.1), (0.3, 0.3), (7.32, 7.35)]
)
def test_snap(time_s, wanted):
    assert snap_to_bins(BINS, time_s) == pytest.approx(wanted, abs=1e-12)
    assert snap_to_bins(SPIKES, time_s) == time_s


def test_every_moment_is_seen_over_the_epochs():
    """The offset is random, so what one epoch leaves at the ends the next one has."""
    recording = with_train(SPIKES, [(1.0, 6.3)])
    seen = np.zeros(530, bool)
    for seed in range(40):
        for window in windows_of(recording, 1.0, seed):
            seen[round((window.start_s - 1) * 100) : round((window.start_s - 1) * 100) + 100] = True
    assert seen.mean() > 0.97


def test_offsets_and_order_are_random_but_repeat():
    recordings = [with_train(SPIKES, [(0.0, 10.0)]), with_train(BINS, [(2.0, 9.5)])]

    def epoch(seed):
        return random_windows(recordings, "train", 1.0, np.random.default_rng(seed))

    assert epoch(3) == epoch(3)
    assert {w.start_s for w in epoch(3)} != {w.start_s for w in epoch(4)}
    assert [w.recording for w in epoch(3)] != sorted(w.recording for w in epoch(3))
    assert {w.recording for w in epoch(3)} == {0, 1}


def a_set():
    """Two datasets: one of a long and a short session, one of a middling one."""
    spans = {("a", "long"): 400.0, ("a", "short"): 40.0, ("b", "middling"): 100.0}
    return [
        replace(with_train(SPIKES, [(0.0, seconds)]), session_id=session, attributes={"brainset.id": dataset})
        for (dataset, session), seconds in spans.items()
    ]


@pytest.mark.parametrize(
    ("balance", "shares"),
    [("time", (399, 39, 99)), ("session", (179, 179, 179)), ("dataset", (245, 23, 269))],
)
def test_shares_of_an_epoch(balance, shares):
    """537 windows however they are shared out: by time as they tile, or equally."""
    windows = random_windows(a_set(), "train", 1.0, np.random.default_rng(0), balance=balance)
    assert tuple(np.bincount([w.recording for w in windows])) == shares
    assert len(windows) == sum(shares) == count_windows(a_set(), "train", 1.0)


def test_more_than_its_tiles_are_other_windows():
    """A short session that is drawn often is not shown the same windows again and again."""
    windows = random_windows(a_set(), "train", 1.0, np.random.default_rng(0), balance="session")
    starts = [w.start_s for w in windows if w.recording == 1]
    assert len(set(starts)) == len(starts) == 179
    assert np.ptp(np.histogram(starts, bins=8, range=(0.75, 38.75))[0]) < 12  # and all of it evenly


def test_a_part_of_the_tiles_is_a_random_part():
    starts = [
        w.start_s
        for w in random_windows(a_set(), "train", 1.0, np.random.default_rng(0), balance="session")
        if w.recording == 0
    ]
    assert np.ptp(np.histogram(starts, bins=8, range=(0, 400))[0]) < 15


def test_an_unknown_balance():
    with pytest.raises(ConfigError, match="balance"):
        random_windows(a_set(), "train", 1.0, np.random.default_rng(0), balance="animal")


def test_recordings_without_a_train_interval_give_none():
    recordings = [with_train(SPIKES, []), with_train(SPIKES, [(0.0, 5.0)])]
    for balance in ("time", "session", "dataset"):
        windows = random_windows(recordings, "train", 1.0, np.random.default_rng(0), balance=balance)
        assert [w.recording for w in windows] == [1] * 4
    assert random_windows(recordings[:1], "train", 1.0, np.random.default_rng(0), balance="session") == []
