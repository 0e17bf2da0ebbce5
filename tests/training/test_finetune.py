"""Adapting a decoder: what changes, what stays, what it is worth, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import toys
from possm.checkpoint import Decoder, load_decoder
from possm.data.scaling import Scaling
from possm.data.vocabulary import Vocabulary
from possm.decoders import build_decoder
from possm.errors import ConfigError
from possm.evaluation.score import decode, evaluate
from possm.model.contract import BehaviorConfig
from possm.training.finetune import FinetuneConfig, adapted_start, finetune
from possm.training.loop import TrainConfig, train
from possm.training.optim import OptimConfig
from possm.training.presets import PRESETS
from possm.training.run import Run

OLD = [toys.recording(seconds=30, session=f"day{day}", seed=day) for day in range(2)]
NEW = toys.recording(seconds=60, session="today", units=13, seed=7)
DECODER = toys.decoder_for(*OLD)


def config_of(**changes):
    return FinetuneConfig(**{"steps": 6, "window_s": 1.0, "batch_size": 8, **changes})


pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_the_encoder_may_stay_as_it_was(tmp_path):
    """All else of mode "full" is trained, and rows are."""
    config = config_of(mode="full", keep_encoder=True, units_share=0.0, steps=4)
    result = finetune(DECODER, [NEW], config, tmp_path)
    before, after = weights(DECODER), weights(result.decoder)
    same = {name for name in before if torch.equal(after[name][: len(before[name])], before[name])}
    encoder = {name for name in before if name.startswith(("encoder.", "token.kind"))}
    assert encoder <= same and "backbone.gru.weight_hh_l0" not in same
    assert "readouts.@vel.linear.weight" not in same and "attention.to_out.weight" not in same
    start = adapted_start(DECODER, [NEW], config).model.state_dict()
    assert not torch.equal(after["token.unit.weight"][-5:], start["token.unit.weight"][-5:])


def test_baselines_have_no_encoder_to_keep_and_no_rows_to_centre():
    decoder = baseline("gru")
    with pytest.raises(ConfigError, match="no encoder to keep"):
        adapted_start(decoder, [NEW], config_of(mode="full", keep_encoder=True))
    with pytest.raises(ConfigError, match="centre_units"):
        config_of(mode="lora", optim=OptimConfig(centre_units=True))


@pytest.mark.parametrize("name", ["gru", "mlp", "ndt2", "poyo"])
def test_rows_of_baselines_may_begin_by_which_units_go_together(name):
    """Whatever the shape of a row: a second session gets rows of its own, as far apart as the known ones."""
    decoder = baseline(name)
    start = adapted_start(decoder, [NEW], config_of(start="components"))
    table = {"gru": "readin.weight", "mlp": "readin.weight"}.get(name)
    for key, after in start.model.named_parameters():
        if table in (None, key) and len(after) == len(start.vocabulary.units):
            new = after[start.vocabulary.unit_rows(NEW)].detach().flatten(1)
            assert torch.isfinite(new).all() and new.std(dim=0).max() > 0
    assert start.summary["units_from_components"] == 13


def baseline(name):
    config = PRESETS[name](TrainConfig(behavior=("vel",), window_s=1.0)).decoder
    config = replace(config, behaviors={"vel": BehaviorConfig(num_dimensions=2)})
    vocabulary = Vocabulary.of(OLD)
    torch.manual_seed(0)
    sizes = {"num_units": len(vocabulary.units), "num_sessions": len(vocabulary.sessions)}
    return Decoder(build_decoder(config, **sizes), vocabulary, {"vel": Scaling.fit(OLD, "vel")}, {})


def test_dropout_of_the_adapted_decoder():
    start = adapted_start(DECODER, [NEW], config_of(dropout=0.4))
    assert start.model.config.dropout == 0.4 and DECODER.config.dropout != 0.4
    assert {m.p for m in start.model.modules() if isinstance(m, torch.nn.Dropout)} == {0.4}
    assert adapted_start(DECODER, [NEW], config_of()).model.config.dropout == DECODER.config.dropout
    with pytest.raises(ConfigError, match="dropout"):
        config_of(dropout=1.0)


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
    """Half a minute of a session whose units the decoder knows under other names: rows alone are enough."""
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
    adapt = config_of(minutes=0.5, steps=60, window_s=2.0, optim=OptimConfig(learning_rate=3e-2, ema=0.9))
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


def interrupted(config, folder, at):
    """Run until this step, then Ctrl-C; then the same command again."""

    def stop(progress):
        if progress.valid_score is None and progress.step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(DECODER, [NEW], config, folder, progress=stop)
    torch.manual_seed(12345)  # another process has other random numbers
    steps = []
    result = finetune(DECODER, [NEW], config, folder, progress=lambda p: steps.append(p.step))
    return result, steps[0]


@pytest.mark.parametrize("mode", ["units", "full", "lora"])
@pytest.mark.parametrize("at", [2, 11, 21])
def test_it_goes_on_after_an_interruption(tmp_path, mode, at):
    """In either phase, and ends with the same decoder as a run that was never interrupted."""
    config = config_of(mode=mode, steps=24, units_share=0.5, rank=3)
    whole = finetune(DECODER, [NEW], config, tmp_path / "whole")
    again, first = interrupted(config, tmp_path / "run", at)
    assert again.decoder.hash == whole.decoder.hash
    assert first > 0 or at == 2
    assert first <= at
    rows = [metrics(tmp_path / name) for name in ("whole", "run")]
    assert rows[0] == rows[1]


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "wall_s"} for row in rows]


def test_a_folder_of_another_adaptation_is_refused(tmp_path):
    finetune(DECODER, [NEW], config_of(), tmp_path)
    with pytest.raises(ConfigError, match="other settings") as caught:
        finetune(DECODER, [NEW], config_of(start="electrode"), tmp_path)
    assert "start was random, now electrode" in caught.value.got
    other = toys.decoder_for(*OLD, seed=3)
    with pytest.raises(ConfigError, match="other settings") as caught:
        finetune(other, [NEW], config_of(), tmp_path)
    assert "decoder_hash was" in caught.value.got


def test_it_stops_when_nothing_gets_better(tmp_path, monkeypatch):
    """The best is the second validation; after three more without a better one, the run ends."""
    from possm.training import run

    real, told = run.evaluate, iter([0.1, 0.5, 0.4, 0.3, 0.45, 0.2, 0.1, 0.1])

    def evaluate_(*arguments, **settings):
        scores, decoded = real(*arguments, **settings)
        return [replace(scores[0], r2=next(told))], decoded

    monkeypatch.setattr(run, "evaluate", evaluate_)
    config = config_of(steps=60, patience=3)
    result = finetune(DECODER, [NEW], config, tmp_path)
    rows = metrics(tmp_path)
    assert [row["valid_r2"] for row in rows] == [0.1, 0.5, 0.4, 0.3, 0.45]
    assert result.decoder.provenance["epoch"] == rows[1]["epoch"]
    again = finetune(DECODER, [NEW], config, tmp_path)  # done stays done
    assert again.decoder.hash == result.decoder.hash
    assert len(metrics(tmp_path)) == 5


def test_weights_are_pulled_back_to_where_they_started(tmp_path):
    """Ever less far from the pretrained weights, the stronger the pull."""
    moved = []
    for decay in (0.0, 200.0, 800.0):
        config = config_of(mode="full", steps=20, units_share=0.0, anchor_decay=decay)
        run = Run(adapted_start(DECODER, [NEW], config), tmp_path / str(decay))
        run.run(None)
        after, before = run.model.state_dict(), weights(DECODER)
        moved.append(float((after["backbone.gru.weight_hh_l0"] - before["backbone.gru.weight_hh_l0"]).norm()))
    assert moved[0] > 1.5 * moved[1] > 2 * 1.5 * moved[2] > 0


def test_the_first_word_is_what_the_start_is_worth(tmp_path):
    shown = []
    finetune(DECODER, [NEW], config_of(), tmp_path, progress=shown.append)
    assert shown[0].step == 0
    assert np.isfinite(shown[0].valid_score)
    assert metrics(tmp_path)[0]["train_loss"] is None
