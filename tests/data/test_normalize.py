import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from possm.data.normalize import CausalNormalizer, NormalizeConfig
from possm.errors import ConfigError

RATE_HZ = 20.0


def normalizer(features=3, **settings):
    return CausalNormalizer(features, rate_hz=RATE_HZ, config=NormalizeConfig(**{"past_s": 2.0, **settings}))


def drifting(bins=300, features=3, seed=0):
    rng = np.random.default_rng(seed)
    level = np.linspace(5, 50, bins)[:, None] * np.arange(1, features + 1)
    return level + rng.standard_normal((bins, features)) * 3


KINDS = pytest.mark.parametrize("kind", ["exponential", "rolling"])


@KINDS
def test_against_the_definition(kind):
    """Every bin against numpy's mean and deviation of those before it."""
    values = drifting()
    got, _ = normalizer(kind=kind, clip=math.inf)(values)
    assert got.dtype == np.float32 and not got[:10].any()
    for row in range(10, len(values)):
        past = values[:row]
        weights = np.exp(-np.arange(row)[::-1] / (2.0 * RATE_HZ))
        if kind == "rolling":
            weights = (np.arange(row)[::-1] < 40).astype(float)
        mean = np.average(past, axis=0, weights=weights)
        std = np.sqrt(np.average((past - mean) ** 2, axis=0, weights=weights))
        np.testing.assert_allclose(got[row], (values[row] - mean) / std, rtol=1e-5, atol=1e-6)


@KINDS
@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 120), max_size=6), seed=st.integers(0, 99))
def test_any_cut_gives_the_same_bits(kind, cuts, seed):
    values, normalize = drifting(120, seed=seed), normalizer(kind=kind)
    values[np.random.default_rng(seed).random(values.shape) < 0.1] = np.nan
    whole, end = normalize(values)
    parts, state = [], None
    for begin, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 120], strict=True):
        part, state = normalize(values[begin:stop], state)
        parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    for name in ("seen", "missing", "weight", "mean", "spread"):
        np.testing.assert_array_equal(getattr(state, name), getattr(end, name))
    np.testing.assert_array_equal(state.ring, end.ring)


@KINDS
def test_the_future_changes_nothing_and_a_value_does_not_judge_itself(kind):
    values, normalize = drifting(), normalizer(kind=kind)
    other = values.copy()
    other[200:] = 1e6
    one, two = normalize(values)[0], normalize(other)[0]
    np.testing.assert_array_equal(one[:200], two[:200])
    assert (two[200] == 10.0).all()  # clipped: what came before says that this is absurd


@KINDS
def test_it_follows_a_drift(kind):
    got, _ = normalizer(kind=kind)(drifting(2000) + 1e6)
    assert np.abs(got[500:].mean(axis=0)).max() < 1.5 and 0.5 < got[500:].std() < 2


@KINDS
def test_missing_values_are_answered_with_0_and_forgotten(kind):
    values = drifting()
    holes = values.copy()
    holes[100, 1], holes[101, 1], holes[102, 2] = np.nan, np.inf, -np.inf
    normalize = normalizer(kind=kind)
    got, state = normalize(holes)
    plain, _ = normalize(values)
    assert np.isfinite(got).all() and got[100, 1] == got[101, 1] == got[102, 2] == 0
    np.testing.assert_array_equal(state.missing, [0, 2, 1])
    np.testing.assert_array_equal(state.seen, [300, 298, 299])
    np.testing.assert_array_equal(got[:, 0], plain[:, 0])
    if kind == "exponential":  # as if those bins had not been
        without, _ = normalize(np.delete(values, [100, 101], axis=0))
        np.testing.assert_array_equal(np.delete(got, [100, 101], axis=0)[:, 1], without[:, 1])


@KINDS
def test_a_feature_that_never_changes_or_never_comes(kind):
    values = np.tile([7.0, np.nan, 0.0], (100, 1))
    got, _ = normalizer(kind=kind)(values)
    assert not got.any()
    values[99, 0] = 8.0
    assert normalizer(kind=kind)(values)[0][99].tolist() == [10.0, 0.0, 0.0]


def test_a_state_is_a_value():
    for kind in ("exponential", "rolling"):
        normalize, values = normalizer(kind=kind), drifting(100)
        _, state = normalize(values[:50])
        one, two = normalize(values[50:], state)[0], normalize(values[50:], state)[0]
        np.testing.assert_array_equal(one, two)


def test_nothing_in_nothing_out():
    got, state = normalizer()(np.zeros((0, 3)))
    assert got.shape == (0, 3) and state.seen.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "change", [{"past_s": 0.0}, {"kind": "block"}, {"min_bins": 1}, {"min_std": 0.0}, {"clip": 0.0}]
)
def test_settings_out_of_range(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        NormalizeConfig(**change)


def test_shapes_out_of_range():
    with pytest.raises(ConfigError, match="values"):
        normalizer()(np.zeros((5, 2)))
    with pytest.raises(ConfigError, match="min_bins"):
        normalizer(kind="rolling", min_bins=41)
    with pytest.raises(ConfigError, match="num_features"):
        CausalNormalizer(0, rate_hz=20.0)
