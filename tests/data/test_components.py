"""Which units go together, seen without labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import toys
from possm.data.components import component_loadings
from possm.data.intervals import Intervals
from possm.data.recording import Binned, Recording
from possm.errors import ConfigError, RecordingError

STRENGTH = np.tile([[1.0, 0.8, -0.9, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.6, -0.6, 0.5]], 2)
"""What twelve units read of two signals."""


def recording(seconds: float = 120.0, *, seed: int = 0, burst: bool = False) -> Recording:
    rng = np.random.default_rng(seed)
    shared = toys.smooth(rng, round(seconds * 20), rate_hz=20.0)
    counts = rng.poisson(5 * np.exp(0.5 * shared @ STRENGTH)).astype(np.float32)
    if burst:
        counts[::50] = 200
    whole = Intervals.of([(0.0, seconds)])
    return Recording(
        session_id="a",
        unit_ids=tuple("abcdefghijkl"),
        domain=whole,
        binned=Binned(counts, 0.0, 20.0),
        intervals={"train_domain": whole},
    )


@pytest.mark.parametrize("burst", [False, True])
def test_what_units_read_is_found_up_to_its_sign(burst: bool) -> None:
    found = component_loadings(recording(burst=burst), number=2, chunk_ms=50)
    assert found.shape == (12, 2)
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(np.square(found).mean(axis=0), 1.0)
    assert ((found**3).sum(axis=0) >= 0).all()
    for column, wanted in zip(found.T, STRENGTH, strict=True):
        assert abs(column @ wanted) > 0.97 * np.linalg.norm(column) * np.linalg.norm(wanted)


def test_spikes_and_their_counts_say_the_same() -> None:
    spikes = toys.recording(units=6, seconds=60)
    found = component_loadings(spikes, number=2, chunk_ms=50)
    binned = component_loadings(toys.in_bins(spikes, 50, 60.0), number=2, chunk_ms=50)
    sign = np.sign((found * binned).sum(axis=0))
    np.testing.assert_allclose(binned * sign, found, atol=1e-6)


def test_rare_artefacts_leave_no_trace_around_them() -> None:
    """A weak signal in 96 units, and now and then a chunk in which all fire."""
    rng = np.random.default_rng(0)
    strength = 0.15 * rng.standard_normal(96)
    shared = toys.smooth(rng, 6000, rate_hz=20.0)[:, :1]
    counts = rng.poisson(np.exp(shared * strength)).astype(np.float32)
    counts[rng.choice(6000, 120, replace=False)] = 12
    whole = Intervals.of([(0.0, 300.0)])
    made = Recording(
        session_id="a",
        unit_ids=tuple(map(str, range(96))),
        domain=whole,
        binned=Binned(counts, 0.0, 20.0),
        intervals={"train_domain": whole},
    )
    (found,) = component_loadings(made, number=1, chunk_ms=50).T
    assert abs(np.corrcoef(found, strength)[0, 1]) > 0.8


def test_short_trials_count_all() -> None:
    """Three hundred trials of 0.4 s: as good as two minutes in one piece."""
    made = recording(130.0)
    short = Intervals.of([(0.43 * i, 0.43 * i + 0.4) for i in range(300)])
    split = replace(made, intervals={"train_domain": short})
    found = component_loadings(split, number=2, chunk_ms=50)
    whole = component_loadings(made, number=2, chunk_ms=50)
    assert (np.abs((found * whole).mean(axis=0)) > 0.97).all()


def test_only_the_split_is_seen() -> None:
    made = recording()
    early = replace(made, intervals={"train_domain": Intervals.of([(0.0, 60.0)])})
    other = replace(early, binned=Binned(np.r_[made.binned.values[:1200], np.zeros((1200, 12))], 0.0, 20.0))
    np.testing.assert_array_equal(
        component_loadings(early, number=3, chunk_ms=50), component_loadings(other, number=3, chunk_ms=50)
    )


def test_fewer_units_than_components_and_silent_ones() -> None:
    made = recording()
    assert component_loadings(made, number=20, chunk_ms=50).shape == (12, 12)
    values = made.binned.values.copy()
    values[:, 3:] = 0
    found = component_loadings(replace(made, binned=Binned(values, 0.0, 20.0)), number=6, chunk_ms=50)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[3:] - found[3], 0, atol=1e-6)  # the silent ones are alike
    assert (found[:, 3:] == 0).all()  # three dimensions are all there are


def test_too_little_to_see() -> None:
    with pytest.raises(RecordingError, match=r"5 s in whole chunks"):
        component_loadings(recording(5.0), number=2, chunk_ms=50)
    with pytest.raises(ConfigError, match="number"):
        component_loadings(recording(), number=0, chunk_ms=50)
