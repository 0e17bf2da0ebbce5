"""The moving parts of one training run: weights, optimizer, counters, and the files of its folder."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from possm.batch import Batch
from possm.checkpoint import Decoder, save_decoder
from possm.config import to_json
from possm.data.files import atomic_path
from possm.data.labels import has_behavior
from possm.data.loader import SampleMaker
from possm.data.workers import Workers
from possm.errors import ConfigError, PossmError, RecordingError
from possm.evaluation.score import MEASURES, Score, evaluate, measure_of
from possm.model.contract import DecoderModel
from possm.training.config import (
    DEFAULT_VALIDATIONS,
    Progress,
    TrainResult,
)
from possm.training.distributed import Processes
from possm.training.extend import table_names
from possm.training.lora import merged
from possm.training.losses import loss_weights, total_loss
from possm.training.memory import peak_memory_mb
from possm.training.optim import learning_rate, make_optimizer, update_average
from possm.training.reconstruct import reconstruct
from possm.training.resume import load_run, save_run
from possm.training.sentences import training_set
from possm.training.start import Phase, Start
from possm.training.unit_map import fit_unit_map

logger = logging.getLogger(__name__)


PROGRESS = ("epoch", "step", "windows", "best_score", "best_epoch", "measure", "wall_s", "cpu_s", "metrics")
"""What a run counts, besides weights and optimizer."""
MAX_WEIGHT = 1e6
"""A decoder that answers with numbers too large for float32 has weights beyond this; none that learns has."""


class Run:
    """The moving parts of one run."""

    def __init__(self, start: Start, out: Path, processes: Processes | None = None) -> None:
        self.processes = processes or Processes()
        self.begin, self.recordings, self.out = start, start.recordings, out
        self.config = config = start.config
        self.vocabulary = start.vocabulary
        self.scaling, self.session_scaling = start.scaling, start.session_scaling
        self.device = _device(config.device)
        self.model = start.model.to(self.device)
        self.average = copy.deepcopy(self.model)
        self.best = copy.deepcopy(self.model)
        anchors = {p: p.detach().clone() for p in self.model.parameters()} if start.anchor_decay else {}
        self.optimizer = make_optimizer(
            self.model,
            config.optim,
            tables=table_names(config.decoder),
            anchors=anchors,
            anchor_decay=start.anchor_decay,
        )
        self.maker = SampleMaker(
            recordings=self.recordings,
            vocabulary=self.vocabulary,
            scaling={name: self.scaling[name] for name in config.behavior if name in self.scaling},
            session_scaling=self.session_scaling,
            inputs=start.inputs,
            classes={
                n: b.classes
                for n, b in config.decoder.behaviors.items()
                if n in config.behavior and b.readout == "category"
            },
            chunk_ms=self.config.decoder.chunk_ms,
            lead_ms=self.config.decoder.effective_lead_ms,
            interval_weights=config.interval_weights,
            dataset_weights=config.dataset_weights,
            allow_missing=config.allow_missing_behaviors,
            augment=config.augment,
        )
        self.training_set = training_set(self.maker, config, part=self.processes.part)
        self.workers = Workers(self.training_set, 0)
        steps = self.training_set.num_batches
        self.epochs = max(config.epochs or math.ceil(start.steps / steps), len(start.phases))
        self.valid_every = config.valid_every or math.ceil(self.epochs / DEFAULT_VALIDATIONS)
        self.total_steps = self.epochs * steps
        self.phase_ends = phase_ends(start.phases, self.epochs)
        self.epoch = self.best_epoch = self.step = self.windows = 0
        self.best_score, self.wall_s = -math.inf, 0.0
        self.measure = "r2"  # as of the first validation
        self.cpu_s = 0.0
        self.started, self.started_cpu = time.perf_counter(), time.process_time()
        self.metrics: list[dict[str, Any]] = []
        self.epoch_loss: float | None = None
        self.parallel: tuple[Phase, torch.nn.Module] | None = None
        if start.see_first:
            self._see()

    def restore(self) -> None:
        """Go on where this folder's run stopped, if there is one."""
        saved = load_run(self.out, self._settings())
        if saved is not None:
            saved.restore(model=self.model, average=self.average, best=self.best, optimizer=self.optimizer)
            for name in PROGRESS:
                setattr(self, name, saved.progress.get(name, getattr(self, name)))
            logger.info("resumed %s at epoch %d", self.out, self.epoch)
        if self.processes.rank:  # dropout of its own; the first process goes on with what was saved
            torch.manual_seed(1_000_003 * self.processes.rank + self.config.seed + self.epoch)
        if self.processes.first:
            _write(self.out / "config.json", json.dumps(to_json(self.config), indent=1))

    @property
    def done(self) -> bool:
        """Whether all epochs are over, or nothing has become better for long."""
        patience, last_phase = self.begin.patience, self.phase_ends[-2] if len(self.phase_ends) > 1 else 0
        if patience is not None and self.epoch % self.valid_every == 0:
            stale = self.epoch - max(self.best_epoch, last_phase)
            if stale >= patience * self.valid_every:
                return True
        return self.epoch >= self.epochs

    def run(self, progress: Callable[[Progress], None] | None) -> TrainResult:
        """Go on where this folder's run stopped, to the end."""
        self.restore()
        if self.config.reconstruct_steps and not self.metrics:
            self._reconstruct()
        if self.begin.score_first and not self.metrics:
            self.validate(progress)
        if self.done:
            return self.finish()
        with Workers(self.training_set, self._num_workers()) as self.workers:
            while not self.done:
                self.train_epoch(progress)
                if self.epoch % self.valid_every == 0 or self.epoch == self.epochs:
                    self.validate(progress)
        return self.finish()

    def _reconstruct(self) -> None:
        """The first phase, of the encoder alone."""
        steps = self.config.reconstruct_steps
        told = reconstruct(self.model, self._batches_of, steps=steps, optim=self.config.optim)
        logger.info("the latents tell %.1f %% of the variance of the values", 100 * told)
        for model in (self.average, self.best):
            model.load_state_dict(self.model.state_dict())

    def train_epoch(self, progress: Callable[[Progress], None] | None) -> None:
        """One pass over the training intervals."""
        config, phase = self.config, self._phase()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(phase.trained is None or name in phase.trained)
        if self.parallel is None or self.parallel[0] is not phase:
            all_used = not config.allow_missing_behaviors and set(config.behavior) == set(
                config.decoder.behaviors
            )
            self.parallel = phase, self.processes.parallel(self.model, all_used=all_used)
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
        if not self._weights_within(math.inf):  # classes of NaN are classes; a score would not tell
            raise self._diverged("a weight", math.nan)
        decoder = self._decoder(self.average.eval())
        rows = self.processes.agree(self._scores(decoder) if self.processes.first else [])
        valid_score, measure = float(np.mean([row.value for row in rows])), measure_of(rows)
        if math.isnan(valid_score):
            if not self._weights_within(MAX_WEIGHT):
                raise self._diverged("what the decoder answers", math.nan)
            undefined = [f"{row.session}, {row.behavior}" for row in rows if math.isnan(row.value)]
            raise RecordingError(
                f"validation {MEASURES[measure]} is not defined, so no weights can be selected",
                about="; ".join(undefined),
                fix="give the valid split samples of a behavior that changes",
            )
        self.measure = measure
        if valid_score > self.best_score:
            self.best_score, self.best_epoch = valid_score, self.epoch
            self.best.load_state_dict(self.average.state_dict())
            if self.processes.first:
                save_decoder(self._best(), self.out / "decoder.safetensors")
        now = time.perf_counter()
        self.wall_s, self.started = self.wall_s + now - self.started, now
        cpu = time.process_time()
        self.cpu_s, self.started_cpu = self.cpu_s + cpu - self.started_cpu, cpu
        row = {"epoch": self.epoch, "step": self.step, "train_loss": self.epoch_loss}
        row |= {f"valid_{measure}": valid_score}
        row |= {"learning_rate": self._rate(max(0, self.step - 1)), "wall_s": self.wall_s}
        row |= {f"valid_{r.measure}/{r.session}/{r.behavior}": r.value for r in rows}
        self.metrics.append(row)
        if self.processes.first:
            self._save()
        if progress is not None:
            progress(self._progress(math.nan if self.epoch_loss is None else self.epoch_loss, valid_score))

    def finish(self) -> TrainResult:
        """Write the summary; the same command run again finds the run complete and changes nothing."""
        decoder, path = self._best(), self.out / "decoder.safetensors"
        if not self.processes.first:
            return TrainResult(decoder, path, {})
        unit_map = self.begin.unit_map or fit_unit_map(decoder, self.recordings)
        decoder = replace(decoder, unit_map=unit_map)
        save_decoder(decoder, path)
        summary = {
            f"best_valid_{self.measure}": self.best_score,
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "windows_per_s": self.windows / max(self.wall_s, 1e-9),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "peak_memory_mb": peak_memory_mb(),
            **self.begin.summary,
        }
        self._write_metrics()  # again, for a run that was killed after its last validation
        _write(self.out / "summary.json", json.dumps(summary, indent=1))
        return TrainResult(decoder, path, summary)

    def _step(self, batch: Batch) -> float:
        rate, others = self._rate(self.step), self._phase().rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"] * (1.0 if group["rows"] else others)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16()):
            answers, _ = self.parallel[1](batch) if self.parallel else self.model(batch)
        loss = total_loss(
            {name: answer.float() for name, answer in answers.items()},
            batch,
            kinds={name: b.readout for name, b in self.config.decoder.behaviors.items()},
            behavior_weights=self.config.behavior_weights,
            shares=self.processes.shares(loss_weights(batch)),
        )
        value = self.processes.mean(loss)
        if not math.isfinite(value):
            raise self._diverged("the training loss", value)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._keep_rows()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()
        update_average(self.average, self.model, self.step, self.config.optim)
        self.step += 1
        self.windows += len(batch.session) * self.processes.size
        return value

    def _weights_within(self, size: float) -> bool:
        """Whether all weights, as they are and averaged, are numbers below a size."""
        weights = (*self.model.parameters(), *self.average.parameters())
        return all(bool((weight.abs() < size).all()) for weight in weights)

    def _diverged(self, what: str, value: float) -> ConfigError:
        return ConfigError(
            f"{what} is no longer a number",
            about=f"{self.out}, step {self.step}",
            got=value,
            fix="lower the learning rate, or look for extreme values with `possm inspect`",
        )

    def _see(self) -> None:
        """The first batch, whole in every process, so that all begin with the same weights."""
        batch = replace(self.training_set, part=(0, 1)).batch(0, 0)
        self.model.eval().see(batch.to(lambda x: torch.from_numpy(x).to(self.device)))
        for copied in (self.average, self.best):
            copied.load_state_dict(self.model.state_dict())

    def _batches(self) -> Iterator[Batch]:
        """This epoch's batches; they depend on seed and epoch only, so that a run can be resumed."""
        yield from self._batches_of(self.epoch)

    def _batches_of(self, epoch: int) -> Iterator[Batch]:
        for batch in self.workers.batches(epoch):
            yield batch.to(lambda x: torch.from_numpy(x).to(self.device))

    def _num_workers(self) -> int:
        if self.config.workers is not None:
            return self.config.workers
        if self.device.type != "cuda":
            return 0
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes of torchrun on this machine
        return min(8, max(0, (os.cpu_count() or 1) // beside - 1))

    def _scores(self, decoder: Decoder) -> list[Score]:
        """A row for every validated recording and behavior."""
        number, config = len(self.recordings), self.config
        places = np.linspace(0, number - 1, min(number, config.valid_sessions or number)).round().astype(int)
        rows = []
        for recording in (self.recordings[place] for place in places):
            names = [name for name in config.behavior if has_behavior(recording, name)]
            rows += evaluate(
                decoder,
                recording,
                split="valid",
                within=config.evaluate_within,
                behaviors=names,
                limit_s=config.valid_s,
            )[0]
        return rows

    def _phase(self) -> Phase:
        """That of the next epoch."""
        number = int(np.searchsorted(self.phase_ends, self.epoch, side="right"))
        return self.begin.phases[min(number, len(self.begin.phases) - 1)]

    def _keep_rows(self) -> None:
        """Only the rows of this phase have a gradient."""
        parameters = dict(self.model.named_parameters())
        for name, rows in self._phase().rows.items():
            gradient = parameters[name].grad
            if gradient is not None:
                kept = gradient[rows]
                gradient.zero_()[rows] = kept

    def _rate(self, step: int) -> float:
        """Every phase has a schedule of its own."""
        steps = self.total_steps // self.epochs
        step = min(step, self.total_steps - 1)
        number = int(np.searchsorted(self.phase_ends, step // steps, side="right"))
        first = self.phase_ends[number - 1] if number else 0
        length = (self.phase_ends[number] - first) * steps
        return learning_rate(step - first * steps, length, self.config.optim)

    def _bf16(self) -> bool:
        wanted = self.config.precision
        return wanted == "bf16" or (wanted == "auto" and self.device.type == "cuda")

    def _progress(self, loss: float, valid_score: float | None = None) -> Progress:
        elapsed = self.wall_s + time.perf_counter() - self.started
        eta_s = elapsed / max(1, self.step) * (self.total_steps - self.step)
        return Progress(
            self.epoch, self.epochs, self.step, self.total_steps, loss, eta_s, valid_score, self.measure
        )

    def _best(self) -> Decoder:
        provenance = {
            "training": to_json(self.config),
            "files": [recording.name for recording in self.recordings],
            f"best_valid_{self.measure}": self.best_score,
            "epoch": self.best_epoch,
            "torch": torch.__version__,
            **self.begin.provenance,
        }
        return self._decoder(merged(self.best).cpu().eval(), provenance)

    def _decoder(self, model: DecoderModel, provenance: dict[str, Any] | None = None) -> Decoder:
        known = (self.vocabulary, self.scaling, provenance or {}, self.session_scaling)
        return Decoder(model, *known, self.begin.inputs)

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        config = to_json(self.config)
        del config["workers"]  # makes no difference
        return {
            **config,
            "sessions": list(self.vocabulary.sessions),
            "units": len(self.vocabulary.units),
            "scalings": {name: to_json(scaling) for name, scaling in self.scaling.items()},
            **self.begin.settings,
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


def phase_ends(phases: Sequence[Phase], epochs: int) -> list[int]:
    """The epoch at which each phase ends; each has one at least, as long as there are as many epochs."""
    ends = np.round(np.cumsum([phase.share for phase in phases]) / sum(p.share for p in phases) * epochs)
    number = len(phases)
    return [int(min(max(end, i + 1), epochs - (number - 1 - i))) for i, end in enumerate(ends)]


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
