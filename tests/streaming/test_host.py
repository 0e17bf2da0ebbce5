"""Garbage collection, priority, core: set, refused and taken back. Of this machine nothing is asked."""

import gc
import os
import resource

import numpy as np
import pytest
from stream_helpers import assert_same, random_recording, small_decoder

from possm.errors import ConfigError
from possm.streaming import host
from possm.streaming.host import Collector, HostConfig, KeepWarm, steady_host
from possm.streaming.links.base import Message
from possm.streaming.links.callback import CallbackSink
from possm.streaming.links.replay import ReplaySource
from possm.streaming.live import LiveDecoder
from possm.streaming.run import RunConfig, run_stream
from possm.streaming.torch_engine import TorchEngine


class TestCollector:
    def test_off_while_it_runs_and_as_before_afterwards(self):
        with Collector():
            assert not gc.isenabled() and gc.get_freeze_count() > 1000
        assert gc.isenabled() and gc.get_freeze_count() == 0
        gc.disable()
        try:
            with Collector():
                pass
            assert not gc.isenabled()
        finally:
            gc.enable()

    def test_an_error_restores_it_too(self):
        with pytest.raises(KeyError), Collector():
            raise KeyError
        assert gc.isenabled()

    def test_collects_when_told_that_there_is_time(self):
        with Collector(every_s=0.0) as collector:
            before = gc.get_stats()[2]["collections"]
            knot: list = []
            knot.append(knot)
            del knot
            collector.idle()
            stats = gc.get_stats()[2]
        assert collector.collections == 1 and stats["collections"] == before + 1
        assert 0 < collector.max_ms < 1000
        with Collector(every_s=1000.0) as collector:
            collector.idle()
        assert collector.collections == 0

    def test_a_stream_collects_nothing_on_its_own(self):
        """A sink sees every step; the number of collections only grows between two of them."""
        seen = []
        live = LiveDecoder(TorchEngine(small_decoder()))
        run_stream(
            live, ReplaySource(random_recording()), CallbackSink(lambda _: seen.append(gc.isenabled()))
        )
        assert len(seen) == 160 and not any(seen) and gc.isenabled()


class System:
    """What is asked of the operating system; `refuses` is refused."""

    def __init__(self, monkeypatch, refuses=()):
        self.asked, self.refuses = [], refuses
        for name in ("sched_setaffinity", "sched_setscheduler"):
            monkeypatch.setattr(os, name, self._function(name))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        limit = 65536 if "mlockall" in refuses else resource.RLIM_INFINITY
        monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
        monkeypatch.setattr(host.ctypes, "CDLL", lambda *_, **__: self)

    def _function(self, name):
        def call(*arguments):
            self.asked.append((name, *arguments[1:2]))
            if name in self.refuses:
                raise PermissionError(1, "Operation not permitted")

        return call

    def mlockall(self, flags):
        self.asked.append(("mlockall", flags))
        return 0

    def munlockall(self):
        self.asked.append(("munlockall",))


def test_nothing_is_asked_by_default(monkeypatch):
    system = System(monkeypatch)
    with steady_host(HostConfig()) as refused:
        assert refused == ()
    assert system.asked == []


def test_core_priority_and_memory_are_asked_for_and_given_back(monkeypatch):
    system = System(monkeypatch)
    with pytest.raises(KeyError), steady_host(HostConfig(realtime=True, core=1)) as refused:
        assert refused == ()
        assert system.asked == [
            ("sched_setaffinity", {1}),
            ("sched_setscheduler", os.SCHED_FIFO),
            ("mlockall", 3),
        ]
        raise KeyError
    assert system.asked[3:] == [
        ("munlockall",),
        ("sched_setscheduler", os.SCHED_OTHER),
        ("sched_setaffinity", {0, 1}),
    ]


