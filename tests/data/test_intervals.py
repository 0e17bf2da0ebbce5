from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from possm.data.intervals import Intervals
from possm.errors import RecordingError

CELLS = 24
"""Intervals with whole edges are compared with a row of cells, cell k being [k, k + 1)."""

pairs = st.tuples(st.integers(0, CELLS - 1), st.integers(1, 8)).map(lambda p: (p[0], min(p[0] + p[1], CELLS)))
intervals = st.lists(pairs, max_size=6).map(Intervals.of)


def cells(intervals: Intervals) -> np.ndarray:
    out = np.zeros(CELLS, bool)
    for start_s, end_s in intervals:
        out[int(start_s) : int(end_s)] = True
    return out


@given(intervals, intervals)
def test_set_operations_agree_with_cells(a: Intervals, b: Intervals) -> None:
    assert np.array_equal(cells(a & b), cells(a) & cells(b))
    assert np.array_equal(cells(a | b), cells(a) | cells(b))
    assert np.array_equal(cells(a - b), cells(a) & ~cells(b))
    assert a.total_s == cells(a).sum()


@given(intervals)
def test_contains_is_half_open(a: Intervals) -> None:
    edges = np.arange(CELLS)
    assert np.array_equal(a.contains(edges), cells(a))
    assert np.array_equal(a.contains(edges + 0.999), cells(a))


@given(intervals, st.integers(0, CELLS), st.integers(0, CELLS))
def test_slice_is_the_intersection_with_one_interval(a: Intervals, start_s: int, end_s: int) -> None:
    inside = np.zeros(CELLS, bool)
    inside[start_s:end_s] = True
    assert np.array_equal(cells(a.slice(start_s, end_s)), cells(a) & inside)


def test_touching_intervals_stay_apart_under_every_operation() -> None:
    reaches = Intervals.of([(0, 1), (1, 2), (2, 3)])
    assert list(reaches & Intervals.of([(0.5, 2.5)])) == [(0.5, 1), (1, 2), (2, 2.5)]
    assert list(reaches | Intervals.of([])) == [(0, 1), (1, 2), (2, 3)]
    assert list(reaches - Intervals.of([(1.2, 1.4)])) == [(0, 1), (1, 1.2), (1.4, 2), (2, 3)]


def test_intersection_and_difference_keep_the_columns_of_the_left_side() -> None:
    trials = Intervals(np.array([0.0, 4.0]), np.array([3.0, 6.0]), {"result": np.array(["R", "F"])})
    cut = trials & Intervals.of([(1, 2), (2.5, 5)])
    assert list(cut) == [(1, 2), (2.5, 3), (4, 5)]
    assert cut.columns["result"].tolist() == ["R", "R", "F"]
    assert (trials - Intervals.of([(0, 3)])).columns["result"].tolist() == ["F"]
    assert trials.where(trials.columns["result"] == "F").start_s.tolist() == [4.0]


def test_dilate_grows_and_shrinks() -> None:
    a = Intervals.of([(0, 1), (5, 9)])
    assert list(a.dilate(0.5)) == [(-0.5, 1.5), (4.5, 9.5)]
    assert list(a.dilate(-0.5)) == [(5.5, 8.5)]


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ([0.0, 1.0], [1.0], "as many starts as ends"),
        ([0.0, np.nan], [1.0, 2.0], "NaN"),
        ([0.0, 2.0], [1.0, 2.0], "before it starts"),
        ([3.0, 1.0], [4.0, 2.0], "out of order"),
    ],
)
def test_impossible_intervals_are_refused(start: list[float], end: list[float], words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        Intervals(np.array(start), np.array(end))


def test_a_column_of_another_length_is_refused() -> None:
    with pytest.raises(RecordingError, match="result.*does not fit"):
        Intervals(np.array([0.0]), np.array([1.0]), {"result": np.array(["R", "F"])})


@pytest.mark.parametrize(("seconds", "number"), [(1000.0, 20), (40.0, 20), (20.0, 10), (3.0, 2), (0.5, 1)])
def test_thin(seconds, number):
    """As many as have the length, spread over all of them; the last one is cut."""
    trials = Intervals(np.arange(20) * 3.0, np.arange(20) * 3.0 + 2.0, {"trial": np.arange(20)})
    few = trials.thin(seconds)
    assert len(few) == number
    assert (few.end_s - few.start_s).sum() == pytest.approx(min(seconds, 40.0))
    assert len(few - trials) == 0 and set(few.columns["trial"]) <= set(range(20))
    if 1 < number < 20:
        assert few.columns["trial"][0] == 0 and few.columns["trial"][-1] == 19


def test_thin_of_nothing():
    assert len(Intervals.of([]).thin(5.0)) == 0
