"""Tuning of units to behavior."""

from __future__ import annotations

import numpy as np
import pytest

from possm.data.recording import Binned, Intervals, Recording, Signal
from possm.data.tuning import LAGS_S, UnitMap, pieces, tuning_features
from possm.errors import RecordingError

RATE_HZ = 20.0


def recording(seconds: float = 60.0, *, seed: int = 0, burst: bool = False) -> Recording:
    """Unit 0 fires with x 0.1 s later, unit 1 against it, unit 2 at random."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE_HZ)
    x = np.convolve(rng.standard_normal(n + 40), np.ones(8) / 2.8, "same")[20 : n + 20]
    ahead = np.roll(x, -3)  # sample i + 3 is 0.1 s after the centre of bin i
    rates = np.stack([np.exp(ahead), np.exp(-ahead), np.ones(n)], axis=1) * 2
    counts = rng.poisson(rates).astype(np.float32)
    if burst:
        counts[::50] = 200
    signal = Signal(x[:, None], start_s=-0.5 / RATE_HZ, rate_hz=RATE_HZ)
    whole = Intervals(np.array([0.0]), np.array([seconds]))
    return Recording(
        session_id="a",
        unit_ids=("with", "against", "random"),
        domain=whole,
        binned=Binned(counts, 0.0, RATE_HZ),
        signals={"x": signal},
        intervals={"train_domain": whole},
    )


def features(made: Recording, until_s: float = 58.0) -> np.ndarray:
    return tuning_features(made, (0.0, until_s), behaviors=("x",), chunk_ms=50)


def test_sign_and_lag_of_tuning_are_seen() -> None:
    found = features(recording(300.0), 290.0)
    lags = [i for i in range(len(LAGS_S) + 1) if i != 2]  # the third is the size of x
    with_x, against, noise = found[:, lags]
    assert np.argmax(with_x) == LAGS_S.index(0.1) and with_x.max() > 0.3
    assert np.argmin(against) == LAGS_S.index(0.1) and against.min() < -0.3
    assert np.abs(noise).max() < 0.1


def test_bursts_on_all_channels_do_not_change_tuning() -> None:
    calm, bursting = features(recording(120.0), 118.0), features(recording(120.0, burst=True), 118.0)
    assert np.abs(calm - bursting).max() < 0.1


def test_too_little_data_is_refused() -> None:
    with pytest.raises(RecordingError, match="too little data"):
        features(recording(), 5.0)


def test_pieces_cover_the_split_and_are_few() -> None:
    made = recording()
    assert pieces(made, "train", 20.0, 10) == [(0.0, 20.0), (20.0, 40.0), (40.0, 60.0)]
    assert pieces(made, "train", 20.0, 2) == [(0.0, 20.0), (40.0, 60.0)]


def test_a_map_is_linear_in_what_it_is_given() -> None:
    made = UnitMap(("x",), 50, (1.0, 0.0), (2.0, 1.0), {"t": ((1.0,), (10.0,), (0.5,))}, 1.0)
    np.testing.assert_allclose(made.rows(np.array([[3.0, 1.0]]))["t"], [[1.0 + 10.0 + 0.5]])
