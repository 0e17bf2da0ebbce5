"""How long a step takes: engines and backbones side by side, hot and after pauses, by spikes and by units.

What is timed, on what input, is in `latency_cases`; the peers are in `peers`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from possm.bench.latency_cases import SPIKES, UNITS, Case, Engines, LatencyConfig, runner
from possm.streaming.host import Collector, HostConfig, KeepWarm, steady_host
from possm.streaming.links.horizon import RigConfig

DEADLINES_MS = (1, 5, 10, 20, 50)
WARM_UP = 50
"""Steps that are not counted."""


@dataclass(frozen=True, kw_only=True)
class Row(Case):
    """What was measured; percentiles are exact."""

    realtime: bool
    steps: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    missed_1ms: int
    missed_5ms: int
    missed_10ms: int
    missed_20ms: int
    missed_50ms: int


@dataclass(frozen=True)
class LatencyReport:
    """All rows of one run."""

    rows: tuple[Row, ...]

    def text(self) -> str:
        """For a person to read."""
        head = (
            f"{'engine':<10} {'backbone':<11} {'size':<9} {'part':<5} {'units':>5} {'spikes':>6} {'idle':>5} "
            f"{'steps':>7} {'p50':>8} {'p90':>8} {'p99':>8} {'p99.9':>8} {'max':>8} ms  "
            "over 1/5/10/20/50 ms (w: kept warm)"
        )
        return "\n".join([head, *(_line(row) for row in self.rows), *self._ratios()])

    def write(self, path: str | os.PathLike[str]) -> None:
        """The rows as JSON."""
        Path(path).write_text(json.dumps([asdict(row) for row in self.rows], indent=1))

    def _ratios(self) -> Iterator[str]:
        """How many times faster the ONNX step is than the others that answer the same input."""
        for size in ("small", "large"):
            ours = self._find(engine="onnx", size=size)
            others = [self._find(engine="torch", size=size), self._find(engine="poyo")]
            others += [row for row in self.rows if row.engine == "baseline"]
            for other in others:
                if ours is not None and other is not None:
                    name = f"baseline {other.backbone}" if other.engine == "baseline" else other.engine
                    yield f"onnx {size} p50 is {other.p50_ms / ours.p50_ms:.1f} times below {name}"

    def _find(self, **wanted: str) -> Row | None:
        plain = {"idle_ms": 0.0, "units": UNITS, "spikes_per_chunk": SPIKES, "part": "step"} | wanted
        if "size" in wanted:
            plain["backbone"] = "gru"
        same = (row for row in self.rows if all(getattr(row, name) == plain[name] for name in plain))
        return next(same, None)


def bench_latency(
    config: LatencyConfig,
    *,
    decoder: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> LatencyReport:
    """Measure, on one thread.

    Args:
        config: How much.
        decoder: A .safetensors or .onnx file to time instead of random decoders.
        progress: Told every row as it is done.

    Raises:
        CheckpointError: The decoder cannot be used.
        StreamError: `peers` is wanted and torch_brain is not installed; said before anything is measured.
    """
    if config.peers:
        from possm.bench import peers

        peers.check_installed()
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        progress(_line(row))

    host = HostConfig(realtime=config.realtime)
    with TemporaryDirectory() as folder, one_thread(), steady_host(host):
        makers = Engines(Path(folder), seed=config.seed, given=decoder)
        for case in makers.cases(config):
            engine = makers.open(case)
            timed = runner(engine, case, config.seed)
            add(measure(case, timed.step, config, timed.rehearse))
        if config.peers:
            for case, step in peers.all_peers(config.seed):
                add(measure(case, step, config))
    return LatencyReport(tuple(rows))


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, as it was before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    case: Case,
    step: Callable[[int], float],
    config: LatencyConfig,
    rehearse: Callable[[], None] | None = None,
) -> Row:
    """Run the steps of one row.

    Args:
        case: What is measured; its pause, up to a tick longer, is made before every step.
        step: Takes the number of a step, returns how long it took, in seconds.
        config: How many.
        rehearse: Runs a step that changes nothing, for a case that is kept warm.
    """
    took_s = []
    warm = KeepWarm(rehearse) if case.warm and rehearse is not None else None
    ticks, late_s = np.random.default_rng(config.seed), 0.0
    with Collector():
        for number in range(WARM_UP if case.idle_ms == 0 else 5):
            step(number)
        end_s = time.monotonic() + config.seconds
        for number in range(config.steps):
            if case.idle_ms:
                late_s = _pause((case.idle_ms + float(ticks.uniform(0, RigConfig.tick_ms))) / 1000, warm)
            took_s.append(late_s + step(number))
            if time.monotonic() > end_s:
                break
    took_ms = 1000 * np.array(took_s)
    p50, p90, p99, p999 = np.percentile(took_ms, [50, 90, 99, 99.9]).tolist()
    missed: Any = {f"missed_{limit}ms": int((took_ms > limit).sum()) for limit in DEADLINES_MS}
    return Row(
        **asdict(case),
        realtime=config.realtime,
        steps=len(took_ms),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=float(took_ms.max()),
        **missed,
    )


def _pause(seconds: float, warm: KeepWarm | None) -> float:
    """Nothing comes; kept warm at every tick of a link, if so. How long a rehearsal delays its end."""
    if warm is None:
        time.sleep(seconds)
        return 0.0
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(left_s, RigConfig.tick_ms / 1000))
        if time.monotonic() < end_s:
            warm.idle()
            late_s = time.monotonic() - end_s
            if late_s > 0:
                return late_s
    return 0.0


def _line(row: Row) -> str:
    times = " ".join(
        f"{value:8.3f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms, row.p999_ms, row.max_ms)
    )
    missed = "/".join(str(getattr(row, f"missed_{limit}ms")) for limit in DEADLINES_MS)
    return (
        f"{row.engine:<10} {row.backbone:<11} {row.size:<9} {row.part:<5} {row.units:>5} "
        f"{row.spikes_per_chunk:>6} {row.idle_ms:>4g}{'w' if row.warm else ' '} "
        f"{row.steps:>7} {times}     {missed}"
    )
