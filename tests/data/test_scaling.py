"""Behavior to the units of training and back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toys
from possm.config import from_json, to_json
from possm.data.scaling import Scaling
from possm.errors import ConfigError, RecordingError

RECORDING = toys.recording(seconds=20)


def with_values(values, **changes):
    signal = replace(RECORDING.signals["vel"], values=np.asarray(values, np.float64), **changes)
    return replace(RECORDING, signals={"vel": signal})


def test_fit_uses_the_train_split_and_skips_nan():
    values = RECORDING.signals["vel"].values.copy()
    times_s = RECORDING.signals["vel"].times_s
    train = RECORDING.split("train").contains(times_s)
    values[~train] = 1e6  # what is held out must not leak into the scaling
    values[50:60, 0] = np.nan
    scaling = Scaling.fit([with_values(values)], "vel")
    kept = np.delete(values[train], np.arange(50, 60), axis=0)
    np.testing.assert_allclose(scaling.mean, kept.mean(axis=0))
    np.testing.assert_allclose(scaling.std, kept.std(axis=0))
    assert scaling.unit == "cm/s"


def test_fit_pools_recordings():
    values = RECORDING.signals["vel"].values
    train = RECORDING.split("train").contains(RECORDING.signals["vel"].times_s)
    both = Scaling.fit([RECORDING, with_values(values + 10, unit="")], "vel")
    pooled = np.concatenate([values[train], values[train] + 10])
    np.testing.assert_allclose(both.mean, pooled.mean(axis=0))
    np.testing.assert_allclose(both.std, pooled.std(axis=0))
    assert both.unit == "cm/s"  # the one that does not say is taken to agree


def test_two_units_fit_no_scaling():
    with pytest.raises(RecordingError, match="several physical units"):
        Scaling.fit([RECORDING, with_values(RECORDING.signals["vel"].values, unit="m/s")], "vel")


@pytest.mark.parametrize("constant", [0.0, 3.25, 1e6, -1e-9])
@pytest.mark.parametrize("dimensions", [[0], [1], [0, 1]])
def test_constant(constant, dimensions):
    values = RECORDING.signals["vel"].values.copy()
    values[:, dimensions] = constant
    with pytest.raises(RecordingError, match="constant in the train split") as caught:
        Scaling.fit([with_values(values)], "vel")
    assert "toy" in str(caught.value)
    assert "vel" in str(caught.value)


def test_a_small_unit_is_not_constant():
    scaling = Scaling.fit([with_values(RECORDING.signals["vel"].values * 1e-9)], "vel")
    assert min(scaling.std) > 0


def test_nothing_measured():
    with pytest.raises(RecordingError, match="no sample"):
        Scaling.fit([with_values(np.full((2000, 2), np.nan))], "vel")
    with pytest.raises(RecordingError, match="no behavior 'gaze'"):
        Scaling.fit([RECORDING], "gaze")


@given(
    mean=st.floats(-1e3, 1e3),
    std=st.floats(1e-3, 1e3),
    z=st.lists(st.floats(-5, 5), min_size=1, max_size=9),
)
def test_invert_undoes_apply(mean, std, z):
    scaling = Scaling((mean,), (std,))
    values = np.array(z)[:, None] * std + mean
    scaled = scaling.apply(values)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[:, 0], z, atol=1e-5 + 1e-12 * abs(mean) / std)
    for dtype, tolerance in ((np.float64, 1e-6), (np.float32, 1e-5)):
        back = scaling.invert(scaled.astype(dtype))
        assert back.dtype == dtype
        np.testing.assert_allclose(back, values, atol=tolerance * (abs(mean) + 5 * std))


def test_json_keeps_every_bit():
    scaling = Scaling.fit([RECORDING], "vel")
    again = from_json(Scaling, json.loads(json.dumps(to_json(scaling))))
    assert again == scaling


@pytest.mark.parametrize(("mean", "std"), [((), ()), ((0.0,), (1.0, 1.0)), ((0.0,), (0.0,))])
def test_refuses(mean, std):
    with pytest.raises(ConfigError, match="scaling"):
        Scaling(mean, std)
