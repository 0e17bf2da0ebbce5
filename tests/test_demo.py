"""`possm demo` end to end, with a recording and a run small enough for a test."""

import json

import pytest

from possm import demo
from possm.cli import main
from possm.data.simulate import SimulationConfig
from possm.model.decoder import PossmConfig
from possm.training.loop import TrainConfig


@pytest.fixture
def small(monkeypatch):
    def config(seed):
        small_model = PossmConfig(width=16, hidden=32, head_width=16, num_rotary_pairs=4)
        return TrainConfig(behavior=(demo.BEHAVIOR,), decoder=small_model, window_s=1.0, epochs=2, seed=seed)

    monkeypatch.setattr(demo, "SIMULATION", SimulationConfig(duration_s=60.0, num_units=12))
    monkeypatch.setattr(demo, "demo_config", config)


def test_demo_ends_with_numbers_and_a_report(small, tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {"r2", "wall_s", "step_p50_ms", "step_p99_ms", "stream_max_abs_diff"} <= summary.keys()
    assert 0 < summary["step_p50_ms"] <= summary["step_p99_ms"]
    assert summary["stream_max_abs_diff"] < 1e-3  # cm/s, of movements of tens of cm/s
    printed = capsys.readouterr().out
    assert f"{summary['r2']:.3f}" in printed
    assert str(tmp_path / "report.html") in printed
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_demo_run_again_changes_nothing(small, tmp_path):
    first = demo.run_demo(tmp_path)
    again = demo.run_demo(tmp_path)
    assert again.r2 == first.r2
