"""The recipes for handwriting and speech: their published sizes, and that they run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from possm import recipes
from possm.data.handwriting import HandwritingConfig, simulate_handwriting
from possm.data.phonemes import PHONEMES, SILENCE
from possm.data.speech import SpeechConfig, simulate_speech
from possm.decoders import build_decoder
from possm.model.contract import BehaviorConfig
from possm.training.loop import train

QUICK = {"epochs": 1, "valid_every": 1, "batch_size": 4}


@pytest.mark.parametrize(("name", "millions"), [("speech", 32), ("speech-offline", 86)])
def test_speech_has_the_published_number_of_parameters(name, millions):
    config = recipes.TRAINING[name]()
    sequence = BehaviorConfig(num_dimensions=41, readout="sequence", classes=(*PHONEMES, SILENCE))
    decoder = replace(config.decoder, behaviors={recipes.PHONEMES: sequence})
    model = build_decoder(decoder, num_units=24 * 256, num_sessions=24)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.015)


def test_handwriting_runs(tmp_path):
    simulation = HandwritingConfig(trials_per_character=5, characters=("a", "l"), num_units=6)
    config = replace(recipes.handwriting(), **QUICK)
    result = train([simulate_handwriting(simulation)], config, tmp_path)
    assert 0 <= result.summary["best_valid_accuracy"] <= 1


def test_speech_runs(tmp_path):
    days = [
        simulate_speech(
            SpeechConfig(num_sentences=10, min_sentence_s=1.0, max_sentence_s=1.5, num_units=6), session=day
        )
        for day in (0, 1)
    ]
    config = recipes.speech()
    small = replace(config.decoder, hidden=8, num_layers=1, width=8)
    result = train(days, replace(config, decoder=small, **QUICK), tmp_path)
    assert result.path.is_file()


def test_handwriting_from_reaching_trains_rows_and_readout_first():
    config = recipes.FINETUNING["handwriting"]()
    assert (config.mode, config.behavior) == ("full", ("trials.character",))
    assert config.optim.learning_rate == pytest.approx(3.125e-5 * config.batch_size)
    assert recipes.handwriting().optim.learning_rate == pytest.approx(1e-5 * 256)
