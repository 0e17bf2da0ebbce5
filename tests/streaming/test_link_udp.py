import math
import socket
import time
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from link_helpers import collect, messages, playing, prediction, same_prediction, same_spikes

from possm.errors import ConfigError, StreamError
from possm.streaming.links import Message, open_sink, open_source
from possm.streaming.links.datagrams import pack_prediction, pack_spikes, unpack_prediction, unpack_spikes
from possm.streaming.links.udp import UdpConfig, UdpSendConfig, UdpSender, UdpSource


@pytest.fixture
def pair():
    """Makes a source and a rig that sends to it."""
    with ExitStack() as stack:

        def make(config=None, **sending):
            source = UdpSource("127.0.0.1:0", config or UdpConfig(tick_ms=10, timeout_s=5))
            rig = UdpSender(f"127.0.0.1:{source.port}", UdpSendConfig(**sending))
            stack.callback(source.close)
            stack.callback(rig.close)
            return source, rig

        yield make


class TestLayout:
    def test_the_bytes_are_these(self):
        """Written out by hand, so that another language can be held against it."""
        message = Message(np.array([1.5]), np.array([3]), 2.0, np.array([2.0]), 1.0)
        (data,) = pack_spikes(message, sender=7, number=9)
        head = b"PSSM" + bytes([1, 1]) + (3).to_bytes(2, "little") + (7).to_bytes(4, "little")
        head += (9).to_bytes(8, "little")
        body = np.array([1.0, 2.0], "<f8").tobytes() + (1).to_bytes(4, "little")
        body += np.array([1.5], "<f8").tobytes() + (3).to_bytes(4, "little") + np.float32(2).tobytes()
        assert data == head + body

    def test_predictions_there_and_back(self):
        wanted = prediction(chunk=5, values=[[1, 2, 3], [4, 5, 6]])
        number, got = unpack_prediction(pack_prediction(wanted, sender=1, number=11))
        assert number == 11
        same_prediction(got, wanted)

    @given(st.binary(max_size=200), st.integers(0, 60))
    def test_anything_else_is_refused_as_such(self, junk, cut):
        (spikes,) = pack_spikes(messages(1, spikes=30)[0], sender=1, number=0)
        answer = pack_prediction(prediction(), sender=1, number=0)
        for data in (
            junk,
            spikes[:cut],
            answer[:cut],
            spikes + b"x",
            answer + b"x",
            spikes[:-1],
            answer[:-1],
        ):
            for read in (unpack_spikes, unpack_prediction):
                with pytest.raises(ValueError):
                    read(data)

    @given(st.integers(0, 400), st.integers(256, 2000), st.booleans())
    def test_large_messages_are_split(self, n, max_bytes, with_counts):
        times_s = np.linspace(1, 2, n)
        counts = np.full(n, 2.0, np.float32) if with_counts else None
        message = Message(times_s, np.arange(n), 2.0, counts)
        parts = list(pack_spikes(message, sender=1, number=5, before_s=1.0, max_bytes=max_bytes))
        assert all(len(part) <= max_bytes for part in parts)
        packets = [unpack_spikes(part) for part in parts]
        assert [p.number for p in packets] == list(range(5, 5 + len(parts)))
        assert [p.until_s for p in packets] == [1.0] * (len(parts) - 1) + [2.0]
        np.testing.assert_array_equal(np.concatenate([p.times_s for p in packets]), times_s)
        np.testing.assert_array_equal(np.concatenate([p.units for p in packets]), np.arange(n))


