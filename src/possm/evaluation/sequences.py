"""Sequences decoded trial by trial and causally, and how many of their symbols are wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from possm.checkpoint import Decoder
from possm.data.chunks import collate
from possm.data.ctc import best_path
from possm.data.labels import softmax
from possm.data.loader import SampleMaker
from possm.data.recording import Recording
from possm.data.sentences import Sentence, ask_sentence, sentences_of, usable_transcripts
from possm.data.transcripts import FrameClock
from possm.errors import ConfigError

CHUNKS_AT_ONCE = 2000
"""Chunks decoded per call, padding included: bounds memory, changes nothing else."""
Search = Callable[[np.ndarray], np.ndarray]
"""(T, symbols + 1) probabilities -> (n,) numbers of symbols."""


def error_rate(target: Sequence[Any], prediction: Sequence[Any]) -> float:
    """Symbols inserted, left out or exchanged, over symbols that should be there; with phonemes, the PER.

    0 is best; above 1 where far too much is said. NaN without a target symbol.

    Args:
        target: n sequences of numbers.
        prediction: The same.

    Raises:
        ConfigError: rapidfuzz is not installed, or there are not as many predictions as targets.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise ConfigError(
            "rapidfuzz is not installed", got=error, fix='pip install "possm[speech]"'
        ) from error
    if len(target) != len(prediction):
        raise ConfigError("targets and predictions differ in number", got=len(prediction), wanted=len(target))
    pairs = zip(target, prediction, strict=True)
    wrong = sum(Levenshtein.distance([int(s) for s in a], [int(s) for s in b]) for a, b in pairs)
    total = sum(len(symbols) for symbols in target)
    return wrong / total if total else float("nan")


@dataclass(frozen=True, eq=False)
class SequenceAnswers:
    """What was answered in every trial of one session, beside what was said."""

    session: str
    behavior: str
    symbols: tuple[str, ...]
    sentences: tuple[Sentence, ...]
    """n trials."""
    probabilities: tuple[np.ndarray, ...]
    """n of (frames, symbols + 1) float32."""

    @property
    def seconds(self) -> float:
        """Of all trials together."""
        return float(sum(s.window.limit_s - s.window.start_s for s in self.sentences))

    @property
    def num_symbols(self) -> int:
        """Said in all trials together."""
        return sum(len(sentence.numbers) for sentence in self.sentences)

    def decoded(self, search: Search = best_path) -> list[np.ndarray]:
        """n sequences of numbers."""
        return [search(each) if len(each) else np.zeros(0, np.int64) for each in self.probabilities]

    def error_rate(self, search: Search = best_path) -> float:
        """Of all trials together."""
        return error_rate([s.numbers for s in self.sentences], self.decoded(search))

    def text(self, trial: int, search: Search = best_path) -> tuple[str, str]:
        """What was said in a trial, and what was decoded, as symbols with blanks between them."""
        return self._words(self.sentences[trial].numbers), self._words(search(self.probabilities[trial]))

    def _words(self, numbers: np.ndarray) -> str:
        return " ".join(self.symbols[number - 1] for number in numbers)


def decode_sequences(
    decoder: Decoder, recording: Recording, behavior: str, *, split: str = "test"
) -> SequenceAnswers:
    """Decode every trial of a split that has a transcript, each from an empty state at its start.

    Raises:
        CheckpointError: The decoder does not know the session.
        RecordingError: No trial of the split has a transcript, or one holds a symbol that the decoder lacks.
    """
    config = decoder.config
    clock = FrameClock(config.chunk_ms, config.frame_chunks)
    symbols = config.behaviors[behavior].classes
    usable = usable_transcripts(recording, behavior, symbols, clock, split=split, need_frames=False)
    sentences = sentences_of(recording, usable, clock)
    found: list[np.ndarray] = [np.zeros((0, len(symbols) + 1), np.float32)] * len(sentences)
    for rows in _groups(sentences):
        parts = _decode_together(decoder, recording, behavior, [sentences[row] for row in rows], clock)
        for row, part in zip(rows, parts, strict=True):
            found[row] = part
    return SequenceAnswers(recording.session_id, behavior, symbols, tuple(sentences), tuple(found))


@torch.inference_mode()
def _decode_together(
    decoder: Decoder, recording: Recording, behavior: str, sentences: list[Sentence], clock: FrameClock
) -> Iterator[np.ndarray]:
    """(frames, symbols + 1) probabilities of each trial."""
    maker = SampleMaker(
        recordings=[recording],
        vocabulary=decoder.vocabulary,
        inputs=decoder.inputs,
        scaling={},
        chunk_ms=clock.chunk_ms,
        lead_ms=decoder.config.effective_lead_ms,
    )
    most = max(sentence.num_chunks for sentence in sentences)
    batch = collate([ask_sentence(maker, s, behavior, clock, num_chunks=most) for s in sentences])
    device = decoder.device
    answers, _ = decoder.model.eval()(batch.to(lambda x: torch.from_numpy(x).to(device)))
    values = softmax(answers[behavior].float().cpu().numpy())
    frames = [sentence.num_chunks // clock.chunks for sentence in sentences]
    yield from np.split(values, np.cumsum(frames)[:-1])


def _groups(sentences: Sequence[Sentence]) -> Iterator[list[int]]:
    """Rows of trials of similar length; a trial without a whole chunk is in none."""
    order = sorted(range(len(sentences)), key=lambda row: sentences[row].num_chunks)
    group: list[int] = []
    for row in order:
        if not sentences[row].num_chunks:
            continue
        if group and sentences[row].num_chunks * (len(group) + 1) > CHUNKS_AT_ONCE:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