@pytest.mark.parametrize("refused", ["sched_setaffinity", "sched_setscheduler", "mlockall"])
def test_what_is_refused_is_said_and_the_rest_goes_on(monkeypatch, caplog, refused):
    system = System(monkeypatch, refuses=[refused])
    words = {"sched_setaffinity": "core 1", "sched_setscheduler": "priority", "mlockall": "memory"}[refused]
    live, config = (
        LiveDecoder(TorchEngine(small_decoder())),
        RunConfig(host=HostConfig(realtime=True, core=1)),
    )
    report = run_stream(live, ReplaySource(random_recording(end_s=0.5)), CallbackSink(id), config=config)
    assert len(report.refused) == 1 and words in report.refused[0] and report.chunks == 10
    assert words in caplog.text and f"warning     {report.refused[0]}" in report.text()
    assert len({name for name, *_ in system.asked}) == (4 if refused != "mlockall" else 2)


def test_a_system_without_any_of_it(monkeypatch):
    for name in (
        "sched_setscheduler",
        "sched_getscheduler",
        "sched_setaffinity",
        "sched_getaffinity",
        "geteuid",
    ):
        monkeypatch.delattr(os, name)
    with steady_host(HostConfig(realtime=True, core=0)) as refused:
        assert len(refused) == 3


def test_a_core_that_is_none():
    with pytest.raises(ConfigError, match="core"):
        HostConfig(core=-1)
    with steady_host(HostConfig(core=4096)) as refused:
        assert "core 4096 refused" in refused[0]
    assert np.isin(0, list(os.sched_getaffinity(0)))


class Waiting:
    """A recording whose chunks come with some empty messages in between, as from a rig that is slow."""

    session_id = None

    def __init__(self, recording, silent=3):
        self.source, self.silent = ReplaySource(recording), silent
        self.unit_ids = self.source.unit_ids

    def __iter__(self):
        for message in self.source:
            yield message
            for _ in range(self.silent):
                yield Message(np.zeros(0), np.zeros(0, int), message.until_s)

    def close(self):
        self.source.close()


class Counting(TorchEngine):
    steps = 0

    def step(self, batch, state):
        self.steps += 1
        return super().step(batch, state)


class TestKeepWarm:
    def answers(self, source, keep_warm=True):
        live = LiveDecoder(Counting(small_decoder()))
        sink = []
        config = RunConfig(host=HostConfig(keep_warm=keep_warm))
        report = run_stream(live, source, CallbackSink(sink.append), config=config)
        return sink, live.bound.engine.steps, report

    def test_a_waiting_stream_rehearses_and_answers_the_same(self, monkeypatch):
        monkeypatch.setattr(KeepWarm, "SHARE", 1.0)
        recording = random_recording(end_s=1.0)
        plain, steps, report = self.answers(ReplaySource(recording))
        assert steps == report.chunks == 20
        warm, steps, report = self.answers(Waiting(recording))
        assert steps == 20 + 3 * 20 and report.steps == report.chunks == 20
        assert_same(plain, warm)
        _, steps, _ = self.answers(Waiting(recording), keep_warm=False)
        assert steps == 20

    def test_at_most_a_tenth_of_the_time(self, monkeypatch):
        clock = iter([0.0, 0.001, 0.009, 0.0099, 0.0101, 0.0111])
        monkeypatch.setattr(host.time, "monotonic", lambda: next(clock))
        rehearsed = []
        warm = KeepWarm(lambda: rehearsed.append(1))
        for expected in (1, 1, 1, 2):
            warm.idle()
            assert len(rehearsed) == expected

    def test_nothing_to_rehearse(self):
        live = LiveDecoder(Counting(small_decoder()))
        live.rehearse()
        assert live.bound.engine.steps == 0
        live.push([0.01], [0], 0.05)
        live.swap(Counting(small_decoder()))
        live.rehearse()
        assert live.bound.engine.steps == 0
        live.push(np.zeros(0), [], 0.1)
        live.rehearse()
        assert live.bound.engine.steps == 2
