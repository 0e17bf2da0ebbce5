"""Peers for the tests of links: messages, a rig that plays them, a redis-server, free ports."""

import contextlib
import shutil
import socket
import subprocess
import threading
import time

import numpy as np

from possm.batch import Prediction
from possm.streaming.links import Message

UNITS = 8
HASH = "ab" * 32


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def messages(number=20, *, seed=0, start_s=100.0, packet_s=0.05, counts=False, spikes=6):
    """Consecutive packets of random spikes; the first says where the stream begins."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(number):
        begin_s, n = start_s + i * packet_s, random.poisson(spikes)
        made.append(
            Message(
                np.sort(random.uniform(begin_s, begin_s + packet_s, n)),
                random.integers(0, UNITS, n),
                begin_s + packet_s,
                random.integers(1, 4, n).astype(np.float32) if counts else None,
                begin_s if i == 0 else None,
            )
        )
    return made


def prediction(chunk=0, behavior="cursor.pos", values=((1.5, -2.25),)):
    values, end_s = np.array(values, np.float32), (chunk + 1) * 0.05
    times_s = np.full(len(values), end_s)
    return Prediction(
        behavior, times_s, values, chunk, end_s - 0.05, end_s, 7, 1, 2, 0.00123, 0.002, HASH, 4, 3, "held"
    )


def same_prediction(got, wanted):
    np.testing.assert_array_equal(got.times_s, wanted.times_s)
    np.testing.assert_array_equal(got.values, wanted.values)
    assert got.values.dtype == np.float32 and got.times_s.dtype == np.float64
    names = ("behavior", "chunk", "start_s", "end_s", "spikes", "late", "unknown", "compute_s")
    for name in (*names, "input_delay_s", "decoder_hash", "dropped", "jumps", "status"):
        assert getattr(got, name) == getattr(wanted, name), name


def spikes_of(received):
    """Times, units, counts of all messages."""
    times_s = np.concatenate([m.spike_times_s for m in received])
    units = np.concatenate([m.units for m in received])
    ones = [np.ones(len(m.units)) if m.counts is None else m.counts for m in received]
    return times_s, units, np.concatenate(ones)


def same_spikes(received, sent):
    for got, wanted in zip(spikes_of(received), spikes_of(sent), strict=True):
        np.testing.assert_array_equal(got, wanted)


def collect(source, *, until_s, limit_s=10.0):
    """Messages of a source up to a mark, the empty ticks left out."""
    received, ends = [], time.monotonic() + limit_s
    for message in source:
        if len(message.units) or not received or message.until_s > received[-1].until_s:
            received.append(message)
        if message.until_s >= until_s - 1e-9:
            return received
        assert time.monotonic() < ends, f"nothing up to {until_s} s; last {received[-1:]}"
    return received


@contextlib.contextmanager
def playing(function):
    """A rig that runs in a thread."""
    errors = []

    def run():
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield thread
    thread.join(10)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def redis_server(folder, port=None):
    """A real server, that keeps nothing; gives its port."""
    port = port or free_port()
    command = [shutil.which("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.02)
        yield port
    finally:
        server.terminate()
        server.wait(10)
