"""What a run has to know of sequences before its first step, and the trials it trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from possm.config import require
from possm.data.epochs import TrainingSet
from possm.data.loader import SampleMaker
from possm.data.recording import Recording
from possm.data.sentences import SentenceSet, usable_transcripts
from possm.data.transcripts import FrameClock, is_sequence, symbols_of
from possm.errors import ConfigError
from possm.model.contract import BehaviorConfig, DecoderConfig

if TYPE_CHECKING:
    from possm.training.config import TrainConfig

__all__ = ["check_sequence", "is_sequence", "sequence_config", "training_set"]


def sequence_config(recordings: Sequence[Recording], behavior: str) -> BehaviorConfig:
    """The symbols of transcripts.

    Raises:
        ConfigError: It is a sequence in some recordings only.
        RecordingError: No trial of a train split has a transcript, or phonemes are unknown.
    """
    other = [recording.name for recording in recordings if not is_sequence(recording, behavior)]
    if other:
        raise ConfigError(f"'{behavior}' is a sequence, but not in all recordings", got=", ".join(other))
    symbols = symbols_of(recordings, behavior)
    return BehaviorConfig(num_dimensions=len(symbols) + 1, readout="sequence", classes=symbols)


def check_sequence(recordings: Sequence[Recording], behavior: str, decoder: DecoderConfig) -> None:
    """Whether recordings can be trained on and validated; trials that cannot are counted in the log.

    Raises:
        RecordingError: No trial of a train or valid split can be used, or a symbol is unknown.
    """
    symbols = sequence_config(recordings, behavior).classes
    clock = FrameClock(decoder.chunk_ms, decoder.frame_chunks)
    for recording in recordings:
        usable_transcripts(recording, behavior, symbols, clock, split="valid", need_frames=False)
        usable_transcripts(recording, behavior, symbols, clock, split="train")


def training_set(
    maker: SampleMaker, config: TrainConfig, *, part: tuple[int, int] = (0, 1)
) -> TrainingSet | SentenceSet:
    """Random windows, or whole trials where a sequence is decoded; of every batch the given part only.

    Raises:
        ConfigError: Two sequences are to be decoded: their trials could differ.
    """
    behaviors = {name: config.decoder.behaviors[name] for name in config.behavior}
    sequences = [name for name, behavior in behaviors.items() if behavior.readout == "sequence"]
    require(len(sequences) < 2, "behavior", sequences, "one sequence at most")
    common = {"maker": maker, "batch_size": config.batch_size, "seed": config.seed, "part": part}
    if not sequences:
        return TrainingSet(window_s=config.window_s, balance=config.balance, **common)  # type: ignore[arg-type]
    clock = FrameClock(config.decoder.chunk_ms, config.decoder.frame_chunks)
    symbols = behaviors[sequences[0]].classes
    return SentenceSet(behavior=sequences[0], symbols=symbols, clock=clock, **common)  # type: ignore[arg-type]
