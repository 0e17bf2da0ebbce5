"""`possm bench handwriting`: imagined characters, simulated; decoders side by side, from scratch or adapted.

Every seed is a subject of its own. A recording keeps a few trials of each character to train on, the first
fifth of which selects weights, and ten others to test. POSSM and the GRU train on windows of 1 s and decide
the whole trial of 1.6 s causally; PCA-KNN sees the whole trial at once. "pretrained" is POSSM trained to
decode the velocity of simulated monkeys that reach, then adapted: new rows of units and session, a new
readout and the backbone; the encoder stays as it is. But for pretraining, units begin by which of them go
together in all that learn by steps (possm.data.components).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from possm.baselines.pca_knn import fit_pca_knn
from possm.bench.classes import MEASURED, ClassReport, job_name
from possm.bench.jobs import Job, Row, run_jobs
from possm.checkpoint import load_decoder
from possm.config import require
from possm.data.augment import AugmentConfig
from possm.data.components import MIN_S, NUM_COMPONENTS, SMOOTH_S
from possm.data.handwriting import HandwritingConfig, simulate_handwriting
from possm.data.recording import Recording
from possm.data.simulate import SimulationConfig, simulate_session
from possm.data.trial_splits import with_splits
from possm.data.windows import count_windows
from possm.errors import ConfigError
from possm.evaluation.score import evaluate
from possm.evaluation.trials import scored_trials
from possm.model.decoder import PossmConfig
from possm.training.config import TrainConfig, TrainResult
from possm.training.finetune import FinetuneConfig, finetune
from possm.training.loop import train
from possm.training.optim import OptimConfig
from possm.training.presets import PRESETS
from possm.training.start import COMPONENT_SIZE, REMAINDER

LABEL, MOVEMENT = "trials.character", "cursor.vel"
WINDOW_S = 1.0
AUGMENT = AugmentConfig(min_units_kept=0.5, token_dropout=0.3)
"""Of all decoders that learn by steps: a few trials are soon known by heart (docs/classification.md)."""
WIDTH, TOKEN_RATE, DROPOUT = 256, 0.1, 0.4
"""Of POSSM: tokens must be wide enough to tell 192 channels apart, and the wider, the slower they learn."""
BATCH = 32
UNIT_START = "components"
"""Of all decoders that learn by steps, from scratch or adapted."""
PRETRAINED = PossmConfig(width=128, rest=0.0)
PRETRAINING = OptimConfig(
    learning_rate=1.5e-3, weight_decay=0.1, token_rate=0.3, unit_rate=1.0, centre_units=True
)
ADAPTING = FinetuneConfig(
    mode="full",
    start=UNIT_START,
    behavior=(LABEL,),
    keep=False,
    keep_encoder=True,
    dropout=DROPOUT,
    units_share=0.0,
    full_rate=1.0,
    cap_percentile=None,
    window_s=WINDOW_S,
    batch_size=BATCH,
    augment=AUGMENT,
    optim=OptimConfig(learning_rate=4e-3, token_rate=0.03, centre_units=True),
)
"""Rows move slowly: a few trials must not be learnt by heart."""
SUITED = {
    "width": WIDTH,
    "token_rate": TOKEN_RATE,
    "dropout": DROPOUT,
    "augment": AUGMENT,
    "window_s": WINDOW_S,
    "batch_size": BATCH,
    "unit_start": UNIT_START,
    "components": (NUM_COMPONENTS, SMOOTH_S, COMPONENT_SIZE, REMAINDER),
}
"""What results are only comparable with."""
PRETRAINED_BY = {
    "pretrained": PRETRAINED,
    "pretraining": PRETRAINING,
    "augment": AUGMENT,
    "window_s": WINDOW_S,
    "batch_size": BATCH,
}
"""What those that are pretrained are only comparable with,"""
ADAPTED_BY = {
    **PRETRAINED_BY,
    "adapting": ADAPTING,
    "components": (NUM_COMPONENTS, SMOOTH_S),
}
"""and those that are adapted."""


@dataclass(frozen=True, kw_only=True)
class HandwritingBench:
    """What to compare, and how much of the machine to take."""

    trials_per_class: tuple[int, ...] = (3, 10)
    """To train on and to select weights by, together."""
    test_trials: int = 10
    """Of each character."""
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 600
    """Of training from scratch."""
    finetune_steps: int = 1000
    pretrain_steps: int = 1500
    pretrain_sessions: int = 8
    """Simulated sessions of reaching, four monkeys."""
    pretrain_s: float = 300.0
    """Length of each."""
    characters: int = 31
    """The first so many."""
    workers: int = 1
    """Decoders trained at a time."""

    def __post_init__(self) -> None:
        for name in (
            "test_trials",
            "steps",
            "finetune_steps",
            "pretrain_steps",
            "pretrain_sessions",
            "workers",
        ):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(
            min(self.trials_per_class, default=0) >= 2, "trials_per_class", self.trials_per_class, "2 or more"
        )
        require(bool(self.seeds) and min(self.seeds) >= 0, "seeds", self.seeds, "one or more, 0 or more")
        require(2 <= self.characters <= 31, "characters", self.characters, "2 to 31")
        require(self.pretrain_s >= 30, "pretrain_s", self.pretrain_s, "30 or more")

    @classmethod
    def quick(cls) -> HandwritingBench:
        """A few characters, sessions and steps: whether it runs, and about what it says."""
        few = {"steps": 150, "finetune_steps": 100, "pretrain_steps": 200, "pretrain_sessions": 2}
        return cls(trials_per_class=(5,), seeds=(0,), characters=6, pretrain_s=60.0, **few)


def bench_handwriting(
    out: Path, config: HandwritingBench | None = None, *, progress: Callable[[str], object] = id
) -> ClassReport:
    """Simulate, train and score; a bench that was interrupted goes on.

    Args:
        out: Folder of runs and results.
        config: What to compare.
        progress: Told a line about every decoder that is done.
    """
    config = config or HandwritingBench()
    _check_enough(config)
    pretraining = [_job("possm-gru", "pretraining", 0, seed, config) for seed in config.seeds]
    run_jobs(pretraining, pretrain, out, workers=config.workers, progress=progress)
    jobs = [
        _job(decoder, start, trials, seed, config)
        for trials in config.trials_per_class
        for decoder, start in (
            ("pca-knn", "scratch"),
            ("gru", "scratch"),
            ("possm-gru", "scratch"),
            ("possm-gru", "pretrained"),
        )
        for seed in config.seeds
    ]
    function = partial(train_and_decide, runs=out / "runs")
    rows = run_jobs(jobs, function, out, workers=config.workers, progress=progress)
    note = f"{config.characters} characters, {config.test_trials} test trials of each; a seed is a subject"
    return ClassReport(rows, ("decoder", "start", "trials_per_class"), (note,))


def _check_enough(config: HandwritingBench) -> None:
    """Before anything is trained: whether the fewest trials show which units go together."""
    few, made = min(config.trials_per_class), HandwritingConfig()
    trials = (few - _held_out(few)) * config.characters
    seconds = trials * (made.before_s + made.after_s)
    if seconds < MIN_S:
        raise ConfigError(
            "too few trials to see which units go together",
            got=f"{trials} to train on, {seconds:.3g} s",
            wanted=f"{MIN_S:g} s or more",
            fix="more characters, or more trials of each",
        )


def _held_out(per_class: int) -> int:
    """Trials of a character that select weights."""
    return max(1, round(per_class / 5))


def pretrain(job: Job, folder: Path) -> Sequence[Mapping[str, Any]]:
    """Train a decoder of reaching monkeys; its row says how well it decodes them."""
    config, seed = job.parameters["config"], job.parameters["seed"]
    made = SimulationConfig(task="random_target", duration_s=config.pretrain_s, name="monkey")
    sessions = [
        simulate_session(made, subject=number % 4, session=number // 4, seed=1000 + seed)
        for number in range(config.pretrain_sessions)
    ]
    settings = TrainConfig(
        behavior=(MOVEMENT,),
        decoder=PRETRAINED,
        window_s=WINDOW_S,
        batch_size=BATCH,
        optim=PRETRAINING,
        augment=AUGMENT,
        seed=seed,
    )
    result = train(sessions, _budgeted(settings, sessions, config.pretrain_steps), folder)
    done = {"accuracy": result.summary["best_valid_r2"], "train_s": result.summary["wall_s"]}
    return [{**job.expected[0], **done, "parameters": int(result.summary["parameters"])}]


def train_and_decide(job: Job, folder: Path, *, runs: Path) -> Sequence[Mapping[str, Any]]:
    """One decoder on one subject; `runs` holds what has been pretrained."""
    config, seed = job.parameters["config"], job.parameters["seed"]
    recording = few_trials(config, per_class=job.parameters["trials_per_class"], seed=seed)
    if job.parameters["decoder"] == "pca-knn":
        return [{**job.expected[0], **_pca_knn(recording)}]
    if job.parameters["start"] == "pretrained":
        result = _adapt(recording, config, seed, folder, runs)
    else:
        settings = scratch_config(job.parameters["decoder"], seed)
        result = train([recording], _budgeted(settings, [recording], config.steps), folder)
    (score,), _ = evaluate(result.decoder, recording, split="test", behaviors=(LABEL,))
    done = {"parameters": int(result.summary["parameters"]), "train_s": result.summary["wall_s"]}
    return [{**job.expected[0], "accuracy": score.accuracy, **done}]


def scratch_config(decoder: str, seed: int) -> TrainConfig:
    """Settings of training from scratch: the decoder's own, with windows, batch and augmentation of the
    bench, its start of units, and for POSSM its width, rate of tokens and dropout."""
    config = PRESETS[decoder](TrainConfig(behavior=(LABEL,), seed=seed))
    if isinstance(config.decoder, PossmConfig):
        wide = replace(config.decoder, width=WIDTH, dropout=DROPOUT)
        config = replace(config, decoder=wide, optim=replace(config.optim, token_rate=TOKEN_RATE))
    return replace(config, window_s=WINDOW_S, batch_size=BATCH, augment=AUGMENT, unit_start=UNIT_START)


def few_trials(config: HandwritingBench, *, per_class: int, seed: int) -> Recording:
    """A subject's session with so many trials of each character to learn from; the test trials stay."""
    most = max(config.trials_per_class)
    made = HandwritingConfig(trials_per_character=most + config.test_trials)
    made = replace(made, characters=made.characters[: config.characters])
    recording = simulate_handwriting(made, subject=seed, seed=seed)
    trials = recording.intervals["trials"]
    part = np.full(len(trials), "unused")
    held = _held_out(per_class)
    for character in made.characters:
        rows = np.random.default_rng(seed).permutation(
            np.flatnonzero(trials.columns["character"] == character)
        )
        part[rows[most:]] = "test"
        part[rows[:per_class]] = ["valid"] * held + ["train"] * (per_class - held)
    return with_splits(recording, trials, part)


