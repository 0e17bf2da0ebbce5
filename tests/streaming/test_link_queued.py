import threading
import time

import pytest
from link_helpers import prediction

from possm.errors import ConfigError, StreamError
from possm.streaming.links.queued import QueuedSink


class Slow:
    """A sink that takes nothing until it is let."""

    def __init__(self):
        self.let, self.taken, self.closed = threading.Event(), [], 0

    def start(self, behaviors):
        self.behaviors = behaviors

    def write(self, prediction):
        assert self.let.wait(10)
        self.taken.append(prediction.chunk)

    def close(self):
        self.closed += 1


class Refusing(Slow):
    def write(self, prediction):
        raise StreamError("no more")


def test_a_slow_sink_drops_the_oldest(caplog):
    slow = Slow()
    sink = QueuedSink(slow, queue=10)
    sink.start({"cursor.pos": 2})
    sink.write(prediction(0))
    while sink._waiting:  # until the thread has taken it
        time.sleep(0.001)
    began = time.monotonic()
    for chunk in range(1, 101):
        sink.write(prediction(chunk))
    assert time.monotonic() - began < 1.0
    assert sink.dropped == 90
    slow.let.set()
    sink.close()
    assert slow.taken == [0, *range(91, 101)] and sink.dropped == 90
    assert slow.behaviors == {"cursor.pos": 2}
    assert "1 prediction(s) dropped" in caplog.text and "64 prediction(s)" in caplog.text


def test_nothing_is_dropped_by_one_that_keeps_up():
    fast = Slow()
    fast.let.set()
    sink = QueuedSink(fast, queue=1000)
    sink.start({})
    for chunk in range(500):
        sink.write(prediction(chunk))
    sink.close()
    sink.close()
    assert fast.taken == list(range(500)) and sink.dropped == 0 and fast.closed == 2


def test_one_that_never_takes_anything_does_not_hold_up_the_end():
    slow = Slow()
    sink = QueuedSink(slow, queue=10, drain_s=0.05)
    sink.start({})
    for chunk in range(5):
        sink.write(prediction(chunk))
    sink.close()
    assert sink.dropped >= 4 and slow.closed == 1
    slow.let.set()


def test_one_that_refuses_is_heard():
    sink = QueuedSink(Refusing())
    sink.start({})
    with pytest.raises(StreamError, match="no more"):
        for chunk in range(1000):
            sink.write(prediction(chunk))
            time.sleep(0.001)
    sink.close()


def test_a_queue_of_nothing():
    with pytest.raises(ConfigError, match="queue"):
        QueuedSink(Slow(), queue=0)
