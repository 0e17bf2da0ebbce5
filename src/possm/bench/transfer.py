"""A pretrained decoder moved to a session it has never seen, against decoders trained from scratch there.

`possm bench transfer`: pretrain once, then for every target, length of calibration and seed adapt and train
anew. All see the same first minutes of the target, choose weights by the end of them, and are scored on its
test split, strictly causally. "scratch" is tuned: the better of several regularizations by validation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from possm.bench.accuracy import write_text
from possm.bench.jobs import Job, Row, rows_so_far, run_jobs
from possm.bench.sources import Source, behavior_weights, sources
from possm.bench.transfer_table import sessions_figure, transfer_figure, transfer_markdown
from possm.config import require
from possm.data.augment import AugmentConfig
from possm.data.calibration import calibration
from possm.data.caps import CAP_PERCENTILE
from possm.data.files import atomic_path
from possm.data.formats import load_recording
from possm.data.recording import Recording
from possm.errors import ConfigError
from possm.evaluation.figures import to_png
from possm.model.decoder import PossmConfig
from possm.recipes import foundation
from possm.training.config import TrainConfig, TrainResult
from possm.training.finetune_config import FinetuneConfig
from possm.training.unit_map import MIN_SESSIONS

MODES = ("scratch", "units", "full", "lora", "gru", "wiener")
ALONE = ("scratch", "gru", "wiener")
"""These learn from the target alone."""
STARTS = ("tuning", "electrode", "random")
SCRATCH: dict[str, tuple[float, float, float | None]] = {
    "plain": (0.2, 0.0, None),
    "regularized": (0.4, 0.2, None),
    "capped": (0.4, 0.2, CAP_PERCENTILE),
}
"""Candidates of "scratch": dropout, share of spikes dropped, and the percentile of a unit's counts that caps
them, as adapting does."""
FULL: dict[str, Any] = {"full_rate": 1.0, "dropout": 0.4}
"""Of mode "full", where all weights learn from minutes: as freely as rows, and held back by dropout."""
STEPS_PER_SESSION = 300


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """What to compare, and how much of the machine to take."""

    minutes: tuple[float, ...] = (1, 2, 5, 10, 15)
    """Lengths of calibration. What is longer than a target has before its test split is all it has, once, and
    its rows say how much that was; inf is all."""
    modes: tuple[str, ...] = MODES
    """What to train: "scratch" and "gru" (binned counts) and "wiener" on the target alone; "units", "lora"
    and "full" from the pretrained decoder."""
    starts: tuple[str, ...] = ("tuning",)
    """What new rows start from: "tuning", "electrode", "random" (the paper's). All but the first are tried
    with mode "units" only."""
    sessions: tuple[int, ...] = ()
    """Numbers of pretraining sessions to compare, the newest so many; none is all of them."""
    backbone: str = "gru"
    """Of the decoder that is pretrained or trained from scratch."""
    pretrain_steps: int | None = None
    """None is 300 for every session of pretraining, 1,000 at least."""
    steps: int = 600
    """Of training from scratch and of mode "full"; "units" and "lora" make half as many."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of adapting and of training from scratch; pretraining is made once."""
    workers: int = 1
    """Decoders trained at a time, on a thread each."""

    def __post_init__(self) -> None:
        require(bool(self.minutes) and min(self.minutes) > 0, "minutes", self.minutes, "above 0")
        require(set(self.modes) <= set(MODES), "modes", self.modes, f"some of {', '.join(MODES)}")
        require(
            bool(self.starts) and set(self.starts) <= set(STARTS), "starts", self.starts, ", ".join(STARTS)
        )
        require(self.steps >= 2, "steps", self.steps, "2 or more")
        require(bool(self.seeds), "seeds", self.seeds, "one or more")
        require(not self.sessions or min(self.sessions) >= 1, "sessions", self.sessions, "1 or more")


@dataclass(frozen=True)
class TransferReport:
    """The rows of a table, some of them perhaps still to come."""

    rows: tuple[Row, ...]

    def text(self) -> str:
        """As Markdown."""
        return transfer_markdown(self.rows)

    def write(self, out: Path, *, figure: bool = True) -> None:
        """transfer.json, transfer.md and transfer.png, into a folder; and sessions.png where decoders were
        pretrained on several numbers of sessions."""
        write_text(out / "transfer.json", json.dumps(self.rows, indent=1))
        write_text(out / "transfer.md", self.text() + "\n")
        several = len({row["pretrain_sessions"] for row in self.rows} - {0}) > 1
        figures = {"transfer.png": transfer_figure} | ({"sessions.png": sessions_figure} if several else {})
        for name, draw in figures.items() if figure else ():
            with atomic_path(out / name) as temporary:
                temporary.write_bytes(to_png(draw(self.rows)))


def bench_transfer(
    pretrain: Sequence[str | Path],
    targets: Sequence[str | Path],
    out: str | Path,
    config: TransferConfig,
    *,
    progress: Callable[[str], object] = id,
) -> TransferReport:
    """Pretrain, adapt and train from scratch, as far as that is not done yet, and write the table.

    Args:
        pretrain: Recordings to pretrain on, oldest first.
        targets: Recordings to adapt to; none may be among the others.
        out: Folder of the table, jobs and runs.
        config: What to compare.
        progress: Told a line about every job that ends.

    Raises:
        ConfigError: A target is among the recordings of pretraining, or the folder holds results of other
            settings.
        RecordingError: A recording cannot be read.
        PossmError: Pretraining failed.
    """
    out = Path(out)
    olds = sources(pretrain, out / "data", progress=progress)
    news = sources(targets, out / "data", behavior=olds[0].behaviors, progress=progress)
    both = {source.name for source in olds} & {source.name for source in news}
    if both:
        raise ConfigError("a target is among the recordings of pretraining", got=", ".join(sorted(both)))
    numbers = tuple(min(number, len(olds)) for number in config.sessions) or (len(olds),)
    adapting = [mode for mode in config.modes if mode not in ALONE]
    starts = config.starts if "units" in adapting else config.starts[:1]
    if adapting and "tuning" in starts and min(numbers) < MIN_SESSIONS:
        raise ConfigError(
            "no map from tuning to rows is learnt of so few sessions",
            got=f"{min(numbers)} to pretrain on",
            wanted=f"{MIN_SESSIONS} or more",
            fix="--starts electrode, or random",
        )
    lengths = {source.name: _lengths(source, config.minutes) for source in news}
    chosen = {number: olds[-number:] for number in dict.fromkeys(numbers)}
    first = [_pretraining(part, config) for part in chosen.values()]
    files = {source.digest: str(source.path) for source in (*olds, *news)}
    function = partial(pretrain_job, files=files)
    made = run_jobs(first, function, out, workers=config.workers, progress=progress)
    failed = [row["status"] for row in made if row["status"] != "ok"]
    if failed:
        raise ConfigError("pretraining failed", got=failed[0], fix="look at the log in runs/")
    decoders = {
        number: {"path": str(out / "runs" / job.name / "decoder.safetensors"), "hash": row["hash"]}
        for number, job, row in zip(chosen, first, made, strict=True)
    }
    jobs = [
        job
        for seed in config.seeds  # seed by seed, so that there is a whole table early on
        for source in news
        for minutes in lengths[source.name]
        for job in _jobs(source, config, decoders, minutes, seed)
    ]

    def ended(line: str) -> None:
        progress(line)
        TransferReport(tuple(rows_so_far(jobs, out))).write(out, figure=False)

    function = partial(adapt_job, files=files)
    report = TransferReport(tuple(run_jobs(jobs, function, out, workers=config.workers, progress=ended)))
    report.write(out)
    return report


def pretrain_job(job: Job, folder: Path, *, files: Mapping[str, str]) -> list[Row]:
    """Pretrain; goes on where it was interrupted. A row of the run's summary."""
    from possm.training.loop import train

    with_all = [load_recording(files[digest]) for digest in job.parameters["recordings"]]
    config = _with_steps(job.parameters["config"], with_all, job.parameters["steps"])
    result = train(with_all, config, folder)
    return [{"hash": result.decoder.hash, **result.summary}]


def adapt_job(job: Job, folder: Path, *, files: Mapping[str, str]) -> list[Row]:
    """One decoder of one target: adapted, or trained from scratch; scored on its test split."""
    from possm.evaluation.score import evaluate

    with load_recording(files[job.parameters["recording"]]) as lazy:
        recording = before_test(lazy.load())
    result, adapt_s = _train(job.parameters, recording, folder)
    scores = {score.behavior: score for score in evaluate(result.decoder, recording, split="test")[0]}
    same = {
        "valid_r2": result.summary["best_valid_r2"],
        "adapt_s": adapt_s,
        "capped_share": result.summary.get("capped_share"),
        "trained_parameters": result.summary.get("trained_parameters", result.summary["parameters"]),
    }
    return [{**row, "r2": scores[row["behavior"]].r2, **same} for row in job.expected]


def before_test(recording: Recording) -> Recording:
    """The recording with all that lies before its test split to learn from: train and valid together."""
    train, valid = recording.split("train"), recording.split("valid")
    return replace(recording, intervals={**recording.intervals, "train_domain": train | valid})


def _lengths(source: Source, minutes: Sequence[float]) -> list[float]:
    """Of calibration, in a target: none twice, and none longer than it is."""
    with load_recording(source.path) as recording:
        there = before_test(recording).split("train").total_s / 60
    return list(dict.fromkeys(length if length <= there else round(there, 2) for length in minutes))


def _train(parameters: Mapping[str, Any], recording: Recording, folder: Path) -> tuple[TrainResult, float]:
    """What a job asks for, of several candidates that which validates best; and how long all of them took, in
    seconds, also where it was interrupted."""
    from possm.checkpoint import load_decoder
    from possm.training.finetune import finetune
    from possm.training.loop import train

    minutes = min(parameters["minutes"], recording.split("train").total_s / 60)
    if parameters["finetune"] is not None:
        config = replace(parameters["finetune"], minutes=minutes)
        adapted = finetune(load_decoder(parameters["decoder"]["path"]), [recording], config, folder)
        return adapted, adapted.summary["wall_s"]
    part = calibration(recording, minutes)
    tried = []
    for name, config in parameters["train"].items():
        config = _with_steps(config, [part], parameters["steps"])
        tried.append(train([part], config, folder / name))
    best = max(tried, key=lambda result: result.summary["best_valid_r2"])
    return best, sum(result.summary["wall_s"] for result in tried)


def _pretraining(chosen: Sequence[Source], config: TransferConfig) -> Job:
    recipe = foundation()
    assert isinstance(recipe.decoder, PossmConfig)
    train = replace(
        recipe,
        behavior=chosen[0].behaviors,
        behavior_weights=behavior_weights(chosen[0].behaviors),
        decoder=replace(recipe.decoder, backbone=config.backbone, chunk_ms=chosen[0].chunk_ms),
    )
    return Job(
        name=f"pretrain-{config.backbone}-{len(chosen)}",
        parameters={
            "recordings": [source.digest for source in chosen],
            "config": train,
            "steps": config.pretrain_steps or max(1000, STEPS_PER_SESSION * len(chosen)),
        },
    )


def _jobs(
    source: Source,
    config: TransferConfig,
    decoders: Mapping[int, dict[str, str]],
    minutes: float,
    seed: int,
) -> list[Job]:
    """All of one target, length of calibration and seed."""
    jobs = []
    for mode in config.modes:
        if mode in ALONE:
            jobs.append(_alone(source, config, mode, minutes, seed))
            continue
        for number, decoder in decoders.items():
            for start in config.starts if mode == "units" else config.starts[:1]:
                jobs.append(_adapted(source, config, (mode, start), minutes, seed, number, decoder))
    return jobs


def _adapted(
    source: Source,
    config: TransferConfig,
    how: tuple[str, str],
    minutes: float,
    seed: int,
    number: int,
    decoder: dict[str, str],
) -> Job:
    mode, start = how
    whole = {"steps": config.steps, **FULL} if mode == "full" else {"steps": config.steps // 2}
    finetuning = FinetuneConfig(
        mode=mode,
        start=start,
        **whole,
        behavior_weights=behavior_weights(source.behaviors),
        augment=AugmentConfig(token_dropout=0.1),
        seed=seed,
    )
    name = f"{source.name}-{mode}-{start}-{minutes:g}min-{config.backbone}{number}-seed{seed}"
    row = {"mode": mode, "start": start, "pretrain_sessions": number}
    return _job(source, name, row, minutes, seed, {"finetune": finetuning, "decoder": decoder})


def _alone(source: Source, config: TransferConfig, mode: str, minutes: float, seed: int) -> Job:
    from possm.training.presets import PRESETS

    base = TrainConfig(
        behavior=source.behaviors,
        behavior_weights=behavior_weights(source.behaviors),
        decoder=PossmConfig(backbone=config.backbone, chunk_ms=source.chunk_ms),
        seed=seed,
    )
    if mode == "scratch":
        base = PRESETS[f"possm-{config.backbone}"](base)
        train = {name: _regularized(base, *how) for name, how in SCRATCH.items()}
    else:
        train = {mode: PRESETS[mode](base)}
    name = f"{source.name}-{mode}-{config.backbone}-{minutes:g}min-seed{seed}"
    row = {"mode": mode, "start": None, "pretrain_sessions": 0}
    return _job(source, name, row, minutes, seed, {"finetune": None, "train": train, "steps": config.steps})


def _regularized(
    config: TrainConfig, dropout: float, token_dropout: float, cap_percentile: float | None
) -> TrainConfig:
    assert isinstance(config.decoder, PossmConfig)
    decoder, augment = replace(config.decoder, dropout=dropout), AugmentConfig(token_dropout=token_dropout)
    return replace(config, decoder=decoder, augment=augment, cap_percentile=cap_percentile)


def _job(
    source: Source, name: str, row: Row, minutes: float, seed: int, parameters: Mapping[str, Any]
) -> Job:
    missing = dict.fromkeys(("r2", "valid_r2", "adapt_s", "trained_parameters", "capped_share"))
    rows = tuple(
        {"target": source.name, "behavior": behavior, **row, "minutes": minutes, "seed": seed, **missing}
        for behavior in source.behaviors
    )
    known = {"recording": source.digest, "minutes": minutes, **parameters}
    return Job(name=name, parameters=known, expected=rows)


def _with_steps(config: TrainConfig, recordings: Sequence[Recording], steps: int) -> TrainConfig:
    """As many epochs as make about these steps."""
    import math

    import numpy as np

    from possm.data.windows import random_windows

    windows = random_windows(recordings, "train", config.window_s, np.random.default_rng(0))
    return replace(config, epochs=max(1, round(steps / math.ceil(len(windows) / config.batch_size))))


SIMULATED_SESSIONS, SIMULATED_SUBJECTS = 40, 4
SIMULATED_S = 480.0


def simulated_files(
    folder: Path, *, progress: Callable[[str], object] = id
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Simulated recordings to pretrain on, of four subjects, and one of a fifth; written unless there."""
    from possm.data.formats.hdf5 import write_hdf5
    from possm.data.simulate import SimulationConfig, simulate_session

    config, each = SimulationConfig(duration_s=SIMULATED_S), SIMULATED_SESSIONS // SIMULATED_SUBJECTS
    days = [
        (subject, day) for day in range(each) for subject in range(SIMULATED_SUBJECTS)
    ]  # subjects in turn
    paths = []
    for subject, day in [*days, (SIMULATED_SUBJECTS, 0)]:
        path = folder / f"subject{subject}-day{day:02d}.h5"
        if not path.exists():
            progress(f"simulating {path.name}")
            write_hdf5(simulate_session(config, subject=subject, session=day, seed=0), path)
        paths.append(path)
    return tuple(paths[:-1]), (paths[-1],)
