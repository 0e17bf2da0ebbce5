"""How long a step takes: engines and backbones side by side, hot and after pauses, by spikes and by units.

A row measures one of two things, as its `part` says: "step", the engine alone with its input ready, or
"push", the whole of `LiveDecoder.push`, which is what a rig pays: checks, binning, step and predictions.
Weights are random unless a decoder is given: how long it takes does not depend on what they are.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from possm.batch import Batch, Queries, Tokens
from possm.config import require
from possm.streaming.engines import Engine, open_engine
from possm.streaming.host import Collector, HostConfig, steady_host
from possm.streaming.live import LiveDecoder

DEADLINES_MS = (1, 5, 10, 20, 50)
POOL = 64
"""Different random chunks, taken in turn."""
WARM_UP = 50
"""Steps that are not counted."""
UNITS, SPIKES = 100, 100
"""Of most rows: 100 units at 20 Hz in chunks of 50 ms."""
BUSY, CROWDED = (1_000, 5_000, 10_000), (1_000, 5_000)
"""Spikes in a chunk, and units, of the rows that vary them."""


@dataclass(frozen=True, kw_only=True)
class LatencyConfig:
    """How much to measure."""

    steps: int = 2000
    """Of every row, as far as `seconds` reach."""
    seconds: float = 20.0
    """A row ends after this long, also before its steps are done."""
    idle_ms: float = 50.0
    """Pause before every step, in the rows with pauses."""
    peers: bool = False
    """Also POYO 1.3M of torch_brain, and a Wiener filter."""
    realtime: bool = False
    """Real-time priority, as `possm stream` can ask for: no other program then takes the core away."""
    seed: int = 0
    """Of spikes and weights."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        require(self.seconds > 0, "seconds", self.seconds, "above 0")
        require(self.idle_ms >= 0, "idle_ms", self.idle_ms, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one row measures."""

    engine: str
    """"torch", "onnx" (float32) or "onnx-int8", or the name of a peer."""
    backbone: str = "gru"
    size: str = "small"
    threads: int = 1
    idle_ms: float = 0.0
    spikes_per_chunk: int = SPIKES
    units: int = UNITS
    part: str = "step"


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
            f"{'engine':<10} {'backbone':<11} {'size':<6} {'part':<5} {'units':>5} {'spikes':>6} {'idle':>5} "
            f"{'steps':>7} {'p50':>8} {'p90':>8} {'p99':>8} {'p99.9':>8} {'max':>8} ms  over 1/5/10/20/50 ms"
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
            for other in others:
                if ours is not None and other is not None:
                    yield f"onnx {size} p50 is {other.p50_ms / ours.p50_ms:.1f} times below {other.engine}"

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
        StreamError: `peers` is wanted and torch_brain is not installed.
    """
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        progress(_line(row))

    host = HostConfig(realtime=config.realtime)
    with TemporaryDirectory() as folder, one_thread(), steady_host(host):
        makers = Engines(Path(folder), seed=config.seed, given=decoder)
        for case in makers.cases(config):
            engine = makers.open(case)
            add(measure(case, _runner(engine, case, config.seed), config))
        if config.peers:
            from possm.bench import peers

            for case, step in peers.all_peers(config.seed):
                add(measure(case, step, config))
    return LatencyReport(tuple(rows))


class Engines:
    """Random decoders, or the one that is given, as engines; made when they are first asked for.

    Args:
        folder: For exported files.
        seed: Of the weights.
        given: The file of a decoder.
    """

    def __init__(self, folder: Path, *, seed: int, given: str | os.PathLike[str] | None = None) -> None:
        self._folder, self._seed, self._given = folder, seed, given
        self._open: dict[tuple[str, str, str, int], Engine] = {}
        self._decoders: dict[tuple[str, str, int], Any] = {}

    def cases(self, config: LatencyConfig) -> Iterator[Case]:
        """The rows to measure."""
        if self._given is not None:
            yield from _cases_of(self._given, config)
            return
        for size in ("small", "large"):
            for backbone in ("gru", "s4d", "mamba"):
                for engine in ("onnx", "onnx-int8", "torch"):
                    yield Case(engine=engine, backbone=backbone, size=size)
        for engine, size in (
            ("onnx", "small"),
            ("onnx", "large"),
            ("onnx-int8", "large"),
            ("torch", "small"),
        ):
            case = Case(engine=engine, size=size)
            yield replace(case, idle_ms=config.idle_ms)
            yield replace(case, part="push")
            yield replace(case, part="push", idle_ms=config.idle_ms)
        yield from (Case(engine="onnx", spikes_per_chunk=busy) for busy in BUSY)
        yield from (Case(engine="onnx", units=crowded) for crowded in CROWDED)
        yield from (Case(engine="onnx", spikes_per_chunk=busy, part="push") for busy in BUSY)

    def open(self, case: Case) -> Engine:
        """The engine of a row."""
        key = (case.engine, case.backbone, case.size, case.units)
        if key not in self._open:
            self._open[key] = self._make(case)
        return self._open[key]

    def _make(self, case: Case) -> Engine:
        if self._given is not None and Path(self._given).suffix == ".onnx":
            return open_engine(self._given)
        key = (case.backbone, case.size, case.units)
        if key not in self._decoders:
            self._decoders[key] = self._decoder(case)
        decoder = self._decoders[key]
        if case.engine == "torch":
            return open_engine(decoder, name="torch")
        from possm.streaming.export import export_decoder

        precision = "int8" if case.engine == "onnx-int8" else "float32"
        path = self._folder / f"{'-'.join(map(str, key))}-{precision}.onnx"
        return open_engine(export_decoder(decoder, path, precision=precision))

    def _decoder(self, case: Case) -> Any:
        if self._given is not None:
            from possm.checkpoint import load_decoder

            return load_decoder(self._given)
        from possm.model.decoder import PossmConfig
        from possm.streaming.rehearsal import BEHAVIORS, random_decoder

        make = PossmConfig.large if case.size == "large" else PossmConfig
        config = make(backbone=case.backbone, behaviors=BEHAVIORS)
        return random_decoder(config, num_units=case.units, seed=self._seed)


def _cases_of(path: str | os.PathLike[str], config: LatencyConfig) -> Iterator[Case]:
    """Rows for a decoder of a file: its engines, hot, with pauses and as a push, and with many spikes."""
    engine = open_engine(path)
    units = len(engine.spec.vocabulary.units) - 1
    facts = getattr(engine, "architecture", None) or _architecture(path)
    engines = ["onnx", "onnx-int8", "torch"]
    if Path(path).suffix == ".onnx":
        engines = ["onnx-int8" if facts["precision"] == "int8" else "onnx"]
    for name in engines:
        case = Case(engine=name, backbone=facts["backbone"], size=facts["size"], units=units)
        yield case
        yield replace(case, idle_ms=config.idle_ms)
        yield replace(case, part="push")
        yield from (replace(case, spikes_per_chunk=busy) for busy in BUSY)


def _architecture(path: str | os.PathLike[str]) -> dict[str, str]:
    from possm.checkpoint import load_decoder
    from possm.streaming.export import size_name

    config = load_decoder(path).config
    return {"backbone": config.backbone, "size": size_name(config)}


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


def measure(case: Case, step: Callable[[int], float], config: LatencyConfig) -> Row:
    """Run the steps of one row.

    Args:
        case: What is measured; its pause is made before every step.
        step: Takes the number of a step, returns how long it took, in seconds.
        config: How many.
    """
    took_s = []
    with Collector():
        for number in range(WARM_UP if case.idle_ms == 0 else 5):
            step(number)
        end_s = time.monotonic() + config.seconds
        for number in range(config.steps):
            if case.idle_ms:
                time.sleep(case.idle_ms / 1000)
            took_s.append(step(number))
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


def _runner(engine: Engine, case: Case, seed: int) -> Callable[[int], float]:
    rng = np.random.default_rng(seed)
    size = min(POOL, max(4, 100_000 // case.spikes_per_chunk))
    chunk_s = engine.spec.chunk_ms / 1000
    pool = [
        (
            np.sort(rng.uniform(0, chunk_s, case.spikes_per_chunk)),
            rng.integers(0, case.units, case.spikes_per_chunk),
        )
        for _ in range(size)
    ]
    return _push_runner(engine, pool) if case.part == "push" else _step_runner(engine, pool)


def _step_runner(engine: Engine, pool: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[int], float]:
    """The engine alone, asked once for every behavior."""
    lead_s = (engine.spec.lead_ms - engine.spec.chunk_ms) / 1000
    asked = {
        name: Queries(np.zeros(1, np.int64), np.full(1, lead_s, np.float32)) for name in engine.spec.behaviors
    }
    batches = [
        Batch(
            Tokens(
                unit + 1, times_s.astype(np.float32), np.ones(len(unit), np.float32), np.array([0, len(unit)])
            ),
            np.zeros(1, np.int64),
            1,
            asked,
        )
        for times_s, unit in pool
    ]
    state = engine.initial_state()

    def step(number: int) -> float:
        nonlocal state
        batch = batches[number % len(batches)]
        began_s = time.perf_counter()
        _, state = engine.step(batch, state)
        return time.perf_counter() - began_s

    return step


def _push_runner(engine: Engine, pool: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[int], float]:
    """A push for every chunk, as a rig would."""
    live = LiveDecoder(engine, session=engine.spec.vocabulary.sessions[0])
    chunk_s = engine.spec.chunk_ms / 1000

    def step(number: int) -> float:
        times_s, unit = pool[number % len(pool)]
        times_s, until_s = times_s + live.decoded_s, live.decoded_s + chunk_s
        began_s = time.perf_counter()
        live.push(times_s, unit, until_s)
        return time.perf_counter() - began_s

    return step


def _line(row: Row) -> str:
    times = " ".join(
        f"{value:8.3f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms, row.p999_ms, row.max_ms)
    )
    missed = "/".join(str(getattr(row, f"missed_{limit}ms")) for limit in DEADLINES_MS)
    return (
        f"{row.engine:<10} {row.backbone:<11} {row.size:<6} {row.part:<5} {row.units:>5} "
        f"{row.spikes_per_chunk:>6} {row.idle_ms:>5g} {row.steps:>7} {times}     {missed}"
    )