class TestSource:
    @pytest.mark.parametrize("counts", [False, True])
    def test_everything_arrives(self, pair, counts):
        source, rig = pair()
        sent = messages(50, counts=counts)

        def play():
            for message in sent:
                rig.send_spikes(message)

        with playing(play):
            received = collect(source, until_s=sent[-1].until_s)
        same_spikes(received, sent)
        assert [m.until_s for m in received] == [m.until_s for m in sent]
        assert [m.start_s for m in received] == [100.0] + [None] * 49
        assert source.counts.text() == f"50 messages, {len(np.hstack([m.units for m in sent]))} spikes"
        rig.close()
        source.close()

    def test_lost_twice_overtaken_and_unreadable(self, pair):
        source, rig = pair()
        parts = [next(pack_spikes(m, sender=4, number=i)) for i, m in enumerate(messages(8))]
        for data in (parts[0], b"junk", parts[2], parts[1], parts[2], parts[5], parts[5][:-3], parts[7]):
            rig._send(data)
        received = collect(source, until_s=messages(8)[-1].until_s)
        counts = source.counts
        assert (counts.messages, counts.lost, counts.duplicate, counts.malformed) == (5, 3, 1, 2)
        assert counts.overtaken == 1
        assert [m.until_s for m in received] == sorted(m.until_s for m in received)
        same_spikes([received[2]], [messages(8)[1]])  # it came after its mark, and is delivered still

    def test_a_rig_that_starts_anew_begins_a_stream(self, pair):
        source, rig = pair()
        for message in messages(3):
            rig.send_spikes(message)
        other = UdpSender(f"127.0.0.1:{source.port}")
        for message in messages(3, start_s=5.0):
            other.send_spikes(message, ends=message.until_s > 5.12)
        other.close()
        received = [m for m in source if len(m.units) or m.start_s is not None]
        assert [m.start_s for m in received if m.start_s is not None] == [100.0, 5.0]
        assert source.counts.lost == source.counts.overtaken == 0

    def test_without_marks_the_newest_spike_decides(self, pair):
        source, rig = pair(UdpConfig(lag_ms=30, tick_ms=10, timeout_s=5))
        rig.send_spikes(Message(np.array([1.0]), np.array([0]), math.nan))
        rig.send_spikes(Message(np.array([1.5, 1.2]), np.array([0, 1]), math.nan), ends=True)
        first, second = [m for m in source if len(m.units)]
        assert first.start_s == first.until_s == pytest.approx(0.97)
        assert second.until_s == pytest.approx(1.47)

    def test_ticks_while_nothing_comes_and_then_the_end_of_patience(self, pair, caplog):
        source, rig = pair(UdpConfig(tick_ms=5, timeout_s=0.1))
        rig.send_spikes(messages(1)[0])
        ticks = []
        with pytest.raises(StreamError, match="nothing came"):
            for message in source:
                ticks.append(message)
        assert len(ticks) > 3 and {m.until_s for m in ticks} == {100.05}
        assert not any(len(m.units) for m in ticks[1:])

    def test_the_delay_is_known_where_clocks_agree(self, pair):
        source, rig = pair(UdpConfig(clock="monotonic", tick_ms=10))
        now_s = time.monotonic()
        rig.send_spikes(Message(np.zeros(0), np.zeros(0, np.int64), now_s, None, now_s - 1), ends=True)
        (message,) = list(source)
        assert 0 <= message.received_s - now_s < 2

    def test_a_port_in_use(self, pair):
        source, _ = pair()
        with pytest.raises(StreamError, match="cannot listen"):
            open_source(f"udp:127.0.0.1:{source.port}")
        source.close()
        source.close()

    @pytest.mark.parametrize("address", ["udp:nowhere", "udp::9", "udp:127.0.0.1:x", "udp:127.0.0.1:99999"])
    def test_an_address_that_is_none(self, address):
        with pytest.raises(StreamError, match="no place"):
            open_source(address)

    def test_options(self, tmp_path):
        names = tmp_path / "units.txt"
        names.write_text("u1\nu2\n")
        for units in ("u1,u2", f"@{names}"):
            source = open_source(f"udp:127.0.0.1:0?units={units}&session=monday&lag_ms=3")
            assert source.unit_ids == ("u1", "u2") and source.session_id == "monday"
            assert source.rig.lag_ms == 3
            source.close()
        with pytest.raises(StreamError, match="cannot read names"):
            open_source("udp:127.0.0.1:0?units=@/no/file")
        for wrong in ("lag_ms=-1", "clock=sundial", "tick_ms=0", "timeout_s=0", "colour=red"):
            with pytest.raises(ConfigError):
                open_source(f"udp:127.0.0.1:0?{wrong}")


class TestSink:
    def test_predictions_arrive(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as user:
            user.bind(("127.0.0.1", 0))
            user.settimeout(5)
            sink = open_sink(f"udp:127.0.0.1:{user.getsockname()[1]}")
            sink.start({"cursor.pos": 2})
            for chunk in range(20):
                sink.write(prediction(chunk))
            for chunk in range(20):
                number, got = unpack_prediction(user.recv(65507))
                assert number == chunk
                same_prediction(got, prediction(chunk))
            sink.close()
            sink.close()

    def test_nobody_needs_to_listen(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as user:
            user.bind(("127.0.0.1", 0))
            port = user.getsockname()[1]
        sink = open_sink(f"udp:127.0.0.1:{port}")
        for chunk in range(10):
            sink.write(prediction(chunk))
        assert sink.refused > 0
        sink.close()

    def test_a_datagram_that_cannot_be_sent(self):
        sink = open_sink("udp:127.0.0.1:9")
        with pytest.raises(StreamError, match="cannot send"):
            sink.write(prediction(values=np.zeros((20_000, 2))))
        sink.close()
