"""`possm bench latency`: counts what it says it counts, and writes the rows that are promised."""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import replace

import pytest

import toys
from possm import cli
from possm.baselines.mlp import MlpConfig
from possm.bench import peers
from possm.bench.latency import LatencyReport, bench_latency, measure
from possm.bench.latency_cases import Case, Engines, LatencyConfig
from possm.checkpoint import save_decoder
from possm.errors import StreamError
from possm.model.decoder import PossmConfig
from possm.streaming.export import export_decoder
from possm.streaming.rehearsal import BEHAVIORS, random_decoder

PROMISED = {
    *("engine", "backbone", "size", "threads", "idle_ms", "spikes_per_chunk", "units", "steps"),
    *("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms", "missed_10ms"),
}


def test_percentiles_and_misses():
    took_ms = iter([0.0] * 50 + [1.0] * 80 + [3.0] * 15 + [7.0] * 3 + [30.0, 60.0])
    row = measure(Case(engine="x"), lambda number: next(took_ms) / 1000, LatencyConfig(steps=100))
    assert row.steps == 100 and row.max_ms == pytest.approx(60)
    assert row.p50_ms == pytest.approx(1) and row.p90_ms == pytest.approx(3)
    missed = [row.missed_1ms, row.missed_5ms, row.missed_10ms, row.missed_20ms, row.missed_50ms]
    assert missed[1:] == [5, 2, 2, 1]


def test_pauses_are_made_and_not_counted():
    config = LatencyConfig(steps=5, idle_ms=20.0)
    began_s = time.perf_counter()
    row = measure(Case(engine="x", idle_ms=20.0), lambda number: 0.001, config)
    assert time.perf_counter() - began_s >= 0.1
    assert row.max_ms == pytest.approx(1)


def test_a_step_is_kept_warm_in_pauses_only():
    rehearsed, config = [], LatencyConfig(steps=3, idle_ms=60.0)

    def rehearse():
        rehearsed.append(time.perf_counter())
        time.sleep(0.001)  # a tenth of the time: not again within 9 ms

    measure(Case(engine="x"), lambda number: 0.001, config, rehearse)
    measure(Case(engine="x", idle_ms=60.0), lambda number: 0.001, config, rehearse)
    assert not rehearsed
    measure(Case(engine="x", idle_ms=60.0, warm=True), lambda number: 0.001, config, rehearse)
    assert 3 <= len(rehearsed) <= 3 * 60 / 10 + 1
    assert min(b - a for a, b in itertools.pairwise(rehearsed)) >= 0.01


def test_every_pause_is_timed_warm_and_cold(tmp_path):
    cases = list(Engines(tmp_path, seed=0).cases(LatencyConfig()))
    assert len(cases) == len(set(cases)) and {case.size for case in cases} == {"small", "large", "default"}
    pausing = {case for case in cases if case.idle_ms}
    assert {case for case in cases if case.warm} < pausing
    assert {replace(case, warm=not case.warm) for case in pausing} == pausing
    assert {(case.engine, case.part) for case in pausing} >= {("onnx", "step"), ("onnx", "push")}


def test_a_row_ends_in_time():
    config = LatencyConfig(steps=10**9, seconds=0.05)
    row = measure(Case(engine="x"), lambda number: 0.0, config)
    assert 1 <= row.steps < 10**7


def test_of_a_decoder(tmp_path, capsys):
    decoder = toys.decoder_for(toys.recording())
    path = save_decoder(decoder, tmp_path / "d.safetensors")
    words = ["--decoder", path, "--steps", "3", "--seconds", "0.05", "--json", tmp_path / "rows.json"]
    assert cli.main(["bench", "latency", *map(str, words)]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["engine"] for row in rows} == {"torch", "onnx", "onnx-int8"}
    assert {row["part"] for row in rows} == {"step", "push"}
    assert {row["idle_ms"] for row in rows} == {0.0, 50.0}
    assert {row["spikes_per_chunk"] for row in rows} == {100, 1_000, 5_000, 10_000}
    for row in rows:
        assert row.keys() >= PROMISED
        assert row["size"] == "16/24x1" and row["backbone"] == "gru" and row["units"] == 20
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["p999_ms"] <= row["max_ms"]
    assert "p99.9" in capsys.readouterr().out


def test_of_an_exported_decoder(tmp_path):
    decoder = toys.decoder_for(toys.recording())
    path = export_decoder(decoder, tmp_path / "d.onnx", precision="int8")
    report = bench_latency(LatencyConfig(steps=2, seconds=0.05), decoder=path)
    assert {row.engine for row in report.rows} == {"onnx-int8"}


def test_ratios():
    took = {"onnx": 0.1, "torch": 0.5, "poyo": 20.0}
    rows = tuple(
        measure(Case(engine=name), lambda number, ms=ms: ms / 1000, LatencyConfig(steps=10))
        for name, ms in took.items()
    )
    baseline = Case(engine="baseline", backbone="mlp")
    rows += (measure(baseline, lambda number: 0.0003, LatencyConfig(steps=10)),)
    assert "onnx small p50 is 3.0 times below baseline mlp" in LatencyReport(rows).text()
    assert "5.0 times below torch" in LatencyReport(rows).text()
    assert "200.0 times below poyo" in LatencyReport(rows).text()


def test_peers_that_are_not_there_are_said_before_anything_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_brain", None)
    shown = []
    with pytest.raises(StreamError, match=r"possm\[peers\]"):
        bench_latency(LatencyConfig(peers=True, steps=1), progress=shown.append)
    assert not shown


def test_our_baselines_are_timed_in_the_same_run(monkeypatch, tmp_path):
    """POYO of torch_brain is stood in for: it is 1.5 GB to install."""
    monkeypatch.setattr(peers, "check_installed", lambda: None)
    monkeypatch.setattr(peers, "poyo", lambda seed: lambda number: 0.02)
    decoder = toys.decoder_for(toys.recording())
    path = export_decoder(decoder, tmp_path / "d.onnx")
    report = bench_latency(LatencyConfig(steps=2, seconds=0.01, peers=True), decoder=path)
    by_name = {row.backbone: row for row in report.rows if row.engine == "baseline"}
    assert {"poyo", "ndt2", "gru", "s4d", "mamba", "mlp", "wiener", "kalman"} == set(by_name)
    assert all(row.units == row.spikes_per_chunk == 100 and row.p50_ms > 0 for row in by_name.values())
    assert by_name["poyo"].size == "1.26M"
    assert next(row for row in report.rows if row.engine == "poyo").p50_ms == pytest.approx(20)


def test_of_a_baseline(tmp_path):
    """A decoder that is not exported is timed in PyTorch alone."""
    path = save_decoder(random_decoder(MlpConfig(behaviors=BEHAVIORS)), tmp_path / "d.safetensors")
    report = bench_latency(LatencyConfig(steps=1, seconds=0.01, idle_ms=1), decoder=path)
    assert {(row.engine, row.backbone, row.units) for row in report.rows} == {("torch", "mlp", 100)}


def test_a_decoder_of_values_is_refused(tmp_path):
    config = PossmConfig(behaviors=BEHAVIORS, inputs=("counts",))
    path = save_decoder(random_decoder(config), tmp_path / "d.safetensors")
    with pytest.raises(StreamError, match="nothing but spikes"):
        bench_latency(LatencyConfig(steps=1), decoder=path)


def test_the_list_of_benches(capsys):
    assert cli.main(["bench", "--help"]) == 0
    assert "latency" in capsys.readouterr().out
    assert cli.main(["bench", "nonsense"]) == cli.USAGE_ERROR
