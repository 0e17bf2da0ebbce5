"""Scores against scikit-learn's, and what happens where a score is not defined."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, r2_score

from possm.errors import ConfigError
from possm.evaluation.metrics import accuracy, r2, r2_per_dimension

finite = st.integers(-(10**6), 10**6).map(lambda number: number / 64)
tables = hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12)


@given(data=st.data(), shape=tables)
def test_agrees_with_scikit_learn(data, shape):
    target = data.draw(hnp.arrays(np.float64, shape, elements=finite))
    prediction = data.draw(hnp.arrays(np.float64, shape, elements=finite))
    ours = r2_per_dimension(target, prediction)
    constant = np.ptp(target, axis=0) == 0
    assert np.isnan(ours[constant]).all()
    theirs = r2_score(target, prediction, multioutput="raw_values")
    np.testing.assert_allclose(ours[~constant], theirs[~constant], rtol=1e-6, atol=1e-9)


def test_known_values():
    target = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
    np.testing.assert_allclose(r2_per_dimension(target, target), [1.0, 1.0])
    np.testing.assert_allclose(r2_per_dimension(target, np.full((4, 2), target.mean(axis=0))), [0.0, 0.0])
    # SST of the first column is 5; one error of 1 leaves 1 - 1/5.
    off = target + [[1.0, 0.0], [0, 0], [0, 0], [0, 0]]
    np.testing.assert_allclose(r2_per_dimension(target, off), [0.8, 1.0])
    assert r2(target, off) == pytest.approx(0.9)


def test_one_dimension_may_be_flat():
    assert r2(np.arange(5.0), np.arange(5.0)) == 1.0


@given(scale=st.sampled_from([1e-200, 1e-6, 1.0, 1e6, 1e150]), shift=st.sampled_from([0.0, 5.0]))
def test_does_not_depend_on_the_unit(scale, shift):
    rng = np.random.default_rng(0)
    target = rng.normal(size=(40, 2)) + shift
    prediction = target + 0.3 * rng.normal(size=(40, 2))
    expected = r2_score(target, prediction, multioutput="raw_values")
    np.testing.assert_allclose(r2_per_dimension(target * scale, prediction * scale), expected, rtol=1e-9)


def test_an_absurd_prediction_is_minus_infinity():
    target = np.array([0.0, 1e-300, 2e-300])
    assert r2(target, target + 1e6) == -np.inf


def test_computes_in_float64():
    target = (1e4 + np.linspace(0, 1, 1000)).astype(np.float32)
    assert r2(target, target + np.float32(0.0)) == 1.0
    prediction = target + np.float32(0.25)
    expected = r2_score(target.astype(float), prediction.astype(float))
    assert r2(target, prediction) == pytest.approx(expected, rel=1e-9)


def test_a_missing_target_drops_the_whole_sample():
    rng = np.random.default_rng(1)
    target, prediction = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    holes = target.copy()
    holes[[3, 7], [0, 1]] = np.nan
    holes[9] = np.inf
    kept = np.delete(np.arange(50), [3, 7, 9])
    expected = r2_score(target[kept], prediction[kept], multioutput="raw_values")
    np.testing.assert_allclose(r2_per_dimension(holes, prediction), expected)


def test_a_missing_prediction_is_not_dropped(caplog):
    target = np.random.default_rng(2).normal(size=(20, 2))
    prediction = target.copy()
    prediction[4, 1] = np.nan
    with caplog.at_level(logging.WARNING, "possm"):
        score = r2_per_dimension(target, prediction)
    assert score[0] == 1.0 and np.isnan(score[1]) and np.isnan(r2(target, prediction))
    assert "prediction not finite" in caplog.text and "[1]" in caplog.text


def test_a_constant_target_has_no_score_and_says_so(caplog):
    target = np.column_stack([np.full(20, 0.1), np.arange(20.0)])
    with caplog.at_level(logging.WARNING, "possm"):
        score = r2_per_dimension(target, target + 1.0)
    assert np.isnan(score[0]) and np.isfinite(score[1])
    assert "constant target" in caplog.text and "[0]" in caplog.text


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_samples_have_no_score(rows, caplog):
    with caplog.at_level(logging.WARNING, "possm"):
        assert np.isnan(r2_per_dimension(np.zeros((rows, 3)), np.zeros((rows, 3)))).tolist() == [True] * 3
    assert "not defined" in caplog.text


def test_shapes_must_agree():
    with pytest.raises(ConfigError, match="shape"):
        r2_per_dimension(np.zeros((5, 2)), np.zeros((5, 3)))


def test_accuracy_agrees_with_scikit_learn():
    rng = np.random.default_rng(3)
    target, prediction = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    assert accuracy(target, prediction) == accuracy_score(target, prediction)
    assert np.isnan(accuracy(np.array([]), np.array([])))
    with pytest.raises(ConfigError, match="one class"):
        accuracy(np.zeros(3), np.zeros(4))
