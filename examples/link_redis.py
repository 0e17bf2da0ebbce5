"""Spikes to a decoder and predictions back over Redis streams, as in BRAND: a bin of counts an entry.

    possm stream decoder.safetensors --source "redis:binned_spikes?bin_ms=10" --sink redis:predictions
    python examples/link_redis.py

A redis-server must be running on this machine.
"""

import time

import numpy as np
import redis

UNITS, RATE_HZ, BIN_MS = 40, 20.0, 10

server, rng = redis.Redis(protocol=2), np.random.default_rng(0)
last, next_s = b"$", time.monotonic()
for number in range(1000):  # ten seconds
    next_s += BIN_MS / 1000
    time.sleep(max(0.0, next_s - time.monotonic()))
    counts = rng.poisson(RATE_HZ * BIN_MS / 1000, UNITS).astype(np.int8)
    entry = {
        "ts": np.uint64(next_s * 1e9).tobytes(),  # the bin's end
        "i": np.uint64(number).tobytes(),
        "samples": counts.tobytes(),
    }
    if last == b"$":
        newest = server.xrevrange("predictions", count=1)
        last = newest[0][0] if newest else b"0"
    server.xadd("binned_spikes", entry, maxlen=100_000)
    for _, entries in server.xread({"predictions": last}, count=10):
        for identity, fields in entries:
            last = identity
            chunk = np.frombuffer(fields[b"chunk"], np.uint64)[0]
            values = np.frombuffer(fields[b"samples"], np.float32)
            print(f"chunk {chunk:4d}  {fields[b'behavior'].decode()}", *(f"{value:8.3f}" for value in values))
