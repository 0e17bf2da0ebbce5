"""Input that stops: what stands in for answers, on a fake clock and on the real one."""

import math
import time

import numpy as np
import pytest
from stream_helpers import UNITS, assert_same, small_decoder

from possm.batch import Prediction
from possm.errors import ConfigError, StreamError
from possm.streaming.links import Message
from possm.streaming.live import LiveConfig, LiveDecoder
from possm.streaming.run import RunConfig, run_stream
from possm.streaming.stale import StaleConfig, Watchdog
from possm.streaming.torch_engine import TorchEngine

ENGINE = TorchEngine(small_decoder())
NONE = np.zeros(0)


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


class Script:
    """A source that plays steps on a fake clock: a message, or a silence in s, during which it gives an empty
    message every `tick_s`."""

    unit_ids = session_id = None

    def __init__(self, clock, *steps, tick_s=0.05):
        self.clock, self.steps, self.tick_s = clock, steps, tick_s

    def __iter__(self):
        until_s = 0.0
        for step in self.steps:
            if isinstance(step, float):
                for _ in range(round(step / self.tick_s)):
                    self.clock.now_s += self.tick_s
                    yield Message(NONE, NONE.astype(int), until_s)
                continue
            self.clock.now_s += 0.05
            until_s = step.until_s
            yield step

    def close(self):
        pass


class Recorder:
    def __init__(self, refuse=""):
        self.predictions, self.refuse = [], refuse

    def start(self, behaviors):
        pass

    def write(self, prediction):
        if prediction.status == self.refuse:
            raise StreamError("the sink refuses")
        self.predictions.append(prediction)

    def close(self):
        pass


def message(number, start_s=None):
    return Message(
        np.array([number * 0.05 + 0.01]), np.array([number % UNITS]), (number + 1) * 0.05, None, start_s
    )


def answer(value, behavior="x", times_s=(1.0,)):
    values = np.full((len(times_s), 2), value, np.float32)
    return Prediction(behavior, np.array(times_s), values, 7, 0.95, 1.0, 3, 1, 2, 1e-3, 0.02, "abc", 3, 1)


def watchdog(**settings):
    clock = Clock()
    return Watchdog(StaleConfig(**settings), now=clock), clock


class TestWatchdog:
    @pytest.mark.parametrize(
        ("action", "status", "wanted"),
        [("hold", "held", 4.0), ("decay", "decayed", 4.0 * math.exp(-0.5)), ("zero", "zeroed", 0.0)],
    )
    def test_what_stands_in(self, action, status, wanted):
        dog, clock = watchdog(action=action, after_ms=200, tau_ms=400)
        dog.heard([answer(9.0, times_s=(0.98, 1.0)), answer(4.0, times_s=(1.02, 1.04))])
        clock.now_s += 0.4
        (got,) = dog.tick()
        np.testing.assert_allclose(got.values, np.full((1, 2), wanted), rtol=1e-6)
        assert got.values.dtype == np.float32
        np.testing.assert_allclose(got.times_s, [1.44])
        assert (got.status, got.spikes, got.compute_s) == (status, 0, 0.0)
        assert (got.chunk, got.end_s, got.dropped, got.jumps, got.late) == (7, 1.0, 3, 1, 1)
        assert math.isnan(got.input_delay_s) and got.decoder_hash == "abc"

    def test_when_and_how_often(self):
        dog, clock = watchdog(after_ms=200, every_ms=50)
        dog.heard([answer(1.0, "x"), answer(2.0, "y")])
        made = []
        for _ in range(100):  # 1 s in steps of 10 ms
            clock.now_s += 0.01
            made.append(len(dog.tick()))
        assert made[:19] == [0] * 19 and sum(made) == dog.stood_in == 2 * 17
        assert dog.stalls == 1 and dog.stale

    def test_it_recovers_when_input_returns(self):
        dog, clock = watchdog(after_ms=200)
        for stalls in (1, 2):
            dog.heard([answer(1.0)])
            assert not dog.stale
            clock.now_s += 0.1
            assert dog.tick() == []
            clock.now_s += 0.2
            assert len(dog.tick()) == 1 and dog.stalls == stalls

    def test_time_without_answers_is_input_too(self):
        dog, clock = watchdog(after_ms=200)
        dog.heard([answer(1.0)])
        for _ in range(10):
            clock.now_s += 0.15
            dog.heard([])
            assert dog.tick() == []

    def test_before_the_first_answer_there_is_nothing_to_say(self):
        dog, clock = watchdog()
        clock.now_s += 10
        assert dog.tick() == [] and dog.stalls == 1 and dog.stood_in == 0

    def test_a_late_tick_is_not_made_up_for(self):
        dog, clock = watchdog(after_ms=100, every_ms=50)
        dog.heard([answer(1.0)])
        clock.now_s += 5
        assert len(dog.tick()) == 1
        clock.now_s += 5
        assert [len(dog.tick()) for _ in range(3)] == [1, 1, 0]

    def test_zero_where_the_last_answer_was_none(self):
        dog, clock = watchdog(action="zero")
        dog.heard([answer(np.nan)])
        clock.now_s += 1
        assert not dog.tick()[0].values.any()

    @pytest.mark.parametrize(
        "change", [{"action": "pray"}, {"after_ms": 0}, {"tau_ms": -1}, {"every_ms": np.nan}]
    )
    def test_settings_out_of_range(self, change):
        with pytest.raises(ConfigError, match=next(iter(change))):
            StaleConfig(**change)


