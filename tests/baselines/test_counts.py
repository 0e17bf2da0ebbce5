"""Tokens to z-scored counts: known answers, and the same numbers whether from tokens or from a recording."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import toys
from possm.baselines.counts import UnitCounts, normalisation, scaled_counts
from possm.baselines.lags import bin_recording
from possm.batch import Tokens
from possm.data.chunks import chunk_edges_s, chunk_tokens
from possm.data.intervals import Intervals
from possm.data.series import Spikes
from possm.data.vocabulary import Vocabulary
from possm.errors import RecordingError


def tokens_of(*chunks):
    """Each chunk a list of (unit, count)."""
    flat = [token for chunk in chunks for token in chunk]
    offsets = np.cumsum([0, *map(len, chunks)])
    unit = torch.tensor([unit for unit, _ in flat], dtype=torch.int64)
    count = torch.tensor([count for _, count in flat], dtype=torch.float32)
    return Tokens(unit, torch.zeros(len(flat)), count, torch.from_numpy(offsets))


def test_known_answer():
    """Two sessions of units 1, 3 and 2, 4, 5: each has its own columns; caps, means and deviations apply."""
    counts = UnitCounts(6, 2)
    counts.session.copy_(torch.tensor([-1, 0, 1, 0, 1, 1]))
    counts.mean.copy_(torch.tensor([0.0, 1.0, 2.0, 0.5, 0.0, 0.0]))
    counts.std.copy_(torch.tensor([1.0, 2.0, 1.0, 0.5, 1.0, 4.0]))
    counts.cap[1] = 3
    columns = counts.columns()
    assert columns.unit.tolist() == [[1, 3, 0], [2, 4, 5]]
    assert columns.column[1:].tolist() == [0, 0, 1, 1, 2]
    tokens = tokens_of([(1, 2), (1, 5), (3, 1), (2, 9)], [], [(5, 4), (2, 1), (2, 1), (1, 8)], [(4, 1)])
    got = counts(tokens, torch.tensor([0, 1]), columns, num_chunks=2)
    first = [[(3 - 1) / 2, (1 - 0.5) / 0.5, 0], [(0 - 1) / 2, (0 - 0.5) / 0.5, 0]]
    second = [[2 - 2, 0, 4 / 4], [0 - 2, 1, 0]]
    torch.testing.assert_close(got, torch.tensor([first, second]))


def test_until_fitted_all_units_are_of_the_first_session():
    counts = UnitCounts(4, 1)
    got = counts(tokens_of([(1, 2), (3, 1)]), torch.tensor([0]), counts.columns(), num_chunks=1)
    assert got.tolist() == [[[2, 0, 1]]]


@pytest.mark.parametrize("bin_ms", [None, 10, 50])
def test_fit_is_of_the_train_split(bin_ms):
    """Mean 0 and deviation 1 over its chunks; the test split has no part in it."""
    recording = toys.recording(seconds=30, bin_ms=bin_ms)
    bins, z = scaled_counts(recording, 50)
    inside = bins.inside(recording.split("train"))
    assert bins.bin_s == pytest.approx(0.05)
    np.testing.assert_allclose(z[inside].mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(z[inside].std(0), 1, atol=1e-9)
    assert np.abs(z[~inside].mean(0)).max() > 0.01
    edges_s = [edge for _, edge in recording.split("train")]
    times_s, unit = (getattr(toys.recording(seconds=30).spikes, f) for f in ("times_s", "unit"))
    if bin_ms is None:
        keep = times_s < edges_s[-1]
        early = replace(recording, spikes=Spikes(times_s[keep], unit[keep]))
        for one, other in zip(
            normalisation(recording, bins), normalisation(early, bin_recording(early, 50)), strict=True
        ):
            np.testing.assert_allclose(one, other)


@pytest.mark.parametrize("bin_ms", [None, 10, 50])
def test_tokens_and_bins_agree(bin_ms):
    """What a decoder sees chunk by chunk is what the closed forms were fitted on."""
    recordings = [
        toys.recording(seconds=20, bin_ms=bin_ms, seed=n, session=f"day{n}", units=5 + n) for n in (0, 1)
    ]
    vocabulary = Vocabulary.of(recordings)
    counts = UnitCounts(len(vocabulary.units), 2).double()
    counts.fit(recordings, vocabulary, chunk_ms=50)
    for row, recording in enumerate(recordings):
        bins, z = scaled_counts(recording, 50)
        edges_s = chunk_edges_s(0.0, first=0, count=len(z), chunk_ms=50)
        np.testing.assert_allclose(bins.edges_s, edges_s, atol=1e-9)
        times_s, unit, count = recording.tokens(0.0, edges_s[-1])
        tokens = chunk_tokens(times_s, vocabulary.unit_rows(recording)[unit], count, edges_s)
        tensors = Tokens(
            *(torch.from_numpy(getattr(tokens, f)) for f in ("unit", "time_s", "count", "offsets"))
        )
        got = counts(tensors, torch.tensor([row]), counts.columns(), num_chunks=len(z))
        np.testing.assert_allclose(got[0, :, : recording.num_units], z, atol=1e-9)
        assert (got[0, :, recording.num_units :] == 0).all()


def test_fitting_another_session_leaves_the_first_alone():
    recordings = [toys.recording(seconds=20, seed=n, session=f"day{n}", units=5) for n in (0, 1)]
    vocabulary = Vocabulary.of(recordings)
    counts = UnitCounts(len(vocabulary.units), 2)
    counts.fit(recordings[:1], vocabulary, chunk_ms=50)
    before = counts.mean.clone()
    counts.fit(recordings[1:], vocabulary, chunk_ms=50)
    assert counts.mean[:6].equal(before[:6])
    assert counts.mean[6:].min() > 0
    assert counts.session.tolist() == [-1, *[0] * 5, *[1] * 5]


def test_silent_and_bursting_units():
    """A unit that never fires in training stays finite; a burst counts for no more than the cap."""
    recording = toys.recording(seconds=20, units=3)
    keep = (recording.spikes.unit != 0) | (recording.spikes.times_s > 19.9)
    spikes = Spikes(recording.spikes.times_s[keep], recording.spikes.unit[keep])
    bins, z = scaled_counts(replace(recording, spikes=spikes), 50)
    assert np.isfinite(z).all()
    assert z[:, 0].max() == 1.0
    fitted = normalisation(recording, bins)
    huge = fitted.apply(np.full((1, 3), 1000.0))
    np.testing.assert_allclose(huge[0], (fitted.cap - fitted.mean) / fitted.std)


def test_no_whole_chunk_to_fit_on():
    recording = toys.recording(seconds=20)
    short = replace(
        recording, intervals={**recording.intervals, "train_domain": Intervals.of([(0.01, 0.02)])}
    )
    with pytest.raises(RecordingError, match="no chunk of 0.05 s") as caught:
        scaled_counts(short, 50)
    assert "toy" in str(caught.value)
