import os
import time
import uuid
from contextlib import ExitStack

import numpy as np
import pytest
from link_helpers import UNITS, collect, messages, playing, prediction, spikes_of

from possm.errors import ConfigError, StreamError
from possm.streaming.links import Message, open_sink, open_source
from possm.streaming.links.correction import BELIEVED, Correction
from possm.streaming.links.horizon import LinkCounts
from possm.streaming.links.lsl import LslConfig, LslSource
from possm.streaming.links.outlets import FACTS, LslSender, labels, stream_info

CONFIG = """[multicast]
ResolveScope = machine
[lab]
KnownPeers = {{127.0.0.1}}
SessionID = possm-{session}
[log]
level = -3
"""


@pytest.fixture(scope="module", autouse=True)
def lsl(tmp_path_factory):
    """liblsl, kept on this machine and away from other sessions; it reads its settings when it is loaded."""
    path = tmp_path_factory.mktemp("lsl") / "lsl_api.cfg"
    path.write_text(CONFIG.format(session=uuid.uuid4().hex[:8]))
    os.environ.setdefault("LSLAPICFG", str(path))
    try:
        import pylsl
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"liblsl cannot be loaded: {error}")
    return pylsl


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def name():
    return f"test-{uuid.uuid4().hex[:8]}"


def source_of(stack, name, **more):
    source = LslSource(name, LslConfig(**{"tick_ms": 20, "connect_s": 15, "timeout_s": 10, **more}))
    stack.callback(source.close)
    return source


def rig_of(stack, source, name, **more):
    """An event stream that the source listens to."""
    rig = LslSender(name, **more)
    stack.callback(rig.close)
    source.connect()
    assert rig.wait(10)
    return rig


class TestCorrection:
    def test_noise_is_smoothed(self):
        counts = LinkCounts()
        correction, random = Correction(counts), np.random.default_rng(0)
        readings = 3.0 + 1e-3 * random.standard_normal(200)
        offsets = []
        for reading in readings:
            correction.read(reading)
            offsets.append(correction.offset_s)
        assert np.std(offsets[BELIEVED:]) < 0.8 * np.std(readings)
        assert counts.clock_jumps == 0

    @pytest.mark.parametrize("jump_s", [200_000.0, -200_000.0, 5.0])
    def test_a_jump_is_counted_and_not_believed(self, jump_s, caplog):
        counts = LinkCounts()
        correction = Correction(counts)
        for reading in [1.0] * 10 + [1.0 + jump_s] * (BELIEVED - 1) + [1.0] * 3 + [1.0 + jump_s]:
            correction.read(reading)
            assert correction.offset_s == 1.0
        assert counts.clock_jumps == 2 and "not believed" in caplog.text

    def test_one_that_stays_is_followed(self, caplog):
        counts = LinkCounts()
        correction = Correction(counts)
        for reading in [1.0] * 10 + [200_001.0] * BELIEVED:
            correction.read(reading)
        assert correction.offset_s == 200_001.0 and counts.clock_jumps == 1
        assert "followed" in caplog.text

    def test_what_is_no_number_says_nothing(self):
        counts = LinkCounts()
        correction = Correction(counts)
        for reading in [np.nan, 1.0, np.nan, np.inf]:
            correction.read(reading)
        assert correction.offset_s == 1.0 and counts.clock_jumps == 0

    def test_jumps_all_over_are_never_followed(self):
        counts = LinkCounts()
        correction = Correction(counts)
        correction.read(1.0)
        for i in range(20):
            correction.read(1.0 + 100.0 * (i + 1))
        assert correction.offset_s == 1.0 and counts.clock_jumps == 20


class TestEvents:
    @pytest.mark.parametrize("with_counts", [False, True])
    def test_spikes_and_marks(self, stack, lsl, name, with_counts):
        source = source_of(stack, name)
        rig = rig_of(stack, source, name, unit_ids=("a", "b", "c"), with_counts=with_counts)
        assert source.unit_ids == ("a", "b", "c")
        sent = messages(100, counts=with_counts, start_s=lsl.local_clock())

        def play():
            for message in sent:
                rig.send_spikes(message)

        with playing(play):
            received = collect(source, until_s=sent[-1].until_s - 1e-3)
        for got, wanted in zip(spikes_of(received), spikes_of(sent), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-3)
        marks = [m.until_s for m in received]
        assert marks == sorted(marks) and received[0].start_s is not None
        for message in received:  # nothing is declared delivered before it is
            assert (message.spike_times_s >= message.until_s - 0.05 * len(sent)).all()
        assert source.counts.overtaken == 0 and np.isfinite(received[-1].received_s)

    def test_without_marks_time_follows_the_clock(self, stack, lsl, name):
        source = source_of(stack, name, lag_ms=10)
        rig = rig_of(stack, source, name)
        begun_s = lsl.local_clock()
        rig._outlet.push_sample([3.0], begun_s)
        received = collect(source, until_s=begun_s + 0.2)
        times_s, units, _ = spikes_of(received)
        assert units.tolist() == [3] and abs(times_s[0] - begun_s) < 1e-3
        behind_s = [m.received_s - m.until_s for m in received]
        assert min(behind_s) > 0.009 and len(received) > 3

    def test_times_of_another_clock(self, stack, name):
        """Time then follows the spikes, not this machine."""
        source = source_of(stack, name, lag_ms=10)
        rig = rig_of(stack, source, name)
        rig._outlet.push_sample([3.0], 5.0)
        rig._outlet.push_sample([4.0], 5.5)
        received = collect(source, until_s=5.489)
        assert spikes_of(received)[1].tolist() == [3, 4]
        assert received[-1].until_s == pytest.approx(5.49, abs=2e-3)

    def test_a_stream_that_goes_and_returns(self, stack, lsl, name):
        source = source_of(stack, name)
        rig = rig_of(stack, source, name)
        now_s = lsl.local_clock()
        rig.send_spikes(Message(np.array([now_s]), np.array([1]), now_s + 0.01))
        units = [u for m in collect(source, until_s=now_s + 0.009) for u in m.units]
        rig.close()

        def play():
            time.sleep(0.2)
            other = LslSender(name)
            stack.callback(other.close)
            assert other.wait(10)
            later_s = lsl.local_clock() + 1
            other.send_spikes(Message(np.array([later_s]), np.array([2]), later_s + 0.01))

        with playing(play):
            units += [u for m in collect(source, until_s=now_s + 1.1) for u in m.units]
        assert units == [1, 2] and source.counts.reconnects == 1


