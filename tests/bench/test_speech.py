import json

import numpy as np
import pytest

from possm.bench import speech
from possm.bench.speech import (
    VARIANTS,
    SpeechBench,
    SpeechReport,
    Variant,
    bench_speech,
    simulate_days,
    speech_settings,
    time_steps,
)
from possm.errors import ConfigError

TINY = SpeechBench(seeds=(0,), days=1, sentences=12, longest_s=2.2, channels=6, steps=5, batch_size=4)


def test_the_table_has_every_variant_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """The smallest run there is, of two variants; what it says of speech means nothing."""
    monkeypatch.setattr(speech, "VARIANTS", (VARIANTS[0], VARIANTS[-1]))
    monkeypatch.setattr(speech, "time_steps", lambda channels: f"{channels} channels")
    report = bench_speech(tmp_path, TINY)
    assert [row["status"] for row in report.rows] == ["ok", "ok"]
    wanted = {"recording", "decoder", "inputs", "start", "trials_per_class", "seed", "per", "parameters"}
    assert all(wanted | {"train_s", "status"} == set(row) for row in report.rows)
    assert all(0 < row["per"] <= 2 and row["parameters"] > 1000 for row in report.rows)
    assert "possm-gru   counts + power  two phases" in report.text() and "6 channels" in report.text()
    report.write(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == report.rows
    said = []
    again = bench_speech(tmp_path, TINY, progress=said.append)
    assert again.rows == report.rows and said == ["2 of 2 are done already"]


def test_the_first_phase_comes_on_top_of_the_budget():
    config = SpeechBench(seeds=(0,), days=1, sentences=20, longest_s=2.2, channels=4, steps=100)
    recordings = simulate_days(config, 0)
    one, two = (
        speech_settings(Variant("possm-gru", "counts", start), config, recordings, seed=0)
        for start in ("one phase", "two phases")
    )
    assert (one.reconstruct_steps, two.reconstruct_steps) == (0, 20)
    assert one.epochs == two.epochs == 50  # 16 sentences are two batches
    assert one.decoder == two.decoder and one.optim == two.optim


def test_days_are_of_one_subject_and_differ():
    first, second = simulate_days(SpeechBench(days=2, sentences=10, longest_s=2.2, channels=5), 3)
    assert first.subject_id == second.subject_id and first.session_id != second.session_id
    assert not np.array_equal(first.binned.values[:100], second.binned.values[:100])


def test_means_leave_out_what_failed():
    row = {
        "decoder": "gru",
        "inputs": "counts",
        "start": "one phase",
        "seed": 0,
        "parameters": 10,
        "train_s": 1,
    }
    rows = [{**row, "per": 0.4}, {**row, "per": 0.2}, {**row, "per": None, "status": "failed: no disk"}]
    report = SpeechReport(rows, ("note",))
    assert report.mean(decoder="gru") == pytest.approx(0.3) and np.isnan(report.mean(decoder="possm-gru"))
    assert "30.0 %" in report.text() and "no disk" in report.text() and report.text().endswith("note")


def test_a_step_is_timed():
    assert "5 channels: " in time_steps(channels=5, steps=60)


@pytest.mark.parametrize("setting", [{"days": 0}, {"sentences": 5}, {"longest_s": 1.0}, {"seeds": ()}])
def test_settings(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        SpeechBench(**setting)
