"""The training loop: windows -> batch -> decoder -> loss -> weights, validated, saved, resumable.

A run is a folder: decoder.safetensors (the best so far by validation R2), metrics.jsonl (a row per
validation), config.json, summary.json once it is finished, and resume.safetensors. A run that is killed and
started again with the same settings goes on from its last validation and ends with the same weights as one
that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from possm.data.recording import Recording
from possm.training.closed import fit_closed_form, is_closed_form
from possm.training.config import Progress, TrainConfig, TrainResult
from possm.training.distributed import joined
from possm.training.memory import keep_freed_memory
from possm.training.preflight import gather
from possm.training.run import Run
from possm.training.start import fresh_start

__all__ = ["Progress", "TrainConfig", "TrainResult", "train"]


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
        ConfigError: The folder holds a run of other settings, the loss became NaN, or the decoder has no rows
            of units for `unit_start`.
    """
    keep_freed_memory()
    recordings = gather(recordings, config)
    if is_closed_form(config):
        return fit_closed_form(recordings, config, Path(out), progress=progress)
    with joined(config.device) as processes:
        return Run(fresh_start(recordings, config), Path(out), processes).run(progress)
