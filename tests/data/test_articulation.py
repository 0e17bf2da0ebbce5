"""Phonemes and the movements that make them."""

import numpy as np
import pytest

from possm.data.articulation import ARTICULATORS, REST, TARGETS, articulate
from possm.data.phonemes import (
    COMMON_WORDS,
    PHONEMES,
    SILENCE,
    VOWELS,
    join_phonemes,
    of_words,
    split_phonemes,
)
from possm.errors import RecordingError

LIPS, ROUND, TIP = (ARTICULATORS.index(name) for name in ("lips_open", "lips_forward", "tip_up"))


def middle(phonemes: str, of: int, each_s: float = 0.2) -> np.ndarray:
    """Where the articulators are in the middle of one phoneme of a sequence."""
    symbols = phonemes.split()
    time = np.array([(of + 0.5) * each_s])
    return articulate(symbols, np.full(len(symbols), each_s), time)[0][0]


def test_39_phonemes_each_with_a_way_of_its_own():
    assert len(PHONEMES) == len(set(PHONEMES)) == 39 and len(VOWELS) == 15
    assert set(TARGETS) == {*PHONEMES, SILENCE}
    ways = [np.concatenate([t.position for t in TARGETS[p]] * (2 // len(TARGETS[p]))) for p in PHONEMES]
    apart = np.abs(np.array(ways)[:, None] - np.array(ways)).max(axis=2) + np.eye(39)
    assert apart.min() > 0.15


def test_words_cover_all_phonemes_and_no_other_symbol():
    assert {symbol for word in COMMON_WORDS.values() for symbol in word} == set(PHONEMES)
    assert COMMON_WORDS["voice"] == ("V", "OY", "S") and len(COMMON_WORDS) > 200


def test_silence_stands_after_every_word():
    said = of_words([("HH", "AY"), ("M", "IY")])
    assert join_phonemes(said) == "HH AY SIL M IY SIL" and split_phonemes(join_phonemes(said)) == said
    assert split_phonemes("") == ()


def test_unknown_symbols_are_named():
    with pytest.raises(RecordingError, match=r"(?s)day3.*AH0, QQ"):
        split_phonemes("HH AH0 QQ", about="day3")


def test_a_slow_phoneme_reaches_its_target():
    np.testing.assert_allclose(middle("AA T AA", 1, 1.0)[TIP], 1.0, atol=0.1)
    np.testing.assert_allclose(middle("AA P AA", 1, 1.0)[LIPS], -1.0, atol=0.1)


def test_neighbours_colour_what_a_phoneme_does_not_care_about():
    assert middle("UW T UW", 1)[ROUND] > 0.4 > 0.1 > middle("IY T IY", 1)[ROUND]


def test_fast_neighbours_of_other_ways_undershoot():
    def reached(next_s: float) -> float:
        duration = np.array([0.2, next_s, 0.2])
        return float(articulate(["AA", "IY", "AA"], duration, np.array([0.2 + next_s / 2]))[0][0, 5])

    assert reached(0.4) > reached(0.1) > reached(0.04)


def test_a_diphthong_moves_on():
    times = np.array([0.15, 0.45])
    position, _ = articulate(["AY"], np.array([0.6]), times)
    height = position[:, ARTICULATORS.index("body_up")]
    assert height[0] < -0.5 and height[1] > 0.3


def test_velocity_is_the_derivative_and_the_ends_are_at_rest():
    times = np.arange(-1.0, 2.0, 0.001)
    position, velocity = articulate(["S", "P", "IY", "CH"], np.array([0.1, 0.08, 0.2, 0.15]), times)
    np.testing.assert_allclose(np.gradient(position, 0.001, axis=0), velocity, atol=0.05 * np.ptp(velocity))
    np.testing.assert_allclose(position[[0, -1]], [REST, REST], atol=1e-6)


def test_a_start_shifts_everything():
    times = np.linspace(0, 1, 50)
    one, _ = articulate(["B", "OY"], np.array([0.1, 0.2]), times)
    two, _ = articulate(["B", "OY"], np.array([0.1, 0.2]), times + 3.0, start_s=3.0)
    np.testing.assert_allclose(one, two, atol=1e-9)
