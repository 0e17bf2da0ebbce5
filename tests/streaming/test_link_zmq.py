import math
import time
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from link_helpers import collect, free_port, messages, playing, prediction, same_prediction, same_spikes

from possm.errors import StreamError
from possm.streaming.links import Message, open_sink, open_source
from possm.streaming.links.msgpacks import pack_prediction, pack_spikes, unpack_prediction, unpack_spikes
from possm.streaming.links.zmq import ZmqConfig, ZmqSender, ZmqSource

zmq = pytest.importorskip("zmq", reason="pyzmq is not installed")
msgpack = pytest.importorskip("msgpack", reason="msgpack is not installed")


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def pair(stack, *, pattern="pull"):
    config = ZmqConfig(pattern=pattern, bind=True, tick_ms=10, timeout_s=5)
    source = ZmqSource("tcp://127.0.0.1:*", config)
    stack.callback(source.close)
    rig = ZmqSender(source.endpoint, pattern={"pull": "push", "sub": "pub"}[pattern])
    stack.callback(rig.close, 0)
    return source, rig


class TestMessages:
    def test_plain_lists_will_do(self):
        """As somebody would write it in another language."""
        data = msgpack.packb({"kind": "spikes", "times_s": [1.0, 1.5], "units": [3, 0], "until_s": 2})
        packet = unpack_spikes(data)
        np.testing.assert_array_equal(packet.times_s, [1.0, 1.5])
        np.testing.assert_array_equal(packet.units, [3, 0])
        assert packet.until_s == 2.0 and math.isnan(packet.start_s) and packet.number is None

    def test_units_by_name(self):
        fields = {"kind": "spikes", "times_s": [1.0, 1.5], "until_s": 2.0}
        packet = unpack_spikes(msgpack.packb({**fields, "units": ["b", "a"]}))
        assert packet.units.tolist() == ["b", "a"]
        named = {**fields, "units": [1, 7], "unit_ids": ["x", "y"]}
        assert unpack_spikes(msgpack.packb(named)).units.tolist() == ["y", ""]
        message = Message(np.array([1.0]), np.array(["left"]), 2.0)
        assert unpack_spikes(pack_spikes(message)).units.tolist() == ["left"]

    def test_predictions_there_and_back(self):
        wanted = prediction(chunk=5, values=[[1, 2, 3], [4, 5, 6]])
        same_prediction(unpack_prediction(pack_prediction(wanted)), wanted)

    @given(st.binary(max_size=80))
    def test_junk(self, data):
        with pytest.raises(ValueError):
            unpack_spikes(data)

    @pytest.mark.parametrize(
        "change",
        [{"kind": "song"}, {"times_s": "noon"}, {"times_s": [[1.0]]}, {"units": [1, 2]}, {"counts": [1, 2]}],
    )
    def test_fields_that_do_not_fit(self, change):
        fields = {"kind": "spikes", "times_s": [1.0], "units": [0], "until_s": 2.0, **change}
        with pytest.raises((ValueError, TypeError)):
            unpack_spikes(msgpack.packb(fields))


class TestSource:
    @pytest.mark.parametrize("counts", [False, True])
    def test_push_pull(self, stack, counts):
        source, rig = pair(stack)
        sent = messages(200, counts=counts)

        def play():
            for message in sent:
                rig.send_spikes(message)

        with playing(play):
            received = collect(source, until_s=sent[-1].until_s)
        same_spikes(received, sent)
        assert [m.start_s for m in received] == [100.0] + [None] * 199
        assert source.counts.messages == 200 and source.counts.lost == 0

    def test_pub_sub(self, stack):
        """A subscriber may come late: it begins with what it hears first."""
        source, rig = pair(stack, pattern="sub")
        sent, done = messages(400, packet_s=0.01), []

        def play():
            for message in sent:
                rig.send_spikes(message)
                time.sleep(0.001)
                if done:
                    return

        with playing(play):
            received = collect(source, until_s=0)
            first = next(i for i, m in enumerate(sent) if m.until_s == received[0].until_s)
            received += collect(source, until_s=sent[first + 20].until_s)
            done.append(True)
        assert received[0].start_s is not None
        assert source.counts.lost == 0

    def test_what_cannot_be_read_is_counted_and_skipped(self, stack, caplog):
        source, rig = pair(stack)
        rig._send([b"junk"])
        rig._number = 0
        rig.send_spikes(messages(1)[0])
        rig._send([msgpack.packb({"kind": "spikes", "times_s": [1.0], "units": []})])
        rig._number = 1
        rig.send_spikes(messages(2)[1], ends=True)
        received = [m for m in source if len(m.units)]
        same_spikes(received, messages(2))
        assert (source.counts.malformed, source.counts.messages, source.counts.lost) == (2, 2, 0)
        assert "skipped 1 message(s)" in caplog.text

    def test_a_port_in_use(self, stack):
        source, _ = pair(stack)
        for kind, open_it in (("source", open_source), ("sink", open_sink)):
            with pytest.raises(StreamError, match="cannot listen"):
                open_it(f"zmq:{source.endpoint}")
            assert kind

    @pytest.mark.parametrize("place", ["nowhere", "tcp://", "carrier://pigeon"])
    def test_an_endpoint_that_is_none(self, place):
        with pytest.raises(StreamError, match="zmq:"):
            open_source(f"zmq:{place}")

    def test_nobody_is_there(self, stack):
        source = open_source(f"zmq:tcp://127.0.0.1:{free_port()}?bind=no&timeout_s=0.1&tick_ms=10")
        stack.callback(source.close)
        with pytest.raises(StreamError, match="nothing came"):
            list(source)


class TestSink:
    @pytest.mark.parametrize("pattern", ["pub", "push"])
    def test_predictions_arrive(self, stack, pattern):
        user = zmq.Context.instance().socket({"pub": zmq.SUB, "push": zmq.PULL}[pattern])
        stack.callback(user.close, 0)
        if pattern == "pub":
            user.subscribe(b"possm.prediction")
        user.bind("tcp://127.0.0.1:*")
        sink = open_sink(f"zmq:{user.last_endpoint.decode()}?pattern={pattern}&bind=no")
        sink.start({"cursor.pos": 2})
        if pattern == "pub":  # who subscribes hears what comes after that
            for _ in range(500):
                sink.write(prediction(0))
                if user.poll(10):
                    break
        for chunk in range(1, 50):
            sink.write(prediction(chunk))
        got = []
        while not got or got[-1].chunk < 49:
            assert user.poll(5000)
            got.append(unpack_prediction(user.recv_multipart()[-1]))
        later = [p for p in got if p.chunk]
        assert [p.chunk for p in later] == list(range(1, 50))
        same_prediction(later[-1], prediction(49))
        sink.close()

    def test_a_peer_that_is_not_there_costs_no_time(self):
        """What nobody takes is dropped, the oldest first; the stream goes on."""
        sink = open_sink(f"zmq:tcp://127.0.0.1:{free_port()}?pattern=push&bind=yes&queue=5")
        sink.sink._patience_ms = 50
        sink.start({"cursor.pos": 2})
        began = time.monotonic()
        for chunk in range(50):
            sink.write(prediction(chunk))
        assert time.monotonic() - began < 0.5
        sink.close()
        assert sink.dropped == 50
