"""From tuning to rows: fitted on the sessions of pretraining, used for a session never seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import toys
from possm.checkpoint import load_decoder, save_decoder
from possm.data.tuning import pieces, tuning_features
from possm.errors import ConfigError
from possm.training.finetune import FinetuneConfig, adapted_start
from possm.training.unit_map import fit_unit_map, rows_from_tuning

OLD = [toys.recording(seconds=40, session=f"day{day}", seed=day, units=20) for day in range(5)]
NEW = toys.recording(seconds=40, session="today", seed=9, units=20)
TABLE = "token.unit.weight"


def tuned(recording):
    """Mean tuning over the pieces of the train split."""
    found = [
        tuning_features(recording, stretch, behaviors=("vel",), chunk_ms=50)
        for stretch in pieces(recording, "train", 60.0, 6)
    ]
    return np.mean(found, axis=0)


@pytest.fixture(scope="module")
def decoder():
    """Its rows are an affine function of tuning, which a map can find exactly."""
    made = toys.decoder_for(*OLD)
    features = np.concatenate([tuned(recording) for recording in OLD])
    mean, std = features.mean(axis=0), features.std(axis=0)
    table = made.model.get_parameter(TABLE)
    truth = np.random.default_rng(0).standard_normal((len(mean), table.shape[1])) / 10
    with torch.no_grad():
        table[1:] = torch.from_numpy((features - mean) / std @ truth + 0.3).to(table)
    return made, lambda recording: (tuned(recording) - mean) / std @ truth + 0.3


def test_the_map_finds_rows_that_follow_tuning(decoder):
    made, rows_of = decoder
    unit_map = fit_unit_map(made, OLD)
    assert unit_map.fit > 0.8
    found, wanted = rows_from_tuning(unit_map, NEW)[TABLE], rows_of(NEW)
    assert np.square(found - wanted).sum() < 0.3 * np.square(wanted - wanted.mean(axis=0)).sum()


def test_a_checkpoint_keeps_it_and_finetuning_starts_there(decoder, tmp_path):
    made, _ = decoder
    made = replace(made, unit_map=fit_unit_map(made, OLD))
    read = load_decoder(save_decoder(made, tmp_path / "d.safetensors"))
    assert read.unit_map == made.unit_map
    config = FinetuneConfig(start="tuning", steps=6, window_s=1.0)
    begun = adapted_start(read, [NEW], config)
    wanted = rows_from_tuning(read.unit_map, NEW)[TABLE]
    rows = begun.vocabulary.unit_rows(NEW)
    np.testing.assert_allclose(begun.model.get_parameter(TABLE).detach()[rows], wanted, rtol=1e-6)
    assert begun.summary["units_from_tuning"] == 20
    assert begun.unit_map == read.unit_map


def test_too_few_sessions_have_no_map_and_say_so(decoder):
    made, _ = decoder
    few = toys.decoder_for(*OLD[:2])
    assert fit_unit_map(few, OLD[:2]) is None
    with pytest.raises(ConfigError, match="no map from tuning"):
        adapted_start(made, [NEW], FinetuneConfig(start="tuning", steps=6, window_s=1.0))
