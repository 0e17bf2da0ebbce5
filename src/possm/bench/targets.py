"""`possm bench targets`: the direction of a reach from the delay before it, as spikes at 1 ms.

The recording is that of the map `reach-delay`: 8 directions, 91 training and 91 test trials of each, split by
the file itself. A decoder is trained on the training trials (a sixth of them select its weights) and decides
each test trial twice, 200 and 350 ms after 150 ms from target onset, from the spikes of that window alone.
Poisson naive Bayes on the same windows, fitted on all training trials, is the figure to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from possm.bench.classes import MEASURED, ClassReport, job_name
from possm.bench.jobs import Job, Row, run_jobs
from possm.config import require
from possm.data.augment import AugmentConfig
from possm.data.formats import load_recording
from possm.data.formats.matlab import read_matlab
from possm.data.intervals import Intervals
from possm.data.labels import TrialClasses
from possm.data.recording import Recording
from possm.errors import RecordingError
from possm.evaluation.score import evaluate
from possm.model.decoder import PossmConfig
from possm.training.config import TrainConfig
from possm.training.loop import train
from possm.training.optim import OptimConfig

LABEL, MAP = "trials.direction", "reach-delay"
WINDOWS = {200: "movement_phases.early_plan_period", 350: "movement_phases.plan_period"}
"""Length in ms -> the intervals that are decoded."""
PUBLISHED = {200: 0.938, 350: 0.957}
"""Accuracy of naive Bayes that comes with the recording."""
BACKBONES = {"possm-gru": "gru", "possm-s4d": "s4d", "possm-mamba": "mamba"}


@dataclass(frozen=True, kw_only=True)
class TargetsConfig:
    """What to train, and how much of the machine to take."""

    decoders: tuple[str, ...] = ("possm-gru",)
    """Of possm-gru, possm-s4d, possm-mamba."""
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 60
    workers: int = 1
    """Decoders trained at a time."""

    def __post_init__(self) -> None:
        known = f"some of {', '.join(BACKBONES)}"
        require(
            bool(self.decoders) and set(self.decoders) <= set(BACKBONES), "decoders", self.decoders, known
        )
        require(bool(self.seeds) and min(self.seeds) >= 0, "seeds", self.seeds, "one or more, 0 or more")
        require(
            self.epochs >= 1 and self.workers >= 1,
            "epochs and workers",
            (self.epochs, self.workers),
            "1 or more",
        )

    @classmethod
    def quick(cls) -> TargetsConfig:
        """One seed, a few epochs: whether it runs."""
        return cls(seeds=(0,), epochs=3)


def bench_targets(
    recording: Path, out: Path, config: TargetsConfig | None = None, *, progress: Callable[[str], object] = id
) -> ClassReport:
    """Train and score; a bench that was interrupted goes on.

    Args:
        recording: ``ps4_realdata.mat``, or the native file prepared from it.
        out: Folder of runs and results.
        config: What to train.
        progress: Told a line about every decoder that is done.

    Raises:
        RecordingError: The recording cannot be used.
    """
    config = config or TargetsConfig()
    loaded = load_delays(recording)
    rows = [_bayes_row(loaded, window_ms) for window_ms in WINDOWS]
    jobs = [_job(loaded, name, seed, config.epochs) for name in config.decoders for seed in config.seeds]
    function = partial(train_and_decide, file=recording)
    rows += run_jobs(jobs, function, out, workers=config.workers, progress=progress)
    published = ", ".join(f"{100 * value:.1f} % after {ms} ms" for ms, value in PUBLISHED.items())
    note = f"published naive Bayes on the same windows: {published}"
    return ClassReport(rows, ("decoder", "window_ms"), (note,))


def load_delays(path: Path) -> Recording:
    """The recording from either kind of file.

    Raises:
        RecordingError: It cannot be read, or is another recording.
    """
    recording = read_matlab(path, MAP) if path.suffix == ".mat" else load_recording(path, lazy=False)
    missing = [name for name in ("trials", *WINDOWS.values()) if name not in recording.intervals]
    if missing:
        raise RecordingError(
            "this is not the recording of delayed reaches",
            about=path,
            got=f"no intervals {', '.join(missing)}",
            fix="give ps4_realdata.mat, or what `possm prepare --map reach-delay` made of it",
        )
    return recording


def train_and_decide(job: Job, folder: Path, *, file: Path) -> Sequence[Mapping[str, Any]]:
    """Train one decoder and decide every test trial in both windows."""
    recording = for_training(load_delays(file))
    result = train([recording], job.parameters["config"], folder)
    done = {"parameters": int(result.summary["parameters"]), "train_s": result.summary["wall_s"]}
    rows = []
    for expected, within in zip(job.expected, WINDOWS.values(), strict=True):
        (score,), _ = evaluate(result.decoder, recording, split="test", within=within)
        rows.append({**expected, "accuracy": score.accuracy, **done})
    return rows


def targets_config(name: str, seed: int, epochs: int) -> TrainConfig:
    """Settings for 600 short trials, chosen on the training trials alone (docs/classification.md)."""
    decoder = PossmConfig(backbone=BACKBONES[name], width=32, hidden=64, head_width=32, dropout=0.4)
    return TrainConfig(
        behavior=(LABEL,),
        decoder=decoder,
        window_s=0.35,
        batch_size=32,
        epochs=epochs,
        optim=OptimConfig(learning_rate=4e-3),
        augment=AugmentConfig(token_dropout=0.1),
        evaluate_within=WINDOWS[350],
        seed=seed,
    )


def for_training(recording: Recording, *, early_s: float = 0.05) -> Recording:
    """The recording whose training trials are their plan periods, and a little before, so that windows that
    are drawn from them begin at other moments every time."""
    plan = recording.intervals[WINDOWS[350]]
    part = recording.intervals["trials"].columns["part"] == "train"
    train_domain = Intervals(plan.start_s[part] - early_s, plan.end_s[part])
    return replace(recording, intervals={**recording.intervals, "train_domain": train_domain})


def naive_bayes(recording: Recording, window_ms: int) -> float:
    """Accuracy of Poisson naive Bayes on the counts of a window, fitted on all trials but the test ones."""
    trials = recording.intervals["trials"]
    windows = recording.intervals[WINDOWS[window_ms]]
    classes = tuple(str(c) for c in np.unique(trials.columns["direction"]))
    number = TrialClasses.of(recording, LABEL, classes).number
    counts = np.zeros((len(windows), recording.num_units))
    for row, (start_s, end_s) in enumerate(windows):
        _, unit, count = recording.tokens(start_s, end_s)
        np.add.at(counts[row], unit, count)
    test = trials.columns["part"] == "test"
    rows = [counts[~test & (number == k)] for k in range(len(classes))]
    expected = np.stack([(mine.sum(axis=0) + 0.5) / (len(mine) + 0.5) for mine in rows])
    decided = (counts[test] @ np.log(expected).T - expected.sum(axis=1)).argmax(axis=1)
    return float(np.mean(decided == number[test]))


def _job(recording: Recording, name: str, seed: int, epochs: int) -> Job:
    row = _about(recording, name, seed)
    expected = tuple({**row, "window_ms": ms, **dict.fromkeys(MEASURED)} for ms in WINDOWS)
    parameters = {"config": targets_config(name, seed, epochs)}
    return Job(name=job_name(name, f"seed{seed}"), parameters=parameters, expected=expected)


def _bayes_row(recording: Recording, window_ms: int) -> Row:
    row = {**_about(recording, "naive-bayes", 0), "window_ms": window_ms}
    done = {"accuracy": naive_bayes(recording, window_ms), "parameters": 8 * recording.num_units}
    return {**row, **done, "train_s": 0.0, "status": "ok"}


def _about(recording: Recording, decoder: str, seed: int) -> Row:
    per_class = int(np.sum(recording.intervals["trials"].columns["part"] != "test") / 8)
    row = {"recording": recording.session_id, "decoder": decoder, "start": "scratch"}
    return {**row, "trials_per_class": per_class, "seed": seed}
