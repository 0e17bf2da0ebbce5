"""The training loop: windows -> batch -> decoder -> loss -> weights, validated, saved, resumable.

A run is a folder: decoder.safetensors (the best so far by validation R2), metrics.jsonl (a row per
validation), config.json, summary.json once it is finished, and resume.safetensors. A run that is killed and
started again with the same settings goes on from its last validation and ends with the same weights as one
that was never interrupted.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from possm.batch import Batch
from possm.checkpoint import Decoder, save_decoder
from possm.config import require, to_json
from possm.data.augment import AugmentConfig
from possm.data.files import atomic_path
from possm.data.loader import SampleMaker, training_batches
from possm.data.recording import Recording
from possm.data.scaling import Scaling
from possm.data.vocabulary import Vocabulary
from possm.data.windows import random_windows
from possm.errors import ConfigError, PossmError, RecordingError
from possm.evaluation.score import evaluate
from possm.model.decoder import Possm, PossmConfig
from possm.training.losses import total_loss
from possm.training.memory import keep_freed_memory
from possm.training.optim import OptimConfig, learning_rate, make_optimizer, update_average
from possm.training.preflight import behavior_configs, check_names, check_recordings
from possm.training.resume import load_run, save_run

logger = logging.getLogger(__name__)

DEFAULT_STEPS = 1000
DEFAULT_VALIDATIONS = 12
PROGRESS = ("epoch", "step", "windows", "best_r2", "best_epoch", "wall_s", "metrics")
"""What a run counts, besides weights and optimizer."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. The defaults are those of the study in docs/training.md."""

    behavior: tuple[str, ...]
    """Names of the signals to decode, such as "cursor.vel"."""
    decoder: PossmConfig = PossmConfig()
    """Architecture; its behaviors are filled in from the recordings."""
    window_s: float = 4.0
    """Length of a training window."""
    batch_size: int = 16
    """Windows per step."""
    epochs: int | None = None
    """Passes over the training intervals; None is as many as make about 1,000 steps."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and schedule."""
    augment: AugmentConfig = AugmentConfig()
    """Changes to training windows."""
    interval_weights: dict[str, float] = field(default_factory=dict)
    """Loss weight of samples inside named intervals (paper: reach 5, hold 0.1, outliers 0)."""
    behavior_weights: dict[str, float] = field(default_factory=dict)
    """Loss weight of each behavior; 1 unless given."""
    evaluate_within: str | None = None
    """Intervals whose samples count in validation; None counts all."""
    valid_every: int | None = None
    """Epochs between validations, which are also the points a run resumes from; None validates 12 times."""
    seed: int = 0
    """Of weights, windows, augmentation and dropout."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": CUDA where there is one."""
    precision: str = "auto"
    """"float32", "bf16", or "auto": bf16 on CUDA."""

    def __post_init__(self) -> None:
        names = "one or more names, as a tuple"
        require(bool(self.behavior) and not isinstance(self.behavior, str), "behavior", self.behavior, names)
        require(self.window_s > 0, "window_s", self.window_s, "above 0")
        for name in ("batch_size", "epochs", "valid_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "1 or more")
        choices = ("auto", "float32", "bf16")
        require(self.precision in choices, "precision", self.precision, f"one of {choices}")
        check_names("behavior_weights", self.behavior_weights, self.behavior)
        for name in ("interval_weights", "behavior_weights"):
            weights = getattr(self, name)
            require(all(0 <= w < math.inf for w in weights.values()), name, weights, "finite, 0 or more")


@dataclass(frozen=True)
class Progress:
    """What a run reports after every step, and after every validation with `valid_r2`."""

    epoch: int
    epochs: int
    step: int
    total_steps: int
    loss: float
    eta_s: float
    valid_r2: float | None = None


@dataclass(frozen=True)
class TrainResult:
    """What a run ends with."""

    decoder: Decoder
    """The best by validation R2."""
    path: Path
    """Its file."""
    summary: dict[str, float]
    """As in summary.json: best_valid_r2, wall_s, windows_per_s, parameters, peak_memory_mb."""


def train(
    recordings: Sequence[Recording],
    config: TrainConfig,
    out: str | Path,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train a decoder on the train split of recordings, selected on their valid split.

    Args:
        recordings: One or more, each with splits and all behaviors.
        config: What to do.
        out: Folder of the run; one that was interrupted there goes on.
        progress: Called after every step and validation.

    Raises:
        RecordingError: A recording lacks a split or behavior, or has nothing to learn from.
        ConfigError: The folder holds a run of other settings, or the loss became NaN.
    """
    keep_freed_memory()
    run = _Run(recordings, config, Path(out))
    run.restore()
    while run.epoch < run.epochs:
        run.train_epoch(progress)
        if run.epoch % run.valid_every == 0 or run.epoch == run.epochs:
            run.validate(progress)
    return run.finish()


class _Run:
    """The moving parts of one run."""

    def __init__(self, recordings: Sequence[Recording], config: TrainConfig, out: Path) -> None:
        check_recordings(
            recordings,
            behaviors=config.behavior,
            chunk_ms=config.decoder.chunk_ms,
            within=config.evaluate_within,
        )
        check_names("interval_weights", config.interval_weights, {i for r in recordings for i in r.intervals})
        self.recordings, self.out = recordings, out
        behaviors = behavior_configs(recordings, config.behavior)
        self.config = replace(config, decoder=replace(config.decoder, behaviors=behaviors))
        self.vocabulary = Vocabulary.of(recordings)
        self.scaling = {name: Scaling.fit(recordings, name) for name in config.behavior}
        self.device = _device(config.device)
        torch.manual_seed(config.seed)
        sizes = {"num_units": len(self.vocabulary.units), "num_sessions": len(self.vocabulary.sessions)}
        self.model = Possm(self.config.decoder, **sizes).to(self.device)
        self.average = copy.deepcopy(self.model)
        self.best = copy.deepcopy(self.model)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.maker = SampleMaker(
            recordings=recordings,
            vocabulary=self.vocabulary,
            scaling=self.scaling,
            chunk_ms=self.config.decoder.chunk_ms,
            lead_ms=self.config.decoder.effective_lead_ms,
            interval_weights=config.interval_weights,
            augment=config.augment,
        )
        steps = self._steps_per_epoch()
        self.epochs = config.epochs or math.ceil(DEFAULT_STEPS / steps)
        self.valid_every = config.valid_every or math.ceil(self.epochs / DEFAULT_VALIDATIONS)
        self.total_steps = self.epochs * steps
        self.epoch = self.best_epoch = self.step = self.windows = 0
        self.best_r2, self.wall_s = -math.inf, 0.0
        self.started = time.perf_counter()
        self.metrics: list[dict[str, Any]] = []

    def restore(self) -> None:
        """Go on where this folder's run stopped, if there is one."""
        saved = load_run(self.out, self._settings())
        if saved is not None:
            saved.restore(model=self.model, average=self.average, best=self.best, optimizer=self.optimizer)
            for name in PROGRESS:
                setattr(self, name, saved.progress[name])
            logger.info("resumed %s at epoch %d", self.out, self.epoch)
        _write(self.out / "config.json", json.dumps(to_json(self.config), indent=1))

    def train_epoch(self, progress: Callable[[Progress], None] | None) -> None:
        """One pass over the training intervals."""
        self.model.train()
        losses = []
        for batch in self._batches():
            losses.append(self._step(batch))
            if progress is not None:
                progress(self._progress(losses[-1]))
        self.epoch += 1
        self.epoch_loss = float(np.mean(losses))

    def validate(self, progress: Callable[[Progress], None] | None) -> None:
        """Score the averaged weights, keep the best, write everything down."""
        decoder = Decoder(self.average.eval(), self.vocabulary, self.scaling)
        rows = [
            score
            for recording in self.recordings
            for score in evaluate(decoder, recording, split="valid", within=self.config.evaluate_within)[0]
        ]
        valid_r2 = float(np.mean([row.r2 for row in rows]))
        if math.isnan(valid_r2):
            undefined = [f"{row.session}, {row.behavior}" for row in rows if math.isnan(row.r2)]
            raise RecordingError(
                "validation R2 is not defined, so no weights can be selected",
                about="; ".join(undefined),
                fix="give the valid split samples of a behavior that changes",
            )
        if valid_r2 > self.best_r2:
            self.best_r2, self.best_epoch = valid_r2, self.epoch
            self.best.load_state_dict(self.average.state_dict())
            save_decoder(self._best(), self.out / "decoder.safetensors")
        now = time.perf_counter()
        self.wall_s, self.started = self.wall_s + now - self.started, now
        row = {"epoch": self.epoch, "step": self.step, "train_loss": self.epoch_loss, "valid_r2": valid_r2}
        row |= {"learning_rate": self._rate(self.step - 1), "wall_s": self.wall_s}
        row |= {f"valid_r2/{r.session}/{r.behavior}": r.r2 for r in rows}
        self.metrics.append(row)
        self._save()
        if progress is not None:
            progress(self._progress(self.epoch_loss, valid_r2))

    def finish(self) -> TrainResult:
        """Write the summary; the same command run again finds the run complete and changes nothing."""
        decoder = self._best()
        path = save_decoder(decoder, self.out / "decoder.safetensors")
        summary = {
            "best_valid_r2": self.best_r2,
            "wall_s": self.wall_s,
            "windows_per_s": self.windows / max(self.wall_s, 1e-9),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        self._write_metrics()  # again, for a run that was killed after its last validation
        _write(self.out / "summary.json", json.dumps(summary, indent=1))
        return TrainResult(decoder, path, summary)

    def _step(self, batch: Batch) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16()):
            answers, _ = self.model(batch)
        loss = total_loss(
            {name: answer.float() for name, answer in answers.items()},
            batch,
            kinds={name: b.readout for name, b in self.config.decoder.behaviors.items()},
            behavior_weights=self.config.behavior_weights,
        )
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ConfigError(
                "the training loss is no longer a number",
                about=f"{self.out}, step {self.step}",
                got=value,
                fix="lower the learning rate, or look for extreme values with `possm inspect`",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()
        update_average(self.average, self.model, self.step, self.config.optim)
        self.step += 1
        self.windows += len(batch.session)
        return value

    def _batches(self) -> Iterator[Batch]:
        """This epoch's batches. Its randomness depends on seed and epoch only, so that it can be resumed."""
        rng = np.random.default_rng([self.config.seed, self.epoch])
        batches = training_batches(
            self.maker, window_s=self.config.window_s, batch_size=self.config.batch_size, rng=rng
        )
        for batch in batches:
            yield batch.to(lambda x: torch.from_numpy(x).to(self.device))

    def _steps_per_epoch(self) -> int:
        rng = np.random.default_rng(self.config.seed)
        windows = random_windows(self.recordings, "train", self.config.window_s, rng)
        if not windows:
            raise ConfigError("the train split holds no window", fix="shorten window_s")
        return math.ceil(len(windows) / self.config.batch_size)

    def _rate(self, step: int) -> float:
        return learning_rate(min(step, self.total_steps - 1), self.total_steps, self.config.optim)

    def _bf16(self) -> bool:
        wanted = self.config.precision
        return wanted == "bf16" or (wanted == "auto" and self.device.type == "cuda")

    def _progress(self, loss: float, valid_r2: float | None = None) -> Progress:
        elapsed = self.wall_s + time.perf_counter() - self.started
        eta_s = elapsed / max(1, self.step) * (self.total_steps - self.step)
        return Progress(self.epoch, self.epochs, self.step, self.total_steps, loss, eta_s, valid_r2)

    def _best(self) -> Decoder:
        provenance = {
            "training": to_json(self.config),
            "files": [recording.name for recording in self.recordings],
            "best_valid_r2": self.best_r2,
            "epoch": self.best_epoch,
            "torch": torch.__version__,
        }
        return Decoder(copy.deepcopy(self.best).cpu().eval(), self.vocabulary, dict(self.scaling), provenance)

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        return {
            **to_json(self.config),
            "sessions": list(self.vocabulary.sessions),
            "units": len(self.vocabulary.units),
            "scaling": {name: to_json(scaling) for name, scaling in self.scaling.items()},
        }

    def _save(self) -> None:
        progress = {name: getattr(self, name) for name in PROGRESS}
        save_run(
            self.out,
            self._settings(),
            progress,
            model=self.model,
            average=self.average,
            best=self.best,
            optimizer=self.optimizer,
        )
        self._write_metrics()

    def _write_metrics(self) -> None:
        _write(self.out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.metrics))


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise PossmError(f"cannot use device {name!r}", got=error, fix="use --device cpu") from error


def _write(path: Path, text: str) -> None:
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    except OSError as error:
        fix = "free the disk or choose another folder"
        raise PossmError("cannot be written", about=path, got=error, fix=fix) from error
