"""Change the future and the past does not move by a single bit."""

import numpy as np
import pytest
import torch

from possm.batch import Batch, Queries
from possm.data.chunks import Sample, chunk_edges_s, chunk_tokens, collate, query_chunks
from possm.model.backbones import BACKBONES
from possm.model.decoder import BehaviorConfig, PossmConfig
from possm.streaming.rehearsal import random_decoder

UNITS, CHUNKS = 60, 40


def model_of(backbone="gru", lead_ms=50):
    behaviors = {"cursor.pos": BehaviorConfig(num_dimensions=2)}
    config = PossmConfig(
        backbone=backbone, width=32, hidden=48, num_layers=2, lead_ms=lead_ms, behaviors=behaviors
    )
    return random_decoder(config, num_units=UNITS).model


def spikes_until(end_s, *, number, seed):
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, end_s, number)), rng.integers(1, UNITS + 1, number)


def answers_at(model, times_s, unit, asked_s):
    """Decode two seconds in one call."""
    edges_s = chunk_edges_s(0.0, first=0, count=CHUNKS, chunk_ms=50)
    tokens = chunk_tokens(times_s, unit, np.ones(len(unit), np.float32), edges_s)
    chunk, relative_s = query_chunks(asked_s, edges_s, lead_s=model.config.effective_lead_ms / 1000)
    batch = collate([Sample(tokens, 0, {"cursor.pos": Queries(chunk, relative_s)})])
    with torch.inference_mode():
        return model(batch.to(torch.from_numpy))[0]["cursor.pos"].numpy()


def futures(times_s, unit, now_s):
    """The same past, other futures: none, a busy one, one that begins on the very edge, other units."""
    past = times_s < now_s
    rng = np.random.default_rng(1)
    yield times_s[past], unit[past]
    for number in (1, 300, 30_000):  # the last is more tokens than the model attends to at once
        later = np.sort(np.concatenate([[now_s], rng.uniform(now_s, 2.0, number)]))
        units = rng.integers(1, UNITS + 1, len(later))
        yield np.concatenate([times_s[past], later]), np.concatenate([unit[past], units])
    yield times_s, np.where(past, unit, 1 + unit % UNITS)


@pytest.mark.parametrize("number", [0, 1500, 20_000])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_spikes_from_t_on_leave_every_answer_up_to_t_bitwise_the_same(backbone, number):
    model = model_of(backbone)
    times_s, unit = spikes_until(2.0, number=number, seed=0)
    now_s = 0.65
    asked_s = np.sort(np.append(np.random.default_rng(2).uniform(0.05, now_s, 60), [0.6, now_s]))
    wanted = answers_at(model, times_s, unit, asked_s)
    assert np.isfinite(wanted).all() and (number == 0 or wanted.std() > 0.01)
    for other_times_s, other_unit in futures(times_s, unit, now_s):
        np.testing.assert_array_equal(answers_at(model, other_times_s, other_unit, asked_s), wanted)


def test_spikes_just_before_t_do_matter():
    """The test above compares something that can change."""
    model = model_of()
    times_s, unit = spikes_until(2.0, number=1500, seed=0)
    past = times_s < 0.6
    before = answers_at(model, times_s, unit, np.array([0.65]))
    after = answers_at(model, times_s[past], unit[past], np.array([0.65]))
    assert np.abs(before - after).max() > 1e-3


def test_the_papers_convention_is_not_strictly_causal():
    """With lead 0 an answer may use the rest of its own chunk, and no spike after that chunk."""
    model = model_of(lead_ms=0)
    times_s, unit = spikes_until(2.0, number=1500, seed=0)
    asked_s = np.array([0.6])
    wanted = answers_at(model, times_s, unit, asked_s)
    own, later = (times_s < 0.6), (times_s < 0.65)
    np.testing.assert_array_equal(answers_at(model, times_s[later], unit[later], asked_s), wanted)
    assert np.abs(answers_at(model, times_s[own], unit[own], asked_s) - wanted).max() > 1e-3
    assert not model.config.strictly_causal


def test_sequences_of_a_batch_do_not_see_each_other():
    model = model_of()
    edges_s = chunk_edges_s(0.0, first=0, count=CHUNKS, chunk_ms=50)
    queries = {"cursor.pos": Queries(np.arange(CHUNKS), np.zeros(CHUNKS, np.float32))}

    def sample_of(number: int) -> Sample:
        spikes = spikes_until(2.0, number=number, seed=number)
        return Sample(chunk_tokens(*spikes, np.ones(number, np.float32), edges_s), 0, queries)

    def first_of(batch: Batch) -> np.ndarray:
        with torch.inference_mode():
            return model(batch.to(torch.from_numpy))[0]["cursor.pos"][:CHUNKS].numpy()

    beside = [first_of(collate([sample_of(1500), sample_of(number)])) for number in (1000, 4000)]
    np.testing.assert_array_equal(*beside)
