"""Pretraining of the large model on one GPU: speed, what the paper's run would take, and is it right.

    python benchmarks/gpu.py [--json FILE]
    python benchmarks/gpu.py --device cpu --small --steps 8        # the same on a machine without one

148 simulated sessions of the paper's mean size (176 units). Prints windows of 1 s a second in float32 and
bf16; how long 148 sessions of 43 minutes take at that rate for the epochs of `possm.recipes.pretrain` (theirs
took four GPUs 36 hours, for epochs not published); how far losses of the first steps are from the CPU's,
without dropout; and the share of the time in which the GPU did something, from a profile. Ends at once
without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from possm import recipes
from possm.data.recording import Recording
from possm.data.simulate import SimulationConfig, simulate_session
from possm.model.decoder import PossmConfig
from possm.training.config import Progress, TrainConfig
from possm.training.loop import train

SESSIONS, SESSION_S, UNITS = 148, 43 * 60, 176
WARM = 3
"""Steps before the clock starts."""


class Enough(Exception):  # noqa: N818 (it is no error)
    """Ends a run from its callback."""


def run(recordings: list[Recording], config: TrainConfig, told: Callable[[Progress], None]) -> None:
    """Train in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        train(recordings, config, folder, progress=told)


def losses(recordings: list[Recording], config: TrainConfig, steps: int) -> list[float]:
    """Of the first steps."""
    found: list[float] = []

    def told(progress: Progress) -> None:
        if progress.valid_score is None:
            found.append(progress.loss)
        if len(found) == steps:
            raise Enough

    with contextlib.suppress(Enough):
        run(recordings, config, told)
    return found


def speed(recordings: list[Recording], config: TrainConfig, steps: int) -> tuple[float, float | None]:
    """Windows a second, and the share of the time in which the GPU did something, kernels and copies."""
    on_gpu = config.device == "cuda"
    stamps: list[float] = []
    profiler = profile(activities=[ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU])
    taken = 0

    def stamp() -> None:
        if on_gpu:
            torch.cuda.synchronize()  # here only: in training batches are made while the GPU works
        stamps.append(time.perf_counter())

    def told(progress: Progress) -> None:
        nonlocal taken
        if progress.valid_score is not None:
            return
        taken += 1
        if taken in (WARM, WARM + steps):
            stamp()
        if taken == WARM + steps and on_gpu:
            profiler.start()  # of as many steps again: a profile slows what it looks at
            stamp()
        if taken == WARM + (2 * steps if on_gpu else steps):
            raise Enough

    with contextlib.suppress(Enough):
        run(recordings, config, told)
    rate = config.batch_size * steps / (stamps[1] - stamps[0])
    if not on_gpu:
        return rate, None
    stamp()
    profiler.stop()
    busy_us = sum(event.self_device_time_total for event in profiler.key_averages())
    return rate, busy_us / 1e6 / (stamps[3] - stamps[2])


def main() -> int:
    """Measure and print; 0 also where there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a small model, to try this script")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no GPU")
        return 0
    minutes, number = (1, 4) if arguments.small else (20, SESSIONS)
    made = simulate_session(SimulationConfig(duration_s=60.0 * minutes, num_units=UNITS), seed=0)
    # the same spikes under as many names, so that the tables are as large as the paper's and an epoch as long
    recordings = [replace(made, session_id=f"session{index}") for index in range(number)]
    recipe = recipes.suited(recipes.pretrain(), recordings)
    batch = 16 if arguments.small else recipe.batch_size
    decoder = PossmConfig(rest=0.0) if arguments.small else recipe.decoder
    config = replace(
        recipe,
        decoder=decoder,
        rename=(),
        device=arguments.device,
        batch_size=batch,
        epochs=1000,
        valid_every=1000,
        precision="float32",
    )
    row: dict[str, object] = {"device": arguments.device, "batch": batch}
    if arguments.device == "cuda":
        row["device"] = torch.cuda.get_device_name()
    assert recipe.epochs is not None
    windows = SESSIONS * SESSION_S * recipe.epochs
    for precision in ("float32", "bf16") if arguments.device == "cuda" else ("float32",):
        rate, busy = speed(recordings, replace(config, precision=precision), arguments.steps)
        row |= {f"windows_per_s_{precision}": rate, f"paper_hours_{precision}": windows / rate / 3600}
        if busy is not None:
            row[f"gpu_busy_{precision}"] = busy
    assert isinstance(decoder, PossmConfig)
    still = replace(config, decoder=replace(decoder, dropout=0.0))
    both = [losses(recordings, replace(still, device=d), 4) for d in ("cpu", arguments.device)]
    row["loss_difference"] = max(abs(a - b) / abs(a) for a, b in zip(*both, strict=True))
    for key, value in row.items():
        print(f"{key:<24} {value if not isinstance(value, float) else f'{value:.4g}'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(row, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
