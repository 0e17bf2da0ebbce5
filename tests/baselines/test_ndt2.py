"""The binned transformer under the decoder's contract: one answer however asked, never from the future."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from calls import BEHAVIORS, cut, in_calls, two_sequences
from possm.baselines import ndt2
from possm.baselines.ndt2 import Ndt2, Ndt2Config
from possm.batch import Queries
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
SIZES = {"width": 16, "depth": 2, "heads": 2, "patch_units": 8, "context_ms": 400}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def model_of(*, dtype=torch.float32, behaviors=BEHAVIORS, units=UNITS, sessions=2, **changes):
    """Random weights; units are shared out among the sessions in turn, and their counts are scaled."""
    config = Ndt2Config(
        **{**SIZES, **changes}, behaviors={name: BehaviorConfig(num_dimensions=2) for name in behaviors}
    )
    model = Ndt2(config, num_units=units, num_sessions=sessions)
    generator = torch.Generator().manual_seed(0)
    randomise(model, generator)
    model.counts.mean.uniform_(0, 1, generator=generator)
    model.counts.std.uniform_(0.5, 2, generator=generator)
    model.counts.session[1:] = torch.arange(units - 1) % sessions
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
            assert (one - other).abs().max() <= TOLERANCE[dtype]

    def test_a_long_call_is_cut_into_blocks(self, monkeypatch):
        model, batch = model_of(dtype=torch.float64), batch_of_two(torch.float64)
        with torch.inference_mode():
            wanted, _ = model(batch)
            monkeypatch.setattr(ndt2, "BLOCK_CHUNKS", 4)
            got, _ = model(batch)
        for name, values in wanted.items():
            torch.testing.assert_close(got[name], values, rtol=0, atol=1e-10)

    def test_the_comparison_would_notice_a_lost_state(self):
        model, batch = model_of(), batch_of_two()
        part, places = cut(batch, 6, CHUNKS)
        with torch.inference_mode():
            wanted, _ = model(batch)
            got, _ = model(part)
        assert (got["hand.vel"] - wanted["hand.vel"][places["hand.vel"]]).abs().max() > 1e-2

    def test_sequences_that_have_seen_unequally_much(self):
        """One stream is warm, the other has just begun."""
        model, batch = model_of(dtype=torch.float64), batch_of_two(torch.float64)
        (early, _), (late, _) = cut(batch, 0, 6), cut(batch, 6, 12)
        with torch.inference_mode():
            _, warm = model(early)
            fresh = model.initial_state(2)
            mixed = replace(
                warm,
                backbone=tuple(
                    torch.stack([a[0], b[1]]) for a, b in zip(warm.backbone, fresh.backbone, strict=True)
                ),
            )
            got, alone, cold = (model(late, state)[0]["hand.vel"] for state in (mixed, warm, fresh))
        first = late.queries["hand.vel"].chunk < 6
        torch.testing.assert_close(got[first], alone[first], rtol=0, atol=1e-10)
        torch.testing.assert_close(got[~first], cold[~first], rtol=0, atol=1e-10)
        assert (alone - cold).abs().max() > 1e-2


def batch_of_spikes(times_s, unit, asked_s, *, count=None):
    edges_s = chunk_edges_s(0.0, first=0, count=CHUNKS, chunk_ms=50)
    count = np.ones(len(unit), np.float32) if count is None else count
    tokens = chunk_tokens(times_s, unit, count, edges_s)
    return collate(
        [Sample(tokens, 0, {"vel": Queries(*query_chunks(np.asarray(asked_s), edges_s, lead_s=0.05))})]
    )


def answers(model, batch, dtype=torch.float32):
    with torch.inference_mode():
        return model(to_torch(batch, dtype))[0]["vel"].numpy()


def spikes(number=400, seed=0, end_s=1.25):
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, end_s, number)), rng.integers(1, UNITS, number)


class TestWhatAnAnswerSees:
    @pytest.mark.parametrize("number", [0, 400, 5000])
    def test_spikes_from_t_on_change_no_bit(self, number):
        model, now_s = model_of(behaviors=["vel"], sessions=1), 0.65
        times_s, unit = spikes(number)
        asked_s = np.sort(np.append(np.random.default_rng(1).uniform(0.05, now_s, 40), [0.6, now_s]))
        wanted = answers(model, batch_of_spikes(times_s, unit, asked_s))
        assert np.isfinite(wanted).all()
        past = times_s < now_s
        for extra in (0, 1, 300, 20_000):
            later, units = spikes(extra, seed=2, end_s=0.6)
            other_s = np.concatenate([times_s[past], now_s + later])
            others = np.concatenate([unit[past], units])
            np.testing.assert_array_equal(answers(model, batch_of_spikes(other_s, others, asked_s)), wanted)

    def test_each_layer_looks_back_one_context(self):
        """Two layers of 8 chunks: the answer after chunk 20 rests on chunks 6 to 20."""
        model = model_of(behaviors=["vel"], sessions=1, dtype=torch.float64)
        times_s, unit = spikes()
        wanted = answers(model, batch_of_spikes(times_s, unit, [1.06]), torch.float64)
        for seen_s, differs in ((0.3, False), (0.35, True), (1.0, True)):
            keep = times_s >= seen_s
            other = answers(model, batch_of_spikes(times_s[keep], unit[keep], [1.06]), torch.float64)
            assert (np.abs(other - wanted).max() > 1e-9) == differs, seen_s

    def test_a_count_of_k_is_k_tokens(self):
        model = model_of(behaviors=["vel"], sessions=1, dtype=torch.float64)
        times_s, unit = spikes(60)
        count = np.random.default_rng(0).integers(1, 6, 60)
        asked_s = [0.3, 0.6, 1.2]
        once = batch_of_spikes(times_s, unit, asked_s, count=count.astype(np.float32))
        each = batch_of_spikes(np.repeat(times_s, count), np.repeat(unit, count), asked_s)
        got, wanted = (answers(model, batch, torch.float64) for batch in (once, each))
        np.testing.assert_allclose(got, wanted, atol=1e-12)
        ignored = answers(model, batch_of_spikes(times_s, unit, asked_s), torch.float64)
        assert np.abs(ignored - wanted).max() > 1e-3

    @pytest.mark.parametrize("table", ["patch", "session"])
    def test_it_knows_patches_and_sessions_apart(self, table):
        model = model_of(behaviors=["vel"])
        batch = batch_of_spikes(*spikes(), [1.0])
        wanted = answers(model, batch)
        weight = getattr(model, table).weight
        with torch.no_grad():
            weight[[0, 1]] = weight[[1, 0]]
        assert np.abs(answers(model, batch) - wanted).max() > 1e-3


class TestTraining:
    def test_every_parameter_learns(self):
        model, batch = model_of(), batch_of_two()
        total = sum(values.square().sum() for values in model.train()(batch)[0].values())
        total.backward()
        idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert idle == []

    def test_a_short_run_learns(self, tmp_path):
        config = TrainConfig(
            behavior=("vel",),
            decoder=Ndt2Config(**{**SIZES, "context_ms": 1000}),
            window_s=2.0,
            batch_size=4,
            epochs=6,
            valid_every=1,
            optim=OptimConfig(learning_rate=1e-2),
        )
        result = train([recording(seconds=60.0, units=15)], config, tmp_path)
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["train_loss"] < 0.6 * rows[0]["train_loss"]
        assert result.decoder.model.counts.mean[1:].min() > 0


def decoder_of(made):
    model = model_of(behaviors=["vel"], units=1 + made.num_units, sessions=1)
    return Decoder(model, Vocabulary.of([made]), {"vel": Scaling.fit([made], "vel")})


def short_recording():
    made = recording(seconds=8.0, split=False)
    return replace(made, intervals={"train_domain": Intervals.of([(0.0, 8.0)])})


class TestDoors:
    def test_a_file_brings_it_back(self, tmp_path):
        made = short_recording()
        decoder = decoder_of(made)
        back = load_decoder(save_decoder(decoder, tmp_path / "ndt2.safetensors"))
        assert back.config == decoder.config and back.hash == decoder.hash
        one, other = (decode(d, made, made.domain)["vel"].values for d in (decoder, back))
        np.testing.assert_array_equal(one, other)

    def test_a_live_decoder_answers_like_a_batch(self, tmp_path):
        made = short_recording()
        decoder = decoder_of(made)
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
            ({"depth": 0}, "depth"),
            ({"heads": 3}, "heads"),
            ({"dropout": 1.0}, "dropout"),
            ({"context_ms": 0}, "context"),
        ],
    )
    def test_refused(self, change, said):
        with pytest.raises(ConfigError, match=said):
            Ndt2Config(**change)

    def test_more_patches_than_places(self):
        model = model_of(patch_units=1, units=100, sessions=1)
        with pytest.raises(ConfigError, match=r"more patches[\s\S]*raise patch_units"):
            model.initial_state(1)

    def test_config_goes_to_json_and_back(self):
        config = Ndt2Config(chunk_ms=100, context_ms=1500)
        assert from_json(Ndt2Config, to_json(config)) == config
        assert config.context == 15
