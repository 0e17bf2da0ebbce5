"""Many recordings in one run: of several labs, not all with the same behaviors, some damaged."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import toys
from possm.checkpoint import load_decoder
from possm.data.formats import load_recording, write_hdf5
from possm.data.intervals import Intervals
from possm.data.series import Signal
from possm.errors import ConfigError, RecordingError
from possm.evaluation.score import evaluate
from possm.model.decoder import PossmConfig
from possm.training.config import TrainConfig
from possm.training.loop import train
from possm.training.optim import OptimConfig
from possm.training.preflight import gather

BASE = toys.recording(seconds=20, units=8)


def recording(
    session, *, dataset="one", scale=1.0, rate_hz=100.0, unit="cm/s", behavior="cursor.vel", seed=1
):
    made = toys.recording(session=session, seconds=20, units=8, seed=seed, rate_hz=rate_hz)
    signal = made.signals["vel"]
    signal = Signal(np.asarray(signal.values) * scale, rate_hz=rate_hz, unit=unit)
    return replace(made, signals={behavior: signal}, attributes={"brainset.id": dataset})


def with_gaze(of):
    gaze = Signal(toys.smooth(np.random.default_rng(5), 500, rate_hz=25.0)[:, :1], rate_hz=25.0)
    return replace(of, signals={**of.signals, "eye.pos": gaze})


def config(*behaviors, **changes):
    settings = {
        "behavior": behaviors or ("cursor.vel",),
        "decoder": PossmConfig(**toys.TINY, dropout=0.0),
        "window_s": 1.0,
        "batch_size": 8,
        "epochs": 2,
        "valid_every": 1,
        "optim": OptimConfig(learning_rate=5e-3),
        "device": "cpu",
    }
    return TrainConfig(**{**settings, **changes})


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


LABS = [
    recording("a"),
    recording("b", dataset="two", scale=1000.0, rate_hz=250.0, unit="um/s", seed=2),
    with_gaze(recording("c", dataset="three", behavior="hand.vel", seed=3)),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three labs: other rates, units, names and behaviors."""
    out = tmp_path_factory.mktemp("run")
    settings = config(
        *("cursor.vel", "eye.pos"),
        epochs=30,
        valid_every=15,
        rename=("hand.vel=cursor.vel",),
        allow_missing_behaviors=True,
        scaling="dataset",
        balance="dataset",
        dataset_weights={"one": 0.5},
    )
    return train(LABS, settings, out), out


def test_labs_together(run):
    """Every session is decoded in its own unit, and what one of them has alone is learnt, too."""
    result, out = run
    decoder = load_decoder(out / "decoder.safetensors")
    assert [decoder.scaling_of(s)["cursor.vel"].unit for s in "abc"] == ["cm/s", "um/s", "cm/s"]
    assert decoder.scaling_of("b")["cursor.vel"].std[0] > 300 * decoder.scaling_of("a")["cursor.vel"].std[0]
    (score,), decoded = evaluate(decoder, LABS[1], split="train", behaviors=["cursor.vel"])
    assert score.r2 > 0.2 and np.abs(decoded["cursor.vel"].values).max() > 2000
    assert result.summary["best_valid_r2"] == max(row["valid_r2"] for row in rows(out))


def test_a_row_of_metrics_for_every_session_and_behavior_there_is(run):
    validated = {key for key in rows(run[1])[-1] if key.startswith("valid_r2/")}
    assert validated == {f"valid_r2/{s}/cursor.vel" for s in "abc"} | {"valid_r2/c/eye.pos"}


def test_a_missing_behavior_is_an_error_unless_it_may_be(tmp_path):
    with pytest.raises(RecordingError, match="(?s)^c: no behavior 'cursor.vel'.*hand.vel, eye.pos.*rename"):
        train(LABS, config(), tmp_path)
    with pytest.raises(RecordingError, match="(?s)^a: no behavior 'eye.pos'.*allow-missing-behaviors"):
        train(LABS, config("cursor.vel", "eye.pos", rename=("hand.vel=cursor.vel",)), tmp_path)
    with pytest.raises(RecordingError, match="^a: no behavior 'eye.pos'"):  # nothing to learn from it
        train(LABS, config("eye.pos", allow_missing_behaviors=True), tmp_path)


