"""Trials, what tables of accuracy are made of: one decoder trained on one recording, and scored.

A decoder decodes all behaviors of its recording. Its weights are selected on the split ``valid`` and scored
on ``test``; everything but the decoder's own settings is the same for all. docs/benchmarks.md tells more.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from possm.bench.jobs import Job, Row, rows_so_far, run_jobs
from possm.bench.sources import Source, behavior_weights
from possm.config import require
from possm.data.formats import load_recording
from possm.data.recording import Recording
from possm.model.decoder import PossmConfig
from possm.training.config import TrainConfig

STEPS_TIMED, STEPS_WARM = 300, 20
"""Live steps that are timed, after some that are not."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What to compare, and how much of the machine to take."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each trains every decoder anew."""
    behavior: tuple[str, ...] = ()
    """What to decode; nothing named is position and velocity, or all there is."""
    steps: int | None = None
    """Training steps, about, of every decoder that learns by steps; None is what training does (1,000)."""
    workers: int | None = None
    """Decoders trained at a time; None is as many as there are cores for."""
    threads: int = 1
    """Of each."""

    def __post_init__(self) -> None:
        require(bool(self.seeds) and min(self.seeds) >= 0, "seeds", self.seeds, "one or more, 0 or more")
        for name in ("steps", "workers", "threads"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "1 or more")


@dataclass(frozen=True)
class Trial:
    """A decoder, or a variant of one, to be trained on a recording."""

    source: Source
    decoder: str
    """What its rows call it."""
    config: TrainConfig
    bins_ms: int | None = None
    """Spikes are first counted in such bins, whose centres are then all that is known of their times."""

    @property
    def name(self) -> str:
        """Of its job."""
        words = f"{self.source.name}-{self.decoder}-seed{self.config.seed}"
        return re.sub(r"[^\w.+=-]+", "_", words)


def base_config(source: Source, seed: int) -> TrainConfig:
    """What is the same for all decoders of a recording."""
    return TrainConfig(
        behavior=source.behaviors,
        behavior_weights=behavior_weights(source.behaviors),
        decoder=PossmConfig(chunk_ms=source.chunk_ms),
        seed=seed,
    )


def run_trials(
    made: Sequence[Trial],
    config: BenchConfig,
    out: Path,
    *,
    progress: Callable[[str], object] = id,
    show: Callable[[list[Row]], object] = id,
) -> list[Row]:
    """Train and score what is not done yet.

    Args:
        made: What to train; one that is there twice is trained once.
        config: Budget, workers and threads.
        out: Folder of results.
        progress: Told a line about every one that ends.
        show: Given the rows there are whenever one ends.

    Returns:
        A row for every trial and behavior: recording, decoder, behavior, seed, r2, r2_per_dimension,
        parameters, train_s, step_ms, status.
    """
    jobs = [_job(trial, config.steps) for trial in {trial.name: trial for trial in made}.values()]
    files = {trial.source.digest: trial.source.path for trial in made}

    def ended(line: str) -> None:
        progress(line)
        show(rows_so_far(jobs, out))

    function, threads = partial(train_and_score, files=files), config.threads
    workers = config.workers or max(1, _cores() // threads)
    return run_jobs(jobs, function, out, workers=workers, threads=threads, progress=ended)


def train_and_score(job: Job, folder: Path, *, files: Mapping[str, Path]) -> list[Row]:
    """The job of one trial; a run that was interrupted in its folder goes on.

    Args:
        job: Its parameters are recording (a digest), config, steps, bins_ms.
        folder: Of the run.
        files: The file of each digest.

    Raises:
        PossmError: This decoder cannot be trained on this recording; the message says why.
    """
    from possm.api import load_decoder
    from possm.evaluation.score import evaluate
    from possm.training.loop import train

    with load_recording(files[job.parameters["recording"]]) as lazy:
        recording = lazy.load()
    if job.parameters["bins_ms"] is not None:
        recording = in_bins(recording, job.parameters["bins_ms"])
    config = _budgeted(job.parameters["config"], recording, job.parameters["steps"])
    result = train([recording], config, folder)
    decoder = load_decoder(result.path)
    scores = {score.behavior: score for score in evaluate(decoder, recording, split="test")[0]}
    same = {
        "parameters": int(result.summary["parameters"]),
        "train_s": result.summary["wall_s"],
        "step_ms": step_ms(decoder, recording),
    }
    return [
        {**row, "r2": scores[name].r2, "r2_per_dimension": scores[name].r2_per_dimension, **same}
        for row in job.expected
        for name in [row["behavior"]]
    ]


def step_ms(decoder: Any, recording: Recording) -> float:
    """Median time of a live step on one thread, ms: a push of the spikes of one chunk of the test split.

    It is the time that the thread computes, which is all it does on a machine of its own: here it shares one
    with other jobs, whose turns are not counted.

    Args:
        decoder: Of `possm.api`.
        recording: A session it knows.
    """
    from possm.bench.latency import one_thread

    test, chunk_s = recording.split("test"), decoder.config.chunk_s
    start_s, end_s = float(test.start_s[0]), float(test.end_s[-1])
    count = max(1, min(STEPS_WARM + STEPS_TIMED, int((end_s - start_s) / chunk_s)))
    live, took_s = decoder.live(origin_s=start_s, session=recording.session_id), []
    with one_thread():
        for _ in range(count):
            until_s = live.decoded_s + chunk_s
            times_s, unit, counts = recording.tokens(live.decoded_s, until_s)
            began_s = time.thread_time()
            live.push(times_s, unit, until_s, counts)
            took_s.append(time.thread_time() - began_s)
    return 1000 * float(np.median(took_s[min(STEPS_WARM, count - 1) :]))


def in_bins(recording: Recording, bin_ms: int) -> Recording:
    """A recording of spike times as counts, in bins that begin with its domain."""
    from possm.data.series import Binned

    start_s, end_s = recording.domain.start_s[0], recording.domain.end_s.max()
    times_s, unit, _ = recording.tokens(start_s, end_s)
    values = np.zeros((math.ceil((end_s - start_s) * 1000 / bin_ms), recording.num_units), np.float32)
    bins = np.minimum(((times_s - start_s) * 1000 / bin_ms).astype(np.int64), len(values) - 1)
    np.add.at(values, (bins, unit), 1)
    return replace(recording, spikes=None, binned=Binned(values, float(start_s), 1000 / bin_ms))


def _cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _job(trial: Trial, steps: int | None) -> Job:
    row = {"recording": trial.source.name, "decoder": trial.decoder}
    missing = dict.fromkeys(("r2", "r2_per_dimension", "parameters", "train_s", "step_ms"))
    return Job(
        name=trial.name,
        parameters={
            "recording": trial.source.digest,
            "config": trial.config,
            "steps": steps,
            "bins_ms": trial.bins_ms,
        },
        expected=tuple(
            {**row, "behavior": name, "seed": trial.config.seed, **missing} for name in trial.source.behaviors
        ),
    )


def _budgeted(config: TrainConfig, recording: Recording, steps: int | None) -> TrainConfig:
    """As many epochs as make these steps."""
    from possm.data.windows import count_windows

    if steps is None:
        return config
    per_epoch = math.ceil(count_windows([recording], "train", config.window_s) / config.batch_size)
    return replace(config, epochs=math.ceil(steps / max(1, per_epoch)))
