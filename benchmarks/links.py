"""What do links add? 10,000 messages from a rig in another process, through each link and back.

    python benchmarks/links.py [--links lsl zmq udp redis] [--messages 10000] [--rate-hz 1000] [--realtime]
                               [--json F]

The rig sends a message of 50 spikes every 1 / rate; its mark is the moment of sending, on the clock that both
processes share. `in` is from there to the message in the stream's hands; `round trip` is until the rig has a
prediction that answers it (no decoder in between, so it is what the two links add to a step). `--realtime`
runs all of it at real-time priority (Linux, as root), for a machine that is busy with other things. Without a
redis-server on this machine, or a library, a link is left out and the table says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from possm.batch import Prediction
from possm.errors import PossmError, StreamError
from possm.streaming.links import Message, Sink, Source, open_sink, open_source

SPIKES = 50
QUIET_S = 5.0
LIMIT_MS = 5.0


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port that nobody listens at."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def addresses(link: str) -> Iterator[tuple[str, str]]:
    """Addresses of a source and a sink on this machine."""
    ports = [free_port(socket.SOCK_DGRAM if link == "udp" else socket.SOCK_STREAM) for _ in range(2)]
    if link == "lsl":
        with tempfile.TemporaryDirectory() as folder:
            settings = Path(folder) / "lsl_api.cfg"  # stay on this machine, say nothing
            settings.write_text("[multicast]\nResolveScope = machine\n[log]\nlevel = -3\n")
            os.environ.setdefault("LSLAPICFG", str(settings))
            yield f"lsl:bench-{ports[0]}-spikes?connect_s=20", f"lsl:bench-{ports[0]}-answers"
    elif link == "zmq":
        yield (
            f"zmq:tcp://127.0.0.1:{ports[0]}",
            f"zmq:tcp://127.0.0.1:{ports[1]}?pattern=push&bind=no&queue=20000",
        )
    elif link == "udp":
        yield f"udp:127.0.0.1:{ports[0]}", f"udp:127.0.0.1:{ports[1]}"
    else:
        with redis_server(ports[0]):
            where = f"port={ports[0]}&connect_s=10"
            yield f"redis:spikes?{where}&begin=0", f"redis:answers?{where}&queue=20000"


@contextlib.contextmanager
def redis_server(port: int) -> Iterator[None]:
    """A server that keeps nothing.

    Raises:
        StreamError: There is none on this machine.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise StreamError("no redis-server on this machine", fix="apt-get install redis-server")
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            server.terminate()
            server.wait()


# The rig: another process.


def sender(source: str) -> tuple[Callable[[Message], None], Callable[[], Any]]:
    """How a rig sends to a source at this address, and closes."""
    kind, _, rest = source.partition(":")
    place = rest.partition("?")[0]
    rig: Any
    if kind == "udp":
        from possm.streaming.links.udp import UdpSender

        rig = UdpSender(place)
    elif kind == "zmq":
        from possm.streaming.links.zmq import ZmqSender

        rig = ZmqSender(place, pattern="push")
    elif kind == "redis":
        from possm.streaming.links.entries import RedisSendConfig
        from possm.streaming.links.redis import RedisSender

        rig = RedisSender(place, RedisSendConfig(port=int(rest.partition("port=")[2].partition("&")[0])))
    else:
        from possm.streaming.links.outlets import LslSender

        rig = LslSender(place)
        rig.wait(20)
    return rig.send_spikes, rig.close


def receiver(sink: str) -> Callable[[], list[float]]:
    """A function that waits a moment for predictions and gives the ends of their chunks."""
    kind, _, rest = sink.partition(":")
    place = rest.partition("?")[0]
    if kind == "udp":
        from possm.streaming.links.datagrams import unpack_prediction

        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        listener.bind(("127.0.0.1", int(place.rpartition(":")[2])))
        listener.settimeout(0.1)

        def from_udp() -> list[float]:
            with contextlib.suppress(TimeoutError):
                return [unpack_prediction(listener.recv(65507))[1].end_s]
            return []

        return from_udp
    if kind == "zmq":
        from possm.streaming.links import zmq
        from possm.streaming.links.msgpacks import unpack_prediction as unpack

        puller = zmq.open_socket(place, "pull", bind=True)
        return lambda: [unpack(puller.recv()).end_s] if puller.poll(100) else []
    if kind == "redis":
        import redis

        from possm.streaming.links.entries import read_prediction

        port = int(rest.partition("port=")[2].partition("&")[0])
        client, last = redis.Redis(port=port, protocol=2), [b"0"]

        def from_redis() -> list[float]:
            answer: Any = client.xread({place: last[0]}, count=100, block=100)
            entries = answer[0][1] if answer else []
            last[0] = entries[-1][0] if entries else last[0]
            return [read_prediction(fields).end_s for _, fields in entries]

        return from_redis
    import pylsl

    from possm.streaming.links.outlets import FACTS

    inlet = pylsl.StreamInlet(pylsl.resolve_byprop("name", place, 1, 20)[0])
    inlet.open_stream(10)
    column = 2 + FACTS.index("end_s")

    def from_lsl() -> list[float]:
        sample, _ = inlet.pull_sample(timeout=0.1)
        return [] if sample is None else [sample[column]]

    return from_lsl


