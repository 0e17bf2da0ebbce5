"""What one second of training costs with every backbone, as a ratio to the GRU of the same run.

    python benchmarks/backbones.py [--repeats 9] [--threads 1 2] [--json FILE]

Forward and backward over a batch of 32 sequences of 20 chunks of 50 ms, dropout on; the backbone alone, and
the whole decoder with 96 units at 10 spikes/s. The backbones take turns and the ratios are medians over the
turns, so that another load on the machine falls on all of them. `step` is one chunk of one stream.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from possm.batch import Batch, Queries, Tokens
from possm.model.backbones import BACKBONES
from possm.model.decoder import BehaviorConfig, Possm, PossmConfig
from possm.training.memory import keep_freed_memory

NUM_SEQUENCES, NUM_CHUNKS, NUM_UNITS = 32, 20, 96
BEHAVIORS = {"cursor.vel": BehaviorConfig(num_dimensions=2)}
SIZES: dict[str, Callable[..., PossmConfig]] = {"small": PossmConfig, "large": PossmConfig.large}

Turn = Callable[[], Tensor]


def random_batch() -> Batch:
    """Poisson spikes, one query a chunk."""
    sizes = torch.poisson(torch.full((NUM_SEQUENCES * NUM_CHUNKS,), NUM_UNITS * 10 * 0.05)).long()
    total, offsets = int(sizes.sum()), torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    unit = torch.randint(1, NUM_UNITS + 1, (total,))
    tokens = Tokens(unit, torch.rand(total) * 0.05, torch.ones(total), offsets)
    queries = {name: Queries(torch.arange(len(sizes)), torch.zeros(len(sizes))) for name in BEHAVIORS}
    return Batch(tokens, torch.zeros(NUM_SEQUENCES, dtype=torch.int64), NUM_CHUNKS, queries)


def backbone_turn(config: PossmConfig) -> Turn:
    """Forward and backward of the backbone alone."""
    backbone = BACKBONES[config.backbone](
        config.width, hidden=config.hidden, num_layers=config.num_layers, dropout=config.dropout
    )
    sequence = torch.randn(NUM_SEQUENCES, NUM_CHUNKS, config.width, requires_grad=True)
    weight = torch.randn(NUM_SEQUENCES, NUM_CHUNKS, config.hidden)
    state = backbone.initial_state(NUM_SEQUENCES)
    return lambda: (backbone(sequence, state)[0] * weight).sum()


def decoder_turn(config: PossmConfig) -> Turn:
    """Forward and backward of the whole decoder."""
    model, batch = Possm(config, num_units=NUM_UNITS + 1, num_sessions=1), random_batch()
    return lambda: model(batch)[0]["cursor.vel"].square().mean()


def training_ms(turns: dict[str, Turn], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every repetition, by backbone."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for repeat in range(repeats + 2):  # the first two warm up
        for name, turn in turns.items():
            start = time.perf_counter()
            turn().backward()
            if repeat >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


@torch.inference_mode()
def step_ms(config: PossmConfig, repeats: int = 100) -> float:
    """Median milliseconds of the backbone over one chunk of one stream."""
    backbone = BACKBONES[config.backbone](
        config.width, hidden=config.hidden, num_layers=config.num_layers, dropout=config.dropout
    ).eval()
    state, times = backbone.initial_state(1), []
    for chunk in torch.randn(repeats, 1, 1, config.width):
        start = time.perf_counter()
        _, state = backbone(chunk, state)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def rows_of(size: str, threads: int, repeats: int) -> list[dict[str, object]]:
    """One row per backbone."""
    configs = {name: SIZES[size](backbone=name, behaviors=BEHAVIORS) for name in BACKBONES}
    alone = training_ms({name: backbone_turn(config) for name, config in configs.items()}, repeats)
    whole = training_ms({name: decoder_turn(config) for name, config in configs.items()}, repeats)
    return [
        {
            "size": size,
            "threads": threads,
            "backbone": name,
            "backbone_ms": statistics.median(alone[name]),
            "backbone_ratio": _ratio(alone[name], alone["gru"]),
            "decoder_ms": statistics.median(whole[name]),
            "decoder_ratio": _ratio(whole[name], whole["gru"]),
            "step_ms": step_ms(config),
        }
        for name, config in configs.items()
    ]


def _ratio(times: list[float], reference: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(times, reference, strict=True))


def main() -> None:
    """Print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()  # as training does
    print("size   threads backbone  alone ms  ratio  decoder ms  ratio  step ms")
    rows = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for size in SIZES:
            for row in rows_of(size, threads, arguments.repeats):
                rows.append(row)
                print(
                    f"{size:6s} {threads:7d} {row['backbone']:8s} {row['backbone_ms']:9.1f} "
                    f"{row['backbone_ratio']:6.2f} {row['decoder_ms']:11.1f} {row['decoder_ratio']:6.2f} "
                    f"{row['step_ms']:8.2f}",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
