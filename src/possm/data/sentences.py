"""Whole trials as training windows, for decoders of sequences: the batches of every epoch of a run.

Trials differ in length. A batch holds trials of similar length, padded at the end with empty chunks that
nobody asks about; nothing flows backwards, so padding changes no answer (a decoder that looks ahead is told
the lengths). As in `epochs`, a batch depends on seed, epoch and its number only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from possm.batch import Batch, Queries, SequenceTargets
from possm.data.chunks import Sample, collate
from possm.data.labels import inside
from possm.data.loader import SampleMaker
from possm.data.recording import Recording
from possm.data.transcripts import FrameClock, Transcripts, name_trials, too_long
from possm.data.windows import Window
from possm.errors import RecordingError

logger = logging.getLogger(__name__)

POOL = 8
"""Batches among whose trials those of similar length are put together."""


@dataclass(frozen=True, eq=False)
class Sentence:
    """One trial on its way into a batch."""

    window: Window
    num_chunks: int
    numbers: np.ndarray
    """(length,) int64 of the symbols."""


def sentences_of(
    recording: Recording,
    transcripts: Transcripts,
    clock: FrameClock,
    *,
    number: int = 0,
) -> list[Sentence]:
    """The trials of a recording as windows.

    Args:
        recording: The recording.
        transcripts: What was said in which of its trials.
        clock: Of the decoder.
        number: Of the recording among those of the loader.
    """
    found = []
    for trial, numbers in zip(transcripts.trials, transcripts.numbers, strict=True):
        start_s, chunks = clock.chunks_in(recording, trial)
        window = Window(number, start_s, start_s + chunks * clock.chunk_ms / 1000)
        found.append(Sentence(window, chunks, numbers))
    return found


def frame_queries(num_chunks: int, clock: FrameClock) -> Queries:
    """One query at the end of every `clock.chunks` chunks."""
    chunk = np.arange(clock.chunks - 1, num_chunks, clock.chunks, dtype=np.int64)
    return Queries(chunk, np.zeros(len(chunk), np.float32))


def ask_sentence(
    maker: SampleMaker,
    sentence: Sentence,
    behavior: str,
    clock: FrameClock,
    *,
    num_chunks: int,
    rng: np.random.Generator | None = None,
) -> Sample:
    """The sample of one trial, padded to `num_chunks`; with `rng`, augmented."""
    queries = frame_queries(sentence.num_chunks, clock)
    sizes = np.array([len(sentence.numbers)], np.int64), np.array([len(queries.chunk)], np.int64)
    sample = maker.sample(sentence.window, num_chunks=num_chunks, rng=rng)
    return replace(
        sample,
        queries={**sample.queries, behavior: queries},
        targets={**sample.targets, behavior: SequenceTargets(sentence.numbers, *sizes)},
        length=sentence.num_chunks,
    )


def usable_transcripts(
    recording: Recording,
    behavior: str,
    symbols: Sequence[str],
    clock: FrameClock,
    *,
    split: str,
    need_frames: bool = True,
) -> Transcripts:
    """The trials of a split that can be trained on or scored; those left out are counted in the log.

    Args:
        recording: With the split.
        behavior: Name of the transcripts.
        symbols: What they may hold.
        clock: Of the decoder.
        split: "train", "valid" or "test".
        need_frames: Leave out transcripts that are too long for their trial, which CTC cannot learn.

    Raises:
        RecordingError: No trial is left, or a transcript holds another symbol.
    """
    everything = Transcripts.of(recording, behavior, symbols)
    part = recording.split(split)
    mine = everything.where(inside(everything.trials, part))
    about = f"{recording.name}, '{behavior}', {split} split"
    if everything.empty:
        logger.warning("%s: %d trials without a transcript are left out", about, everything.empty)
    crowded = too_long(recording, mine, clock)
    if need_frames and crowded.any():
        logger.warning(
            "%s: %d of %d transcripts are longer than the answers of their trial, one every %d ms, and are "
            "left out: trials %s",
            about,
            int(crowded.sum()),
            len(crowded),
            clock.chunk_ms * clock.chunks,
            name_trials(mine, crowded),
        )
        mine = mine.where(~crowded)
    if not len(mine.trials):
        got = f"{len(crowded)} trials, {int(crowded.sum())} with transcripts too long for them"
        fix = "shorten sequence_stride or chunk_ms" if crowded.any() else "check trials and splits"
        raise RecordingError("no trial has a transcript that can be used", about=about, got=got, fix=fix)
    return mine


@dataclass(frozen=True, kw_only=True)
class SentenceSet:
    """Whole, augmented trials of the train split, in batches; made and used like `epochs.TrainingSet`."""

    maker: SampleMaker
    behavior: str
    symbols: tuple[str, ...]
    clock: FrameClock
    batch_size: int
    """Trials in a batch."""
    seed: int = 0
    part: tuple[int, int] = (0, 1)
    """(k, n): of every batch make the k-th of n parts only, where n processes train together."""

    @cached_property
    def sentences(self) -> list[Sentence]:
        """All of an epoch."""
        found = []
        for number, recording in enumerate(self.maker.recordings):
            usable = usable_transcripts(recording, self.behavior, self.symbols, self.clock, split="train")
            found += sentences_of(recording, usable, self.clock, number=number)
        return found

    @property
    def num_windows(self) -> int:
        """Trials in an epoch."""
        return len(self.sentences)

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self.num_windows / self.batch_size)

    def batch(self, epoch: int, number: int) -> Batch:
        """One batch of one epoch, as numpy."""
        rows, (rank, parts) = self._epoch(epoch)[number], self.part
        mine = rows[rank::parts] if len(rows[rank::parts]) else rows[:1]
        most = max(self.sentences[row].num_chunks for row in mine)
        return collate([self._sample(int(row), epoch, most) for row in mine])

    def batches(self, epoch: int) -> Iterator[Batch]:
        """All batches of an epoch."""
        return (self.batch(epoch, number) for number in range(self.num_batches))

    def _sample(self, row: int, epoch: int, num_chunks: int) -> Sample:
        rng = np.random.default_rng([self.seed, epoch, 1 + row])
        sentence = self.sentences[row]
        return ask_sentence(self.maker, sentence, self.behavior, self.clock, num_chunks=num_chunks, rng=rng)

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """Rows of each batch: pools of random trials, in each those of similar length together."""
        rng = np.random.default_rng([self.seed, epoch])
        order, length = rng.permutation(self.num_windows), POOL * self.batch_size
        chunks = np.array([sentence.num_chunks for sentence in self.sentences])
        batches: list[np.ndarray] = []
        for first in range(0, len(order), length):
            pool = order[first : first + length]
            pool = pool[np.argsort(chunks[pool], kind="stable")]
            batches += [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        return [batches[place] for place in rng.permutation(len(batches))]
