"""Categories decoded trial by trial, each on its own and causally, by default from an empty state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from possm.checkpoint import Decoder
from possm.data.chunks import Sample, class_times, collate
from possm.data.intervals import Intervals
from possm.data.labels import TrialClasses, inside
from possm.data.loader import SampleMaker
from possm.data.recording import Recording
from possm.data.windows import Window, warm_start
from possm.errors import RecordingError
from possm.evaluation.answers import TrialAnswers

TRIALS_AT_ONCE = 64
"""Trials of equal length decoded in one call: bounds memory, changes nothing else."""


def scored_trials(
    recording: Recording, behavior: str, classes: tuple[str, ...], *, split: str, within: Intervals | None
) -> TrialClasses:
    """The labelled trials that lie wholly in a split, cut to what lies in some intervals if there are any.

    Raises:
        RecordingError: There are no labels of this name, one is of no class, or no labelled trial is left.
    """
    parts = recording.split(split)
    trials = recording.intervals.get(behavior.rpartition(".")[0])
    if trials is not None:  # a label that nobody scores need not be known
        kept = {**recording.intervals, behavior.rpartition(".")[0]: trials.where(inside(trials, parts))}
        recording = replace(recording, intervals=kept)
    known = TrialClasses.of(recording, behavior, classes)
    if within is not None:
        numbered = Intervals(known.trials.start_s, known.trials.end_s, {"number": known.number}) & within
        known = TrialClasses(numbered, numbered.columns["number"], known.unlabelled)
    if not len(known.trials):
        raise RecordingError(
            f"no labelled trial of '{behavior}' lies wholly in the {split} split",
            about=recording.name,
            got=f"{known.unlabelled} trials without a label in it",
            fix="split between trials, or choose other evaluation intervals",
        )
    return known


@torch.inference_mode()
def decode_trials(
    decoder: Decoder, recording: Recording, behavior: str, known: TrialClasses, *, warmup_s: float = 0.0
) -> TrialAnswers:
    """Decode every trial on its own: once per chunk, from spikes before that time, none after its end.

    Args:
        decoder: Trained on this session.
        recording: Of a session the decoder knows.
        behavior: A category of the decoder.
        known: The trials.
        warmup_s: Decode from this much before a trial, as far as the domain reaches; 0 starts each with an
            empty state.
    """
    config = decoder.config
    maker = SampleMaker(
        recordings=[recording],
        vocabulary=decoder.vocabulary,
        inputs=decoder.inputs,
        scaling={},
        chunk_ms=config.chunk_ms,
        lead_ms=config.effective_lead_ms,
    )
    samples: dict[int, list[tuple[int, np.ndarray, Sample]]] = {}
    for trial, (begin_s, end_s) in enumerate(known.trials):
        window = Window(0, warm_start(recording, begin_s, warmup_s), end_s)
        num_chunks = max(1, math.ceil((end_s - window.start_s) / config.chunk_s - 1e-9))
        edges_s = maker.edges_s(window, num_chunks)
        times_s = class_times(edges_s, (begin_s, end_s), lead_s=config.effective_lead_ms / 1000)
        sample = maker.sample_at(window, num_chunks=num_chunks, times_s={behavior: times_s})
        samples.setdefault(num_chunks, []).append((trial, times_s, sample))
    parts = [
        part
        for equal in samples.values()
        for first in range(0, len(equal), TRIALS_AT_ONCE)
        for part in _decode_together(decoder, recording, behavior, equal[first : first + TRIALS_AT_ONCE])
    ]
    parts.sort(key=lambda part: part[0])
    return TrialAnswers(
        session=recording.session_id,
        behavior=behavior,
        classes=decoder.classes[behavior],
        trials=known.trials,
        target=known.number,
        trial=np.concatenate([np.full(len(times_s), trial) for trial, times_s, _ in parts]),
        times_s=np.concatenate([times_s for _, times_s, _ in parts]),
        probabilities=np.concatenate([values for _, _, values in parts]),
    )


def _decode_together(
    decoder: Decoder, recording: Recording, behavior: str, equal: list[tuple[int, np.ndarray, Sample]]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(trial, times, probabilities) of trials with equally many chunks."""
    device, batch = decoder.device, collate([sample for _, _, sample in equal])
    answers, _ = decoder.model.eval()(batch.to(lambda x: torch.from_numpy(x).to(device)))
    values = decoder.physical(recording.session_id, behavior, answers[behavior].cpu().numpy())
    ends = np.cumsum([len(times_s) for _, times_s, _ in equal])
    for (trial, times_s, _), part in zip(equal, np.split(values, ends[:-1]), strict=True):
        yield trial, times_s, part