def test_units_of_labs_need_scalings_of_their_own(tmp_path):
    with pytest.raises(RecordingError, match="(?s)several physical units.*--scaling dataset"):
        train(LABS[:2], config(), tmp_path)


def test_a_session_listed_twice(tmp_path):
    with pytest.raises(ConfigError, match="same session"):
        train([LABS[0], LABS[0]], config(), tmp_path)


def test_unit_names_may_repeat_across_sessions(run):
    """Every session has its own row for "u0"."""
    vocabulary = run[0].decoder.vocabulary
    assert len(vocabulary.units) == 1 + 3 * 8
    known = [vocabulary.rows_of(session, ["u0"])[0] for session in "abc"]
    assert len(set(known)) == 3 and min(known) > 0


def test_a_weight_of_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="dataset_weights names 'four'"):
        train(LABS[:1], config(dataset_weights={"four": 2.0}), tmp_path)


def test_a_weight_of_zero_teaches_nothing(tmp_path):
    """With a weight of 0 a dataset has no part in the loss: the other one is learnt as if alone."""
    quiet = replace(recording("quiet", dataset="two", seed=4), signals={"cursor.vel": noise()})
    result = train([LABS[0], quiet], config(dataset_weights={"two": 0.0}, epochs=1), tmp_path / "a")
    loud = train([LABS[0], quiet], config(epochs=1), tmp_path / "b")
    assert rows(tmp_path / "a")[0]["train_loss"] != rows(tmp_path / "b")[0]["train_loss"]
    row = result.decoder.vocabulary.session_row("quiet")
    before = train([LABS[0], quiet], config(dataset_weights={"two": 0.0}, epochs=2), tmp_path / "c")
    rows_of = [r.decoder.model.session.weight[row] for r in (result, before, loud)]
    assert np.allclose(rows_of[0].detach(), rows_of[1].detach(), atol=1e-6)  # its row never moves
    assert not np.allclose(rows_of[0].detach(), rows_of[2].detach(), atol=1e-6)


def noise():
    return Signal(np.random.default_rng(0).standard_normal((2000, 2)), rate_hz=100.0, unit="cm/s")


def test_a_damaged_recording_is_skipped_on_request_only(tmp_path, caplog):
    broken = replace(recording("broken"), domain=Intervals.of([]))
    splitless = replace(recording("splitless"), intervals={})
    with pytest.raises(RecordingError, match="^broken"):
        gather([LABS[0], broken, splitless], config())
    kept = gather([LABS[0], broken, splitless], config(skip_bad=True))
    assert [r.session_id for r in kept] == ["a"]
    assert [name in caplog.text for name in ("skipped: broken", "skipped: splitless")] == [True, True]
    with pytest.raises(ConfigError, match="every recording was skipped"):
        gather([broken], config(skip_bad=True))


def test_a_cheap_validation(tmp_path):
    """A few seconds of a few sessions, spread over all of them."""
    recordings = [recording(f"s{i}", seed=i) for i in range(5)]
    result = train(recordings, config(valid_sessions=3, valid_s=1.0, epochs=1), tmp_path)
    validated = sorted(key for key in rows(tmp_path)[0] if key.startswith("valid_r2/"))
    assert validated == [f"valid_r2/s{i}/cursor.vel" for i in (0, 2, 4)]
    (score,), decoded = evaluate(result.decoder, recordings[0], split="valid", limit_s=1.0)
    assert score.seconds == pytest.approx(1.0) and len(decoded["cursor.vel"].times_s) == 100


def test_workers_and_lazy_files_change_nothing(tmp_path):
    for i, lab in enumerate(LABS[:1]):
        write_hdf5(lab, tmp_path / f"{i}.h5")
    lazy = [load_recording(tmp_path / "0.h5")]
    alone = train(LABS[:1], config(), tmp_path / "alone")
    together = train(lazy, config(workers=2), tmp_path / "together")
    one, two = (dict(r.decoder.model.named_parameters()) for r in (alone, together))
    assert all(np.array_equal(one[name].detach(), two[name].detach()) for name in one)


def test_another_number_of_workers_goes_on_with_a_run(tmp_path):
    train(LABS[:1], config(workers=1), tmp_path)
    train(LABS[:1], config(workers=0), tmp_path)  # finds it complete
    with pytest.raises(ConfigError, match="other settings"):
        train(LABS[:1], config(balance="session"), tmp_path)
