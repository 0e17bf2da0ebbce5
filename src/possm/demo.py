"""`possm demo`: the whole path on a simulated recording, from nothing to a live decoder and a report."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from possm.api import Decoder, load_decoder
from possm.data.chunks import chunk_edges_s
from possm.data.files import atomic_path
from possm.data.formats import load_recording
from possm.data.formats.hdf5 import write_hdf5
from possm.data.recording import Intervals, Recording
from possm.data.simulate import SimulationConfig, simulate_session
from possm.evaluation.assess import assess, write_assessment
from possm.evaluation.score import decode
from possm.streaming.watch import Watch
from possm.training.loop import Progress, TrainConfig, train

BEHAVIOR = "cursor.vel"
SIMULATION = SimulationConfig(task="random_target", duration_s=600.0, num_units=100)


@dataclass(frozen=True)
class DemoSummary:
    """summary.json of a demo."""

    r2: float
    """On the held-out 20 %, strictly causal."""
    r2_wiener: float | None
    wall_s: float
    step_p50_ms: float
    step_p99_ms: float
    stream_max_abs_diff: float
    """Largest difference between streamed and batch predictions, cm/s."""
    report: str

    def text(self) -> str:
        """What the demo ends with."""
        wiener = "-" if self.r2_wiener is None else f"{self.r2_wiener:.3f}"
        return "\n".join(
            [
                "",
                f"  R2 on held-out reaching       {self.r2:.3f}   (Wiener filter {wiener})",
                f"  live step, p50 / p99          {self.step_p50_ms:.2f} / {self.step_p99_ms:.2f} ms a chunk",
                f"  stream against batch          {self.stream_max_abs_diff:.1e} cm/s at most apart",
                f"  all of it took                {self.wall_s:.0f} s",
                f"  report                        {self.report}",
            ]
        )


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> DemoSummary:
    """Simulate ten minutes of reaching, train on 70 % of it, score the last 20 %, stream them, report.

    Args:
        out: Folder for the recording, the run, the report and summary.json. An interrupted demo goes on.
        seed: Of the simulation and the training.
        progress: Called during training.
        say: Called with what happens next.
    """
    started = time.perf_counter()
    say(f"simulating {SIMULATION.num_units} units and {SIMULATION.duration_s:.0f} s of reaching")
    path = out / "recording.h5"
    write_hdf5(simulate_session(SIMULATION, seed=seed), path)
    with load_recording(path) as lazy:
        recording = lazy.load()
    say("training (70 % of the recording; 10 % select the weights)")
    result = train([recording], demo_config(seed), out / "run", progress=progress)
    decoder = load_decoder(result.path)
    say("scoring the last 20 % causally, beside a Wiener filter")
    assessment = assess(decoder, [recording])
    say("streaming the same 20 % chunk by chunk")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a step is too short to be divided
    watch, difference = stream_against_batch(decoder, recording)
    torch.set_num_threads(threads)
    latency = {f"step_p{q}_ms": watch.percentile_ms(q) for q in (50, 99)}
    report = write_assessment(
        assessment,
        out,
        decoder=decoder,
        recording=recording,
        training=_rows(out / "run" / "metrics.jsonl"),
        latency=latency,
        provenance={"recording": "simulated, see docs/simulator.md", "seed": seed},
    )
    score = assessment.scores[0]
    wall_s = time.perf_counter() - started
    summary = DemoSummary(
        r2=score.r2,
        r2_wiener=score.r2_wiener,
        wall_s=wall_s,
        step_p50_ms=watch.percentile_ms(50),
        step_p99_ms=watch.percentile_ms(99),
        stream_max_abs_diff=difference,
        report=str(report),
    )
    with atomic_path(out / "summary.json") as temporary:
        temporary.write_text(json.dumps(asdict(summary), indent=1))
    return summary


def demo_config(seed: int) -> TrainConfig:
    """A short run, about 400 steps: a minute or two on two cores."""
    return TrainConfig(behavior=(BEHAVIOR,), epochs=60, seed=seed)


def stream_against_batch(decoder: Decoder, recording: Recording) -> tuple[Watch, float]:
    """Push the test split through a live decoder, chunk by chunk; time it, and compare it with `decode`.

    Returns:
        The step times, and the largest difference between a streamed and a batch prediction.
    """
    watch, worst = Watch(), 0.0
    for start_s, end_s in recording.split("test"):
        live, streamed = decoder.live(origin_s=start_s), []
        count = int((end_s - start_s) / decoder.config.chunk_s)
        edges_s = chunk_edges_s(start_s, first=0, count=count, chunk_ms=decoder.config.chunk_ms)
        for begin_s, until_s in itertools.pairwise(edges_s):
            times_s, unit, _ = recording.tokens(begin_s, until_s)
            before = time.perf_counter()
            streamed += live.push(times_s, unit, until_s)
            watch.step(time.perf_counter() - before)
        times = np.concatenate([prediction.times_s for prediction in streamed])
        values = np.concatenate([prediction.values for prediction in streamed])
        stretch = Intervals.of([(start_s, end_s)])
        batch = decode(decoder, recording, stretch, times_s={BEHAVIOR: times}, warmup_s=0.0)[BEHAVIOR]
        worst = max(worst, float(np.abs(values[: len(batch.values)] - batch.values).max()))
    return watch, worst


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
