"""Training throughput and memory of the small model: 1 s windows of 100 units x 20 Hz.

    python benchmarks/throughput.py [--threads 2] [--batch-size 128] [--json FILE]

Whole steps as training takes them: cutting windows, chunks, forward, backward, optimizer, weight average.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "200000")  # as the command line does, before torch is loaded

import torch

from possm.data.simulate import SimulationConfig, simulate_session
from possm.model.decoder import PossmConfig
from possm.training.loop import Progress, TrainConfig, train
from possm.training.memory import peak_memory_mb


def main() -> None:
    """Train for a while on a simulated recording and time the steps after the first few."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--window-s", type=float, default=1.0)
    parser.add_argument("--large", action="store_true", help="the paper's large model")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recording = simulate_session(SimulationConfig(duration_s=1200.0, mean_rate_hz=20.0))
    stamps: list[float] = []

    def note(progress: Progress) -> None:
        if progress.valid_score is None:
            stamps.append(time.perf_counter())

    config = TrainConfig(
        behavior=("cursor.vel",),
        decoder=PossmConfig.large() if arguments.large else PossmConfig(),
        window_s=arguments.window_s,
        batch_size=arguments.batch_size,
        epochs=2 if arguments.large else 8,
        valid_every=100,
    )
    with tempfile.TemporaryDirectory() as folder:
        train([recording], config, folder, progress=note)
    steps = sorted(later - earlier for earlier, later in zip(stamps[2:], stamps[3:], strict=False))
    median_s = steps[len(steps) // 2]
    row = {
        "model": "large" if arguments.large else "small",
        "threads": arguments.threads,
        "windows_per_s": arguments.batch_size * arguments.window_s / median_s,
        "step_ms": 1000 * median_s,
        "spikes_per_window": len(recording.tokens(0, 1200)[0]) / 1200 * arguments.window_s,
        "peak_memory_mb": peak_memory_mb(),
    }
    print(
        "\n".join(
            f"{key:<18} {value if isinstance(value, str) else round(value, 1)}" for key, value in row.items()
        )
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
