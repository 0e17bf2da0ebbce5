import json
import math

import numpy as np
import pytest

from possm.data.ctc import beam_search
from possm.errors import ConfigError
from possm.evaluation.assess import assess, write_assessment
from possm.evaluation.score import evaluate
from possm.evaluation.sequences import CHUNKS_AT_ONCE, _groups, decode_sequences, error_rate
from speech_toys import BEHAVIOR, SYMBOLS, decoder_of, spoken


@pytest.mark.parametrize(
    ("target", "prediction", "rate"),
    [
        ([[1, 2, 3]], [[1, 2, 3]], 0.0),
        ([[1, 2, 3]], [[1, 3]], 1 / 3),
        ([[1, 2, 3], [4]], [[1, 2, 3, 3], [5]], 2 / 4),
        ([[1]], [[2, 3, 4]], 3.0),
        ([[1, 2], []], [[], [1]], 3 / 2),
    ],
)
def test_error_rate(target, prediction, rate):
    assert error_rate(target, prediction) == pytest.approx(rate)


def test_error_rate_of_nothing_is_not_a_number():
    assert math.isnan(error_rate([[]], [[1]]))
    with pytest.raises(ConfigError, match="differ in number"):
        error_rate([[1]], [])


def test_every_trial_is_decoded_as_if_alone():
    """Trials of different lengths are padded together; nothing of that may show."""
    recording = spoken(sentences=9)
    decoder = decoder_of(recording)
    together = decode_sequences(decoder, recording, BEHAVIOR, split="train")
    lengths = [sentence.num_chunks for sentence in together.sentences]
    assert len(set(lengths)) > 2
    for row, (start_s, end_s) in enumerate(recording.intervals["trials"]):
        if row >= len(lengths):
            break
        from dataclasses import replace

        only = replace(recording.intervals["trials"].where(np.arange(9) == row))
        alone = replace(recording, intervals={**recording.intervals, "trials": only})
        part = decode_sequences(decoder, alone, BEHAVIOR, split="train")
        np.testing.assert_allclose(part.probabilities[0], together.probabilities[row], rtol=1e-3, atol=1e-5)
        assert len(part.probabilities[0]) == round((end_s - start_s) / 0.02) // 4


def test_groups_hold_every_trial_once():
    recording = spoken(sentences=12)
    sentences = decode_sequences(decoder_of(recording), recording, BEHAVIOR, split="train").sentences
    assert sorted(row for group in _groups(sentences) for row in group) == list(range(len(sentences)))
    many = sentences * 20
    for group in _groups(many):
        assert max(many[row].num_chunks for row in group) * len(group) <= CHUNKS_AT_ONCE


def test_scores():
    recording = spoken(sentences=12)
    decoder = decoder_of(recording)
    (row,), decoded = evaluate(decoder, recording, split="test")
    answers = decoded[BEHAVIOR].sequences
    said = [list(sentence.numbers) for sentence in answers.sentences]
    assert row.per == error_rate(said, answers.decoded()) and row.trials == len(said) == 2
    assert row.value == -row.per and row.measure == "minus_error_rate" and math.isnan(row.r2)
    assert row.to_json()["per"] == row.per
    text, _ = answers.text(0)
    assert text == recording.intervals["trials"].columns["phonemes"][10]
    assert answers.error_rate(beam_search) >= 0 and answers.symbols == SYMBOLS


def test_an_assessment_says_the_error_rate(tmp_path):
    recording = spoken(sentences=12)
    decoder = decoder_of(recording)
    result = assess(decoder, [recording])
    (score,) = result.scores
    assert f"{100 * score.per:.1f} %" in result.table() and "R2" not in result.table()
    write_assessment(result, tmp_path, decoder=decoder, recording=recording)
    assert json.loads((tmp_path / "scores.json").read_text())[0]["per"] == score.per
