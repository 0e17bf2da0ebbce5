"""Augmentation: the right share is dropped, whole units at a time, and nothing without being asked."""

from __future__ import annotations

import numpy as np
import pytest

from possm.batch import Values
from possm.data.augment import AugmentConfig, augment_tokens, augment_values, draw_kept_units
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


def values_of(chunks=50, units=4, kinds=2, bins=2):
    unit = np.tile(np.arange(1, units + 1), kinds * bins)[None]
    kind = np.tile(np.repeat(np.arange(1, kinds + 1), units), bins)[None]
    value = np.ones((1, chunks, unit.shape[1]), np.float32)
    return Values(value, unit, kind, np.zeros(unit.shape, np.float32), np.full((1, chunks), unit.shape[1]))


def changed(seed=0, **settings):
    rng, config = np.random.default_rng(seed), AugmentConfig(**settings)
    return augment_values(values_of(), kinds=2, chunk_s=0.02, config=config, rng=rng)


def test_values_stay_unless_asked():
    np.testing.assert_array_equal(changed().value, values_of().value)
    np.testing.assert_array_equal(changed().unit, values_of().unit)


def test_noise_of_values_is_new_everywhere():
    noise = changed(value_noise=0.8).value - 1
    assert noise.dtype == np.float32 and noise.std() == pytest.approx(0.8, rel=0.1)
    assert abs(np.corrcoef(noise[0, :, 0], noise[0, :, 8])[0, 1]) < 0.5


def test_an_offset_is_of_a_channel_and_lasts():
    """The same in all chunks, and in both bins of a chunk; its own for each of 4 units and 2 kinds."""
    offset = changed(value_offset=0.2).value - 1
    assert (offset == offset[:, :1]).all()
    np.testing.assert_array_equal(offset[0, 0, :8], offset[0, 0, 8:])
    assert len(np.unique(offset[0, 0])) == 8


def test_stretches_of_values_are_set_to_the_mean():
    shares = []
    for seed in range(200):
        value = changed(seed, time_masks=1, time_mask_s=0.4).value[0]
        masked = (value == 0).all(axis=1)
        assert (masked == (value == 0).any(axis=1)).all() and masked.sum() <= 20
        assert np.count_nonzero(np.diff(masked.astype(int))) <= 2
        shares.append(masked.mean())
    assert np.mean(shares) == pytest.approx(0.2, abs=0.03)


def test_units_of_values_are_dropped_whole():
    numbers = [len(np.unique(changed(seed, min_units_kept=0.25).unit)) for seed in range(60)]
    assert min(numbers) < 4 and max(numbers) >= 4
    one = changed(3, min_units_kept=0.25).unit
    np.testing.assert_array_equal(one[0, :4] > 0, one[0, 8:12] > 0)


@pytest.mark.parametrize("name", ["value_noise", "value_offset", "time_masks", "time_mask_s"])
def test_settings_of_values(name):
    with pytest.raises(ConfigError, match=name):
        AugmentConfig(**{name: -1})
