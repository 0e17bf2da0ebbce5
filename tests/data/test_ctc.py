import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from possm.data.ctc import Beam, BeamConfig, NGram, beam_search, best_path, collapse
from possm.errors import ConfigError
from speech_toys import every_sequence


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ([], []),
        ([0, 0], []),
        ([1, 1, 2], [1, 2]),
        ([1, 0, 1, 1, 0], [1, 1]),
        ([0, 3, 3, 0, 0, 2, 3], [3, 2, 3]),
    ],
)
def test_collapse(path, wanted):
    np.testing.assert_array_equal(collapse(np.array(path, int)), wanted)


def test_best_path():
    probabilities = np.eye(4)[[0, 2, 2, 0, 2, 1]]
    np.testing.assert_array_equal(best_path(probabilities), [2, 2, 1])


def random_frames(seed, frames=5, symbols=3):
    return np.random.default_rng(seed).dirichlet(np.full(symbols + 1, 0.7), frames)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_wide_beam_finds_the_likeliest_sequence(seed):
    probabilities = random_frames(seed)
    total = every_sequence(probabilities)
    beam = Beam(BeamConfig(width=500, least=0.0))
    best = beam.push(probabilities)
    assert total[best] == pytest.approx(max(total.values()))
    for prefix, score in beam.prefixes.items():
        assert math.exp(score.total) == pytest.approx(total[prefix], rel=1e-9)


def test_the_language_model_decides_where_frames_do_not():
    probabilities = np.array([[0.1, 0.45, 0.45]])

    def likes_two(prefix, symbol):
        return math.log(0.9 if symbol == 2 else 0.1)

    np.testing.assert_array_equal(beam_search(probabilities, language_model=likes_two), [2])
    total = every_sequence(random_frames(3))
    weighed = {
        sequence: math.log(p) + 0.7 * sum(likes_two((), s) for s in sequence) + 0.3 * len(sequence)
        for sequence, p in total.items()
    }
    config = BeamConfig(width=500, least=0.0, weight=0.7, bonus=0.3)
    best = beam_search(random_frames(3), config, language_model=likes_two)
    assert tuple(best) == max(weighed, key=lambda sequence: weighed[sequence])


def test_frame_by_frame_is_all_at_once():
    probabilities = random_frames(5, frames=12)
    beam = Beam(BeamConfig(width=8))
    for frame in probabilities:
        last = beam.push(frame[None])
    np.testing.assert_array_equal(last, beam_search(probabilities, BeamConfig(width=8)))


def test_no_frames_say_nothing():
    assert beam_search(np.zeros((0, 4))).shape == (0,)
    assert best_path(np.zeros((0, 4))).shape == (0,)


def test_probabilities_of_zero_are_survived():
    probabilities = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], np.float32)
    np.testing.assert_array_equal(beam_search(probabilities), [1, 2])


@given(st.lists(st.lists(st.integers(1, 4), max_size=8), min_size=1, max_size=5), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_an_ngram_is_a_distribution(sequences, order):
    model = NGram([np.array(s, int) for s in sequences], num_symbols=4, order=order)
    for prefix in ((), (1,), (2, 3), (4, 4, 4)):
        assert sum(math.exp(model(prefix, k)) for k in range(1, 5)) == pytest.approx(1.0)


def test_an_ngram_knows_what_follows():
    model = NGram([np.array([1, 2, 3] * 20)], num_symbols=3, order=2)
    assert model((1,), 2) > math.log(0.9) and model((1,), 3) < math.log(0.1)


def test_settings():
    with pytest.raises(ConfigError, match="width"):
        BeamConfig(width=0)
