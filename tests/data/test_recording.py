from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from possm.data.recording import Binned, Intervals, Recording, Signal, Spikes
from possm.data.series import BLOCK
from possm.errors import RecordingError


class OnDisk:
    """Slices like a dataset of an open file, and counts the rows that are read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype, self.rows = values, values.shape, values.dtype, 0

    def __getitem__(self, key: slice | int) -> np.ndarray:
        out = self.values[key]
        self.rows += np.size(out)
        return out


def spike_recording(number: int = 100) -> Recording:
    rng = np.random.default_rng(0)
    spikes = Spikes(np.sort(rng.uniform(0, 10, number)), rng.integers(0, 3, number))
    return Recording(
        session_id="s",
        unit_ids=("a", "b", "c"),
        domain=Intervals.of([(0, 4), (4, 10)]),
        spikes=spikes,
        signals={"cursor.pos": Signal(np.arange(200.0)[:, None], rate_hz=20.0)},
        intervals={"trials": Intervals.of([(1, 3), (2, 5)])},
    )


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(-3, 44), st.integers(-3, 44), st.booleans())
def test_a_slice_of_a_file_holds_the_same_spikes(
    ticks: list[int], start: int, end: int, indexed: bool
) -> None:
    times = np.sort(np.array(ticks, float)) / 4
    unit = np.arange(len(times))
    index = np.searchsorted(times, np.arange(0.0, 11.0, 1.0)) if indexed else None
    part = Spikes(OnDisk(times), OnDisk(unit), index_1s=index).slice(start / 4, end / 4)
    inside = (times >= start / 4) & (times < end / 4)
    assert np.array_equal(part.times_s, times[inside])
    assert np.array_equal(part.unit, unit[inside])


def test_a_slice_of_a_large_file_reads_little_of_it() -> None:
    times = np.linspace(0, 3600, 2_000_000, endpoint=False)
    index = np.searchsorted(times, np.arange(0.0, 3601.0))
    per_second = len(times) // 3600 + 1
    for with_index, most in ((index, 3 * per_second), (None, 4 * BLOCK)):
        on_disk, unit = OnDisk(times), OnDisk(np.zeros(len(times), np.int64))
        part = Spikes(on_disk, unit, index_1s=with_index).slice(1800.5, 1801.5)
        assert abs(len(part) - per_second) <= 1
        assert on_disk.rows <= most
        assert unit.rows == len(part)


@given(
    st.floats(-100, 100),
    st.sampled_from([20.0, 10.0, 250.0, 30.1]),
    st.integers(0, 40),
    st.integers(-5, 45),
    st.integers(-5, 45),
)
def test_slices_of_a_regular_signal_keep_the_very_times(
    start_s: float, rate_hz: float, number: int, a: int, b: int
) -> None:
    signal = Signal(np.arange(float(number))[:, None], start_s=start_s, rate_hz=rate_hz)
    low, high = start_s + a / rate_hz, start_s + b / rate_hz  # on the samples: the hard case
    inside = (signal.times_s >= low) & (signal.times_s < high)
    part = signal.slice(low, high)
    assert np.array_equal(part.times_s, signal.times_s[inside])
    assert np.array_equal(part.values, signal.values[inside])
    again = part.slice(low, high)
    assert np.array_equal(again.times_s, part.times_s)


@given(st.integers(0, 30), st.integers(-5, 35), st.integers(-5, 35))
def test_bins_belong_to_the_slice_that_holds_their_centre(number: int, a: int, b: int) -> None:
    binned = Binned(np.arange(2.0 * number).reshape(number, 2), start_s=1.0, rate_hz=20.0)
    low, high = 1 + a / 40, 1 + b / 40  # on edges and on centres
    inside = (binned.centres_s >= low) & (binned.centres_s < high)
    part = binned.slice(low, high)
    assert np.array_equal(part.values, binned.values[inside])
    assert np.array_equal(part.centres_s, binned.centres_s[inside])


def test_a_slice_of_a_signal_with_its_own_times_keeps_nan_rows() -> None:
    signal = Signal(np.array([[1.0], [np.nan], [3.0]]), timestamps_s=np.array([0.0, 0.5, 2.0]))
    part = signal.slice(0.5, 2.0)
    assert part.times_s.tolist() == [0.5]
    assert np.isnan(part.values).all()


def test_slicing_a_recording_cuts_everything() -> None:
    part = spike_recording().slice(2.5, 4.5)
    assert part.spikes is not None
    assert ((part.spikes.times_s >= 2.5) & (part.spikes.times_s < 4.5)).all()
    assert part.signals["cursor.pos"].values.ravel().tolist() == list(range(50, 90))
    assert list(part.intervals["trials"]) == [(2.5, 3), (2.5, 4.5)]
    assert list(part.domain) == [(2.5, 4), (4, 4.5)]


def test_tokens_of_spikes_have_count_one() -> None:
    recording = spike_recording()
    times, unit, count = recording.tokens(0, 10)
    assert recording.spikes is not None
    assert np.array_equal(times, recording.spikes.times_s)
    assert unit.dtype == np.int64
    assert count.dtype == np.float32
    assert (count == 1).all()


def test_tokens_of_bins_are_their_counts_at_their_centres() -> None:
    binned = Binned(np.array([[0, 2], [1, 0], [0, 0], [3, 1]], np.uint8), start_s=1.0, rate_hz=10.0)
    recording = Recording("s", ("a", "b"), Intervals.of([(1, 1.4)]), binned=binned)
    times, unit, count = recording.tokens(1.0, 1.4)
    assert times.tolist() == [1.05, 1.15, 1.35, 1.35]
    assert unit.tolist() == [1, 0, 0, 1]
    assert count.tolist() == [2, 1, 3, 1]


def test_what_is_missing_is_named_with_what_there_is() -> None:
    recording = spike_recording()
    with pytest.raises(RecordingError, match=r"(?s)no behavior 'hand.pos'.*cursor\.pos"):
        recording.behavior("hand.pos")
    with pytest.raises(RecordingError, match="(?s)no split 'train'.*chronological_split"):
        recording.split("train")


def test_a_recording_has_spikes_or_bins_and_not_both() -> None:
    spikes = Spikes(np.array([0.5]), np.array([0]))
    binned = Binned(np.ones((2, 1)), start_s=0.0, rate_hz=1.0)
    with pytest.raises(RecordingError, match="(?s)either spikes or binned.*both"):
        Recording("s", ("a",), Intervals.of([(0, 1)]), spikes=spikes, binned=binned)
    with pytest.raises(RecordingError, match="(?s)either spikes or binned.*neither"):
        Recording("s", ("a",), Intervals.of([(0, 1)]))


def test_tables_of_another_number_of_units_are_refused() -> None:
    binned = Binned(np.ones((2, 3)), start_s=0.0, rate_hz=1.0)
    with pytest.raises(RecordingError, match="does not fit the units"):
        Recording("s", ("a",), Intervals.of([(0, 1)]), binned=binned)
    with pytest.raises(RecordingError, match="electrode.*does not fit the units"):
        Recording(
            "s", ("a",), Intervals.of([(0, 1)]), binned=Binned(np.ones((2, 1)), 0.0, 1.0),
            unit_columns={"electrode": np.arange(2)},
        )  # fmt: skip


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, np.nan, np.inf])
def test_a_regular_series_needs_a_rate(rate_hz: float) -> None:
    with pytest.raises(RecordingError, match="needs a start and a rate"):
        Signal(np.ones((2, 1)), rate_hz=rate_hz)


def test_unit_names_are_made_unique_across_sessions() -> None:
    assert spike_recording().global_unit_ids == ("s/a", "s/b", "s/c")
