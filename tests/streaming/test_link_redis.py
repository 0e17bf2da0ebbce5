import shutil
import threading
import time

import numpy as np
import pytest
from link_helpers import (
    collect,
    free_port,
    messages,
    playing,
    prediction,
    redis_server,
    same_prediction,
    same_spikes,
)

from possm.errors import ConfigError, StreamError
from possm.streaming.links import open_sink, open_source
from possm.streaming.links.entries import RedisConfig, RedisSendConfig, read_prediction
from possm.streaming.links.redis import RedisSender, RedisSource

redis = pytest.importorskip("redis", reason="redis is not installed")
pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="no redis-server on this machine"
)


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture
def client(port):
    with redis.Redis(port=port, protocol=2) as client:
        client.flushall()
        yield client


def source_of(port, key="spikes", **more):
    return RedisSource(key, RedisConfig(port=port, tick_ms=10, timeout_s=5, connect_s=5, **more))


def rig_of(port, key="spikes"):
    return RedisSender(key, RedisSendConfig(port=port, connect_s=5))


@pytest.mark.parametrize("counts", [False, True])
def test_events(port, client, counts):
    source, rig = source_of(port), rig_of(port)
    source.connect()
    sent = messages(200, counts=counts)

    def play():
        for message in sent:
            rig.send_spikes(message)

    with playing(play):
        received = collect(source, until_s=sent[-1].until_s)
    same_spikes(received, sent)
    assert [m.start_s for m in received] == [100.0] + [None] * 199
    assert source.counts.messages == 200 and source.counts.lost == 0
    rig.close()
    source.close()


def test_bins_as_brand_writes_them(port, client):
    """`samples` int8, `ts` of the monotonic clock in nanoseconds, `i`, and `sync` that nobody needs here."""
    samples = np.array([[0, 2, 0], [1, 0, 3], [0, 0, 0]], np.int8)
    for i, row in enumerate(samples):
        ts = np.uint64(5_000_000_000 + 10_000_000 * i).tobytes()
        fields = {"ts": ts, "samples": row.tobytes(), "i": np.uint64(i).tobytes(), "sync": '{"i": 0}'}
        client.xadd("binned_spikes", fields)
    source = source_of(port, "binned_spikes", begin="0", bin_ms=10, clock="monotonic")
    received = collect(source, until_s=5.02)
    assert [m.until_s for m in received] == pytest.approx([5.0, 5.01, 5.02])
    assert received[0].start_s == pytest.approx(4.99)
    np.testing.assert_allclose(received[0].spike_times_s, [4.995])
    assert received[0].units.tolist() == [1] and received[0].counts.tolist() == [2.0]
    assert received[1].units.tolist() == [0, 2] and received[1].counts.tolist() == [1.0, 3.0]
    assert len(received[2].units) == 0 and np.isfinite(received[0].received_s)
    source.close()


def test_only_what_is_new_unless_told(port, client):
    rig, sent = rig_of(port), messages(4)
    for message in sent[:2]:
        rig.send_spikes(message)
    new, everything = source_of(port), source_of(port, begin="0")
    new.connect()
    for message in sent[2:]:
        rig.send_spikes(message)
    same_spikes(collect(new, until_s=sent[-1].until_s), sent[2:])
    same_spikes(collect(everything, until_s=sent[-1].until_s), sent)
    for link in (new, everything, rig):
        link.close()


def test_what_cannot_be_read_is_counted_and_skipped(port, client):
    source, rig, sent = source_of(port, begin="0"), rig_of(port), messages(2)
    rig.send_spikes(sent[0])
    client.xadd("spikes", {"hello": "world"})
    client.xadd("spikes", {"times_s": b"123", "units": b""})
    client.xadd("spikes", {"samples": b"12"})
    rig.send_spikes(sent[1], ends=True)
    same_spikes([m for m in source if len(m.units)], sent)
    assert source.counts.malformed == 3 and source.counts.lost == 0
    rig.close()
    source.close()


def test_a_server_that_dies_and_returns(tmp_path, caplog):
    port, received = free_port(), []
    source = source_of(port)
    with redis_server(tmp_path, port):
        source.connect()
        rig = rig_of(port)
        rig.send_spikes(messages(1)[0])
        received += collect(source, until_s=100.05)
    thread = threading.Thread(target=lambda: received.extend(m for m in source if len(m.units)))
    thread.start()
    time.sleep(0.15)
    with redis_server(tmp_path, port):
        deadline = time.monotonic() + 8
        while source.counts.reconnects == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        rig.send_spikes(messages(3)[1])
        rig.send_spikes(messages(3)[2], ends=True)
        thread.join(8)
    assert not thread.is_alive()
    same_spikes(received, messages(3))
    assert source.counts.reconnects == 1 and "nobody is there" in caplog.text
    rig.close()
    source.close()


def test_no_server():
    address = f"redis:spikes?port={free_port()}&connect_s=0.15"
    source, sink = open_source(address), open_sink(address)
    with pytest.raises(StreamError, match="nobody is there"):
        next(iter(source))
    with pytest.raises(StreamError, match="nobody is there"):
        sink.start({"cursor.pos": 2})
    source.close()
    sink.close()
    with pytest.raises(ConfigError, match="port"):
        open_source("redis:spikes?port=70000")


def test_predictions_arrive(port, client):
    sink = open_sink(f"redis:answers?port={port}&queue=1000")
    sink.start({"cursor.pos": 2})
    for chunk in range(100):
        sink.write(prediction(chunk))
    sink.close()
    sink.close()
    entries = client.xrange("answers")
    assert sink.dropped == 0 and len(entries) == 100
    for chunk, (_, fields) in enumerate(entries):
        same_prediction(read_prediction(fields), prediction(chunk))
        assert int(np.frombuffer(fields[b"i"], "<u8")[0]) == chunk


def test_a_server_that_refuses(port, client):
    """The key holds something else: the sink says so."""
    client.set("answers", "a string")
    sink = open_sink(f"redis:answers?port={port}")
    sink.start({"cursor.pos": 2})
    with pytest.raises(StreamError, match="refuses"):
        for chunk in range(500):
            sink.write(prediction(chunk))
            time.sleep(0.01)
    sink.close()
    source = open_source(f"redis:answers?port={port}")
    with pytest.raises(StreamError, match="refuses"):
        next(iter(source))
    source.close()
