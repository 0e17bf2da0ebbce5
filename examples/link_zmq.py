"""Spikes to a decoder and predictions back over ZeroMQ.

possm stream decoder.safetensors --source zmq:tcp://127.0.0.1:5555 --sink zmq:tcp://127.0.0.1:5556
python examples/link_zmq.py
"""

import time

import msgpack
import numpy as np
import zmq

UNITS, RATE_HZ, CHUNK_S = 40, 20.0, 0.05

context, rng = zmq.Context(), np.random.default_rng(0)
to_decoder = context.socket(zmq.PUSH)
to_decoder.connect("tcp://127.0.0.1:5555")
predictions = context.socket(zmq.SUB)
predictions.connect("tcp://127.0.0.1:5556")
predictions.subscribe("possm.prediction")

until_s = time.monotonic()
for number in range(200):  # ten seconds
    start_s, until_s = until_s, until_s + CHUNK_S
    n = rng.poisson(UNITS * RATE_HZ * CHUNK_S)
    message = {
        "kind": "spikes",
        "times_s": np.sort(rng.uniform(start_s, until_s, n)).tobytes(),
        "units": rng.integers(0, UNITS, n, dtype=np.int32).tobytes(),
        "start_s": start_s,
        "until_s": until_s,  # everything before this has now been delivered
        "number": number,
    }
    time.sleep(max(0.0, until_s - time.monotonic()))
    to_decoder.send(msgpack.packb(message))
    while predictions.poll(20):
        answer = msgpack.unpackb(predictions.recv_multipart()[-1])
        values = np.frombuffer(answer["values"], np.float32)
        print(f"chunk {answer['chunk']:4d}  {answer['behavior']}", *(f"{value:8.3f}" for value in values))
