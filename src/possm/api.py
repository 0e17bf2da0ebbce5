"""The Python door, as cli.py is the door of the shell: a decoder with its verbs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from possm import checkpoint
from possm.data.recording import Intervals, Recording
from possm.evaluation.assess import Assessment, assess
from possm.evaluation.score import Decoded, decode
from possm.streaming.live import LiveDecoder
from possm.training import loop
from possm.training.config import Progress, TrainConfig, TrainResult
from possm.training.finetune import FinetuneConfig
from possm.training.finetune import finetune as adapt


class Decoder(checkpoint.Decoder):
    """A trained decoder: `decode` and `evaluate` recordings, or go `live`."""

    def live(self, *, origin_s: float = 0.0, **settings: Any) -> LiveDecoder:
        """A stream of this decoder that starts at `origin_s`; settings are those of `LiveDecoder`, such as
        `session` and `output_rate_hz`."""
        return LiveDecoder(self, origin_s=origin_s, **settings)

    def decode(
        self,
        recording: Recording,
        intervals: Intervals | None = None,
        *,
        times_s: dict[str, np.ndarray] | None = None,
    ) -> dict[str, Decoded]:
        """Decode a recording: everywhere in its domain, or in some intervals; at the behavior's own sample
        times, or at given ones."""
        return decode(self, recording, recording.domain if intervals is None else intervals, times_s=times_s)

    def evaluate(self, recording: Recording, *, split: str = "test", within: str | None = None) -> Assessment:
        """Score it on one split of a recording, beside a Wiener filter."""
        return assess(self, [recording], split=split, within=within)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a .safetensors file."""
        checkpoint.save_decoder(self, path)


def train(
    recordings: Sequence[Recording],
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train a decoder, as `possm.training.loop.train` does; the decoder of the result has the verbs above."""
    result = loop.train(recordings, config, os.fspath(out), progress=progress)
    return replace(result, decoder=_with_verbs(result.decoder))


def finetune(
    decoder: checkpoint.Decoder,
    recordings: Sequence[Recording],
    config: FinetuneConfig,
    out: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Adapt a decoder to new sessions, as `possm.training.finetune.finetune` does."""
    result = adapt(decoder, recordings, config, os.fspath(out), progress=progress)
    return replace(result, decoder=_with_verbs(result.decoder))


def load_decoder(path: str | os.PathLike[str], *, device: str = "cpu") -> Decoder:
    """Read a decoder from a .safetensors file.

    Raises:
        CheckpointError: The file is missing, damaged, foreign, or of another version.
    """
    return _with_verbs(checkpoint.load_decoder(path, device=device))


def _with_verbs(decoder: checkpoint.Decoder) -> Decoder:
    parts = {field.name: getattr(decoder, field.name) for field in fields(checkpoint.Decoder)}
    return Decoder(**parts)
