"""Augmentation: the right share is dropped, whole units at a time, and nothing without being asked."""

from __future__ import annotations

import numpy as np
import pytest

from possm.data.augment import AugmentConfig, augment_tokens, draw_kept_units
from possm.errors import ConfigError

UNITS, TOKENS = 50, 20_000
UNIT = np.random.default_rng(1).integers(0, UNITS, TOKENS)
ONES = np.ones(TOKENS, np.float32)


def augment(config, seed, count=ONES):
    return augment_tokens(UNIT, count, num_units=UNITS, config=config, rng=np.random.default_rng(seed))


def test_off_by_default():
    keep, count = augment(AugmentConfig(), 0)
    assert keep.all()
    assert count is ONES


def test_unit_dropout_takes_whole_units_and_the_right_share():
    shares, rng, config = [], np.random.default_rng(0), AugmentConfig(min_units_kept=0.4)
    for _ in range(600):
        keep, _ = augment_tokens(UNIT, ONES, num_units=UNITS, config=config, rng=rng)
        kept = set(UNIT[keep].tolist())
        assert not kept & set(UNIT[~keep].tolist())
        shares.append(len(kept) / UNITS)
    assert np.mean(shares) == pytest.approx(0.7, abs=0.03)  # uniform over [0.4, 1]
    assert min(shares) < 0.45
    assert max(shares) > 0.95


@pytest.mark.parametrize("level", [1.0, 5.0, 0.5, 2.75])
def test_token_dropout_takes_the_right_share_of_spikes_and_features(level):
    keep, count = augment(AugmentConfig(token_dropout=0.3), 0, count=ONES * np.float32(level))
    assert count.dtype == np.float32
    assert count[keep].sum() == pytest.approx(0.7 * level * TOKENS, rel=0.02)
    assert (count[keep] > 0).all()
    assert (count <= level).all()
    assert count.std() > 0


def test_the_seed_decides():
    config = AugmentConfig(min_units_kept=0.5, token_dropout=0.2)
    for first, second in zip(augment(config, 7), augment(config, 7), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(augment(config, 7)[0], augment(config, 8)[0])


@pytest.mark.parametrize(
    "bad", [{"min_units_kept": 0.0}, {"min_units_kept": 1.1}, {"token_dropout": 1.0}, {"token_dropout": -0.1}]
)
def test_refuses(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        AugmentConfig(**bad)


PAPER = (60, 300, 1000)


def test_how_many_units_the_paper_keeps():
    """The density of the paper: 1 at 60 and at 1000 units, 4 at 300."""
    rng = np.random.default_rng(0)
    drawn = np.array([draw_kept_units(2000, PAPER, rng) for _ in range(40_000)])
    assert drawn.min() >= 60 and drawn.max() < 1000
    edges = np.linspace(60, 1000, 11)
    centres = (edges[1:] + edges[:-1]) / 2
    height = np.interp(centres, [60, 300, 1000], [1, 4, 1])
    found = np.histogram(drawn, edges)[0] / len(drawn)
    np.testing.assert_allclose(found, height / height.sum(), rtol=0.09)


@pytest.mark.parametrize("units", [1, 59])
def test_a_recording_of_few_units_keeps_all(units):
    rng = np.random.default_rng(0)
    assert {draw_kept_units(units, PAPER, rng) for _ in range(50)} == {units}


def test_a_recording_keeps_no_more_than_it_has():
    rng = np.random.default_rng(0)
    drawn = np.array([draw_kept_units(200, PAPER, rng) for _ in range(500)])
    assert drawn.min() < 100 and drawn.max() == 200 and 0.5 < (drawn == 200).mean() < 0.95


def test_units_are_dropped_whole():
    unit, ones = np.repeat(np.arange(500), 20), np.ones(10_000, np.float32)
    config, rng = AugmentConfig(unit_dropout=PAPER), np.random.default_rng(1)
    sets = []
    for _ in range(20):
        keep, count = augment_tokens(unit, ones, num_units=500, config=config, rng=rng)
        per_unit = np.bincount(unit[keep], minlength=500)
        assert set(per_unit) <= {0, 20} and (count == 1).all()
        sets.append(frozenset(np.flatnonzero(per_unit)))
        assert len(sets[-1]) >= 60
    assert len(set(sets)) > 10


@pytest.mark.parametrize("wrong", [(0, 300, 1000), (60, 50, 1000), (60, 300, 200), (5, 5, 5)])
def test_unit_dropout_that_makes_no_sense(wrong):
    with pytest.raises(ConfigError, match="unit_dropout"):
        AugmentConfig(unit_dropout=wrong)
