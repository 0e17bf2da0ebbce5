"""Sentences of a toy language: each symbol excites its own channels while it is said."""

from __future__ import annotations

import itertools
import math

import numpy as np

from possm.checkpoint import Decoder
from possm.data.ctc import collapse
from possm.data.features import InputConfig
from possm.data.intervals import Intervals
from possm.data.recording import Binned, Recording
from possm.data.vocabulary import Vocabulary
from possm.decoders import build_decoder
from possm.model.decoder import BehaviorConfig, PossmConfig
from possm.training.config import TrainConfig
from possm.training.optim import OptimConfig
from toys import TINY, random_weights

SYMBOLS = ("AA", "B", "K", "S", "SIL")
BEHAVIOR = "trials.phonemes"
INPUTS = ("counts", "power")


def spoken(
    *,
    sentences=30,
    channels=20,
    seed=0,
    session="monday",
    bin_ms=20,
    bins_each=8,
    texts=None,
    length=(3, 7),
) -> Recording:
    """Counts and power of channels that read the symbol being said; sentences with pauses between them."""
    rng = np.random.default_rng(seed)
    code = np.random.default_rng(99).gamma(1.0, 1.0, (len(SYMBOLS) + 1, channels))
    code[0] = 0.2
    states, rows, at = [np.zeros(5, int)], [], 5
    for number in range(sentences):
        said = texts[number].split() if texts is not None else draw(rng, length)
        numbers = [SYMBOLS.index(s) + 1 if s in SYMBOLS else 0 for s in said]
        trial = np.concatenate([[0, 0], np.repeat(numbers, bins_each), [0, 0, 0, 0, 0, 0]]).astype(int)
        rows.append((at, at + len(trial), " ".join(said)))
        states += [trial, np.zeros(7, int)]
        at += len(trial) + 7
    path = np.concatenate(states)
    rate_hz = 1000 / bin_ms
    rates = code[path]
    start, end, text = (np.array(column) for column in zip(*rows, strict=True))
    trials = Intervals(start / rate_hz, end / rate_hz, {"phonemes": text})
    return with_splits(
        Recording(
            session_id=session,
            unit_ids=tuple(f"c{i}" for i in range(channels)),
            domain=Intervals.of([(0.0, len(path) / rate_hz)]),
            binned=Binned(rng.poisson(2 * rates).astype(float), 0.0, rate_hz),
            features={"power": Binned(rng.gamma(4.0, 0.25 + rates), 0.0, rate_hz)},
            intervals={"trials": trials},
        )
    )


def draw(rng, length) -> list[str]:
    return [SYMBOLS[k] for k in rng.integers(0, len(SYMBOLS), rng.integers(*length))]


def with_splits(recording: Recording) -> Recording:
    """First two thirds of the trials, then a sixth, and a sixth."""
    from dataclasses import replace

    trials = recording.intervals["trials"]
    first, second = round(len(trials) * 2 / 3), round(len(trials) * 5 / 6)
    rows = {"train": slice(0, first), "valid": slice(first, second), "test": slice(second, None)}
    splits = {
        f"{name}_domain": Intervals(trials.start_s[part], trials.end_s[part]) for name, part in rows.items()
    }
    return replace(recording, intervals={**recording.intervals, **splits})


def decoder_of(*recordings: Recording, **changes) -> Decoder:
    """An untrained decoder of sequences with random weights that knows these recordings."""
    said = BehaviorConfig(num_dimensions=len(SYMBOLS) + 1, readout="sequence", classes=SYMBOLS)
    settings = {"inputs": INPUTS, "num_latents": 2, "chunk_ms": 20, "behaviors": {BEHAVIOR: said}}
    config = PossmConfig(**{**TINY, **settings, "sequence_kernel": 6, "sequence_stride": 4, **changes})
    vocabulary = Vocabulary.of(recordings)
    model = build_decoder(config, num_units=len(vocabulary.units), num_sessions=len(vocabulary.sessions))
    inputs = InputConfig(inputs=INPUTS, rate_hz=50.0)
    return Decoder(random_weights(model, std=0.5), vocabulary, {}, inputs=inputs)


def every_sequence(probabilities: np.ndarray) -> dict[tuple[int, ...], float]:
    """Sequence -> its probability, summed over all paths that write it."""
    frames, columns = probabilities.shape
    total: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(columns), repeat=frames):
        written = tuple(int(k) for k in collapse(np.array(path)))
        total[written] = total.get(written, 0.0) + math.prod(probabilities[t, k] for t, k in enumerate(path))
    return total


def config_of(**changes) -> TrainConfig:
    """A short run of a tiny decoder of sequences."""
    architecture = {"inputs": ("counts", "power"), "num_latents": 2, "chunk_ms": 20, "dropout": 0.0}
    decoder = PossmConfig(**{**TINY, **architecture, "sequence_kernel": 8, "sequence_stride": 4})
    settings = {"behavior": (BEHAVIOR,), "decoder": decoder, "batch_size": 8, "epochs": 2, "device": "cpu"}
    return TrainConfig(**{**settings, "optim": OptimConfig(learning_rate=1e-2, ema=0.9), **changes})
