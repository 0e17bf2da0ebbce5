"""``possm bench soak``: minutes of simulated stream with faults; does memory grow, is every fault counted?

As fast as the machine goes: the clock on the wall is simulated, as are the rig and its faults (`chaos`). What
runs is what runs on a rig: `run_stream`, a queued sink, the watchdog, and all counters.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from possm.batch import Prediction
from possm.bench.chaos import CAP, WAIT_CHUNKS, ChaosSource, Clock, Rig
from possm.config import require
from possm.streaming.engines import Engine, open_engine
from possm.streaming.inbox import StreamCounts
from possm.streaming.links.queued import QueuedSink
from possm.streaming.live import LiveConfig, LiveDecoder
from possm.streaming.run import RunConfig, StreamReport, run_stream
from possm.streaming.stale import StaleConfig
from possm.streaming.watch import Watch

PARTS = 10
"""Latency and memory are reported for so many parts of the run; the first warms up."""
QUEUE = 16
CHUNK_MS = 20
"""Of the random decoder that runs when none is given: 50 steps a second."""


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """A soak test."""

    minutes: float = 30.0
    """Of simulated stream."""
    engine: str | None = None
    """"torch" or "onnx"; None is what the decoder's file says."""
    rate_hz: float = 20.0
    """Of each unit."""
    seed: int = 0
    """Of spikes, faults and random weights."""

    def __post_init__(self) -> None:
        require(self.minutes > 0, "minutes", self.minutes, "above 0")
        require(self.rate_hz > 0, "rate_hz", self.rate_hz, "above 0")


@dataclass(frozen=True, kw_only=True)
class SoakReport:
    """What happened."""

    minutes: float
    steps: int
    """Chunks decoded."""
    faults_injected: int
    faults_counted: int
    memory_growth_mb: float
    """Resident memory at the end, minus that after the first tenth."""
    nonfinite_outputs: int
    """Predictions with a value that is not finite."""
    crashes: int
    """1 if the stream ended with an error."""
    kinds: dict[str, dict[str, int]]
    """Kind of fault -> how many were "injected" and "counted"."""
    spikes: dict[str, int]
    """"sent" and "received"; "usable" ones and "used" ones: these are to be equal."""
    engine: str
    parts: list[dict[str, float]]
    """Of every tenth of the run: p50_ms, p99_ms and max_ms of a step, and memory_mb at its end."""
    missed: int
    """Steps over 10 ms."""
    stood_in: int
    """Predictions that stood in for answers while the rig was dead."""
    wall_s: float
    error: str = ""
    """Of the crash."""

    @property
    def passed(self) -> bool:
        """Nothing crashed, nothing is uncounted or lost, and every output is finite. Memory is to be judged
        by its number, which on a short run is all noise."""
        spikes = self.spikes
        counted = all(kind["injected"] == kind["counted"] for kind in self.kinds.values())
        whole = spikes["sent"] == spikes["received"] and spikes["usable"] == spikes["used"]
        return counted and whole and not self.crashes and not self.nonfinite_outputs

    def write(self, path: str | os.PathLike[str]) -> None:
        """As JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def text(self) -> str:
        """For a person to read."""
        first, last = self.parts[0], self.parts[-1]
        lines = [
            f"simulated   {self.minutes:g} minutes in {self.wall_s:.0f} s: {self.steps} steps, {self.engine}",
            f"faults      {self.faults_injected} injected, {self.faults_counted} counted",
            *(f"  {kind:<10} {n['injected']:>8} {n['counted']:>8}" for kind, n in self.kinds.items()),
            f"spikes      {self.spikes['sent']} sent, {self.spikes['received']} received, "
            f"{self.spikes['usable']} usable, {self.spikes['used']} used",
            f"memory      {self.memory_growth_mb:+.2f} MB after the first tenth",
            f"not finite  {self.nonfinite_outputs} predictions",
            f"crashes     {self.crashes} {self.error}",
            "step        "
            + ", ".join(
                f"{name} {first[f'{name}_ms']:.3f} -> {last[f'{name}_ms']:.3f}" for name in ("p50", "p99")
            )
            + f" ms from the first tenth to the last; {self.missed} over 10 ms",
            f"stood in    {self.stood_in} predictions",
            "passed" if self.passed else "FAILED",
        ]
        return "\n".join(lines)

    __str__ = text


def bench_soak(
    config: SoakConfig,
    *,
    decoder: str | os.PathLike[str] | None = None,
    progress: Callable[[str], object] = id,
) -> SoakReport:
    """Run a stream on a rig where everything goes wrong.

    Args:
        config: How long, and which engine.
        decoder: A decoder file; None is the small model with random weights.
        progress: Told about every tenth.

    Raises:
        PossmError: The decoder cannot be used. Errors of the stream itself are reported, not raised.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _soak(config, _engine(config, decoder, Path(folder)), progress)


