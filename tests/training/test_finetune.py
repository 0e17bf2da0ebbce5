"""Adapting a decoder: what changes, what stays, what it is worth, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import toys
from possm.checkpoint import load_decoder
from possm.evaluation.score import decode, evaluate
from possm.training.finetune import FinetuneConfig, adapted_start, finetune
from possm.training.loop import TrainConfig, train
from possm.training.optim import OptimConfig
from possm.training.run import Run

OLD = [toys.recording(seconds=30, session=f"day{day}", seed=day) for day in range(2)]
NEW = toys.recording(seconds=60, session="today", units=13, seed=7)
DECODER = toys.decoder_for(*OLD)


def config_of(**changes):
    return FinetuneConfig(**{"steps": 6, "window_s": 1.0, "batch_size": 8, **changes})


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(decoder):
    return decoder.model.state_dict()


def test_units_change_new_rows_only(tmp_path):
    """Every other weight stays to the bit, and so do the answers for the old sessions."""
    result = finetune(DECODER, [NEW], config_of(), tmp_path)
    adapted, before, after = result.decoder, weights(DECODER), weights(result.decoder)
    assert adapted.vocabulary.sessions == ("day0", "day1", "today")
    assert adapted.vocabulary.units[:41] == DECODER.vocabulary.units
    for name in before:
        kept = after[name][: len(before[name])]
        assert torch.equal(kept, before[name]), name
    begun = adapted_start(DECODER, [NEW], config_of()).model.state_dict()
    for name in ("token.unit.weight", "session.weight"):
        rows = slice(len(before[name]), None)
        assert not torch.isclose(after[name][rows], begun[name][rows]).all(dim=1).any()
    intervals = OLD[0].split("test")
    old, new = (decode(d, OLD[0], intervals)["vel"].values for d in (DECODER, load_decoder(result.path)))
    assert np.array_equal(old, new)


def test_full_trains_rows_first_then_everything(tmp_path):
    """Step by step: which weights differ from those of the decoder, and that old rows never do."""
    run = Run(adapted_start(DECODER, [NEW], config_of(mode="full", steps=10, units_share=0.5)), tmp_path)
    before, moved = weights(DECODER), []

    def watch(progress):
        if progress.valid_score is None:
            after = run.model.state_dict()
            names = [n for n in before if not torch.equal(after[n][: len(before[n])], before[n])]
            moved.append({name for name in names if "." in name})

    run.run(watch)
    half = len(moved) // 2
    assert len(moved) == run.total_steps
    assert not any(moved[:half])
    assert {"encoder.to_out.weight", "backbone.gru.weight_hh_l0", "readouts.@vel.linear.weight"} <= moved[
        half
    ]
    after = run.model.state_dict()
    assert torch.equal(after["token.unit.weight"][1:41], before["token.unit.weight"][1:])
    assert torch.equal(after["session.weight"][:2], before["session.weight"])


def test_fewer_than_one_percent_of_the_large_model():
    """The paper: unit identification trains under 1 % of the parameters."""
    from possm.checkpoint import Decoder
    from possm.model.decoder import Possm, PossmConfig

    config = PossmConfig.large(behaviors=DECODER.config.behaviors)
    units, sessions = (len(names) for names in (DECODER.vocabulary.units, DECODER.vocabulary.sessions))
    large = Possm(config, num_units=units, num_sessions=sessions)
    decoder = Decoder(large, DECODER.vocabulary, DECODER.scaling)
    today = toys.recording(seconds=30, session="today", units=100)
    start = adapted_start(decoder, [today], config_of())
    trained = start.summary["trained_parameters"]
    assert trained == (100 + 1) * 256
    assert trained < 0.01 * sum(p.numel() for p in start.model.parameters())


def test_a_new_day_of_a_known_code_is_learned(tmp_path):
    """Ten seconds of a session whose units the decoder knows under other names: rows alone are enough."""
    recording = toys.recording(seconds=100, units=40)
    optim = OptimConfig(learning_rate=1e-2)
    config = TrainConfig(
        behavior=("vel",),
        decoder=toys.PossmConfig(width=32, hidden=48, head_width=32, num_rotary_pairs=8),
        epochs=20,
        window_s=2.0,
        batch_size=8,
        optim=optim,
    )
    pretrained = train([recording], config, tmp_path / "pretrained").decoder
    names = tuple(f"other{i}" for i in range(40))
    today = replace(recording, session_id="today", unit_ids=names)
    shuffled = replace(today, unit_ids=tuple(np.random.default_rng(0).permutation(names)))
    adapt = config_of(minutes=0.5, steps=120, window_s=2.0, optim=OptimConfig(learning_rate=3e-2))
    result = finetune(pretrained, [shuffled], adapt, tmp_path / "today")
    rows = [json.loads(line) for line in (tmp_path / "today" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["epoch"] == 0
    assert rows[0]["valid_r2"] < 0.2
    assert evaluate(result.decoder, shuffled)[0][0].r2 > 0.6


def test_the_calibration_is_the_first_minutes(tmp_path):
    """Data after them change nothing, not even which weights are selected."""
    signal = NEW.signals["vel"]
    cut_s = NEW.split("train").start_s[0] + 0.4 * 60
    values = signal.values.copy()
    values[signal.times_s >= cut_s] = 1e3
    other = replace(NEW, signals={"vel": replace(signal, values=values)})
    config = config_of(minutes=0.4)
    one, two = (finetune(DECODER, [r], config, tmp_path / str(i)) for i, r in enumerate((NEW, other)))
    assert all(
        torch.equal(weights(one.decoder)[name], weights(two.decoder)[name]) for name in weights(one.decoder)
    )
    start = adapted_start(DECODER, [NEW], config)
    train_s, valid_s = (start.recordings[0].split(name).total_s for name in ("train", "valid"))
    assert (train_s, valid_s) == (pytest.approx(0.8 * 24), pytest.approx(0.2 * 24))


def test_low_rank_trains_fewer_weights_and_leaves_a_plain_decoder(tmp_path):
    config = config_of(mode="lora", rank=3)
    result = finetune(DECODER, [NEW], config, tmp_path)
    assert result.summary["trained_parameters"] == 3 * (13 + 16) + 16
    saved, before = load_decoder(result.path), weights(DECODER)
    assert saved.hash == result.decoder.hash
    assert weights(saved).keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(weights(saved)[name][: len(value)], value), name
    begun = adapted_start(DECODER, [NEW], config).model.state_dict()
    moved = (
        weights(saved)["token.unit.weight"][41:] - begun["token.unit.parametrizations.weight.original"][41:]
    )
    size = torch.linalg.svdvals(moved)
    assert size[2] > 1e-4
    assert size[3:].max() < 1e-6 * size[0]


def test_the_basis_of_low_rank_rows():
    """Rows that differ along two directions: these, as long as the deviation along each."""
    from possm.training.lora import principal_rows

    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(8, 2, generator=generator, dtype=torch.float64))[0].T
    scores = torch.randn(500, 2, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 0.5])
    table = 7.0 + scores @ directions
    basis = principal_rows(table, 5)
    assert basis.shape == (2, 8)
    np.testing.assert_allclose(basis.norm(dim=1), [3.0, 0.5], rtol=0.1)
    assert abs(torch.cosine_similarity(basis[0], directions[0], dim=0)) > 0.99
    assert principal_rows(table, 1).shape == (1, 8)
