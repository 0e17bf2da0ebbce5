"""The bench of handwriting: which trials are learnt from, and that a small run makes its rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from possm.bench.handwriting import HandwritingBench, bench_handwriting, few_trials
from possm.errors import ConfigError

TINY = HandwritingBench(
    trials_per_class=(2, 5),
    test_trials=2,
    seeds=(0,),
    characters=3,
    steps=2,
    finetune_steps=2,
    pretrain_steps=2,
    pretrain_sessions=1,
    pretrain_s=30.0,
)


def characters_of(recording, split):
    trials = recording.intervals["trials"]
    rows = np.isin(trials.start_s, recording.split(split).start_s)
    return np.unique(trials.columns["character"][rows], return_counts=True)[1].tolist()


@pytest.mark.parametrize(("per_class", "train", "valid"), [(2, 1, 1), (3, 2, 1), (5, 4, 1), (10, 8, 2)])
def test_trials_are_shared_out_by_character(per_class, train, valid):
    config = replace(TINY, trials_per_class=(per_class, 10))
    recording = few_trials(config, per_class=per_class, seed=0)
    assert characters_of(recording, "train") == [train] * 3
    assert characters_of(recording, "valid") == [valid] * 3
    assert characters_of(recording, "test") == [2] * 3


def test_the_test_trials_are_the_same_however_many_are_learnt_from():
    few, many = (few_trials(TINY, per_class=n, seed=1) for n in (2, 5))
    np.testing.assert_array_equal(few.split("test").start_s, many.split("test").start_s)
    learnt = [np.concatenate([r.split(s).start_s for s in ("train", "valid")]) for r in (few, many)]
    assert set(learnt[0]) < set(learnt[1])
    assert not set(learnt[1]) & set(many.split("test").start_s)
    assert few_trials(TINY, per_class=2, seed=2).session_id != few.session_id


def in_this_process(jobs, function, out, *, workers, progress):
    """What `run_jobs` does, without its processes."""
    rows = []
    for job in jobs:
        folder = out / "runs" / job.name
        folder.mkdir(parents=True)
        rows += [{**row, "status": "ok"} for row in function(job, folder)]
    return rows


def test_a_small_run_makes_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("possm.bench.handwriting.run_jobs", in_this_process)
    report = bench_handwriting(tmp_path, replace(TINY, trials_per_class=(5,)))
    assert [(r["decoder"], r["start"]) for r in report.rows] == [
        ("pca-knn", "scratch"),
        ("gru", "scratch"),
        ("possm-gru", "scratch"),
        ("possm-gru", "pretrained"),
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
        assert wanted <= set(row) and row["status"] == "ok", row["status"]
        assert (
            0 <= row["accuracy"] <= 1 and row["parameters"] > 0 and row["recording"] == "handwriting-s00-d00"
        )
    assert "3 characters" in report.text()


def test_too_few_trials_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ConfigError, match="too few trials"):
        bench_handwriting(tmp_path, TINY)
    assert not list(tmp_path.iterdir())


def test_settings_that_are_none_are_refused():
    with pytest.raises(ConfigError, match="trials_per_class"):
        HandwritingBench(trials_per_class=(1,))
    with pytest.raises(ConfigError, match="characters"):
        HandwritingBench(characters=1)
    assert HandwritingBench.quick().characters < 31
