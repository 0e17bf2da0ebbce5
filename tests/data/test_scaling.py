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
from possm.data.scaling import Scaling, fit_scalings, scaling_of
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


def shifted(session, dataset, *, by, unit="cm/s"):
    values = RECORDING.signals["vel"].values * by + by
    attributes = {"brainset.id": dataset} if dataset else {}
    return replace(with_values(values, unit=unit), session_id=session, attributes=attributes)


SET = [shifted("a1", "a", by=1), shifted("a2", "a", by=3), shifted("b", "b", by=100)]


def test_one_scaling_for_all_is_what_fit_makes():
    shared, own = fit_scalings(SET, ["vel"])
    alone = Scaling.fit(SET, "vel")
    assert own == {}
    assert shared == {"vel": alone}


def test_a_scaling_for_each_session():
    shared, own = fit_scalings(SET, ["vel"], by="session")
    assert shared == {"vel": Scaling.fit(SET, "vel")}
    assert own == {r.session_id: {"vel": Scaling.fit([r], "vel")} for r in SET}


def test_a_scaling_for_each_dataset():
    _, own = fit_scalings(SET, ["vel"], by="dataset")
    both = {"vel": Scaling.fit(SET[:2], "vel")}
    assert own == {"a1": both, "a2": both, "b": {"vel": Scaling.fit(SET[2:], "vel")}}


def test_units_may_differ_between_datasets_only():
    foreign = [*SET, shifted("c", "c", by=1, unit="mm/s")]
    shared, own = fit_scalings(foreign, ["vel"], by="dataset")
    assert shared["vel"].unit == ""
    assert own["c"]["vel"].unit == "mm/s"
    assert own["a1"]["vel"].unit == "cm/s"
    with pytest.raises(RecordingError, match="several physical units"):
        fit_scalings(foreign, ["vel"])
    with pytest.raises(RecordingError, match="several physical units"):
        fit_scalings([*SET, shifted("a3", "a", by=1, unit="mm/s")], ["vel"], by="dataset")


def test_a_recording_without_the_behavior_has_no_part():
    blind = replace(SET[1], signals={"gaze": SET[1].signals["vel"]})
    shared, own = fit_scalings([SET[0], blind], ["vel", "gaze"], by="session")
    assert shared["vel"] == Scaling.fit(SET[:1], "vel")
    assert own["a2"] == {"gaze": Scaling.fit([SET[1]], "vel")}
    with pytest.raises(RecordingError, match="no behavior 'force'"):
        fit_scalings(SET, ["force"])


def test_a_session_overrides_what_all_share():
    one, other = Scaling((0.0,), (1.0,)), Scaling((1.0,), (2.0,))
    assert scaling_of("a", {"x": one, "y": one}, {"a": {"y": other}}) == {"x": one, "y": other}
    assert scaling_of("b", {"x": one, "y": one}, {"a": {"y": other}}) == {"x": one, "y": one}


def test_scaling_by_what_is_not_there():
    with pytest.raises(ConfigError, match="scaling"):
        fit_scalings(SET, ["vel"], by="animal")
