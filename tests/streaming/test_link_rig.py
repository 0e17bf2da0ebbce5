import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from link_helpers import free_port
from stream_helpers import SESSION, by_behavior, push_all, random_recording, small_decoder

from possm.errors import StreamError
from possm.streaming.links import SINKS, SOURCES
from possm.streaming.links.horizon import Horizon, LinkCounts, Packet, RigConfig
from possm.streaming.links.patience import need, retry
from possm.streaming.links.replay import ReplaySource
from possm.streaming.links.rig import RigSource
from possm.streaming.links.udp import UdpSender, UdpSource
from possm.streaming.live import LiveDecoder
from possm.streaming.run import run_stream


def packet(until_s=math.nan, *, times_s=(), **more):
    times_s = np.array(times_s, np.float64)
    return Packet(times_s=times_s, units=np.zeros(len(times_s), np.int64), until_s=until_s, **more)


def horizon(**config):
    return Horizon(RigConfig(**config), LinkCounts())


class TestHorizon:
    @given(st.lists(st.floats(-2, 2), min_size=1, max_size=30))
    def test_marks_do_not_go_back_a_little(self, steps):
        """Time goes back only where a clock does: by more than an overtaken packet could."""
        it, newest = horizon(), None
        for until_s in np.cumsum(steps):
            message = it.take(packet(float(until_s)))
            if newest is not None:
                assert message.until_s >= newest - 1e-9 or message.until_s <= newest - 1.0
            newest = message.until_s

    def test_a_clock_that_jumps_is_passed_on(self):
        """What becomes of it is for the decoder to say (`LiveConfig.on_jump`)."""
        it = horizon()
        marks = [it.take(packet(m)).until_s for m in (10.0, 10.05, 200_010.1, 10.15)]
        assert marks == [10.0, 10.05, 200_010.1, 10.15]

    def test_without_a_mark_and_without_spikes_nothing_is_said(self):
        it = horizon(lag_ms=20)
        assert it.take(packet()) is None and it.tick() is None
        assert it.take(packet(times_s=[math.nan])) is None
        first = it.take(packet(times_s=[5.0, math.nan, 4.0]))
        assert first.start_s == 4.0 and first.until_s == pytest.approx(4.98)
        assert it.take(packet()).until_s == first.until_s
        assert it.tick().until_s == first.until_s

    def test_it_begins_anew_when_told(self):
        it = horizon()
        assert it.take(packet(2.0, start_s=1.0)).start_s == 1.0
        assert it.take(packet(3.0, start_s=2.0)).start_s is None
        anew = it.take(packet(1.5, start_s=1.0, begins=True))
        assert (anew.start_s, anew.until_s) == (1.0, 1.5)

    @given(st.permutations(range(12)), st.sets(st.integers(0, 11), max_size=6))
    def test_losses_are_what_never_came(self, order, missing):
        it = horizon()
        order = [0, *(n for n in order if n and n not in missing), 12]
        for number in order:
            it.take(packet(float(number), number=number))
        assert it.counts.lost == len(missing - {0}) and it.counts.duplicate == 0
        assert it.take(packet(99.0, number=order[1])) is None and it.counts.duplicate == 1


