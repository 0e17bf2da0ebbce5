"""Does a stream say what a batch says? 1,000 random ways to cut a 10-minute recording into pushes.

    python benchmarks/stream_equals_batch.py [--chunkings 1000] [--minutes 10] [--dtype NAME] [--json FILE]

Random weights (every parameter moved off its start), the small model of the paper, 30 units at 4 Hz, outputs
at the end of every chunk. Each chunking draws the mean length of its pushes, the lengths around it, how many
chunks a step may decode at most, how early spikes are delivered, and their order; one in a hundred decodes
chunk by chunk throughout, as a rig does. Prints the largest difference from decoding all in one call.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from possm.batch import Queries
from possm.checkpoint import Decoder
from possm.data.chunks import Sample, chunk_edges_s, chunk_tokens, collate, query_chunks
from possm.streaming.live import LiveConfig, LiveDecoder
from possm.streaming.rehearsal import random_decoder, random_spikes
from possm.streaming.torch_engine import TorchEngine

CHUNK_S = 0.05
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-9}
NUM_UNITS, RATE_HZ = 30, 4.0


def batch_answers(decoder: Decoder, times_s: np.ndarray, unit: np.ndarray, num_chunks: int) -> np.ndarray:
    """Everything in one call, asked at the end of every chunk."""
    edges_s = chunk_edges_s(0.0, first=0, count=num_chunks, chunk_ms=50)
    tokens = chunk_tokens(times_s, unit + 1, np.ones(len(unit), np.float32), edges_s)
    queries = {"cursor.pos": Queries(*query_chunks(edges_s[1:], edges_s, lead_s=CHUNK_S))}
    batch = collate([Sample(tokens, 0, queries)])
    with torch.inference_mode():
        return decoder.model(batch.to(torch.from_numpy))[0]["cursor.pos"].numpy()


def cuts(num_chunks: int, rng: np.random.Generator, *, mean_s: float) -> np.ndarray:
    """Ends of pushes: lengths from an exponential, a third of the ends moved to the edge of a chunk."""
    end_s = num_chunks * CHUNK_S
    ends_s = np.cumsum(rng.exponential(mean_s, int(2 * end_s / mean_s) + 10))
    on_edge = rng.random(len(ends_s)) < 1 / 3
    ends_s[on_edge] = np.round(ends_s[on_edge] / CHUNK_S) * 50 / 1000
    return np.append(np.sort(ends_s[ends_s < end_s]), end_s)


def stream_answers(
    engine: TorchEngine, times_s: np.ndarray, unit: np.ndarray, num_chunks: int, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """One random chunking: answers, and how many steps it took."""
    by_one = rng.random() < 1 / 100
    max_chunks = 1 if by_one else int(np.exp(rng.uniform(np.log(8), np.log(4000))))
    mean_s = (
        np.exp(rng.uniform(np.log(0.01), np.log(1))) if by_one else CHUNK_S * max_chunks * rng.uniform(1, 3)
    )
    ends_s = cuts(num_chunks, rng, mean_s=mean_s)
    live = LiveDecoder(engine, config=LiveConfig(max_chunks=max_chunks))
    last = np.searchsorted(ends_s, (np.floor(times_s / CHUNK_S) + 1) * CHUNK_S - 1e-9)
    push = np.maximum(np.minimum(last, len(ends_s) - 1) - rng.integers(0, 3, len(last)), 0)
    order = rng.permutation(len(times_s))
    order = order[np.argsort(push[order], kind="stable")]
    bounds = np.searchsorted(push[order], np.arange(len(ends_s) + 1))
    predictions, steps = [], 0
    for number, until_s in enumerate(ends_s):
        mine, before = order[bounds[number] : bounds[number + 1]], live.chunk
        predictions += live.push(times_s[mine], unit[mine], until_s)
        steps += -(-(live.chunk - before) // max_chunks)
    assert live.counts.used == len(times_s) and len(predictions) == num_chunks
    return np.concatenate([prediction.values for prediction in predictions]), steps


def main() -> None:
    """Run and print; exits with status 1 when a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunkings", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--dtype", choices=["float32", "float64"], help="only this one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    num_chunks = round(options.minutes * 60 / CHUNK_S)
    times_s, unit = random_spikes(NUM_UNITS, rate_hz=RATE_HZ, duration_s=num_chunks * CHUNK_S)
    rows = []
    for dtype, limit in LIMITS.items():
        name = str(dtype).removeprefix("torch.")
        if options.dtype not in (None, name):
            continue
        decoder = random_decoder(num_units=NUM_UNITS, dtype=dtype)
        wanted, engine = batch_answers(decoder, times_s, unit, num_chunks), TorchEngine(decoder)
        largest, steps, began = 0.0, 0, time.perf_counter()
        for seed in range(options.chunkings):
            got, took = stream_answers(engine, times_s, unit, num_chunks, np.random.default_rng(seed))
            largest, steps = max(largest, float(np.abs(got - wanted).max())), steps + took
        row = {"dtype": name, "chunkings": options.chunkings, "minutes": options.minutes, "steps": steps}
        row |= {"largest_difference": largest, "limit": limit, "sd_of_answers": float(wanted.std(0).mean())}
        rows.append(row | {"wall_s": round(time.perf_counter() - began, 1)})
        print(" ".join(f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
                       for key, value in rows[-1].items()))  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    raise SystemExit(any(row["largest_difference"] > row["limit"] for row in rows))


if __name__ == "__main__":
    main()
