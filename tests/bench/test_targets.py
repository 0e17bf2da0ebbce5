"""The bench of delayed reaches: the figure to beat is the published one, and a small run makes its rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from possm.bench.targets import (
    LABEL,
    PUBLISHED,
    WINDOWS,
    TargetsConfig,
    bench_targets,
    for_training,
    load_delays,
    naive_bayes,
)
from possm.data.formats import write_hdf5
from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.data.series import Spikes
from possm.errors import ConfigError, RecordingError


def delays(path, *, trials=160, units=16, seed=0):
    """A file like the real one: unit u fires at 60 Hz in the plan of direction u mod 8 + 1, else at 5 Hz."""
    rng = np.random.default_rng(seed)
    start_s = np.arange(trials) * 1.0
    direction = 1 + rng.permutation(np.arange(trials) % 8)
    times, unit = [], []
    for begin_s, mine in zip(start_s, direction, strict=True):
        for u in range(units):
            rate_hz = 60 if u % 8 + 1 == mine else 5
            spikes = begin_s + rng.uniform(0, 0.7, rng.poisson(rate_hz * 0.7))
            times.append(spikes)
            unit.append(np.full(len(spikes), u))
    times_s, units_of = np.concatenate(times), np.concatenate(unit)
    order = np.argsort(times_s)
    part = np.resize(["train", "train", "train", "valid", "test", "test"], trials)
    whole = Intervals(start_s, start_s + 0.7, {"direction": direction, "part": part})
    plan = {WINDOWS[350]: Intervals(start_s + 0.35, start_s + 0.7)}
    plan[WINDOWS[200]] = Intervals(start_s + 0.35, start_s + 0.55)
    splits = {
        f"{name}_domain": Intervals(start_s[part == name], start_s[part == name] + 0.7)
        for name in ("train", "valid", "test")
    }
    recording = Recording(
        session_id="delays",
        unit_ids=tuple(f"u{i}" for i in range(units)),
        spikes=Spikes(times_s[order], units_of[order].astype(np.int64)),
        domain=Intervals(start_s, start_s + 0.7),
        intervals={"trials": whole, **plan, **splits},
    )
    write_hdf5(recording, path)
    return path


def test_windows_for_training_begin_a_little_before_the_plan(tmp_path):
    recording = for_training(load_delays(delays(tmp_path / "d.h5")))
    trials = recording.intervals["trials"]
    train = trials.where(trials.columns["part"] == "train")
    np.testing.assert_allclose(recording.split("train").start_s, train.start_s + 0.3)
    np.testing.assert_allclose(recording.split("train").end_s, train.start_s + 0.7)


def test_naive_bayes_is_that_of_a_hand(tmp_path):
    recording = load_delays(delays(tmp_path / "d.h5"))
    trials = recording.intervals["trials"]
    counts = np.array(
        [np.bincount(recording.spikes.slice(s + 0.35, s + 0.55).unit, minlength=16) for s in trials.start_s]
    )
    test = trials.columns["part"] == "test"
    direction = trials.columns["direction"]
    right = 0
    for n in np.flatnonzero(test):
        odds = []
        for k in range(1, 9):
            mine = counts[~test & (direction == k)]
            rate = (mine.sum(axis=0) + 0.5) / (len(mine) + 0.5)
            odds.append((counts[n] * np.log(rate) - rate).sum())
        right += 1 + int(np.argmax(odds)) == direction[n]
    assert naive_bayes(recording, 200) == pytest.approx(right / test.sum())


def test_a_quick_run_makes_the_rows_and_goes_on(tmp_path):
    path, lines = delays(tmp_path / "d.h5"), []
    report = bench_targets(path, tmp_path / "out", TargetsConfig.quick(), progress=lines.append)
    assert [(r["decoder"], r["window_ms"]) for r in report.rows] == [
        (name, ms) for name in ("naive-bayes", "possm-gru") for ms in (200, 350)
    ]
    wanted = {
        "recording",
        "decoder",
        "start",
        "trials_per_class",
        "seed",
        "accuracy",
        "parameters",
        "train_s",
    }
    for row in report.rows:
        assert wanted <= set(row) and row["status"] == "ok" and 0 <= row["accuracy"] <= 1
    assert report.rows[2]["recording"] == "delays" and report.rows[2]["parameters"] > 1000
    assert "published naive Bayes" in report.text() and len(lines) == 1
    again = bench_targets(path, tmp_path / "out", TargetsConfig.quick(), progress=lines.append)
    assert again.rows == report.rows and lines[-1] == "1 of 1 are done already"
    report.write(tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text()) == list(report.rows)


def test_another_recording_is_refused(tmp_path):
    recording = load_delays(delays(tmp_path / "d.h5"))
    bare = Recording(**{**vars(recording), "intervals": {"trials": recording.intervals["trials"]}})
    write_hdf5(bare, tmp_path / "bare.h5")
    with pytest.raises(RecordingError, match="not the recording of delayed reaches"):
        load_delays(tmp_path / "bare.h5")
    with pytest.raises(ConfigError, match="decoders"):
        TargetsConfig(decoders=("wiener",))


def test_naive_bayes_scores_what_is_published(recordings):
    recording = load_delays(recordings / "reach_delay_1ms" / "ps4_realdata.mat")
    for window_ms, accuracy in PUBLISHED.items():
        assert naive_bayes(recording, window_ms) == pytest.approx(accuracy, abs=5e-4)
    assert recording.intervals["trials"].columns[LABEL.split(".")[1]].max() == 8