def run_rig(source: str, sink: str, messages: int, rate_hz: float) -> None:
    """Send, receive, and print round trips (ms) as JSON."""
    receive = receiver(sink)
    send, close = sender(source)
    trips_s: list[float] = []

    def listen() -> None:
        heard_s = time.monotonic()
        while len(trips_s) < messages and time.monotonic() - heard_s < QUIET_S:
            for end_s in receive():
                heard_s = time.monotonic()
                trips_s.append(heard_s - end_s)

    listener = threading.Thread(target=listen)
    listener.start()
    units, begun_s = np.arange(SPIKES), time.monotonic() + 1.0
    for i in range(messages):
        time.sleep(max(0.0, begun_s + i / rate_hz - time.monotonic()))
        now_s = time.monotonic()
        times_s = now_s - 1e-3 * np.linspace(1, 0.1, SPIKES)
        send(Message(times_s, units, now_s, None, now_s - 1 if i == 0 else None))
    listener.join()
    close()
    print(json.dumps(trips_s))


# The stream: this process.


def pass_through(source: Source, sink: Sink, messages: int) -> tuple[list[float], int]:
    """Answer every message at once; delays (s) and the number of spikes that came."""
    delays_s: list[float] = []
    spikes, until_s, heard_s = 0, -np.inf, time.monotonic()
    for message in source:
        now_s = time.monotonic()
        if message.until_s > until_s:
            until_s, heard_s = message.until_s, now_s
            delays_s.append(now_s - until_s)
            sink.write(prediction(len(delays_s), until_s))
        spikes += len(message.units)
        if spikes >= messages * SPIKES or (delays_s and now_s - heard_s > QUIET_S):
            break
    return delays_s, spikes


def prediction(chunk: int, end_s: float) -> Prediction:
    """An answer, as a decoder gives it."""
    return Prediction(
        "cursor.vel",
        np.array([end_s]),
        np.zeros((1, 2), np.float32),
        chunk,
        end_s - 0.05,
        end_s,
        50,
        0,
        0,
        1e-4,
    )


def bench_link(link: str, *, messages: int, rate_hz: float) -> dict[str, Any]:
    """One row of the table."""
    with addresses(link) as (source_at, sink_at), contextlib.ExitStack() as closing:
        source, sink = open_source(source_at), open_sink(sink_at)
        closing.callback(source.close)
        closing.callback(sink.close)
        sink.start({"cursor.vel": 2})
        command = [sys.executable, __file__, "--rig", source_at, sink_at]
        command += ["--messages", str(messages), "--rate-hz", str(rate_hz)]
        rig = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        delays_s, spikes = pass_through(source, sink, messages)
        trips_s = json.loads(rig.communicate(timeout=60)[0].splitlines()[-1])
        return {
            "link": link,
            "messages": messages,
            "rate_hz": rate_hz,
            "realtime": os.sched_getscheduler(0) == os.SCHED_FIFO,
            "lost": messages - spikes / SPIKES,
            "answers_lost": len(delays_s) - len(trips_s),
            **percentiles("in", delays_s),
            **percentiles("round_trip", trips_s),
            "sink_dropped": int(getattr(sink, "dropped", 0)),
        }


def percentiles(name: str, values_s: list[float]) -> dict[str, float]:
    """p50, p99, p99.9 and the largest, ms."""
    cuts = np.percentile(1000 * np.array(values_s), [50, 99, 99.9, 100])
    return {f"{name}_{what}_ms": round(float(cut), 4) for what, cut in zip(TAILS, cuts, strict=True)}


TAILS = ("p50", "p99", "p999", "max")


def table(rows: list[dict[str, Any]]) -> str:
    """For a person to read."""
    lines = [f"{'':6} {'lost':>5} {'in: p50':>8} {'p99':>7} {'p99.9':>7} {'max':>7}"]
    lines[0] += f" {'back: p50':>10} {'p99':>7} {'p99.9':>7} {'max':>7} ms"
    for row in rows:
        if "why" in row:
            lines.append(f"{row['link']:6} left out: {row['why']}")
            continue
        there = [row[f"in_{tail}_ms"] for tail in TAILS]
        back = [row[f"round_trip_{tail}_ms"] for tail in TAILS]
        lines.append(
            f"{row['link']:6} {row['lost'] + row['answers_lost']:5.0f} {there[0]:8.3f} "
            + " ".join(f"{value:7.3f}" for value in there[1:])
            + f" {back[0]:10.3f} "
            + " ".join(f"{value:7.3f}" for value in back[1:])
        )
    return "\n".join(lines)


def main() -> None:
    """Print a table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--links", nargs="+", default=["lsl", "zmq", "udp", "redis"])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rate-hz", type=float, default=1000.0)
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rig", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rig:
        source, sink = given.rig
        run_rig(source, sink, given.messages, given.rate_hz)
        return
    if given.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))  # the rig and the server inherit it
    rows: list[dict[str, Any]] = []
    for link in given.links:
        try:
            rows.append(bench_link(link, messages=given.messages, rate_hz=given.rate_hz))
        except PossmError as error:
            rows.append({"link": link, "why": str(error).splitlines()[0]})
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    good = [row for row in rows if "why" not in row]
    missed = [row for row in good if row["lost"] or row["answers_lost"] or row["in_p99_ms"] > LIMIT_MS]
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
