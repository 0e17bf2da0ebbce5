"""The soak test: that it passes, that it can fail, and that its rig does what it says."""

import json
import math
import threading
from collections import Counter

import numpy as np
import pytest

from possm.bench import chaos, soak
from possm.bench.chaos import RIG, SPIKE, ChaosSource, Clock, Rig, plan
from possm.bench.soak import SoakConfig, bench_soak
from possm.cli import main
from possm.errors import ConfigError
from possm.model.decoder import PossmConfig
from possm.streaming.rehearsal import BEHAVIORS, random_decoder
from possm.streaming.torch_engine import TorchEngine

ENGINE = TorchEngine(
    random_decoder(
        PossmConfig(width=16, hidden=24, head_width=16, num_rotary_pairs=4, behaviors=BEHAVIORS), num_units=30
    )
)


class Broken:
    """An engine of which every 50th step goes wrong."""

    def __init__(self, how):
        self.spec, self.initial_state, self.how, self.steps = ENGINE.spec, ENGINE.initial_state, how, 0

    def step(self, batch, state):
        self.steps += 1
        answers, state = ENGINE.step(batch, state)
        if self.steps % 50 == 0:
            if self.how == "raises":
                raise RuntimeError("out of order")
            answers = {name: value * np.nan for name, value in answers.items()}
        return answers, state


def short(engine=ENGINE, *, minutes=0.5, seed=0):
    return soak._soak(SoakConfig(minutes=minutes, seed=seed), engine, id)


def test_every_fault_is_counted():
    report = short()
    for kind, number in report.kinds.items():
        assert number["counted"] == number["injected"] > 0, kind
    assert report.passed and report.faults_counted == report.faults_injected > 500
    assert (
        report.spikes["usable"] == report.spikes["used"] < report.spikes["sent"] == report.spikes["received"]
    )
    assert report.nonfinite_outputs == report.crashes == 0 and report.steps >= 600
    assert report.stood_in > 0 and math.isfinite(report.memory_growth_mb)
    assert "passed" in report.text()


def test_the_same_seed_is_the_same_test():
    kinds = [short(seed=seed, minutes=0.25).kinds for seed in (3, 3, 4)]
    for kind in kinds:
        del kind["slow_sink"]  # how much it drops is up to two threads
    assert kinds[0] == kinds[1] != kinds[2]


def test_outputs_that_are_not_finite_fail():
    report = short(Broken("nan"))
    assert report.nonfinite_outputs >= 10 and not report.passed and "FAILED" in report.text()


def test_a_crash_is_reported():
    report = short(Broken("raises"))
    assert report.crashes == 1 and "out of order" in report.error and not report.passed
    assert report.steps < 60


@pytest.mark.parametrize(
    ("change", "kind"), [({"CAP": 9}, "over_cap"), ({"WAIT_CHUNKS": 4}, "late")], ids=["cap", "wait"]
)
def test_a_stream_that_counts_otherwise_fails(monkeypatch, change, kind):
    """Only the stream is told of the change, not the rig."""
    for name, value in change.items():
        monkeypatch.setattr(soak, name, value)
    report = short()
    assert report.kinds[kind]["counted"] != report.kinds[kind]["injected"] and not report.passed


class TestRig:
    def play(self, packets=1200, seed=0):
        rig = Rig(packets=packets, chunk_ms=20, num_units=30, rate_hz=20.0, queue=8, seed=seed)
        source = ChaosSource(rig, Clock(), threading.Event())
        return source, list(source)

    @pytest.mark.parametrize("packets", [600, 1800, 90_000])
    def test_every_kind_has_its_turn(self, packets):
        faults = Counter(kind for kinds in plan(packets, np.random.default_rng(0)).values() for kind in kinds)
        assert set(faults) == {*RIG, *SPIKE, "sink_recovers"}
        assert faults["sink_recovers"] == faults["slow_sink"] and faults["burst_x100"] <= packets / 600

    def test_what_it_says_it_does(self):
        source, messages = self.play()
        until_s = np.array([message.until_s for message in messages])
        steps = np.diff(until_s)
        assert np.count_nonzero(np.abs(steps) > 1e5) == source.injected["jump"]
        assert np.count_nonzero((steps < 0) & (steps > -1)) == source.injected["overtaken"]
        units = np.concatenate([message.units for message in messages])
        times_s = np.concatenate([message.spike_times_s for message in messages])
        assert np.count_nonzero((units < 0) | (units >= 30)) == source.injected["unknown"]
        assert len(times_s) == source.sent
        silent = steps == 0
        deaths = np.count_nonzero(silent[1:] & ~silent[:-1])
        assert deaths == source.injected["death"] and source.open_sink.is_set()

    def test_two_bursts_at_once_are_one(self):
        source, _ = self.play()
        before = source.injected.copy()
        source._message(frozenset({"burst_x10", "burst_x100"}))
        assert (
            sum((source.injected - before).values())
            == source.injected["burst_x100"] - before["burst_x100"]
            == 1
        )

    def test_its_clock_on_the_wall(self):
        source, messages = self.play()
        packets = sum(len(message.spike_times_s) > 0 for message in messages)
        assert source.clock() >= packets * 0.02
        ticks = np.count_nonzero(np.diff([message.until_s for message in messages]) == 0)
        assert source.clock() == pytest.approx(0.02 * (len(messages) - ticks) + chaos.TICK_S * ticks)


def test_on_the_command_line(capsys, tmp_path):
    path = tmp_path / "soak.json"
    assert main(["bench", "soak", "--minutes", "0.2", "--json", str(path)]) == 0
    content = json.loads(path.read_text())
    wanted = "minutes steps faults_injected faults_counted memory_growth_mb nonfinite_outputs crashes kinds"
    assert set(wanted.split()) <= set(content) and content["steps"] >= 600
    assert "passed" in capsys.readouterr().out
    assert soak.resident_mb() > 50


@pytest.mark.parametrize("change", [{"minutes": 0}, {"rate_hz": -1}])
def test_settings_out_of_range(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        bench_soak(SoakConfig(**change))
