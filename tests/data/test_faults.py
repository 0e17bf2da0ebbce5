from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from possm.data import faults
from possm.data.series import Binned, Signal


def signal(values: np.ndarray) -> Signal:
    return Signal(np.asarray(values, float), rate_hz=20.0)


def test_a_frozen_signal_is_found_from_its_first_to_its_last_sample() -> None:
    moving = np.cumsum(np.ones(1000))[:, None].repeat(2, axis=1)
    moving[300:600] = moving[300] + 0.2 * (np.arange(300) % 2)[:, None]
    bad = np.flatnonzero(faults.frozen(signal(moving), within=0.5, seconds=10.0))
    assert (bad[0], bad[-1], len(bad)) == (300, 599, 300)
    assert not faults.frozen(signal(moving), within=0.1, seconds=10.0).any()
    assert not faults.frozen(signal(moving), within=0.5, seconds=16.0).any()


def test_off_scale_samples_go_with_half_the_margin_on_both_sides() -> None:
    values = np.zeros((200, 2))
    values[100, 1] = 30.0
    bad = np.flatnonzero(faults.off_scale(signal(values), limit=18.0, margin_s=1.0))
    assert (bad[0], bad[-1]) == (90, 110)


def test_silence_of_all_units_is_found() -> None:
    counts = np.zeros((200, 3), np.uint8)
    counts[:, 0] = 1
    counts[50:90] = 0
    counts[150:160] = 0  # half a second only
    bad = np.flatnonzero(faults.silent(Binned(counts, 0.0, 20.0), seconds=1.0))
    assert (bad[0], bad[-1], len(bad)) == (50, 89, 40)


def test_synchronous_bins_are_counted() -> None:
    counts = np.zeros((50, 20), np.uint8)
    counts[7] = 1
    counts[8, :17] = 1
    counts[9, :16] = 1  # 80 % is not more than 80 %
    assert faults.synchronous(Binned(counts, 0.0, 20.0)) == 2


def test_marked_rows_become_intervals_on_the_clock_of_the_series() -> None:
    bad = np.array([True, False, True, True, False])
    rows = Signal(np.zeros((5, 1)), start_s=1.0, rate_hz=20.0)
    assert list(faults.rows_to_intervals(bad, rows)) == [(1.0, 1 + 1 / 20), (1 + 2 / 20, 1 + 4 / 20)]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 20))
def test_running_extremes_agree_with_scipy(values: list[int], half: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    array, width = np.array(values, float), 2 * half + 1
    if half <= len(values):  # beyond, every window holds everything, whatever is mirrored
        expected = ndimage.maximum_filter1d(array, width)
        assert np.array_equal(faults._running(np.maximum, array, width), expected)
    else:
        assert (faults._running(np.minimum, array, width) == array.min()).all()
    marked = array == 3
    assert np.array_equal(faults._spread(marked, width), ndimage.binary_dilation(marked, np.ones(width)))


def test_findings_count_and_say_what_was_dropped() -> None:
    findings = faults.Findings()
    findings.drop("nothing", 0, 0.0)
    findings.drop("frozen", 40, 2.0)
    assert [str(item) for item in findings.dropped] == ["frozen: 40 (2.0 s)"]
