"""Tables of accuracies: means over seeds, failures told, rows written."""

from __future__ import annotations

import json
import math

from possm.bench.classes import ClassReport, job_name


def row(decoder="a", seed=0, accuracy=0.5, **more):
    return {
        "decoder": decoder,
        "start": "scratch",
        "seed": seed,
        "accuracy": accuracy,
        "status": "ok",
        **more,
    }


ROWS = [row(seed=0, accuracy=0.5), row(seed=1, accuracy=0.75), row("long name", accuracy=1.0)]


def test_seeds_are_averaged_and_shown():
    report = ClassReport(ROWS, ("decoder", "start"), ("a note",))
    head, first, second, note = report.text().splitlines()
    assert head.split() == ["decoder", "start", "accuracy", "each", "seed"]
    assert first.split() == ["a", "scratch", "62.5", "%", "50.0", "75.0"]
    assert second.split("  ")[0] == "long name" and note == "a note"
    assert report.mean(decoder="a") == 0.625
    assert math.isnan(report.mean(decoder="b"))


def test_what_failed_is_told_and_does_not_count():
    failed = {**row(seed=2, accuracy=None), "status": "failed: no memory"}
    report = ClassReport([*ROWS, failed], ("decoder",))
    assert report.text().splitlines()[-1] == "a, seed 2: failed: no memory"
    assert report.mean(decoder="a") == 0.625
    assert "failed" in ClassReport([failed], ("decoder",)).text().splitlines()[1]


def test_rows_are_written(tmp_path):
    ClassReport(ROWS, ("decoder",)).write(tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text()) == ROWS


def test_names_of_jobs_are_names_of_files():
    assert job_name("possm-gru", "3 trials", "seed0/1") == "possm-gru-3_trials-seed0_1"
