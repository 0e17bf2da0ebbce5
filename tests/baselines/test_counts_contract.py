"""Every count-based decoder under the contract: one answer however it is asked, from its own past only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from calls import BEHAVIORS, in_calls, two_sequences
from possm.baselines.kalman_decoder import KalmanConfig
from possm.baselines.mlp import MlpConfig
from possm.baselines.recurrent import RecurrentConfig
from possm.baselines.wiener_decoder import WienerDecoderConfig
from possm.batch import Batch, Queries, Tokens
from possm.config import from_json, to_json
from possm.data.chunks import Sample, chunk_edges_s, chunk_tokens, collate, query_chunks
from possm.decoders import build_decoder, kind_of
from possm.errors import ConfigError
from possm.model.contract import BehaviorConfig
from possm.streaming.rehearsal import randomise
from toys import random_weights, to_torch

UNITS, CHUNKS = 30, 21
SMALL = {"width": 12, "hidden": 16}
CONFIGS = {
    "gru": RecurrentConfig(backbone="gru", num_layers=2, **SMALL),
    "s4d": RecurrentConfig(backbone="s4d", num_layers=2, **SMALL),
    "mamba": RecurrentConfig(backbone="mamba", num_layers=2, **SMALL),
    "mlp": MlpConfig(history_ms=300, hidden=16),
    "wiener": WienerDecoderConfig(history=6),
    "kalman": KalmanConfig(size=5, history=3),
}
CLOSED = ("wiener", "kalman")
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def model_of(name, *, dtype=torch.float32, behaviors=BEHAVIORS, **changes):
    """Random weights and inputs scaled at random; the odd units are of session 1."""
    behaviors = {behavior: BehaviorConfig(num_dimensions=2) for behavior in behaviors}
    config = replace(CONFIGS[name], behaviors=behaviors, **changes)
    generator = torch.Generator().manual_seed(0)
    model = build_decoder(config, num_units=UNITS, num_sessions=2).eval()
    if name in CLOSED:
        random_weights(model)  # they start from zeros, and a matrix like this keeps the filter stable
    else:
        randomise(model, generator)
    counts = model.counts
    counts.mean[1:] = torch.rand(UNITS - 1, generator=generator)
    counts.std[1:] = 0.5 + torch.rand(UNITS - 1, generator=generator)
    counts.cap[1:] = torch.randint(2, 6, (UNITS - 1,), generator=generator).float()
    counts.session[1::2] = 1
    return model.to(dtype)


def batch_of_two(dtype=torch.float32, tokens=400, seed=0):
    return two_sequences(num_chunks=CHUNKS, units=UNITS, tokens=tokens, dtype=dtype, seed=seed)


class Forgetful:
    """The same decoder, forgetting everything between calls."""

    def __init__(self, model):
        self.model, self.tables = model, model.tables

    def __call__(self, batch, state, tables):
        return self.model(batch, None, tables)


@pytest.mark.parametrize("name", CONFIGS)
class TestStreamEqualsBatch:
    @pytest.mark.parametrize("dtype", TOLERANCE)
    @pytest.mark.parametrize("size", [1, 2, 7, CHUNKS])
    def test_any_chunk_size_gives_the_answers_of_one_call(self, name, size, dtype):
        model, batch = model_of(name, dtype=dtype), batch_of_two(dtype)
        with torch.inference_mode():
            wanted, last_state = model(batch)
        got, state = in_calls(model, batch, size)
        for behavior, values in wanted.items():
            assert values.isfinite().all()
            assert values.std() > 0.02
            assert (got[behavior] - values).abs().max() <= TOLERANCE[dtype]
        assert len(state.backbone) > 0
        for one, other in zip(state.backbone, last_state.backbone, strict=True):
            assert (one - other).abs().max() <= TOLERANCE[dtype] * other.abs().max().clamp(min=1)

    def test_the_comparison_would_notice_a_lost_state(self, name):
        model, batch = model_of(name), batch_of_two()
        with torch.inference_mode():
            wanted, _ = model(batch)
        got, _ = in_calls(Forgetful(model), batch, 3)
        assert (got["hand.vel"] - wanted["hand.vel"]).abs().max() > 1e-2

    def test_ten_minutes_stay_finite(self, name):
        model, tokens = model_of(name), Tokens(*(torch.zeros(0, dtype=torch.int64),) * 3, torch.zeros(1))
        chunks = 24_000  # the slowest states of S4D remember 2,000
        tokens = replace(tokens, offsets=torch.zeros(chunks + 1, dtype=torch.int64))
        asked = Queries(torch.tensor([20_000, chunks - 1]), torch.zeros(2))
        with torch.inference_mode():
            answers, _ = model(Batch(tokens, torch.zeros(1, dtype=torch.int64), chunks, {"hand.vel": asked}))
        early, late = answers["hand.vel"]
        assert answers["hand.vel"].isfinite().all()
        torch.testing.assert_close(early, late, atol=1e-3, rtol=1e-3)  # silence is a constant input


@pytest.mark.parametrize("name", CONFIGS)
class TestSequences:
    def test_two_sequences_do_not_touch_each_other(self, name):
        model, batch, other = model_of(name), batch_of_two(), batch_of_two(seed=1)
        first = batch.queries["hand.vel"].chunk < CHUNKS
        a, b = int(batch.tokens.offsets[CHUNKS]), int(other.tokens.offsets[CHUNKS])
        offsets = torch.cat([batch.tokens.offsets[:CHUNKS], other.tokens.offsets[CHUNKS:] - b + a])
        pairs = (
            (getattr(batch.tokens, f)[:a], getattr(other.tokens, f)[b:]) for f in ("unit", "time_s", "count")
        )
        mixed = replace(batch, tokens=Tokens(*map(torch.cat, pairs), offsets))
        with torch.inference_mode():
            wanted, got = (model(x)[0]["hand.vel"][first] for x in (batch, mixed))
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)

    def test_units_of_another_session_are_not_seen(self, name):
        """Their spikes, and what they are normalised with."""
        model, batch = model_of(name), batch_of_two()
        session = batch.session.repeat_interleave(CHUNKS).repeat_interleave(batch.tokens.offsets.diff())
        own = model.counts.session[batch.tokens.unit] == session
        assert 0.2 < own.float().mean() < 0.8
        count = torch.where(own, batch.tokens.count, 5 * batch.tokens.count)
        louder = replace(batch, tokens=replace(batch.tokens, count=count))
        with torch.inference_mode():
            wanted, got = (model(x)[0]["hand.vel"] for x in (batch, louder))
            assert got.equal(wanted)
            model.counts.mean[model.counts.session == 1] += 1.0
            changed = (model(batch)[0]["hand.vel"] - wanted).abs().amax(1) > 1e-4
        of_second = batch.queries["hand.vel"].chunk >= CHUNKS
        assert not changed[~of_second].any()
        assert changed[of_second].all()

    def test_a_session_alone_or_beside_another(self, name):
        """Sequences of one session take a shorter way through the readin."""
        model, batch = model_of(name), batch_of_two()
        same = replace(batch, session=torch.zeros_like(batch.session))
        first = batch.queries["hand.vel"].chunk < CHUNKS
        with torch.inference_mode():
            one, other = (model(x)[0]["hand.vel"] for x in (batch, same))
        torch.testing.assert_close(one[first], other[first], rtol=0, atol=1e-6)
        assert (one[~first] - other[~first]).abs().max() > 1e-3


def answers_at(model, times_s, unit, asked_s):
    edges_s = chunk_edges_s(0.0, first=0, count=CHUNKS, chunk_ms=50)
    tokens = chunk_tokens(times_s, unit, np.ones(len(unit), np.float32), edges_s)
    lead_s = model.config.effective_lead_ms / 1000
    queries = {"hand.vel": Queries(*query_chunks(np.asarray(asked_s), edges_s, lead_s=lead_s))}
    with torch.inference_mode():
        return model(to_torch(collate([Sample(tokens, 0, queries)])))[0]["hand.vel"].numpy()


def spikes(number, *, seed=0, begin_s=0.0, end_s=1.05):
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(begin_s, end_s, number)), rng.integers(1, UNITS, number)


@pytest.mark.parametrize("name", CONFIGS)
class TestTime:
    @pytest.mark.parametrize("number", [0, 400])
    def test_spikes_from_t_on_change_no_bit(self, name, number):
        model, now_s = model_of(name), 0.65
        times_s, unit = spikes(number)
        asked_s = np.sort(np.append(np.random.default_rng(1).uniform(0.05, now_s, 40), [0.6, now_s]))
        wanted = answers_at(model, times_s, unit, asked_s)
        past = times_s < now_s
        assert np.isfinite(wanted).all()
        for extra in (0, 1, 300, 5000):
            later, units = spikes(extra, seed=2, begin_s=now_s)
            other_s, others = np.concatenate([times_s[past], later]), np.concatenate([unit[past], units])
            np.testing.assert_array_equal(answers_at(model, other_s, others, asked_s), wanted)

    def test_spikes_just_before_t_do_matter(self, name):
        model = model_of(name)
        times_s, unit = spikes(400)
        past = times_s < 0.6
        one, other = (answers_at(model, times_s[k], unit[k], [0.65]) for k in (past | True, past))
        assert np.abs(one - other).max() > 1e-3

    def test_within_a_chunk_answers_lie_on_a_line(self, name):
        """value + slope * (time - middle), over exactly the stretch a chunk answers for."""
        for lead_ms in (None, 0, 120):
            model = model_of(name, lead_ms=lead_ms)
            lead_s = model.config.effective_lead_ms / 1000
            begin_s = 0.5 + lead_s
            asked_s = begin_s + np.array([0.0, 0.0125, 0.025, 0.0375, 0.0499])
            got = answers_at(model, *spikes(400), asked_s)
            fraction = (asked_s - begin_s) / 0.05
            line = got[0] + (got[2] - got[0]) * fraction[:, None] / 0.5
            np.testing.assert_allclose(got, line, atol=1e-4)
            moves = np.abs(got[-1] - got[0]).max() > 1e-3
            assert moves == (name != "wiener")

    def test_nobody_asks(self, name):
        assert answers_at(model_of(name), *spikes(50), []).shape == (0, 2)


@pytest.mark.parametrize("name", CONFIGS)
class TestWeights:
    def test_no_weight_is_idle(self, name):
        """Every parameter reaches the answers, so the tests above compare all of the decoder."""
        model, batch = model_of(name).requires_grad_(True), batch_of_two()
        sum(values.square().sum() for values in model(batch)[0].values()).backward()
        idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert idle == []

    def test_rows_are_of_units_and_sessions(self, name):
        """Whatever grows with the vocabulary grows at its first axis, so that a decoder can be extended."""
        behaviors = {"vel": BehaviorConfig(num_dimensions=2)}

        def shapes(**sizes):
            model = build_decoder(replace(CONFIGS[name], behaviors=behaviors), **sizes)
            return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}

        small = shapes(num_units=7, num_sessions=3)
        for sizes in ({"num_units": 9, "num_sessions": 3}, {"num_units": 7, "num_sessions": 5}):
            large = shapes(**sizes)
            grown = [key for key in small if small[key] != large[key]]
            assert grown
            assert all(small[key][1:] == large[key][1:] for key in grown)

    def test_closed_forms_have_nothing_to_train(self, name):
        trained = [p for p in build_decoder(model_of(name).config, num_units=3, num_sessions=1).parameters()]
        assert any(p.requires_grad for p in trained) == (name not in CLOSED)

    def test_config_goes_to_json_and_back(self, name):
        config = replace(CONFIGS[name], chunk_ms=20)
        assert from_json(type(config), to_json(config)) == config
        assert kind_of(config) in ("recurrent", "mlp", *CLOSED)

    def test_nothing_to_decode(self, name):
        with pytest.raises(ConfigError, match="nothing to decode"):
            build_decoder(CONFIGS[name], num_units=3, num_sessions=1)


@pytest.mark.parametrize(
    ("made", "change", "said"),
    [
        (RecurrentConfig, {"backbone": "lstm"}, "gru"),
        (RecurrentConfig, {"hidden": 0}, "hidden"),
        (RecurrentConfig, {"input_dropout": 1.0}, "input_dropout"),
        (MlpConfig, {"history_ms": 0}, "history_ms"),
        (MlpConfig, {"dropout": -0.1}, "dropout"),
        (WienerDecoderConfig, {"lags": ()}, "lags"),
        (WienerDecoderConfig, {"strengths": (0.0,)}, "strengths"),
        (WienerDecoderConfig, {"history": 0}, "history"),
        (KalmanConfig, {"orders": (0,)}, "orders"),
        (KalmanConfig, {"ahead": (-1,)}, "ahead"),
        (KalmanConfig, {"drifts": ()}, "drifts"),
        (KalmanConfig, {"shrinkages": (1.5,)}, "shrinkages"),
        (KalmanConfig, {"widths": ()}, "widths"),
    ],
)
def test_refused(made, change, said):
    with pytest.raises(ConfigError, match=said):
        made(**change)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_are_for_continuous_behaviors(name):
    behaviors = {"letter": BehaviorConfig(num_dimensions=2, readout="category", classes=("a", "b"))}
    with pytest.raises(ConfigError, match="continuous"):
        build_decoder(replace(CONFIGS[name], behaviors=behaviors), num_units=3, num_sessions=1)
