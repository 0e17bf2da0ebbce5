"""Categories in training: their loss, their classes, what is refused, and that they are learnt."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

import toys
from possm.batch import Targets
from possm.checkpoint import load_decoder
from possm.data.intervals import Intervals
from possm.data.loader import SampleMaker
from possm.data.series import Signal
from possm.data.vocabulary import Vocabulary
from possm.data.windows import Window
from possm.errors import ConfigError, RecordingError
from possm.evaluation.score import evaluate
from possm.model.contract import BehaviorConfig
from possm.training.categories import category_config
from possm.training.loop import TrainConfig, train
from possm.training.losses import cross_entropy
from possm.training.optim import OptimConfig
from trial_toys import CLASSES, LABEL, behavior, trial_recording

RECORDING = trial_recording()
CONFIG = TrainConfig(
    behavior=(LABEL,),
    decoder=replace(toys.tiny_config(), behaviors={}, dropout=0.0),
    window_s=0.4,
    batch_size=8,
    epochs=12,
    valid_every=4,
    optim=OptimConfig(learning_rate=1e-2, ema=0.9),
)


def relabelled(labels, recording=RECORDING):
    trials = replace(recording.intervals["trials"], columns={"target": np.asarray(labels)})
    return replace(recording, intervals={**recording.intervals, "trials": trials})


def maker(lead_ms=50, recording=RECORDING, **changes):
    return SampleMaker(
        recordings=[recording],
        vocabulary=Vocabulary.of([recording]),
        scaling={},
        classes={LABEL: CLASSES},
        chunk_ms=50,
        lead_ms=lead_ms,
        **changes,
    )


def test_cross_entropy_is_that_of_a_hand():
    answer = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1 / 3, 1 / 3, 1 / 3]]))
    targets = Targets(torch.tensor([0, 2, 1]), torch.tensor([1.0, 3.0, 0.0]))
    wanted = (np.log(2) + 3 * np.log(1 / 0.8)) / 4
    assert float(cross_entropy(answer, targets)) == pytest.approx(wanted, rel=1e-6)
    nothing = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    assert float(cross_entropy(torch.zeros(0, 3), nothing)) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_dimensions": 1, "classes": ("a",)},
        {"num_dimensions": 3, "classes": ("a", "b")},
        {"num_dimensions": 2, "classes": ("a", "a")},
        {"num_dimensions": 2},
    ],
)
def test_classes_that_are_none_are_refused(wrong):
    with pytest.raises(ConfigError, match="classes"):
        BehaviorConfig(readout="category", **wrong)


@pytest.mark.parametrize("lead_ms", [0, 50, 70])
def test_a_chunk_has_the_label_of_the_trial_that_holds_its_start(lead_ms):
    """Trials of 0.6 s begin at 0.1, 0.9, 1.7 s."""
    sample = maker(lead_ms).sample(Window(0, 0.0, 2.0), num_chunks=40)
    asked, targets = sample.queries[LABEL], sample.targets[LABEL]
    first = [CLASSES.index(str(c)) for c in RECORDING.intervals["trials"].columns["target"][:3]]
    wanted = [2 + np.arange(12), 18 + np.arange(12), 34 + np.arange(6)]
    assert asked.chunk.tolist() == np.concatenate(wanted).tolist()
    assert targets.values.tolist() == np.repeat(first, [12, 12, 6]).tolist()
    assert targets.values.dtype == np.int64
    np.testing.assert_allclose(asked.time_s, (lead_ms - 50) / 1000, atol=1e-7)


def test_chunks_beyond_the_limit_of_a_window_are_not_asked():
    sample = maker().sample(Window(0, 0.3, 0.52), num_chunks=10)
    assert sample.queries[LABEL].chunk.tolist() == [0, 1, 2, 3, 4]


def test_interval_weights_go_by_the_start_of_the_chunk():
    recording = replace(RECORDING, intervals={**RECORDING.intervals, "late": Intervals.of([(0.4, 0.7)])})
    made = maker(recording=recording, interval_weights={"late": 3.0}).sample(
        Window(0, 0.1, 0.7), num_chunks=12
    )
    assert made.targets[LABEL].weights.tolist() == [1.0] * 6 + [3.0] * 6


def test_classes_are_those_of_all_train_splits_in_order():
    labels = RECORDING.intervals["trials"].columns["target"].astype("U9")
    other = relabelled(np.where(labels == "left", "down", labels))
    assert category_config([RECORDING, other], LABEL) == behavior(("down", "left", "right", "up"))
    with pytest.raises(ConfigError, match="not in all"):
        category_config([RECORDING, replace(RECORDING, intervals={})], LABEL)
    with pytest.raises(RecordingError, match="no two classes"):
        category_config([relabelled(np.full(60, "left"))], LABEL)


def test_a_decoder_learns_them_and_keeps_their_names(tmp_path):
    shown = []
    result = train([RECORDING], CONFIG, tmp_path, progress=shown.append)
    assert result.summary["best_valid_accuracy"] > 0.9 and "best_valid_r2" not in result.summary
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["valid_accuracy"] == rows[-1][f"valid_accuracy/toy/{LABEL}"]
    assert {p.measure for p in shown if p.valid_score is not None} == {"accuracy"}
    decoder = load_decoder(tmp_path / "decoder.safetensors")
    assert decoder.classes == {LABEL: CLASSES}
    (score,), _ = evaluate(decoder, RECORDING)
    assert score.accuracy > 0.9
    assert score.evolving["accuracy"][-1] >= score.evolving["accuracy"][0]


def test_weights_that_are_no_numbers_are_not_kept(tmp_path, monkeypatch):
    """Their largest logit is a class like any other, so no score says it."""

    def explode(model, *_, **__):
        with torch.no_grad():
            next(model.parameters()).fill_(torch.nan)

    monkeypatch.setattr("possm.training.run.update_average", explode)
    with pytest.raises(ConfigError, match="no longer a number"):
        train([RECORDING], replace(CONFIG, epochs=1), tmp_path)
    assert not (tmp_path / "decoder.safetensors").exists()


def test_classes_and_movement_together_select_by_their_mean(tmp_path):
    times_s = np.arange(0, RECORDING.domain.end_s[0], 0.02)
    recording = replace(
        RECORDING, signals={"hand.vel": Signal(np.sin(times_s)[:, None], timestamps_s=times_s)}
    )
    config = replace(CONFIG, behavior=("hand.vel", LABEL), epochs=1, valid_every=1)
    result = train([recording], config, tmp_path)
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    parts = [row["valid_r2/toy/hand.vel"], row[f"valid_accuracy/toy/{LABEL}"]]
    assert row["valid_score"] == pytest.approx(np.mean(parts))
    assert set(result.decoder.scaling) == {"hand.vel"}


def test_what_cannot_be_trained_on_is_refused_before_the_first_step(tmp_path):
    labels = RECORDING.intervals["trials"].columns["target"].astype("U9")
    part = np.arange(60) % 6
    wrong = {
        "no two classes": np.where(part < 4, "", labels),
        r"(?s)10 of 10 labels.*'new' \(10\)": np.where(part == 4, "new", labels),
        "(?s)no labelled trial.*valid": np.where(part == 4, "", labels),
    }
    for message, changed in wrong.items():
        with pytest.raises(RecordingError, match=message):
            train([relabelled(changed)], CONFIG, tmp_path)
    with pytest.raises(RecordingError, match="(?s)no behavior 'trials.targt'.*trials.target"):
        train([RECORDING], replace(CONFIG, behavior=("trials.targt",)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_trials_without_a_label_are_left_out_and_counted(tmp_path, caplog):
    labels = RECORDING.intervals["trials"].columns["target"].astype("U9")
    labels[[0, 1, 4]] = ""
    with caplog.at_level(logging.WARNING):
        train([relabelled(labels)], replace(CONFIG, epochs=1, valid_every=1), tmp_path)
    assert f"1 trials of the valid split have no label '{LABEL}'" in caplog.text
    assert f"2 trials of the train split have no label '{LABEL}'" in caplog.text
