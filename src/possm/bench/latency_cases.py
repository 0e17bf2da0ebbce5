"""What `possm bench latency` times: the case of each row, its engine, and one step of it.

A row measures one of two things, as its `part` says: "step", the engine alone with its input ready, or
"push", the whole of `LiveDecoder.push`, which is what a rig pays: checks, binning, step and predictions.
Weights are random unless a decoder is given: how long it takes does not depend on what they are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from possm.batch import Batch, Queries, Tokens
from possm.config import require
from possm.errors import CheckpointError, StreamError
from possm.streaming.engines import Engine, open_engine
from possm.streaming.live import LiveDecoder

POOL = 64
"""Different random chunks, taken in turn."""
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
    """Also POYO 1.3M of torch_brain, and our baselines."""
    realtime: bool = False
    """Real-time priority, as `possm stream` can ask for: no other program then takes the core away."""
    seed: int = 0
    """Of spikes and weights."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        require(self.seconds > 0, "seconds", self.seconds, "above 0")
        require(self.idle_ms >= 0, "idle_ms", self.idle_ms, "0 or more")


class Timed(NamedTuple):
    """What runs the steps of a case."""

    step: Callable[[int], float]
    """Takes the number of a step, runs it, and says how long it took, in seconds."""
    rehearse: Callable[[], None]
    """Runs a step that changes nothing."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one row measures."""

    engine: str
    """"torch", "onnx" (float32) or "onnx-int8"; of peers "poyo", or "baseline": one of ours in PyTorch."""
    backbone: str = "gru"
    """Or which baseline."""
    size: str = "small"
    """"small" and "large" are the paper's, "default" is what `possm train` makes; or what it is of a file."""
    threads: int = 1
    idle_ms: float = 0.0
    warm: bool = False
    """Whether the step is rehearsed in the pauses, as `possm stream` does."""
    spikes_per_chunk: int = SPIKES
    units: int = UNITS
    part: str = "step"


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
        for engine in ("onnx", "torch"):
            yield Case(engine=engine, size="default")
        for engine, size in (
            ("onnx", "small"),
            ("onnx", "large"),
            ("onnx-int8", "large"),
            ("torch", "small"),
        ):
            case = Case(engine=engine, size=size)
            yield replace(case, part="push")
            for part in ("step", "push"):
                yield from _pausing(replace(case, part=part), config)
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

        made = {"small": PossmConfig(), "large": PossmConfig.large(), "default": default_decoder()}
        config = replace(made[case.size], backbone=case.backbone, behaviors=BEHAVIORS)
        return random_decoder(config, num_units=case.units, seed=self._seed)


def default_decoder() -> Any:
    """What `possm train` makes."""
    from possm.training.config import TrainConfig

    return TrainConfig(behavior=("any",)).decoder


def _cases_of(path: str | os.PathLike[str], config: LatencyConfig) -> Iterator[Case]:
    """Rows for a decoder of a file: its engines, hot, with pauses and as a push, and with many spikes."""
    engine = open_engine(path)
    if engine.spec.inputs.values:
        raise StreamError("only decoders that read nothing but spikes are timed", about=path)
    units = len(engine.spec.vocabulary.units) - 1
    if Path(path).suffix == ".onnx":
        facts = getattr(engine, "architecture")  # noqa: B009 - of this engine only
        engines = ["onnx-int8" if facts["precision"] == "int8" else "onnx"]
    else:
        facts, engines = _architecture(path)
    for name in engines:
        case = Case(engine=name, backbone=facts["backbone"], size=facts["size"], units=units)
        yield case
        yield replace(case, part="push")
        for part in ("step", "push"):
            yield from _pausing(replace(case, part=part), config)
        yield from (replace(case, spikes_per_chunk=busy) for busy in BUSY)


def _pausing(case: Case, config: LatencyConfig) -> Iterator[Case]:
    """With pauses: as `possm stream` runs it, and when nothing is done meanwhile."""
    for warm in (True, False):
        yield replace(case, idle_ms=config.idle_ms, warm=warm)


def _architecture(path: str | os.PathLike[str]) -> tuple[dict[str, str], list[str]]:
    """What a decoder is called, and the engines that run it."""
    from possm.checkpoint import load_decoder
    from possm.decoders import kind_of
    from possm.streaming.export import check_exportable, size_name

    decoder = load_decoder(path)
    try:
        check_exportable(decoder)
    except CheckpointError:
        kind = kind_of(decoder.config)
        name = getattr(decoder.config, "backbone", kind) if kind == "possm" else kind
        return {"backbone": name, "size": num_parameters(decoder.model)}, ["torch"]
    facts = {"backbone": decoder.config.backbone, "size": size_name(decoder.config)}
    return facts, ["onnx", "onnx-int8", "torch"]


def num_parameters(model: Any) -> str:
    """What to call the size of a model that has no name for it: "0.26M"."""
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f}M"


def runner(engine: Engine, case: Case, seed: int) -> Timed:
    """What runs the steps of a case.

    Args:
        engine: What runs it.
        case: Says on how many spikes and units, and whether as a push.
        seed: Of the spikes.
    """
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


def _step_runner(engine: Engine, pool: list[tuple[np.ndarray, np.ndarray]]) -> Timed:
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

    def rehearse() -> None:
        engine.step(batches[0], state)

    return Timed(step, rehearse)


def _push_runner(engine: Engine, pool: list[tuple[np.ndarray, np.ndarray]]) -> Timed:
    """A push for every chunk, as a rig would."""
    live = LiveDecoder(engine, session=engine.spec.vocabulary.sessions[0])
    chunk_s = engine.spec.chunk_ms / 1000

    def step(number: int) -> float:
        times_s, unit = pool[number % len(pool)]
        times_s, until_s = times_s + live.decoded_s, live.decoded_s + chunk_s
        began_s = time.perf_counter()
        live.push(times_s, unit, until_s)
        return time.perf_counter() - began_s

    return Timed(step, live.rehearse)