class TestWholeStream:
    def test_over_udp_it_is_what_replay_says(self):
        """Replayed through a link, cut into stretches, decoded to the bit as without one."""
        decoder, recording = small_decoder(), random_recording(domain=[(0.0, 1.5), (2.0, 3.0)])
        source = UdpSource("127.0.0.1:0")
        got, reports = [], []

        class Sink:
            def start(self, behaviors): ...
            def close(self): ...
            def write(self, prediction):
                got.append(prediction)

        live = LiveDecoder(decoder, session=SESSION)
        thread = threading.Thread(target=lambda: reports.append(run_stream(live, source, Sink())))
        thread.start()
        rig, played = UdpSender(f"127.0.0.1:{source.port}"), list(ReplaySource(recording))
        for i, message in enumerate(played):
            rig.send_spikes(message, ends=i == len(played) - 1)
            time.sleep(0.001)
        thread.join(20)
        rig.close()
        assert not thread.is_alive() and reports[0].stretches == 2
        assert f"link        {len(played)} messages, " in reports[0].text()
        wanted = push_all(LiveDecoder(decoder, session=SESSION), recording, until_s=1.5)
        other = LiveDecoder(decoder, session=SESSION, origin_s=2.0)
        wanted += push_all(other, recording, until_s=3.0, start_s=2.0)
        for name, (times_s, values) in by_behavior(wanted).items():
            np.testing.assert_array_equal(by_behavior(got)[name][0], times_s)
            np.testing.assert_array_equal(by_behavior(got)[name][1], values)
        assert {p.decoder_hash for p in got} == {decoder.hash} and all(
            math.isnan(p.input_delay_s) for p in got
        )

    def test_the_delay_of_the_input_is_said(self):
        live = LiveDecoder(small_decoder(), session=SESSION)
        (first, second) = live.push([0.01], np.array([0]), 0.05, received_s=0.053)
        assert first.input_delay_s == second.input_delay_s == pytest.approx(0.003)


class TestTrouble:
    def test_retry_backs_off_and_shows_it(self, caplog):
        calls = []

        def connect():
            calls.append(time.monotonic())
            if len(calls) < 3:
                raise OSError("not yet")
            return "here"

        assert retry(connect, "link", (OSError,), timeout_s=10) == "here"
        first, second = np.diff(calls)
        assert 0.09 < first < second
        assert caplog.text.count("nobody is there (not yet)") == 2

    def test_other_errors_are_not_retried(self):
        with pytest.raises(ValueError):
            retry(lambda: int("x"), "link", (OSError,), timeout_s=10)

    def test_silence_is_said(self, caplog):
        class Silent(RigSource):
            def _receive(self, wait_s):
                return []

            def _close(self): ...

        source = Silent("rig", RigConfig(tick_ms=1, timeout_s=2.2))
        with pytest.raises(StreamError, match="nothing came"):
            list(source)
        assert "still listening" in caplog.text

    @pytest.mark.parametrize("kind", ["lsl", "zmq", "udp", "redis"])
    def test_registered_both_ways(self, kind):
        assert kind in SOURCES and kind in SINKS

    def test_a_library_that_is_not_there(self):
        with pytest.raises(StreamError, match=r"pip install 'possm\[carrier\]'"):
            need("no_such_library", "carrier")

    def test_the_links_load_no_library(self):
        """They are fetched when a link is opened."""
        libraries = "('zmq', 'pylsl', 'redis', 'msgpack', 'ezmsg')"
        code = f"import sys, possm.streaming.links; print([m for m in {libraries} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_ctrl_c_ends_it_cleanly(self, tmp_path):
        """A link that nobody speaks on, interrupted: the report says so, and nothing hangs."""
        code = f"""
            import signal, sys
            signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
            sys.path.insert(0, {str(os.path.dirname(__file__))!r})
            from stream_helpers import SESSION, small_decoder
            from possm.streaming.links import open_sink, open_source
            from possm.streaming.live import LiveDecoder
            from possm.streaming.run import run_stream
            live = LiveDecoder(small_decoder(), session=SESSION)
            source = open_source("udp:127.0.0.1:{free_port()}")
            print(run_stream(live, source, open_sink("csv:{tmp_path}/out.csv")).interrupted)
        """
        command = [sys.executable, "-c", textwrap.dedent(code)]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, ends = tmp_path / "out.csv", time.monotonic() + 60
        while not (out.exists() and out.stat().st_size) and time.monotonic() < ends:
            time.sleep(0.02)  # until the sink has been started, and the source is listened to
        time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        said, errors = run.communicate(timeout=20)
        assert (said, errors, run.returncode) == ("True\n", "", 0)