def _adapt(
    recording: Recording, config: HandwritingBench, seed: int, folder: Path, runs: Path
) -> TrainResult:
    pretrained = load_decoder(runs / _name("possm-gru", "pretraining", 0, seed) / "decoder.safetensors")
    settings = replace(ADAPTING, steps=config.finetune_steps, seed=seed)
    return finetune(pretrained, [recording], settings, folder)


def _pca_knn(recording: Recording) -> Row:
    classes = tuple(str(c) for c in np.unique(recording.intervals["trials"].columns["character"]))
    began_s = time.perf_counter()
    parts = {
        split: scored_trials(recording, LABEL, classes, split=split, within=None)
        for split in ("train", "valid", "test")
    }
    fitted = fit_pca_knn(recording, parts["train"], parts["valid"])
    train_s = time.perf_counter() - began_s
    right = float(np.mean(fitted.decide(recording, parts["test"].trials) == parts["test"].number))
    return {"accuracy": right, "parameters": fitted.num_parameters, "train_s": train_s}


def _budgeted(config: TrainConfig, recordings: Sequence[Recording], steps: int) -> TrainConfig:
    """As many epochs as make about these steps."""
    per_epoch = math.ceil(count_windows(recordings, "train", config.window_s) / config.batch_size)
    return replace(config, epochs=max(1, round(steps / per_epoch)))


def _job(decoder: str, start: str, trials: int, seed: int, config: HandwritingBench) -> Job:
    row: Row = {"recording": f"handwriting-s{seed:02d}-d00", "decoder": decoder, "start": start}
    row |= {"trials_per_class": trials, "seed": seed, **dict.fromkeys(MEASURED)}
    about = {"decoder": decoder, "start": start, "trials_per_class": trials, "seed": seed}
    settled = replace(config, workers=1, seeds=(seed,))
    suited = {"scratch": SUITED, "pretraining": PRETRAINED_BY, "pretrained": ADAPTED_BY}[start]
    parameters = {**about, "config": settled, "suited": suited}
    return Job(
        name=_name(decoder, start, trials, seed),
        parameters=parameters,
        expected=(row,),
    )


def _name(decoder: str, start: str, trials: int, seed: int) -> str:
    return job_name(decoder, start, f"{trials}trials", f"seed{seed}")
