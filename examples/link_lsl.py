"""Spikes to a decoder and predictions back over the Lab Streaming Layer: events, with marks.

possm stream decoder.safetensors --source lsl:spikes --sink lsl:predictions
python examples/link_lsl.py
"""

import time

import numpy as np
from pylsl import StreamInfo, StreamInlet, StreamOutlet, cf_double64, local_clock, resolve_byprop

UNITS, RATE_HZ, CHUNK_S = 40, 20.0, 0.05
MARK = -1.0  # a sample of this unit: everything before its timestamp has been delivered

rng = np.random.default_rng(0)
outlet = StreamOutlet(StreamInfo("spikes", "Spikes", 1, 0.0, cf_double64, "example-rig"))
inlet = None
print("waiting for the decoder to listen")
outlet.wait_for_consumers(60)

until_s = local_clock()
for _ in range(200):  # ten seconds
    start_s, until_s = until_s, until_s + CHUNK_S
    n = rng.poisson(UNITS * RATE_HZ * CHUNK_S)
    times_s = np.sort(rng.uniform(start_s, until_s, n)).tolist()
    units = rng.integers(0, UNITS, n).astype(float)
    time.sleep(max(0.0, until_s - local_clock()))
    outlet.push_chunk([[unit] for unit in (*units, MARK)], [*times_s, until_s])
    if inlet is None:
        inlet = StreamInlet(resolve_byprop("type", "Behavior", timeout=10)[0])
    time.sleep(0.01)
    samples, stamps = inlet.pull_chunk(timeout=0.0)
    for sample, stamp in zip(samples, stamps, strict=True):
        print(f"{stamp:10.3f} s", *(f"{value:8.3f}" for value in sample[:2]))
