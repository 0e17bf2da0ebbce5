"""Decoders that are fitted at once, without gradients: the same checks, and the same folder as any run."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from possm.baselines.fitted import FitInputs
from possm.checkpoint import Decoder, save_decoder
from possm.config import to_json
from possm.data.files import atomic_path
from possm.data.recording import Recording
from possm.data.scaling import fit_scalings, scaling_of
from possm.data.vocabulary import Vocabulary
from possm.decoders import DECODERS, kind_of
from possm.errors import ConfigError, RecordingError
from possm.evaluation.score import Score, evaluate
from possm.training.config import Progress, TrainConfig, TrainResult
from possm.training.memory import peak_memory_mb
from possm.training.preflight import behavior_configs


def is_closed_form(config: TrainConfig) -> bool:
    """Whether the decoder of a run is fitted at once."""
    return DECODERS[kind_of(config.decoder)].fit is not None


def fit_closed_form(
    recordings: Sequence[Recording],
    config: TrainConfig,
    out: Path,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Fit a decoder on the train split of recordings, its settings chosen on their valid split.

    Args:
        recordings: As checked by `check_run`.
        config: What to do; windows, batches, optimizer, augmentation and loss weights have no part in it.
        out: Folder of the run, the same as `train` writes but for the file to go on from: it starts again.
        progress: Called once, at the end.

    Raises:
        RecordingError: Validation R2 is not defined, or a recording cannot be used by this decoder.
        ConfigError: The folder holds a run of other settings, rows of units shall begin somewhere, or there
            are several processes.
    """
    if config.unit_start != "random":
        raise ConfigError(
            "this decoder is fitted in one go and has no rows of units to begin",
            got=f"unit_start {config.unit_start!r}",
            fix="--unit-start random",
        )
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "this decoder is fitted in one go, by one process",
            got=f"{os.environ['WORLD_SIZE']} processes",
            fix="leave out torchrun",
        )
    config = replace(
        config, decoder=replace(config.decoder, behaviors=behavior_configs(recordings, config.behavior))
    )
    _check_folder(out, config)
    started, started_cpu = time.perf_counter(), time.process_time()
    decoder = _fit(recordings, config)
    rows = _scores(decoder, recordings, "valid", config.evaluate_within)
    loss = float(np.mean([1 - row.r2 for row in _scores(decoder, recordings, "train", None)]))
    spent = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - started_cpu}
    valid_r2 = _mean_r2(rows)
    decoder = replace(decoder, provenance={**decoder.provenance, "best_valid_r2": valid_r2})
    summary = {
        "best_valid_r2": valid_r2,
        **spent,
        "windows_per_s": 0.0,
        "parameters": sum(p.numel() for p in decoder.model.parameters()),
        "peak_memory_mb": peak_memory_mb(),
    }
    metrics: dict[str, Any] = {
        "epoch": 1,
        "step": 1,
        "train_loss": loss if math.isfinite(loss) else None,
        "valid_r2": valid_r2,
    }
    metrics |= {"learning_rate": 0.0, "wall_s": spent["wall_s"]}
    metrics |= {f"valid_r2/{row.session}/{row.behavior}": row.r2 for row in rows}
    _write(out / "config.json", json.dumps(to_json(config), indent=1))
    _write(out / "metrics.jsonl", json.dumps(metrics) + "\n")
    path = save_decoder(decoder, out / "decoder.safetensors")
    _write(out / "summary.json", json.dumps(summary, indent=1))
    if progress is not None:
        progress(Progress(1, 1, 1, 1, loss, 0.0, valid_r2))
    return TrainResult(decoder, path, summary)


def _fit(recordings: Sequence[Recording], config: TrainConfig) -> Decoder:
    vocabulary = Vocabulary.of(recordings)
    scaling, session_scaling = fit_scalings(recordings, config.behavior, by=config.scaling)
    inputs = FitInputs(
        recordings=recordings,
        vocabulary=vocabulary,
        scaling_of=lambda session: scaling_of(session, scaling, session_scaling),
        within=config.evaluate_within,
    )
    fit = DECODERS[kind_of(config.decoder)].fit
    assert fit is not None
    model = fit(config.decoder, inputs)
    provenance = {
        "training": to_json(config),
        "files": [recording.name for recording in recordings],
        "epoch": 1,
        "torch": torch.__version__,
    }
    return Decoder(model, vocabulary, scaling, provenance, session_scaling)


def _scores(decoder: Decoder, recordings: Sequence[Recording], split: str, within: str | None) -> list[Score]:
    return [row for r in recordings for row in evaluate(decoder, r, split=split, within=within)[0]]


def _mean_r2(rows: Sequence[Score]) -> float:
    mean = float(np.mean([row.r2 for row in rows]))
    if math.isnan(mean):
        undefined = [f"{row.session}, {row.behavior}" for row in rows if math.isnan(row.r2)]
        raise RecordingError(
            "validation R2 is not defined, so no settings can be chosen",
            about="; ".join(undefined),
            fix="give the valid split samples of a behavior that changes",
        )
    return mean


def _check_folder(out: Path, config: TrainConfig) -> None:
    """A folder is of one run: what is in it must not be replaced by another one's."""
    path = out / "config.json"
    if not path.is_file():
        return
    if json.loads(path.read_text()) != json.loads(json.dumps(to_json(config))):
        raise ConfigError(
            "the folder holds a run with other settings",
            about=out,
            fix="use the same settings to do it again, or another --out folder",
        )


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)
