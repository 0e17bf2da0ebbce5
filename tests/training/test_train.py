"""Training learns what is there, writes what it says, repeats, and refuses what cannot be trained on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import toys
from possm.checkpoint import load_decoder
from possm.data.intervals import Intervals
from possm.data.series import Signal, Spikes
from possm.errors import CheckpointError, ConfigError, PossmError, RecordingError
from possm.evaluation.score import evaluate
from possm.model.decoder import PossmConfig
from possm.training.loop import TrainConfig, train
from possm.training.optim import OptimConfig

RECORDING = toys.recording(seconds=30)
BINNED = toys.recording(seconds=30, bin_ms=50)


def config_of(**changes):
    settings = {
        "epochs": 2,
        "valid_every": 1,
        "window_s": 1.0,
        "batch_size": 8,
        "decoder": PossmConfig(**toys.TINY),
    }
    return TrainConfig(**{"behavior": ("vel",), **settings, **changes})


def with_signal(recording, values, **changes):
    signals = {"vel": replace(recording.signals["vel"], values=values, **changes)}
    return replace(recording, signals=signals)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("bin_ms", [None, 50])
def test_learns_a_linear_code(tmp_path, bin_ms):
    """Rates linear in a slow movement: most of the variance can be read, and is, on data held out."""
    recording = toys.recording(seconds=100, units=40, bin_ms=bin_ms)
    decoder = PossmConfig(width=32, hidden=48, head_width=32, num_rotary_pairs=8)
    optim = OptimConfig(learning_rate=1e-2)
    config = config_of(decoder=decoder, epochs=24, valid_every=12, window_s=2.0, optim=optim)
    result = train([recording], config, tmp_path)
    scores, _ = evaluate(load_decoder(result.path), recording)
    assert scores[0].r2 > 0.8
    assert result.summary["best_valid_r2"] > 0.75


def test_what_a_run_leaves(tmp_path):
    shown = []
    recordings = [RECORDING, toys.recording(seconds=30, session="day2", units=7, seed=4)]
    result = train(recordings, config_of(), tmp_path / "deep" / "run", progress=shown.append)
    folder = tmp_path / "deep" / "run"
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "decoder.safetensors",
        "metrics.jsonl",
        "resume.safetensors",
        "summary.json",
    ]
    summary = json.loads((folder / "summary.json").read_text())
    keys = {"best_valid_r2", "wall_s", "windows_per_s", "parameters", "peak_memory_mb"}
    assert set(summary) >= keys
    assert result.summary == summary
    assert summary["parameters"] == sum(p.numel() for p in result.decoder.model.parameters())
    assert min(summary[key] for key in keys - {"best_valid_r2"}) > 0
    rows = rows_of(folder)
    assert [row["epoch"] for row in rows] == [1, 2]
    wanted = {"epoch", "step", "train_loss", "valid_r2", "learning_rate", "wall_s"}
    assert set(rows[0]) == wanted | {"valid_r2/toy/vel", "valid_r2/day2/vel"}
    for row in rows:
        assert row["valid_r2"] == pytest.approx((row["valid_r2/toy/vel"] + row["valid_r2/day2/vel"]) / 2)
    assert summary["best_valid_r2"] == max(row["valid_r2"] for row in rows)
    saved = load_decoder(result.path)
    assert saved.hash == result.decoder.hash
    assert saved.vocabulary.sessions == ("toy", "day2")
    assert saved.provenance["epoch"] == max(rows, key=lambda row: row["valid_r2"])["epoch"]
    assert saved.provenance["training"]["batch_size"] == 8
    assert json.loads((folder / "config.json").read_text())["decoder"]["width"] == toys.TINY["width"]
    steps = [p for p in shown if p.valid_score is None]
    assert [p.step for p in steps] == list(range(1, len(steps) + 1))
    assert [p.valid_score for p in shown if p.valid_score is not None] == [row["valid_r2"] for row in rows]
    assert all(p.eta_s >= 0 for p in shown[:-2])


def test_the_best_validation_is_what_is_kept(tmp_path, monkeypatch):
    """Not the last weights: those of the second validation, which is made to look best."""
    from possm.training import run

    real, told = run.evaluate, iter([0.1, 0.9, 0.5])
    kept = []

    def evaluate_(decoder, recording, **settings):
        kept.append({k: v.clone() for k, v in decoder.model.state_dict().items()})
        scores, decoded = real(decoder, recording, **settings)
        return [replace(scores[0], r2=next(told))], decoded

    monkeypatch.setattr(run, "evaluate", evaluate_)
    result = train([RECORDING], config_of(epochs=3), tmp_path)
    weights = load_decoder(result.path).model.state_dict()
    assert all(torch.equal(weights[name], kept[1][name]) for name in weights)
    assert not all(torch.equal(weights[name], kept[2][name]) for name in weights)
    assert result.decoder.provenance["epoch"] == 2


def test_seeds(tmp_path):
    """The same seed gives the same weights, another one others."""
    runs = {
        name: train([RECORDING], config_of(seed=seed), tmp_path / name)
        for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    }
    a, b, c = (run.decoder.model.state_dict() for run in runs.values())
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["encoder.to_out.weight"], c["encoder.to_out.weight"])


def test_bf16(tmp_path):
    """Close to float32 after the same steps."""
    loss = {}
    for precision in ("float32", "bf16"):
        train([RECORDING], config_of(epochs=1, precision=precision), tmp_path / precision)
        loss[precision] = rows_of(tmp_path / precision)[0]["train_loss"]
    assert loss["bf16"] != loss["float32"]
    assert loss["bf16"] == pytest.approx(loss["float32"], rel=0.02)


def test_several_behaviors(tmp_path):
    rng = np.random.default_rng(0)
    emg = Signal(rng.standard_normal((300, 3)), timestamps_s=np.sort(rng.uniform(0, 30, 300)))
    recording = replace(RECORDING, signals={**RECORDING.signals, "emg": emg})
    result = train([recording], config_of(behavior=("vel", "emg"), behavior_weights={"emg": 0.5}), tmp_path)
    assert {name: len(s.mean) for name, s in result.decoder.scaling.items()} == {"vel": 2, "emg": 3}
    assert {"valid_r2/toy/vel", "valid_r2/toy/emg"} <= set(rows_of(tmp_path)[0])


def test_loss_weights_change_what_is_learned(tmp_path):
    recording = replace(RECORDING, intervals={**RECORDING.intervals, "reach": Intervals.of([(1, 8)])})
    config = config_of(epochs=1, interval_weights={"reach": 20.0})
    plain, weighed = (
        train([recording], c, tmp_path / str(i)) for i, c in enumerate([config_of(epochs=1), config])
    )
    name = "encoder.to_out.weight"
    assert not torch.equal(plain.decoder.model.state_dict()[name], weighed.decoder.model.state_dict()[name])


def refused(error, recordings, config, tmp_path, match):
    """Before the first step, and so before anything is written."""
    steps = []
    with pytest.raises(error, match=match) as caught:
        train(recordings, config, tmp_path / "run", progress=steps.append)
    assert not steps
    assert not (tmp_path / "run").exists()
    return caught.value


def test_constant_behavior(tmp_path):
    flat = with_signal(RECORDING, np.ones((3000, 2)))
    refused(RecordingError, [flat], config_of(), tmp_path, "not defined|constant")
    values = RECORDING.signals["vel"].values.copy()
    values[RECORDING.split("train").contains(RECORDING.signals["vel"].times_s)] = 2.0
    refused(
        RecordingError, [with_signal(RECORDING, values)], config_of(), tmp_path, "constant in the train split"
    )


def test_a_validation_split_without_a_score(tmp_path):
    times_s = RECORDING.signals["vel"].times_s
    valid = RECORDING.split("valid").contains(times_s)
    for fill in (np.nan, 3.0):
        values = RECORDING.signals["vel"].values.copy()
        values[valid] = fill
        error = refused(
            RecordingError, [with_signal(RECORDING, values)], config_of(), tmp_path, "validation R2"
        )
        assert "toy, behavior 'vel'" in str(error)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_no_split(tmp_path, split):
    intervals = {name: i for name, i in RECORDING.intervals.items() if name != f"{split}_domain"}
    error = refused(
        RecordingError,
        [replace(RECORDING, intervals=intervals)],
        config_of(),
        tmp_path,
        f"no split '{split}'",
    )
    assert "chronological_split" in str(error)


def test_overlapping_splits(tmp_path):
    intervals = {**RECORDING.intervals, "valid_domain": Intervals.of([(5.0, 10.0)])}
    refused(RecordingError, [replace(RECORDING, intervals=intervals)], config_of(), tmp_path, "overlap")


@pytest.mark.parametrize("bad", ["unsorted", "nan", "unit"])
def test_bad_spikes(tmp_path, bad):
    """Training looks at a recording first, whoever made it."""
    times_s, unit = RECORDING.spikes.times_s.copy(), RECORDING.spikes.unit.copy()
    if bad == "unsorted":
        times_s[100] = 20.0
    elif bad == "nan":
        times_s[100] = np.nan
    else:
        unit[100] = 99
    refused(RecordingError, [replace(RECORDING, spikes=Spikes(times_s, unit))], config_of(), tmp_path, "toy")


def test_odd_but_usable_is_told_with_a_number(tmp_path, caplog):
    values = RECORDING.signals["vel"].values.copy()
    values[40:90] = np.nan
    train([with_signal(RECORDING, values)], config_of(epochs=1), tmp_path)
    assert any("toy" in message and "50" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"behavior": ("gaze",)}, RecordingError, "no behavior 'gaze'"),
        ({"evaluate_within": "reach"}, RecordingError, "no intervals 'reach'"),
        ({"interval_weights": {"train_domian": 2.0}}, ConfigError, "did you mean 'train_domain'"),
        ({"device": "abacus"}, PossmError, "cannot use device 'abacus'"),
    ],
)
def test_names_that_nothing_answers_to(tmp_path, changes, error, match):
    refused(error, [RECORDING], config_of(**changes), tmp_path, match)


def test_recordings_that_do_not_go_together(tmp_path):
    refused(ConfigError, [], config_of(), tmp_path, "no recording")
    refused(ConfigError, [RECORDING, RECORDING], config_of(), tmp_path, "same session")
    wide = with_signal(RECORDING, np.random.default_rng(0).standard_normal((3000, 3)))
    refused(ConfigError, [RECORDING, replace(wide, session_id="b")], config_of(), tmp_path, "differs in size")
    metres = replace(
        with_signal(RECORDING, RECORDING.signals["vel"].values / 100, unit="m/s"), session_id="b"
    )
    refused(RecordingError, [RECORDING, metres], config_of(), tmp_path, "several physical units")


@pytest.mark.parametrize(
    ("chunk_ms", "fix"), [(20, "--chunk-ms 50"), (70, "--chunk-ms 50"), (120, "--chunk-ms 100")]
)
def test_chunks_hold_whole_bins(tmp_path, chunk_ms, fix):
    """Else a bin would bring spikes from after the end of its chunk."""
    config = config_of(decoder=PossmConfig(**toys.TINY, chunk_ms=chunk_ms))
    error = refused(ConfigError, [BINNED], config, tmp_path, "whole number of the recording's bins")
    assert error.fix == fix


def test_chunks_of_several_bins(tmp_path):
    train([BINNED], config_of(epochs=1, decoder=PossmConfig(**toys.TINY, chunk_ms=100)), tmp_path)


def test_a_loss_that_explodes(tmp_path):
    config = config_of(optim=OptimConfig(learning_rate=1e30, clip_norm=1e30), epochs=50)
    with pytest.raises(ConfigError, match="no longer a number") as caught:
        train([RECORDING], config, tmp_path)
    assert "lower the learning rate" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("size", "match"), [(torch.nan, "a weight is no longer a number"), (1e36, "what the decoder answers")]
)
def test_weights_that_explode_in_the_last_step(tmp_path, monkeypatch, size, match):
    """No loss is left to say so; the validation split is not to blame."""

    def explode(model, *_, **__):
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(size)

    monkeypatch.setattr("possm.training.run.update_average", explode)
    with pytest.raises(ConfigError, match=match):
        train([RECORDING], config_of(epochs=1), tmp_path)


def test_the_output_folder_is_a_file(tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises((PossmError, CheckpointError)):
        train([RECORDING], config_of(), tmp_path / "run")
    assert (tmp_path / "run").read_text() == "not a folder"