class TestBins:
    @pytest.mark.parametrize("stamp", ["end", "start"])
    def test_counts(self, stack, lsl, name, stamp):
        ids = [f"ch{i}" for i in range(UNITS)]
        info = stream_info(name, "Counts", labels={"channels": ids}, num_channels=UNITS, rate_hz=50.0)
        outlet = lsl.StreamOutlet(info)
        source = source_of(stack, name, stamp=stamp)
        source.connect()
        assert source.unit_ids == tuple(ids)
        outlet.wait_for_consumers(10)
        table = np.random.default_rng(0).poisson(0.5, (60, UNITS))
        begin_s = lsl.local_clock()
        ends_s = begin_s + 0.02 * np.arange(1, 61)
        for row, end_s in zip(table, ends_s, strict=True):
            outlet.push_sample(row.astype(float).tolist(), end_s - 0.02 * (stamp == "start"))
        received = collect(source, until_s=ends_s[-1] - 1e-3)
        times_s, units, counts = spikes_of(received)
        rows, columns = np.nonzero(table)
        np.testing.assert_array_equal(units, columns)
        np.testing.assert_array_equal(counts, table[rows, columns])
        np.testing.assert_allclose(times_s, ends_s[rows] - 0.01, rtol=0, atol=1e-3)
        assert received[0].start_s == pytest.approx(begin_s, abs=1e-3)
        assert received[-1].until_s == pytest.approx(ends_s[-1], abs=1e-3)


class TestTrouble:
    def test_no_stream(self, caplog):
        source = open_source("lsl:nothing?connect_s=0.05")
        with pytest.raises(StreamError, match="nobody is there"):
            next(iter(source))
        source.close()

    def test_a_stream_of_something_else(self, stack, lsl, name):
        outlet = lsl.StreamOutlet(stream_info(name, "EEG", labels={}, num_channels=3))
        with pytest.raises(StreamError, match="no stream of spikes"):
            source_of(stack, name).connect()
        with pytest.raises(StreamError, match="need a rate"):
            source_of(stack, name, form="bins").connect()
        del outlet

    @pytest.mark.parametrize("wrong", ["form=song", "stamp=middle", "colour=red"])
    def test_options(self, wrong):
        with pytest.raises(ConfigError):
            open_source(f"lsl:x?{wrong}")


class TestSink:
    def test_predictions_arrive(self, stack, lsl, name):
        sink = open_sink(f"lsl:{name}")
        stack.callback(sink.close)
        sink.start({"cursor.pos": 2})
        found = lsl.resolve_byprop("name", name, 1, 15)
        inlet = lsl.StreamInlet(found[0])
        inlet.open_stream(10)
        for chunk in range(1, 40):
            sink.write(prediction(chunk, values=[[chunk, -0.5]]))
        samples, stamps = [], []
        while len(samples) < 39:
            sample, stamp = inlet.pull_sample(timeout=5)
            assert sample is not None
            samples.append(sample)
            stamps.append(stamp)
        wanted = prediction(39)
        np.testing.assert_allclose(stamps, 0.05 * (np.arange(1, 40) + 1))
        assert samples[-1][:2] == [39.0, -0.5]
        assert samples[-1][2:-2] == [float(getattr(wanted, fact)) for fact in FACTS]
        assert samples[-1][-2] == 1.0  # held
        assert f"{int(samples[-1][-1]):012x}" == wanted.decoder_hash[:12]
        info = inlet.info()
        assert labels(info, "channels", "channel") == (
            "cursor.pos.0",
            "cursor.pos.1",
            *FACTS,
            "status",
            "decoder",
        )
        assert info.desc().child("possm").child_value("behavior") == "cursor.pos"
        inlet.close_stream()

    def test_several_behaviors_are_several_streams(self, stack, lsl, name):
        sink = open_sink(f"lsl:{name}?facts=no")
        stack.callback(sink.close)
        sink.start({"cursor.pos": 2, "hand.vel": 3})
        for behavior, width in (("cursor.pos", 2), ("hand.vel", 3)):
            (info,) = lsl.resolve_byprop("name", f"{name}.{behavior}", 1, 15)
            assert info.channel_count() == width
