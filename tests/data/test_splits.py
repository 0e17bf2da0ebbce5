from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from possm.data.intervals import Intervals
from possm.data.recording import SPLITS, Binned, Recording, Spikes
from possm.data.splits import chronological_split
from possm.errors import ConfigError, RecordingError


def recording(domain: Intervals, binned: bool = False) -> Recording:
    if binned:
        rows = int(np.ceil(domain.end_s.max() * 20))
        return Recording("s", ("a",), domain, binned=Binned(np.ones((rows, 1)), start_s=0.0, rate_hz=20.0))
    return Recording("s", ("a",), domain, spikes=Spikes(np.array([0.5]), np.array([0])))


def parts(split: Recording) -> list[Intervals]:
    return [split.split(name) for name in SPLITS]


def test_one_stretch_is_cut_at_70_and_80_percent_with_the_gap_before_the_cuts() -> None:
    split = chronological_split(recording(Intervals.of([(0, 100)])))
    assert [list(part) for part in parts(split)] == [[(0, 69)], [(70, 79)], [(80, 100)]]


def test_the_cuts_are_on_kept_time() -> None:
    split = chronological_split(recording(Intervals.of([(0, 10), (500, 590)])), gap_s=0.0)
    assert [list(part) for part in parts(split)] == [[(0, 10), (500, 560)], [(560, 570)], [(570, 590)]]


def test_a_cut_of_binned_data_falls_on_the_edge_of_a_bin() -> None:
    split = chronological_split(recording(Intervals.of([(0, 17.35)]), binned=True), gap_s=0.0)
    rows = 347  # 0.7 and 0.8 of them are 242.9 and 277.6
    assert [part.start_s[0] for part in parts(split)] == [0, 242 / 20, 277 / 20]
    assert parts(split)[2].end_s[0] == rows / 20


def test_short_intervals_stay_whole() -> None:
    reaches = Intervals.of([(k / 2, k / 2 + 0.5) for k in range(105)])  # 52.5 s; cuts at 36.75 and 42.0
    split = chronological_split(recording(reaches), gap_s=0.0)
    train, valid, test = parts(split)
    assert [len(train), len(valid), len(test)] == [
        73,
        11,
        21,
    ]  # the reach that holds a cut goes to the later part
    every = [*train, *valid, *test]
    assert every == list(reaches)
    with_gap = chronological_split(recording(reaches), gap_s=1.0)
    assert [len(part) for part in parts(with_gap)] == [71, 9, 21]


def test_within_limits_the_split() -> None:
    split = chronological_split(
        recording(Intervals.of([(0, 100)])), gap_s=0.0, within=Intervals.of([(50, 60)])
    )
    assert [list(part) for part in parts(split)] == [[(50, 57)], [(57, 58)], [(58, 60)]]


@given(
    st.lists(st.tuples(st.floats(0.5, 30), st.floats(0, 5)), min_size=1, max_size=40),
    st.floats(0, 0.1),
    st.booleans(),
)
def test_parts_never_overlap_and_keep_the_gap(
    pieces: list[tuple[float, float]], gap_s: float, binned: bool
) -> None:
    edges = np.cumsum(np.array(pieces).ravel())
    domain = Intervals(np.append(0.0, edges[1:-1:2]), edges[0::2])
    try:
        split = chronological_split(recording(domain, binned), gap_s=gap_s)
    except RecordingError as error:
        assert "nothing is left for" in str(error)  # noqa: PT017
        return
    for earlier, later in combinations(parts(split), 2):
        assert earlier.end_s.max() <= later.start_s[0] - gap_s + 1e-9
    train, valid, test = parts(split)
    assert (test - domain).total_s == 0
    assert (
        abs(test.total_s - 0.2 * domain.total_s) < max(0.05, (domain.end_s - domain.start_s).max() / 2) + 1e-6
    )


@pytest.mark.parametrize("fractions", [(0.7, 0.1, 0.1), (0.8, 0.2, 0.0), (1.2, -0.4, 0.2)])
def test_fractions_that_make_no_sense_are_refused(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="fractions"):
        chronological_split(recording(Intervals.of([(0, 100)])), fractions=fractions)


def test_too_short_a_recording_is_refused() -> None:
    with pytest.raises(RecordingError, match="nothing is left for valid"):
        chronological_split(recording(Intervals.of([(0, 8)])), gap_s=1.0)
    with pytest.raises(RecordingError, match="no time to split"):
        chronological_split(recording(Intervals.of([(0, 8)])), within=Intervals.of([(9, 10)]))
    with pytest.raises(ConfigError, match="gap"):
        chronological_split(recording(Intervals.of([(0, 100)])), gap_s=-1.0)


def test_the_split_of_real_recordings_has_the_rows_of_the_reference(recordings: Path) -> None:
    """The reference takes kept rows in time order: 70, 10 and 20 percent."""
    pytest.importorskip("scipy")
    from possm.data.formats.matlab import read_matlab

    for file in ("Spike_09-05-12_WF_001.mat", "Spike_08-07-12_WF_001.mat"):
        one = read_matlab(recordings / "monkey_spike_wrist" / file, "limblab-binned")
        times = one.behavior("cursor.pos").times_s
        rows = np.flatnonzero(one.domain.contains(times))
        first = rows[int(0.8 * len(rows))]
        split = chronological_split(one)
        assert np.array_equal(np.flatnonzero(split.split("test").contains(times)), rows[rows >= first])
        valid = np.flatnonzero(split.split("valid").contains(times))
        assert valid[0] == rows[int(0.7 * len(rows))]
        assert valid[-1] == first - 1 - 20  # one second less