def _soak(config: SoakConfig, engine: Engine, progress: Callable[[str], object]) -> SoakReport:
    spec = engine.spec
    session = spec.vocabulary.sessions[0]
    rig = Rig(
        packets=max(1, round(config.minutes * 60_000 / spec.chunk_ms)),
        chunk_ms=spec.chunk_ms,
        num_units=len(spec.vocabulary.units_of(session)),
        rate_hz=config.rate_hz,
        queue=QUEUE,
        seed=config.seed,
    )
    settings = LiveConfig(wait_ms=WAIT_CHUNKS * spec.chunk_ms, on_jump="follow", max_count=CAP, max_gap_s=60)
    live = LiveDecoder(engine, session=session, config=settings)
    clock, open_sink = Clock(), threading.Event()
    open_sink.set()
    source, far = ChaosSource(rig, clock, open_sink), _FarSink(open_sink)
    sink, watch = _NearSink(far), _Parts(rig.packets // PARTS + 1, progress)
    run = RunConfig(stale=StaleConfig(action="decay"))
    began, report, error = time.perf_counter(), None, ""
    try:
        report = run_stream(live, source, sink, watch, config=run, now=clock)
    except Exception:  # whatever it is, it is what this looks for
        error = traceback.format_exc(limit=-3)
    watch.end_part()
    kinds = _kinds(source, live.counts, report, far, sink)
    return SoakReport(
        minutes=config.minutes,
        steps=live.counts.chunks,
        faults_injected=sum(kind["injected"] for kind in kinds.values()),
        faults_counted=sum(min(kind.values()) for kind in kinds.values()),
        memory_growth_mb=round(watch.parts[-1]["memory_mb"] - watch.parts[0]["memory_mb"], 3),
        nonfinite_outputs=sink.nonfinite,
        crashes=int(bool(error)),
        kinds=kinds,
        spikes={
            "sent": source.sent,
            "received": live.counts.received,
            "usable": source.usable,
            "used": live.counts.used,
        },
        engine=type(engine).__name__,
        parts=watch.parts,
        missed=watch.missed,
        stood_in=0 if report is None else report.stood_in,
        wall_s=round(time.perf_counter() - began, 1),
        error=error,
    )


def _kinds(
    source: ChaosSource, counts: StreamCounts, report: StreamReport | None, far: _FarSink, sink: _NearSink
) -> dict[str, dict[str, int]]:
    """What was injected, beside the counter that is to show it."""
    injected = source.injected
    pairs = {
        "empty": (injected["empty"], counts.empty),
        "burst": (injected["burst_x10"] + injected["burst_x100"], counts.bursts),
        "over_cap": (source.excess, counts.capped),
        "unknown": (injected["unknown"], counts.unknown),
        "nan": (injected["nan"], counts.invalid),
        "duplicate": (injected["duplicate"], counts.duplicate),
        "late": (injected["late"], counts.late),
        "jump": (injected["jump"], counts.jumps),
        "overtaken": (injected["overtaken"], counts.behind),
        "death": (injected["death"], 0 if report is None else report.stalls),
        "slow_sink": (sink.predictions - far.received, sink.dropped),
    }
    return {kind: {"injected": pair[0], "counted": pair[1]} for kind, pair in pairs.items()}


def _engine(config: SoakConfig, decoder: str | os.PathLike[str] | None, folder: Path) -> Engine:
    if decoder is not None:
        return open_engine(decoder, name=config.engine)
    from possm.model.decoder import PossmConfig
    from possm.streaming.rehearsal import BEHAVIORS, random_decoder

    made = random_decoder(PossmConfig(behaviors=BEHAVIORS, chunk_ms=CHUNK_MS), seed=config.seed)
    if config.engine != "onnx":
        return open_engine(made, name=config.engine)
    from possm.streaming.export import export_decoder

    return open_engine(export_decoder(made, folder / "soak.onnx"), name="onnx")


class _NearSink(QueuedSink):
    """What the stream writes to: sees every prediction, and hands it on through a queue."""

    def __init__(self, far: _FarSink) -> None:
        super().__init__(far, queue=QUEUE, drain_s=30.0)
        self.predictions = self.nonfinite = 0

    def write(self, prediction: Prediction) -> None:
        self.predictions += 1
        self.nonfinite += not np.isfinite(prediction.values).all()
        super().write(prediction)


class _FarSink:
    """Takes predictions while it is open, and makes them wait while it is not."""

    def __init__(self, is_open: threading.Event) -> None:
        self.received, self._open = 0, is_open

    def start(self, behaviors: Mapping[str, int]) -> None: ...

    def write(self, prediction: Prediction) -> None:
        self._open.wait()
        self.received += 1

    def close(self) -> None: ...


class _Parts(Watch):
    """Watches each part of the run by itself as well."""

    def __init__(self, steps: int, progress: Callable[[str], object]) -> None:
        super().__init__()
        self._steps, self._progress = steps, progress
        self._part = Watch()
        self.parts: list[dict[str, float]] = []

    def step(self, took_s: float) -> None:
        super().step(took_s)
        self._part.step(took_s)
        if self._part.steps == self._steps:
            self.end_part()

    def end_part(self) -> None:
        part, self._part = self._part, Watch()
        if not part.steps and self.parts:
            return
        gc.collect()
        self.parts.append(
            {
                "p50_ms": part.percentile_ms(50),
                "p99_ms": part.percentile_ms(99),
                "max_ms": part.max_ms,
                "memory_mb": resident_mb(),
            }
        )
        found = ", ".join(f"{name} {value:.3f}" for name, value in self.parts[-1].items())
        self._progress(f"part {len(self.parts)} of {PARTS}: {found}")


def resident_mb() -> float:
    """Resident memory of this process; off Linux the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1e6
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (1e6 if sys.platform == "darwin" else 1e3)
