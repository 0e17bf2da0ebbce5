"""What a decoder promises whatever its weights: sets of tokens, independent sequences, free output times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from possm.batch import Queries, Tokens
from possm.data.chunks import collate
from possm.errors import ConfigError
from possm.model.decoder import BehaviorConfig, Possm, PossmConfig
from toys import batch_of, random_sample, random_weights, tiny_config, to_torch

UNITS = 7
TWO = {"vel": BehaviorConfig(num_dimensions=2), "pos": BehaviorConfig(num_dimensions=3)}


def model_of(dtype=torch.float64, **changes) -> Possm:
    return random_weights(Possm(tiny_config(**changes), num_units=UNITS, num_sessions=2)).to(dtype)


MODEL = model_of()


def answers(sample, model=MODEL, **queries):
    sample = replace(sample, queries={**sample.queries, **queries})
    return model(batch_of(sample, dtype=torch.float64))[0]


def with_tokens(sample, order, repeat=None):
    """The tokens in another order inside their chunks, each `repeat` times with count 1."""
    tokens = sample.tokens
    repeat = np.ones(len(order), int) if repeat is None else repeat
    rows = np.repeat(order, repeat[order])
    chunk = np.repeat(np.arange(len(tokens.offsets) - 1), np.diff(tokens.offsets))
    sizes = np.bincount(chunk[rows], minlength=len(tokens.offsets) - 1)
    count = tokens.count[rows] if (repeat == 1).all() else np.ones(len(rows), np.float32)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return replace(sample, tokens=Tokens(tokens.unit[rows], tokens.time_s[rows], count, offsets))


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_a_count_of_k_is_k_tokens_in_any_order(seed):
    sample = random_sample(num_chunks=5, units=UNITS, seed=seed)
    tokens, rng = sample.tokens, np.random.default_rng(seed)
    order = np.concatenate(
        [
            rng.permutation(np.arange(a, b))
            for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
        ]
    )
    shuffled = answers(with_tokens(sample, order))["vel"]
    repeated = answers(with_tokens(sample, order, tokens.count.astype(int)))["vel"]
    plain = answers(sample)["vel"]
    torch.testing.assert_close(shuffled, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(repeated, plain, rtol=1e-12, atol=1e-12)


def test_an_empty_chunk_is_one_blank_token_at_its_start():
    sample = random_sample(num_chunks=4, units=UNITS, empty=(1,))
    tokens = sample.tokens
    at = tokens.offsets[1]
    assert at == tokens.offsets[2]
    blank = Tokens(
        np.insert(tokens.unit, at, 0),
        np.insert(tokens.time_s, at, 0.0),
        np.insert(tokens.count, at, 1.0),
        tokens.offsets + (np.arange(5) > 1),
    )
    model = model_of(rest=0.0)
    ours, theirs = answers(sample, model)["vel"], answers(replace(sample, tokens=blank), model)["vel"]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_token_at_rest_tells_how_many_spikes_there_were():
    """The same tokens twice as often are the same mean; beside a token at rest they weigh more."""
    sample = random_sample(num_chunks=4, units=UNITS)
    once = batch_of(sample, dtype=torch.float64).tokens
    twice = replace(once, count=2 * once.count)
    for rest in (10.0, 0.0):
        model = model_of(rest=rest)
        one, two = (model.encoder.attend(tokens, model.tables()).norm(dim=1) for tokens in (once, twice))
        if rest:
            assert (two > one).all() and (two < 2 * one).all()
        else:
            torch.testing.assert_close(one, two)


def test_tokens_matter():
    """Guards the tests above: what moves, leaves or changes unit, changes the answer."""
    sample = random_sample(num_chunks=4, units=UNITS)
    plain, tokens = answers(sample)["vel"], sample.tokens
    changes = {
        "time_s": tokens.time_s[::-1].copy(),
        "unit": 1 + tokens.unit % (UNITS - 1),
        "count": tokens.count + 1 + (np.arange(len(tokens.count)) % 2),
    }
    for name, value in changes.items():
        other = answers(
            replace(sample, tokens=replace(tokens, **{name: value.astype(getattr(tokens, name).dtype)}))
        )
        assert (other["vel"] - plain).abs().max() > 1e-6, name


def test_two_sequences_in_a_batch_are_two_batches():
    samples = [random_sample(num_chunks=5, units=UNITS, seed=s, empty=(s,)) for s in (0, 1, 2)]
    together, state = MODEL(batch_of(*samples, dtype=torch.float64))
    alone = [MODEL(batch_of(sample, dtype=torch.float64)) for sample in samples]
    torch.testing.assert_close(
        together["vel"], torch.cat([a["vel"] for a, _ in alone]), rtol=1e-11, atol=1e-12
    )
    torch.testing.assert_close(state.recent, torch.cat([s.recent for _, s in alone]), rtol=1e-11, atol=1e-12)
    assert torch.equal(state.seen, torch.tensor([2, 2, 2]))


def test_a_query_does_not_depend_on_the_others():
    sample = random_sample(num_chunks=5, units=UNITS)
    queries, whole = sample.queries["vel"], answers(sample)["vel"]
    pick = np.random.default_rng(0).permutation(len(queries.chunk))[:7]
    part = answers(sample, vel=Queries(queries.chunk[pick], queries.time_s[pick]))["vel"]
    torch.testing.assert_close(part, whole[pick], rtol=1e-12, atol=1e-12)


def test_behaviors_have_their_own_times_and_sizes():
    model = model_of(behaviors=TWO)
    sample = random_sample(num_chunks=6, units=UNITS, behaviors={"vel": 200.0, "pos": 30.0})
    both = answers(sample, model)
    assert both["vel"].shape == (60, 2)
    assert both["pos"].shape == (9, 3)
    alone = model(batch_of(replace(sample, queries={"pos": sample.queries["pos"]}), dtype=torch.float64))[0]
    assert list(alone) == ["pos"]
    torch.testing.assert_close(alone["pos"], both["pos"], rtol=1e-12, atol=1e-12)


def test_a_behavior_nobody_asks_now():
    nothing = Queries(np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert answers(random_sample(num_chunks=2, units=UNITS), vel=nothing)["vel"].shape == (0, 2)


def test_outputs_beyond_the_chunk():
    """One chunk may be asked for any time, also ahead of its end; the answer is smooth in time."""
    ahead_s = np.linspace(-0.05, 0.3, 3501).astype(np.float32)
    sample = random_sample(num_chunks=4, units=UNITS)
    out = answers(sample, vel=Queries(np.full(3501, 3), ahead_s))["vel"]
    assert torch.isfinite(out).all()
    assert out.diff(dim=0).abs().max() < 0.1 * out.std(dim=0).max()
    assert out.std(dim=0).min() > 1e-3


def test_first_chunks_do_not_see_what_was_not_there():
    """The history before the first chunk is masked, whatever it holds."""
    sample = random_sample(num_chunks=3, units=UNITS)
    batch = batch_of(sample, dtype=torch.float64)
    empty = MODEL.initial_state(1)
    noise = replace(empty, recent=torch.randn(empty.recent.shape, dtype=torch.float64))
    assert torch.equal(MODEL(batch, empty)[0]["vel"], MODEL(batch, noise)[0]["vel"])
    seen = replace(noise, seen=torch.tensor([1]))
    assert not torch.equal(MODEL(batch, seen)[0]["vel"], MODEL(batch, noise)[0]["vel"])


def test_the_session_changes_the_answer():
    sample = random_sample(num_chunks=3, units=UNITS)
    one, other = (answers(replace(sample, session=row))["vel"] for row in (0, 1))
    assert (one - other).abs().max() > 1e-3


def test_float64_end_to_end():
    out, state = MODEL(batch_of(random_sample(num_chunks=3, units=UNITS), dtype=torch.float64))
    assert {out["vel"].dtype, state.recent.dtype, *(t.dtype for t in state.backbone)} == {torch.float64}
    batch32 = to_torch(collate([random_sample(num_chunks=3, units=UNITS)]))
    assert MODEL(batch32)[0]["vel"].dtype == torch.float64  # the loader's float32 times are welcome
    single = model_of(torch.float32)(batch32)[0]["vel"]
    torch.testing.assert_close(single.double(), MODEL(batch32)[0]["vel"], rtol=1e-4, atol=1e-4)


def test_the_clock_is_the_same_however_float64_came_about():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        born = Possm(tiny_config(), num_units=UNITS, num_sessions=2)
    finally:
        torch.set_default_dtype(before)
    for name, buffer in born.named_buffers():
        assert torch.equal(buffer, MODEL.get_buffer(name)), name


def test_bf16_autocast_stays_close_and_has_gradients():
    """Times within a chunk must not be rounded to half precision: fast features turn hundreds of times."""
    model = model_of(torch.float32)
    batch = to_torch(collate([random_sample(num_chunks=5, units=UNITS)]))
    exact = model(batch)[0]["vel"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(batch)[0]["vel"]
    assert (exact - rounded.float()).abs().max() < 0.05 * exact.std()
    rounded.float().square().sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.token.unit.weight.grad.abs().sum() > 0


def test_dropout_acts_in_training_only():
    model, batch = model_of(), batch_of(random_sample(num_chunks=3, units=UNITS), dtype=torch.float64)
    assert torch.equal(model(batch)[0]["vel"], model(batch)[0]["vel"])
    model.train()
    assert not torch.equal(model(batch)[0]["vel"], model(batch)[0]["vel"])


def test_nothing_to_decode():
    with pytest.raises(ConfigError, match="nothing to decode"):
        Possm(PossmConfig(), num_units=3, num_sessions=1)


def test_lead_follows_the_chunk():
    config = PossmConfig()
    assert (config.effective_lead_ms, config.strictly_causal) == (50, True)
    assert replace(config, chunk_ms=20).effective_lead_ms == 20
    assert replace(config, lead_ms=70).effective_lead_ms == 70
    paper = replace(config, lead_ms=0)
    assert (paper.effective_lead_ms, paper.strictly_causal) == (0, False)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "lstm"},
        {"width": 0},
        {"chunk_ms": 0},
        {"num_context": 0},
        {"lead_ms": -1},
        {"dropout": 1.0},
        {"num_rotary_pairs": 33},
        {"num_rotary_pairs": 0},
        {"encoder_t_min_s": 0.0},
        {"readout_t_min_s": 20.0},
        {"behaviors": {"x": {"num_dimensions": 0}}},
        {"behaviors": {"x": {"num_dimensions": 1, "readout": "spline"}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_config_refuses(change):
    with pytest.raises(ConfigError):
        behaviors = {name: BehaviorConfig(**b) for name, b in change.pop("behaviors", {}).items()}
        PossmConfig(**change, behaviors=behaviors)


def test_training_meets_the_units_of_a_batch_only():
    """The same answers and gradients as with the tables of all units, whichever fire; empty chunks, too."""
    model = random_weights(Possm(tiny_config(dropout=0.0), num_units=40, num_sessions=2)).double()
    sample = random_sample(num_chunks=6, units=9, tokens=50, empty=(2,))
    batch = batch_of(sample, dtype=torch.float64)
    found = {}
    for name, tables in (("few", None), ("all", model.train().tables())):
        model.zero_grad()
        answers, _ = model.train()(batch, None, tables)
        answers["vel"].square().sum().backward()
        found[name] = [answers["vel"].detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
    assert len(found["few"]) == len(found["all"]) > 10
    for few, all_ in zip(found["few"], found["all"], strict=True):
        torch.testing.assert_close(few, all_, rtol=1e-9, atol=1e-9)
    unit = model.token.unit.weight.grad
    assert not unit[9:].any()


def test_a_first_batch_leaves_tokens_nothing_in_common():
    model = model_of()
    tokens = batch_of(random_sample(num_chunks=40, units=UNITS, seed=0), dtype=torch.float64).tokens
    model.token.center(tokens, None)
    mean = (tokens.count.double().unsqueeze(1) * model.token()[tokens.unit]).sum(0) / tokens.count.sum()
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-6, rtol=0)


def test_latents_vary_after_a_first_batch():
    """By the standard deviation asked, about zero."""
    from possm.model.encoder import LATENT_STD

    model = model_of()
    batch = batch_of(random_sample(num_chunks=40, units=UNITS, seed=0), dtype=torch.float64)
    model.see(batch)
    attended = model.encoder.attend(batch.tokens, model.tables())
    latents = model.encoder.to_out(attended)
    torch.testing.assert_close(latents.mean(dim=0), torch.zeros_like(latents[0]), atol=1e-5, rtol=0)
    assert float(latents.std(dim=0).mean().detach()) == pytest.approx(LATENT_STD, rel=1e-4)