class TestRunning:
    def run(self, *steps, live=None, **settings):
        clock, sink = Clock(), Recorder()
        live = live or LiveDecoder(ENGINE, behaviors=["cursor.pos"])
        stale = StaleConfig(**{"after_ms": 200.0, **settings})
        report = run_stream(live, Script(clock, *steps), sink, config=RunConfig(stale=stale), now=clock)
        return report, sink.predictions

    def test_a_source_that_dies_and_returns(self):
        messages = [message(0, 0.0), *map(message, range(1, 12))]
        report, got = self.run(*messages[:5], 1.0, *messages[5:])
        _, plain = self.run(*messages)
        status = [p.status for p in got]
        assert status == ["ok"] * 5 + ["held"] * 17 + ["ok"] * 7
        assert_same([p for p in got if p.status == "ok"], plain)
        for p in got[5:22]:
            np.testing.assert_array_equal(p.values, got[4].values)
        np.testing.assert_allclose(np.diff([p.times_s[0] for p in got[5:22]]), 0.05)
        assert report.stalls == 1 and report.stood_in == 17 and report.predictions == len(got)
        assert "1 time(s) without input, 17 prediction(s) stood in" in report.text()

    def test_a_clock_that_is_away_is_no_input(self):
        live = LiveDecoder(ENGINE, behaviors=["cursor.pos"], config=LiveConfig(on_jump="hold"))
        away = [Message(np.array([1e6]), np.array([1]), 1e6 + n * 0.05) for n in range(10)]
        report, got = self.run(message(0, 0.0), *away, message(1), live=live, action="zero")
        assert [p.status for p in got] == ["ok"] + ["zeroed"] * 7 + ["ok"]
        assert report.counts.held == 10 and report.counts.jumps == 1
        assert "1 clock jump(s), 10 spike(s) dropped while the clock was away" in report.text()

    def test_without_it_silence_is_silence(self):
        clock, sink = Clock(), Recorder()
        script = Script(clock, message(0, 0.0), 5.0, message(1))
        report = run_stream(LiveDecoder(ENGINE), script, sink, now=clock)
        assert [p.status for p in sink.predictions] == ["ok"] * 4 and report.stalls == 0
        assert "trouble" not in report.text()

    def test_at_the_end_nothing_is_left_to_wait(self):
        live = LiveDecoder(ENGINE, behaviors=["cursor.pos"], config=LiveConfig(wait_ms=120))
        _, got = self.run(message(0, 0.0), message(1), message(2), message(0, 0.0), message(1), live=live)
        assert [p.chunk for p in got] == [0, 1, 2, 0, 1]
        assert all(p.spikes == 1 for p in got)


class TestOnTheRealClock:
    """A source that blocks without a word, as one may: the watchdog has a thread of its own."""

    STALE = RunConfig(stale=StaleConfig(action="decay", after_ms=30, tau_ms=30, every_ms=10))

    class Blocking(Script):
        def __init__(self, *messages, pause_s=0.3):
            self.messages, self.pause_s = messages, pause_s

        def __iter__(self):
            for each in self.messages:
                yield each
                time.sleep(self.pause_s)

    def test_outputs_decay_while_it_blocks_and_recover(self):
        sink, live = Recorder(), LiveDecoder(ENGINE, behaviors=["cursor.pos"])
        report = run_stream(live, self.Blocking(message(0, 0.0), message(1)), sink, config=self.STALE)
        status = [p.status for p in sink.predictions]
        first = status.index("ok", 1)
        assert set(status[1:first]) == {"decayed"} and 5 <= first - 1 <= 40
        size = [np.abs(p.values).max() for p in sink.predictions[:first]]
        assert (np.diff(size) < 0).all() and size[-1] < size[0] / 50
        assert report.stalls >= 2 and report.chunks == 2  # a busy machine may add a pause of its own

    def test_a_sink_that_refuses_what_stands_in_ends_the_run(self):
        source = self.Blocking(message(0, 0.0), message(1))
        with pytest.raises(StreamError, match="refuses"):
            run_stream(LiveDecoder(ENGINE), source, Recorder(refuse="decayed"), config=self.STALE)
