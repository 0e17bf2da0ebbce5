"""The causal POYO under the decoder's contract: one answer however it is asked, from the last second only."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from calls import BEHAVIORS, in_calls, two_sequences
from possm.baselines.poyo import Poyo, PoyoConfig
from possm.batch import Batch, Queries, Tokens
from possm.checkpoint import Decoder, load_decoder, save_decoder
from possm.config import from_json, to_json
from possm.data.chunks import Sample, chunk_edges_s, chunk_tokens, collate, query_chunks
from possm.data.intervals import Intervals
from possm.data.scaling import Scaling
from possm.data.vocabulary import Vocabulary
from possm.errors import ConfigError
from possm.evaluation.score import decode
from possm.model.contract import BehaviorConfig
from possm.streaming.live import LiveDecoder
from possm.streaming.rehearsal import randomise
from possm.training.loop import TrainConfig, train
from possm.training.optim import OptimConfig
from toys import recording, to_torch

UNITS, CHUNKS = 30, 25
SIZES = {"width": 16, "depth": 2, "head_width": 16, "num_rotary_pairs": 4, "self_heads": 2}
SHORT = {"history_ms": 400, "latent_step_ms": 100, "latents_per_step": 2, "train_answer_ms": 400}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def model_of(*, dtype=torch.float32, behaviors=BEHAVIORS, units=UNITS, **changes):
    config = PoyoConfig(
        **{**SIZES, **SHORT, **changes},
        behaviors={name: BehaviorConfig(num_dimensions=2) for name in behaviors},
    )
    model = Poyo(config, num_units=units, num_sessions=2)
    randomise(model, torch.Generator().manual_seed(0))
    return model.to(dtype).eval()


def batch_of_two(dtype=torch.float32, tokens=300, seed=0):
    return two_sequences(num_chunks=CHUNKS, units=UNITS, tokens=tokens, dtype=dtype, seed=seed)


class TestStreamEqualsBatch:
    @pytest.mark.parametrize("dtype", TOLERANCE)
    @pytest.mark.parametrize("size", [1, 2, 7, CHUNKS])
    def test_any_chunk_size_gives_the_answers_of_one_call(self, size, dtype):
        model, batch = model_of(dtype=dtype), batch_of_two(dtype)
        with torch.inference_mode():
            wanted, last_state = model(batch)
        got, state = in_calls(model, batch, size)
        for name, values in wanted.items():
            assert values.isfinite().all() and values.std() > 0.05
            assert (got[name] - values).abs().max() <= TOLERANCE[dtype]
        for one, other in zip(state.backbone, last_state.backbone, strict=True):
            assert one.equal(other)

    def test_a_long_call_is_cut_into_blocks(self, monkeypatch):
        model, batch = model_of(dtype=torch.float64), batch_of_two(torch.float64)
        with torch.inference_mode():
            wanted, _ = model(batch)
            monkeypatch.setattr("possm.baselines.poyo.VIEWS_AT_ONCE", 4)
            got, _ = model(batch)
        for name, values in wanted.items():
            torch.testing.assert_close(got[name], values, rtol=0, atol=1e-12)

    def test_the_comparison_would_notice_a_lost_state(self):
        model, batch = model_of(), batch_of_two()
        with torch.inference_mode():
            wanted, _ = model(batch)
        got, _ = in_calls(forgetful(model), batch, 3)
        assert (got["hand.vel"] - wanted["hand.vel"]).abs().max() > 1e-2

    def test_two_sequences_do_not_touch_each_other(self):
        model, batch = model_of(), batch_of_two()
        other = batch_of_two(seed=1)
        first = batch.queries["hand.vel"].chunk < CHUNKS
        with torch.inference_mode():
            wanted = model(batch)[0]["hand.vel"][first]
            mixed = replace(batch, tokens=half_and_half(batch.tokens, other.tokens))
            assert model(mixed)[0]["hand.vel"][first].equal(wanted)


def forgetful(model):
    """The same decoder, forgetting everything between calls."""

    class Forgetful:
        tables = staticmethod(model.tables)

        def __call__(self, batch, state, tables):
            return model(batch, None, tables)

    return Forgetful()


def half_and_half(one, other):
    """The first sequence of one, the second of the other."""
    a, b = int(one.offsets[CHUNKS]), int(other.offsets[CHUNKS])
    offsets = torch.cat([one.offsets[:CHUNKS], other.offsets[CHUNKS:] - b + a])
    parts = ((getattr(one, name)[:a], getattr(other, name)[b:]) for name in ("unit", "time_s", "count"))
    return Tokens(*(torch.cat(pair) for pair in parts), offsets)


def batch_of_spikes(times_s, unit, asked_s, *, count=None, num_chunks=CHUNKS, lead_s=0.05):
    edges_s = chunk_edges_s(0.0, first=0, count=num_chunks, chunk_ms=50)
    count = np.ones(len(unit), np.float32) if count is None else count
    tokens = chunk_tokens(times_s, unit, count, edges_s)
    queries = {"vel": Queries(*query_chunks(np.asarray(asked_s), edges_s, lead_s=lead_s))}
    return collate([Sample(tokens, 0, queries)])


def answers(model, batch: Batch, dtype=torch.float32):
    with torch.inference_mode():
        return model(to_torch(batch, dtype))[0]["vel"].numpy()


def spikes(number=400, seed=0, end_s=1.25):
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, end_s, number)), rng.integers(1, UNITS, number)


class TestWhatAnAnswerSees:
    @pytest.mark.parametrize("number", [0, 3, 400, 5000])
    def test_spikes_from_t_on_change_no_bit(self, number):
        model, now_s = model_of(behaviors=["vel"]), 0.65
        times_s, unit = spikes(number)
        asked_s = np.sort(np.append(np.random.default_rng(1).uniform(0.05, now_s, 40), [0.6, now_s]))
        wanted = answers(model, batch_of_spikes(times_s, unit, asked_s))
        past = times_s < now_s
        assert np.isfinite(wanted).all()
        for extra in (0, 1, 300, 20_000):
            later, units = spikes(extra, seed=2, end_s=0.6)
            other_s = np.concatenate([times_s[past], now_s + later])
            others = np.concatenate([unit[past], units])
            np.testing.assert_array_equal(answers(model, batch_of_spikes(other_s, others, asked_s)), wanted)

    def test_only_the_chunks_of_the_view_are_seen(self):
        """The view of 400 ms that ends at 1.0 begins at 0.6."""
        model = model_of(behaviors=["vel"])
        times_s, unit = spikes()
        wanted = answers(model, batch_of_spikes(times_s, unit, [1.01]))
        for seen_s, differs in ((0.6, False), (0.65, True), (0.95, True)):
            keep = (times_s >= seen_s) if seen_s < 0.9 else (times_s < seen_s)
            other = answers(model, batch_of_spikes(times_s[keep], unit[keep], [1.01]))
            assert (np.abs(other - wanted).max() > 1e-4) == differs

    def test_a_shift_in_time_changes_nothing(self):
        model = model_of(behaviors=["vel"], dtype=torch.float64)
        times_s, unit = spikes(end_s=0.4)
        early = answers(model, batch_of_spikes(times_s, unit, [0.42]), torch.float64)
        late = answers(model, batch_of_spikes(times_s + 0.8, unit, [1.22]), torch.float64)
        cold = answers(
            model, batch_of_spikes(times_s[times_s < 0.2], unit[times_s < 0.2], [0.22]), torch.float64
        )
        np.testing.assert_allclose(early, late, atol=2e-4)  # spike times are float32
        assert np.abs(cold - early).max() > 1e-3

    def test_silence_differs_from_a_past_that_was_never_seen(self):
        model = model_of(behaviors=["vel"])
        nothing = np.zeros(0), np.zeros(0, np.int64)
        first, third, tenth, twelfth = answers(model, batch_of_spikes(*nothing, [0.06, 0.16, 0.51, 0.61]))
        assert np.abs(first - third).max() > 1e-3
        np.testing.assert_allclose(tenth, twelfth, atol=1e-5)

    def test_a_count_of_k_is_k_tokens(self):
        model = model_of(behaviors=["vel"], dtype=torch.float64)
        times_s, unit = spikes(60)
        count = np.random.default_rng(0).integers(1, 6, 60)
        asked_s = [0.3, 0.6, 1.2]
        once = batch_of_spikes(times_s, unit, asked_s, count=count.astype(np.float32))
        each = batch_of_spikes(np.repeat(times_s, count), np.repeat(unit, count), asked_s)
        got, wanted = (answers(model, batch, torch.float64) for batch in (once, each))
        np.testing.assert_allclose(got, wanted, atol=1e-12)
        ignored = answers(model, batch_of_spikes(times_s, unit, asked_s), torch.float64)
        assert np.abs(ignored - wanted).max() > 1e-3

    def test_nobody_asks(self):
        model, batch = model_of(behaviors=["vel"]), batch_of_spikes(*spikes(), [])
        assert answers(model, batch).shape == (0, 2)


class TestTraining:
    def test_a_stride_of_one_is_evaluation(self):
        model, batch = model_of(train_answer_ms=50, dropout=0.0, branch_dropout=0.0), batch_of_two()
        wanted, _ = model.eval()(batch)
        got, _ = model.train()(batch)
        torch.testing.assert_close(got["hand.vel"], wanted["hand.vel"])

    def test_a_view_answers_for_chunks_before_its_newest(self, monkeypatch):
        """The newest chunk of each view as in evaluation, the ones before with spikes that came later."""
        model = model_of(train_answer_ms=250, dropout=0.0, branch_dropout=0.0)
        batch = batch_of_two()
        wanted, _ = model.eval()(batch)
        monkeypatch.setattr(torch, "randint", lambda stride, size: torch.tensor(2))
        got, _ = model.train()(batch)
        chunk = batch.queries["hand.vel"].chunk % CHUNKS
        far = (got["hand.vel"] - wanted["hand.vel"]).abs().amax(1) > 1e-4
        newest = (chunk % 5 == 2) | (chunk == CHUNKS - 1)
        assert not far[newest].any()
        assert far[~newest & (chunk > 5) & (chunk < 22)].all()

    def test_every_epoch_cuts_anew(self):
        model, batch = model_of(dropout=0.0, branch_dropout=0.0).train(), batch_of_two()
        answers = {round(model(batch)[0]["hand.vel"].sum().item(), 3) for _ in range(20)}
        assert len(answers) > 3 and model.config.train_stride == 8

    def test_every_parameter_learns(self):
        model, batch = model_of(), batch_of_two()
        total = sum(values.square().sum() for values in model.train()(batch)[0].values())
        total.backward()
        idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert idle == []

    def test_a_short_run_learns(self, tmp_path):
        config = TrainConfig(
            behavior=("vel",),
            decoder=PoyoConfig(**SIZES, latents_per_step=1, train_answer_ms=200, branch_dropout=0.0),
            window_s=1.0,
            batch_size=4,
            epochs=6,
            valid_every=1,
            optim=OptimConfig(learning_rate=1e-2),
        )
        train([recording(seconds=60.0, units=15)], config, tmp_path)
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["train_loss"] < 0.85 * rows[0]["train_loss"]


def decoder_of(made):
    model = model_of(behaviors=["vel"], units=1 + made.num_units)
    vocabulary = Vocabulary.of([made])
    model.session.weight.data = model.session.weight.data[:1]
    model.session.num_embeddings = 1
    return Decoder(model, vocabulary, {"vel": Scaling.fit([made], "vel")})


class TestDoors:
    def test_a_file_brings_it_back(self, tmp_path):
        made = recording(seconds=8.0, split=False)
        decoder = decoder_of(with_all_in_train(made))
        back = load_decoder(save_decoder(decoder, tmp_path / "poyo.safetensors"))
        assert back.config == decoder.config and back.hash == decoder.hash
        one, other = (decode(d, made, made.domain)["vel"].values for d in (decoder, back))
        np.testing.assert_array_equal(one, other)

    def test_a_live_decoder_answers_like_a_batch(self, tmp_path):
        made = recording(seconds=8.0, split=False)
        decoder = decoder_of(with_all_in_train(made))
        wanted = decode(decoder, made, made.domain)["vel"]
        live = LiveDecoder(decoder, output_times_s={"vel": made.behavior("vel").times_s})
        got = []
        for number in range(160):
            times_s, unit, count = made.tokens(number * 0.05, (number + 1) * 0.05)
            got += live.push(times_s, unit, (number + 1) * 0.05, count)
            if number == 80:
                live = LiveDecoder.resume(live.save(tmp_path / "stream.safetensors"), decoder)
        times_s = np.concatenate([p.times_s for p in got])
        both = np.isin(wanted.times_s, times_s)
        values = np.concatenate([p.values for p in got])[np.isin(times_s, wanted.times_s)]
        assert both.sum() > 700
        np.testing.assert_allclose(values, wanted.values[both], atol=1e-4)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"history_ms": 0}, "history_ms"),
            ({"latent_step_ms": 2000}, "latent_step_ms"),
            ({"depth": 0}, "depth"),
            ({"train_answer_ms": 1050}, "train_answer_ms"),
            ({"dropout": 1.0}, "dropout"),
            ({"num_rotary_pairs": 40}, "num_rotary_pairs"),
            ({"t_min_s": 0.0}, "t_min_s"),
        ],
    )
    def test_refused(self, change, said):
        with pytest.raises(ConfigError, match=said):
            PoyoConfig(**change)

    def test_config_goes_to_json_and_back(self):
        config = PoyoConfig(chunk_ms=100, latents_per_step=8)
        assert from_json(PoyoConfig, to_json(config)) == config
        assert (config.history, config.train_stride) == (10, 10)
        assert PoyoConfig(chunk_ms=80).history == 12

    def test_a_sequence_is_not_for_this_decoder(self):
        behaviors = {"text": BehaviorConfig(num_dimensions=4, readout="sequence", classes=("a", "b", "c"))}
        with pytest.raises(ConfigError, match=r"given times only[\s\S]*sequence"):
            Poyo(PoyoConfig(behaviors=behaviors), num_units=3, num_sessions=1)

    def test_nothing_to_decode(self):
        with pytest.raises(ConfigError, match="nothing to decode"):
            Poyo(PoyoConfig(), num_units=3, num_sessions=1)

    def test_size_is_that_of_poyo_1_3m(self):
        config = PoyoConfig(behaviors={"vel": BehaviorConfig(num_dimensions=2)}, latents_per_step=16)
        model = Poyo(config, num_units=101, num_sessions=1)
        vocabulary = sum(table.weight.numel() for table in (model.token.unit, model.session))
        behavior = model.readouts[0].behavior.weight.numel()
        assert sum(p.numel() for p in model.parameters()) - vocabulary - behavior == 1_254_018


def with_all_in_train(made):
    return replace(made, intervals={**made.intervals, "train_domain": Intervals.of([(0.0, 8.0)])})
