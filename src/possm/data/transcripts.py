"""What was said in every trial: sequences of symbols, phonemes or others, as a decoder is trained on them.

A transcript is a string with blanks between its symbols ("HH AY SIL"), in a column ``phonemes`` of some
intervals, or in any column whose name ends in ``_sequence``; the behavior is called by both
(``trials.phonemes``). To a decoder symbol k is number k + 1; 0 is the blank of CTC, the answer "nothing new".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from possm.data.intervals import Intervals
from possm.data.labels import inside, is_sequence_name, labelled_trials
from possm.data.phonemes import PHONEMES, SILENCE
from possm.data.recording import Recording
from possm.data.windows import snap_to_bins
from possm.errors import RecordingError

BLANK = 0
"""Number of the answer "nothing new"."""
SHOWN = 5  # what an error names


@dataclass(frozen=True, eq=False)
class Transcripts:
    """Trials of one recording and what was said in them."""

    trials: Intervals
    """n of them."""
    numbers: tuple[np.ndarray, ...]
    """n of (length,) int64, 1 or more."""
    empty: int = 0
    """Trials without a transcript; they are not among the n."""

    @classmethod
    def of(cls, recording: Recording, behavior: str, symbols: Sequence[str]) -> Transcripts:
        """All trials of a recording that have a transcript.

        Raises:
            RecordingError: There is no such column, or a symbol in it is not one of these.
        """
        trials, texts = labelled_trials(recording, behavior)
        number = {symbol: place + 1 for place, symbol in enumerate(symbols)}
        _check_symbols(texts, number, about=f"{recording.name}, '{behavior}'")
        said = np.array([bool(text.split()) for text in texts], bool)
        numbers = (np.array([number[s] for s in text.split()], np.int64) for text in texts[said])
        return cls(trials.where(said), tuple(numbers), int((~said).sum()))

    def where(self, mask: np.ndarray) -> Transcripts:
        """Some of the trials."""
        kept = tuple(numbers for numbers, keep in zip(self.numbers, mask, strict=True) if keep)
        return Transcripts(self.trials.where(mask), kept, self.empty)

    def row_at(self, time_s: float) -> int:
        """The newest trial that runs at a time, -1 if none does."""
        runs = (self.trials.start_s <= time_s) & (time_s < self.trials.end_s)
        return int(np.flatnonzero(runs)[-1]) if runs.any() else -1


def is_sequence(recording: Recording, behavior: str) -> bool:
    """Whether a behavior is a transcript of trials."""
    name, _, column = behavior.rpartition(".")
    there = name in recording.intervals and column in recording.intervals[name].columns
    return there and is_sequence_name(behavior)


def symbols_of(recordings: Sequence[Recording], behavior: str) -> tuple[str, ...]:
    """The symbols of the train splits: all phonemes and the silence where they are some, else those there.

    Raises:
        RecordingError: There is no such column, no transcript, or ``phonemes`` holds something else.
    """
    found: set[str] = set()
    for recording in recordings:
        trials, texts = labelled_trials(recording, behavior)
        within = inside(trials, recording.split("train"))
        found |= {symbol for text in texts[within] for symbol in text.split()}
    if not found:
        raise RecordingError(
            f"no trial of the train split has a transcript '{behavior}'", about=recordings[0].name
        )
    phonemes = (*PHONEMES, SILENCE)
    if found <= set(phonemes):
        return phonemes
    if behavior.endswith(".phonemes"):
        numbers = {symbol: 1 for symbol in phonemes}
        for recording in recordings:
            _check_symbols(
                labelled_trials(recording, behavior)[1], numbers, about=f"{recording.name}, '{behavior}'"
            )
    return tuple(sorted(found))


@dataclass(frozen=True)
class FrameClock:
    """When a decoder of sequences answers: at the end of every `chunks` chunks of a trial."""

    chunk_ms: int
    chunks: int

    def chunks_in(self, recording: Recording, trial: tuple[float, float]) -> tuple[float, int]:
        """Start of a trial's first chunk, on the edge of a bin, and how many whole chunks it holds."""
        start_s = snap_to_bins(recording, trial[0])
        return start_s, max(0, int(np.floor((trial[1] - start_s) * 1000 / self.chunk_ms + 1e-6)))

    def frames_in(self, recording: Recording, trial: tuple[float, float]) -> int:
        """Answers in a trial."""
        return self.chunks_in(recording, trial)[1] // self.chunks


def least_frames(numbers: np.ndarray) -> int:
    """Answers that a transcript needs: one each, and a blank between two that are alike."""
    return len(numbers) + int((numbers[1:] == numbers[:-1]).sum())


def too_long(recording: Recording, transcripts: Transcripts, clock: FrameClock) -> np.ndarray:
    """(n,) bool: trials with fewer answers than their transcript needs (CTC then has no way to write it)."""
    pairs = zip(transcripts.trials, transcripts.numbers, strict=True)
    frames = [(clock.frames_in(recording, trial), least_frames(numbers)) for trial, numbers in pairs]
    return np.array([have < need for have, need in frames], bool)


def name_trials(transcripts: Transcripts, which: np.ndarray) -> str:
    """Some trials in words, by their number and time."""
    rows = np.flatnonzero(which)
    start_s = transcripts.trials.start_s
    named = ", ".join(f"{row} (at {start_s[row]:.2f} s)" for row in rows[:SHOWN])
    return named + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")


def _check_symbols(texts: np.ndarray, number: dict[str, int], *, about: str) -> None:
    unknown = {s: i for i, text in enumerate(texts) for s in text.split() if s not in number}
    if unknown:
        named = ", ".join(f"'{symbol}' (trial {row})" for symbol, row in list(unknown.items())[:SHOWN])
        raise RecordingError(
            f"{len(unknown)} unknown symbols in transcripts",
            about=about,
            got=named,
            wanted=f"{len(number)} symbols: {', '.join(list(number)[:SHOWN])} ...",
            fix="correct the transcripts, or train with recordings that have them",
        )
