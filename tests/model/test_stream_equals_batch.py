"""The contract of the one forward: however a recording is cut into calls, the answers are the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from possm.batch import Batch, Queries, State, Tokens
from possm.model.backbones import BACKBONES
from possm.model.decoder import BehaviorConfig, PossmConfig
from possm.streaming.rehearsal import random_decoder

BEHAVIORS = {"cursor.pos": BehaviorConfig(num_dimensions=2), "hand.vel": BehaviorConfig(num_dimensions=3)}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
UNITS, CHUNKS, SESSIONS = 30, 21, ("monday", "tuesday")


def model_of(backbone="gru", *, dtype=torch.float32, **changes):
    sizes = {"width": 32, "hidden": 48, "num_layers": 2, **changes}
    config = PossmConfig(backbone=backbone, behaviors=BEHAVIORS, **sizes)
    return random_decoder(config, num_units=UNITS, sessions=SESSIONS, dtype=dtype).model


def random_batch(*, num_sequences=2, num_chunks=CHUNKS, rate=25.0, seed=0):
    """Counts above 1, chunks without a token, chunks without a query and with several."""
    rng = np.random.default_rng(seed)
    sizes = rng.poisson(rate, num_sequences * num_chunks) * (rng.random(num_sequences * num_chunks) > 0.2)
    total = sizes.sum()
    tokens = Tokens(
        rng.integers(1, 1 + UNITS * len(SESSIONS), total),
        rng.uniform(0, 0.05, total).astype(np.float32),
        rng.choice([1.0, 1.0, 1.0, 2.0, 7.0], total).astype(np.float32),
        np.concatenate([[0], np.cumsum(sizes)]),
    )
    queries = {}
    for name in BEHAVIORS:
        chunk = np.sort(rng.integers(0, num_sequences * num_chunks, 2 * num_sequences * num_chunks))
        queries[name] = Queries(chunk, rng.uniform(-0.05, 0.05, len(chunk)).astype(np.float32))
    return Batch(tokens, np.arange(num_sequences), num_chunks, queries).to(torch.from_numpy)


def cut(batch, first, last):
    """Chunks `first` to `last` of every sequence; also which rows of the answers these are."""
    num_sequences, num_chunks = len(batch.session), batch.num_chunks
    groups = [s * num_chunks + c for s in range(num_sequences) for c in range(first, last)]
    spans = [torch.arange(batch.tokens.offsets[g], batch.tokens.offsets[g + 1]) for g in groups]
    rows = torch.cat(spans)
    sizes = torch.tensor([len(span) for span in spans])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    tokens = batch.tokens
    part = Tokens(tokens.unit[rows], tokens.time_s[rows], tokens.count[rows], offsets)
    queries, places = {}, {}
    for name, asked in batch.queries.items():
        sequence, chunk = asked.chunk // num_chunks, asked.chunk % num_chunks
        inside = (chunk >= first) & (chunk < last)
        moved = sequence * (last - first) + chunk - first
        queries[name] = Queries(moved[inside], asked.time_s[inside])
        places[name] = inside
    return replace(batch, tokens=part, num_chunks=last - first, queries=queries), places


def saved_and_loaded(state):
    arrays = {f"backbone.{i}": array for i, array in enumerate(state.backbone)}
    arrays |= {"recent": state.recent, "seen": state.seen}
    arrays = load(save({name: array.contiguous() for name, array in arrays.items()}))
    backbone = tuple(arrays[f"backbone.{i}"] for i in range(len(state.backbone)))
    return State(backbone, arrays["recent"], arrays["seen"])


@torch.inference_mode()
def decode_in_parts(model, batch, edges):
    answers = {
        name: model.session.weight.new_full((len(q.chunk), BEHAVIORS[name].num_dimensions), torch.nan)
        for name, q in batch.queries.items()
    }
    state, tables = None, model.tables()
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        part, places = cut(batch, first, last)
        got, state = model(part, None if state is None else saved_and_loaded(state), tables)
        for name, values in got.items():
            answers[name][places[name]] = values
    return answers, state


def assert_equal(got, wanted, tolerance):
    for name, values in wanted.items():
        assert values.isfinite().all()
        assert (got[name] - values).abs().max() <= tolerance, name


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [1, 2, 7, CHUNKS])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_chunk_size_gives_the_answers_of_one_call(backbone, size, dtype):
    model, batch = model_of(backbone, dtype=dtype), random_batch()
    with torch.inference_mode():
        wanted, last_state = model(batch)
    edges = [*range(0, CHUNKS, size), CHUNKS]
    got, state = decode_in_parts(model, batch, edges)
    assert_equal(got, wanted, TOLERANCE[dtype])
    for one, other in zip(state.backbone, last_state.backbone, strict=True):
        assert (one - other).abs().max() <= TOLERANCE[dtype] * other.abs().max().clamp(min=1)
    assert (state.recent - last_state.recent).abs().max() <= TOLERANCE[dtype]
    assert state.seen.equal(last_state.seen)


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.sets(st.integers(1, CHUNKS - 1)),
    seed=st.integers(0, 1000),
    rate=st.sampled_from([0.0, 1.0, 40.0]),
)
def test_any_cuts_give_the_answers_of_one_call(cuts, seed, rate):
    model, batch = model_of(), random_batch(seed=seed, rate=rate)
    with torch.inference_mode():
        wanted, _ = model(batch)
    got, _ = decode_in_parts(model, batch, [0, *sorted(cuts), CHUNKS])
    assert_equal(got, wanted, 1e-5)


@pytest.mark.parametrize("num_context", [1, 2, 5])
def test_any_context_length(num_context):
    model, batch = model_of(num_context=num_context), random_batch()
    with torch.inference_mode():
        wanted, _ = model(batch)
    got, _ = decode_in_parts(model, batch, [0, 1, 3, CHUNKS])
    assert_equal(got, wanted, 1e-5)


def test_two_recordings_in_one_batch_do_not_touch_each_other():
    model, batch = model_of(), random_batch()
    with torch.inference_mode():
        both, _ = model(batch)
        for row in range(2):
            alone, places = only(batch, row)
            answers, _ = model(alone)
            for name, values in answers.items():
                assert (both[name][places[name]] - values).abs().max() <= 1e-5


def only(batch, row):
    """One sequence of a batch."""
    offsets = batch.tokens.offsets[row * batch.num_chunks : (row + 1) * batch.num_chunks + 1]
    rows = slice(int(offsets[0]), int(offsets[-1]))
    tokens = batch.tokens
    part = Tokens(tokens.unit[rows], tokens.time_s[rows], tokens.count[rows], offsets - offsets[0])
    places = {name: q.chunk // batch.num_chunks == row for name, q in batch.queries.items()}
    queries = {
        name: Queries(q.chunk[places[name]] - row * batch.num_chunks, q.time_s[places[name]])
        for name, q in batch.queries.items()
    }
    return Batch(part, batch.session[row : row + 1], batch.num_chunks, queries), places


def test_the_comparison_would_notice_a_lost_state():
    """The tolerance means something: without the state, answers differ by far more."""
    model, batch = model_of(), random_batch()
    part, places = cut(batch, 3, CHUNKS)
    with torch.inference_mode():
        wanted, _ = model(batch)
        got, _ = model(part)
    assert (got["cursor.pos"] - wanted["cursor.pos"][places["cursor.pos"]]).abs().max() > 1e-2


def test_no_parameter_is_idle():
    """Every parameter and every input reaches the answers, so the tests above compare all of the model."""
    model, batch = model_of(), random_batch()
    answers, _ = model.train(False)(batch)
    sum(values.square().sum() for values in answers.values()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == []
